"""The network of an exported model, without decoding, run in every way that this machine has."""

from __future__ import annotations

import importlib.metadata
import os
import subprocess
import sys
from pathlib import Path

import numpy as np

from benchmarks.report import Row
from benchmarks.rounds import Worker, take_turns

PEERS = Path(__file__).resolve().parent.parent / ".venv-peers" / "bin" / "python"
BATCHES = (1, 8)
# What another runtime would have to gain to be worth a dependency.
PAYS = 1.5
_CHOSEN = "exported"


def network_rows(
    model: str, unfolded: str, rounds: int, seconds: float
) -> tuple[list[Row], list[str]]:
    """The exported network against the other ways, one image and eight; how far their answers are
    off.
    """
    workers = _workers(model, unfolded)
    try:
        first = {way: worker.ask(batch=1, seconds=0.1)["first"] for way, worker in workers.items()}
        rows = []
        for batch in BATCHES:
            print(f"network, batch of {batch}:", file=sys.stderr, flush=True)
            ways = {
                way: lambda worker=worker: worker.ask(batch=batch, seconds=seconds)["p50"]  # noqa: B023
                for way, worker in workers.items()
            }
            found = take_turns(ways, rounds)
            title = f"network, {batch} image{'s' if batch > 1 else ''}"
            for way in list(ways)[1:]:
                bar = (
                    1.0
                    if way.startswith("not folded")
                    else PAYS
                    if way.endswith("float32")
                    else None
                )
                rows.append(Row(title, found[_CHOSEN], "ms", way, found[way], bar, at_most=True))
    finally:
        for worker in workers.values():
            worker.close()
    off = {way: np.abs(np.subtract(scores, first[_CHOSEN])).max() for way, scores in first.items()}
    listed = ", ".join(f"{way} {value:.0e}" for way, value in off.items() if way != _CHOSEN)
    return rows, [f"Largest difference of a probability from the exported network's: {listed}."]


def _workers(model: str, unfolded: str) -> dict[str, Worker]:
    ours = [sys.executable, "-m", "benchmarks.serving_workers"]
    version = importlib.metadata.version("tensorflow")
    found = {
        _CHOSEN: Worker(*ours, "network", model),
        "not folded": Worker(*ours, "network", unfolded),
        "TF_ONEDNN_ASSUME_FROZEN_WEIGHTS=1": Worker(
            *ours, "network", model, environment={"TF_ONEDNN_ASSUME_FROZEN_WEIGHTS": "1"}
        ),
        "TF_ENABLE_ONEDNN_OPTS=0": Worker(
            *ours, "network", model, environment={"TF_ENABLE_ONEDNN_OPTS": "0"}
        ),
        f"XLA of TensorFlow {version}": Worker(*ours, "xla", model),
    }
    peers = {name: _peer_version(name) for name in ("openvino", "onnxruntime", "tf2onnx")}
    theirs = [str(PEERS), "-m", "benchmarks.serving_peers"]
    graph = os.path.join(os.path.dirname(unfolded), "network.pb")
    if peers["openvino"] or peers["onnxruntime"]:
        _freeze(model, graph)
    if peers["openvino"]:
        for precision, name in (("f32", "float32"), ("bf16", "bfloat16")):
            way = f"OpenVINO {peers['openvino']}, {name}"
            found[way] = Worker(*theirs, "openvino", graph, precision)
    if peers["onnxruntime"] and peers["tf2onnx"]:
        way = f"ONNX Runtime {peers['onnxruntime']}, float32"
        found[way] = Worker(*theirs, "onnxruntime", graph, "f32")
    return found


def _peer_version(package: str) -> str:
    """That of a package in .venv-peers; "" where there is none."""
    if not PEERS.exists():
        return ""
    code = f"import importlib.metadata as m; print(m.version({package!r}))"
    return subprocess.run(
        [PEERS, "-c", code], capture_output=True, text=True, check=False
    ).stdout.strip()


def _freeze(model: str, path: str) -> None:
    """Writes the folded network with its weights as constants, images -> probabilities."""
    import tensorflow as tf
    from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

    from benchmarks.serving_workers import folded_network

    network = folded_network(model, jit_compile=False)
    frozen = convert_variables_to_constants_v2(network.get_concrete_function())
    folder, name = os.path.split(path)
    tf.io.write_graph(frozen.graph.as_graph_def(), folder, name, as_text=False)
