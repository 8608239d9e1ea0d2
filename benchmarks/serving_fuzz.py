"""Malformed requests at a server in a process of its own: its answers, its memory, and whether it
lives.

    python -m benchmarks.serving_fuzz [--requests 10000] [--seed 0]

A tiny model answers images. Requests are good ones with damage: bytes flipped, cut out, doubled or
put in, in the body, the image, the address, the head and in gRPC messages. Printed: answers a
status, the server's memory after a tenth of the requests and at the end, and whether good requests
are still answered as before. Exit status 1 for a 5xx, an INTERNAL or UNKNOWN, a wrong answer, or a
dead server.
"""

from __future__ import annotations

import argparse
import base64
import collections
import io
import json
import random
import socket
import sys
import tempfile
from collections.abc import Callable

import grpc
import keras
import numpy as np
import tensorflow as tf
from PIL import Image
from tensorflow_serving.apis import classification_pb2, predict_pb2

from components.serving_validator import model_server
from models.export import export, protocols
from models.network import architecture
from models.pixels import augmentation
from models.settings import Transform

_PREDICT = "/tensorflow.serving.PredictionService/Predict"
_CLASSIFY = "/tensorflow.serving.PredictionService/Classify"
# A head that announces more than comes leaves the server waiting, as it has to.
_PATIENCE = 1.0


def make_model(path: str) -> None:
    """A ResNet-8 of 32 pixels with random weights, exported as all are."""
    keras.utils.set_random_seed(0)
    constants = augmentation.Constants(
        pixel_mean=np.full([32, 32, 3], 120, np.float32),
        channel_mean=np.full([3], 120, np.float32),
        covariance=np.eye(3, dtype=np.float32),
        labels=("a", "b", "c"),
        class_counts=(1, 1, 1),
    )
    net = protocols.network(
        architecture.cifar_resnet(8, classes=3), Transform(size=32, test_shorter_side=32), constants
    )
    export.export(net, path, None, ("center",))


def jpeg() -> bytes:
    """A photograph of noise, 64 x 48."""
    out = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)).save(
        out, "JPEG"
    )
    return out.getvalue()


def damaged(content: bytes, rng: random.Random) -> bytes:
    """The content with one to four pieces of damage."""
    data = bytearray(content)
    for _ in range(rng.randint(1, 4)):
        start = rng.randrange(len(data) + 1)
        kind = rng.choice(("flip", "cut", "double", "insert", "number"))
        if kind == "flip" and data:
            data[start % len(data)] ^= 1 << rng.randrange(8)
        elif kind == "cut":
            del data[start : start + rng.randint(1, 50)]
        elif kind == "double":
            data[start:start] = data[start : start + rng.randint(1, 50)]
        elif kind == "insert":
            data[start:start] = rng.choice(
                (b"\x00", b"\xff", b"[[[[", b"{", b'"', b"NaN", b"1e999", b"\r\n")
            )
        else:
            data[start:start] = str(rng.choice((2**31, 2**63, -1, 10**30))).encode()
    return bytes(data)


def rest(address: tuple[str, int], image: bytes, rng: random.Random) -> str:
    """Sends one damaged HTTP request; its status, or what became of the connection."""
    whole = {"b64": base64.b64encode(image).decode()}
    body = json.dumps(
        {"signature_name": rng.choice(("serving_default", "top_k")), "instances": [whole]}
    ).encode()
    verb, path = rng.choice((b"predict", b"classify", b"regress")), b"/v1/models/candidate:"
    # Heads are rarer: a damaged one may leave both sides waiting.
    part = rng.choice(("body", "image", "path") * 10 + ("head", "all"))
    if part == "image":
        whole["b64"] = base64.b64encode(damaged(image, rng)).decode()
        body = json.dumps({"instances": [whole]}).encode()
    body = damaged(body, rng) if part == "body" else body
    path = damaged(path + verb, rng) if part == "path" else path + verb
    head = b"POST %s HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n" % (path, len(body))
    head = damaged(head, rng) if part == "head" else head
    request = head + b"Connection: close\r\n\r\n" + body
    if part == "all":
        request = damaged(request, rng)
    try:
        with socket.create_connection(
            address, timeout=_PATIENCE if part in ("head", "all") else 60
        ) as connection:
            connection.sendall(request)
            answer = connection.makefile("rb").readline()
    except TimeoutError:
        return "waits"
    except (ConnectionError, BrokenPipeError):
        return "closed"
    return answer.split()[1].decode() if answer.startswith(b"HTTP/1.") else "closed"


def remote(channel: grpc.Channel, image: bytes, rng: random.Random) -> str:
    """Sends one damaged gRPC message; its code."""
    predict = predict_pb2.PredictRequest()
    predict.model_spec.name = "candidate"
    predict.inputs["image_bytes"].CopyFrom(tf.make_tensor_proto([image]))
    classify = classification_pb2.ClassificationRequest()
    classify.model_spec.name, classify.model_spec.signature_name = "candidate", "classify"
    example = classify.input.example_list.examples.add()
    example.features.feature["image/encoded"].bytes_list.value.append(image)
    method, message = rng.choice(((_PREDICT, predict), (_CLASSIFY, classify)))
    try:
        channel.unary_unary(method)(damaged(message.SerializeToString(), rng), timeout=60)
    except grpc.RpcError as error:
        return error.code().name
    return "OK"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--requests", type=int, default=10_000, help="of each protocol")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    rng, image = random.Random(options.seed), jpeg()
    with tempfile.TemporaryDirectory() as folder:
        make_model(f"{folder}/model")
        with model_server.running(f"{folder}/model", model_server.EMBEDDED, 60) as started:
            host, _, port = started.url.removeprefix("http://").partition(":")
            channel = grpc.insecure_channel(started.grpc)
            client = model_server.Client(started.url, model_server.NAME)
            right = client.predict([image])
            ask: dict[str, Callable[[], str]] = {
                "REST": lambda: rest((host, int(port)), image, rng),
                "gRPC": lambda: remote(channel, image, rng),
            }
            counts = {name: collections.Counter[str]() for name in ask}
            early = 0.0
            for number in range(options.requests):
                for name, send in ask.items():
                    counts[name][send()] += 1
                if number == options.requests // 10:
                    early = memory(started.pid)
            alive = client.predict([image]) == right
            late = memory(started.pid)
    for name, found in counts.items():
        print(f"{name}: " + ", ".join(f"{status} {count}" for status, count in found.most_common()))
    print(
        f"memory after a tenth {early:.0f} MB, at the end {late:.0f} MB; good requests are"
        f" answered: {alive}"
    )
    bad = [
        s
        for found in counts.values()
        for s in found
        if s in ("INTERNAL", "UNKNOWN") or s.startswith("5")
    ]
    return int(bool(bad) or not alive)


def memory(pid: int) -> float:
    """Megabytes that a process holds now."""
    with open(f"/proc/{pid}/status") as file:
        line = next(line for line in file if line.startswith("VmRSS:"))
    return int(line.split()[1]) / 1024


if __name__ == "__main__":
    sys.exit(main())
