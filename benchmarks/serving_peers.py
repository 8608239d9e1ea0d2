"""OpenVINO and ONNX Runtime for `benchmarks.serving`; runs in .venv-peers, without this project.

    .venv-peers/bin/python -m benchmarks.serving_peers openvino|onnxruntime GRAPH.pb f32|bf16

GRAPH.pb is a frozen GraphDef from `images` to `Identity`. Both run with their settings for one
request at a time, and a thread on each core.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable

import numpy as np

from benchmarks.rounds import answer
from benchmarks.serving_workers import SIDE, in_a_loop

Predict = Callable[[np.ndarray], np.ndarray]


def openvino(graph: str, precision: str) -> Predict:
    """OpenVINO; it would compute in bfloat16 by itself where the processor can."""
    import openvino as ov

    network = ov.convert_model(graph, input=[("images:0", [-1, SIDE, SIDE, 3])])
    settings = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": precision}
    requests = {}

    def predict(images: np.ndarray) -> np.ndarray:
        if len(images) not in requests:  # compiled for the shape, its best case
            network.reshape([len(images), SIDE, SIDE, 3])
            requests[len(images)] = ov.compile_model(
                network, "CPU", settings
            ).create_infer_request()
        return requests[len(images)].infer([images])[0]

    return predict


def onnxruntime(graph: str, precision: str) -> Predict:
    """ONNX Runtime, on the graph that tf2onnx makes."""
    import onnxruntime as ort

    if precision != "f32":
        raise ValueError("ONNX Runtime computes what the graph says: f32.")
    path = graph.removesuffix(".pb") + ".onnx"
    convert = [sys.executable, "-m", "tf2onnx.convert", "--graphdef", graph, "--output", path]
    ends = ["--inputs", "images:0", "--outputs", "Identity:0", "--opset", "17"]
    subprocess.run([*convert, *ends], check=True, capture_output=True)
    options = ort.SessionOptions()
    options.intra_op_num_threads = len(os.sched_getaffinity(0))
    session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return lambda images: session.run(None, {"images:0": images})[0]


if __name__ == "__main__":
    which, *arguments = sys.argv[1:]
    answer(in_a_loop({"openvino": openvino, "onnxruntime": onnxruntime}[which](*arguments)))
