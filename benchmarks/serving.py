"""The embedded server against the bare model in a loop, and the ways to run the network on a CPU.

    python -m benchmarks.serving [--depth 50] [--clients 8 32] [--rounds 3] [--kserve PYTHON]

A ResNet of 224 pixels with random weights, 1,000 classes; requests are the JPEGs of
benchmarks/photos.py. Each is a process of its own, and they take turns:
  bare      the SavedModel's `serving_default` on the same JPEGs in a loop, one thread or one a core;
  server    this project's, over REST; `batching` with --enable_batching. Its clients are another process,
            with keep-alive connections that ask one image at a time;
  KServe    its ModelServer, for which PYTHON has kserve and tensorflow installed;
  network   `serving_tensor` as exported, against the same without folding (models/network/folding.py), TensorFlow's
            settings, XLA, and OpenVINO and ONNX Runtime where .venv-peers has them.
Then where the time of one image goes, and the memory of the server over hot swaps.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest import mock

import numpy as np

from benchmarks import report
from benchmarks.photos import photos
from benchmarks.rounds import Worker, take_turns
from benchmarks.serving_paths import network_rows
from benchmarks.serving_workers import IMAGES, SIDE
from serving.client import Client, ClientError

CLASSES = 1000
CORES = len(os.sched_getaffinity(0))
WORKERS = [sys.executable, "-m", "benchmarks.serving_workers"]
MOST = 1.15  # p50 of one client against the bare call
LEAST = 0.95  # images/s against the bare loop on all cores


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


@contextlib.contextmanager
def server(command: list[str], port: int) -> Iterator[int]:
    """A server that is ready; its process id."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        client = Client(f"http://127.0.0.1:{port}", "resnet")
        image, end = list(photos(1)), time.monotonic() + 120
        while True:
            try:
                client.predict(image)
                break
            except ClientError:
                if process.poll() is not None or time.monotonic() > end:
                    raise
            time.sleep(0.2)
        yield process.pid
    finally:
        process.terminate()
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def memory(pid: int, which: str = "VmHWM") -> float:
    """Megabytes of a process: the most that it has held (VmHWM) or what it holds (VmRSS)."""
    with open(f"/proc/{pid}/status") as file:
        line = next(line for line in file if line.startswith(f"{which}:"))
    return int(line.split()[1]) / 1024


def servers(base: str, kserve: str) -> dict[str, tuple[list[str], int]]:
    """Commands and ports."""
    ours = [sys.executable, "-m", "serving.server", f"--model_base_path={base}", "--port=0"]
    found = {
        "server": ([*ours, "--rest_api_port=8711"], 8711),
        "batching": ([*ours, "--rest_api_port=8712", "--enable_batching=true"], 8712),
    }
    if kserve:
        script = os.path.join(os.path.dirname(os.path.abspath(__file__)), "kserve_server.py")
        found["KServe"] = ([kserve, script, os.path.join(base, "1"), "8713"], 8713)
    return found


def server_rows(base: str, options: argparse.Namespace) -> tuple[list[report.Row], list[str]]:
    """One client's p50 against the bare call, and the images/s of many against the bare loop on all
    cores.
    """
    p99: dict[str, list[float]] = {}
    with contextlib.ExitStack() as stack:
        bare, clients = Worker(*WORKERS, "bare", f"{base}/1"), Worker(*WORKERS, "clients")
        stack.callback(bare.close)
        stack.callback(clients.close)

        def one(way: str, worker: Worker, figure: str, **arguments: object) -> Callable[[], float]:
            def measure() -> float:
                found = worker.ask(seconds=options.seconds, **arguments)
                p99.setdefault(way, []).append(found["p99"])
                return found[figure]

            return measure

        loop = f"bare, {CORES} threads"
        ways = {
            "bare, 1 thread": one("bare", bare, "p50", threads=1),
            loop: one(loop, bare, "rate", threads=CORES),
        }
        pids = {}
        for name, (command, port) in servers(base, options.kserve).items():
            pids[name] = stack.enter_context(server(command, port))
            where = {"host": "127.0.0.1", "port": port, "path": "/v1/models/resnet:predict"}
            ways[f"{name}, 1 client"] = one(name, clients, "p50", connections=1, **where)
            for number in options.clients:
                way = f"{name}, {number} clients"
                ways[way] = one(way, clients, "rate", connections=number, **where)
        found = take_turns(ways, options.rounds)
        held = ", ".join(f"{name} {memory(pid):,.0f} MB" for name, pid in pids.items())
    rows = []
    for way in list(ways)[2:]:
        single = way.endswith("1 client")
        bar = (MOST if single else LEAST) if way.startswith("server") else None
        unit, against = ("ms", "bare, 1 thread") if single else ("images/s", loop)
        title = f"{way}{': p50' if single else ''}"
        rows.append(
            report.Row(title, found[way], unit, against, found[against], bar, at_most=single)
        )
    tails = ", ".join(f"{name} {np.median(values):.0f} ms" for name, values in p99.items())
    return rows, [f"99th percentiles: {tails}.", f"Most memory held: {held}."]


def shares(model: str) -> str:
    """Where the time of one image goes."""
    import tensorflow as tf

    from serving.server.rest_api import requests, responses
    from serving.server.running.servable import Servable

    servable, images = Servable(Path(model), 1), list(photos(IMAGES))
    pixels = np.random.default_rng(0).uniform(0, 255, (1, SIDE, SIDE, 3)).astype(np.float32)
    bodies = [
        json.dumps({"instances": [{"b64": base64.b64encode(i).decode()}]}).encode() for i in images
    ]
    dtype = {"image_bytes": tf.string.as_datatype_enum}
    answer = servable.run("serving_default", {"image_bytes": np.array([images[0]], object)})
    floats = {"probabilities": tf.float32.as_datatype_enum}
    calls: dict[str, Callable[[int], object]] = {
        "whole": lambda n: servable.run(
            "serving_default", {"image_bytes": np.array([images[n]], object)}
        ),
        "network": lambda n: servable.run("serving_tensor", {"images": pixels}),
        "read": lambda n: requests.decode_predict(requests.parse_json(bodies[n]), dtype),
        "write": lambda n: responses.predict_body(answer, floats, True),
    }
    times: dict[str, list[float]] = {name: [] for name in calls}
    for number in range(IMAGES):
        for name, call in calls.items():
            start = time.perf_counter()
            call(number)
            times[name].append(1000 * (time.perf_counter() - start))
    took = {name: float(np.median(values[3:])) for name, values in times.items()}
    return (
        f"Of {took['whole']:.1f} ms in the model the network has {took['network']:.1f}, decoding"
        f" and cropping {took['whole'] - took['network']:.1f}. JSON and base64: {took['read']:.2f}"
        f" ms to read, {took['write']:.2f} ms to write {CLASSES:,} numbers."
    )


def swaps(model: str, number_of: int) -> str:
    """The server's memory over hot swaps of the same model."""
    weights = sum(entry.stat().st_size for entry in os.scandir(f"{model}/variables")) / 2**20
    held = []
    with tempfile.TemporaryDirectory() as base:
        shutil.copytree(model, f"{base}/1")
        command, port = servers(base, "")["server"]
        with server([*command, "--file_system_poll_wait_seconds=0.1"], port) as pid:
            client, image = Client(f"http://127.0.0.1:{port}", "resnet"), list(photos(1))
            for number in range(2, number_of + 2):
                shutil.copytree(model, f"{base}/.{number}")
                os.rename(f"{base}/.{number}", f"{base}/{number}")
                shutil.rmtree(f"{base}/{number - 1}")
                end = time.monotonic() + 120
                while [v["version"] for v in client.status() if v["state"] != "END"] != [
                    str(number)
                ]:
                    if time.monotonic() > end:
                        raise RuntimeError(f"version {number} is not served: {client.status()}")
                    time.sleep(0.1)
                client.predict(image)
                held.append(memory(pid, "VmRSS"))
                say(f"  swap {number - 1} of {number_of}: {held[-1]:,.0f} MB")
    return (
        f"Hot swaps: {held[0]:,.0f} MB after the first and {held[-1]:,.0f} MB after the last of"
        f" {number_of} swaps of {weights:.0f} MB of weights."
    )


def make_models(base: str, depth: int) -> None:
    """1, as every model is exported, and `unfolded` without that step; the same weights."""
    from benchmarks import evaluation  # TFX
    from models.export import export

    evaluation.make_model(f"{base}/served/1", depth, SIDE, CLASSES, ["center"])
    with mock.patch.object(export.folding, "fold", lambda model: model):
        evaluation.make_model(f"{base}/unfolded", depth, SIDE, CLASSES, ["center"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--depth", type=int, default=50)
    parser.add_argument("--clients", type=int, nargs="+", default=[8, 32], help="beside one")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=5.0, help="of every measurement")
    parser.add_argument("--swaps", type=int, default=20)
    parser.add_argument(
        "--kserve", default="", metavar="PYTHON", help="that has kserve and tensorflow"
    )
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as base:
        say("Exporting ...")
        make_models(base, options.depth)
        rows, facts = server_rows(f"{base}/served", options)
        more, further = network_rows(
            f"{base}/served/1", f"{base}/unfolded", options.rounds, options.seconds / 2
        )
        facts += [*further, shares(f"{base}/served/1"), swaps(f"{base}/served/1", options.swaps)]
    command = " ".join(["python -m benchmarks.serving", *sys.argv[1:]])
    report.write("serving", command, [*rows, *more], facts)


if __name__ == "__main__":
    main()
