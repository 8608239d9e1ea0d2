"""Processes of `benchmarks.serving` in this project's environment; each measures when it is asked.

python -m benchmarks.serving_workers bare MODEL | network MODEL | xla MODEL | clients
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.photos import photos
from benchmarks.rounds import answer

IMAGES, SIDE = 32, 224
Figures = dict[str, float]


def figures(times: Sequence[float], seconds: float) -> Figures:
    """Calls a second, and milliseconds of one: median and 99th percentile."""
    median, p99 = np.percentile(times, (50, 99)) * 1000
    return {"rate": len(times) / seconds, "p50": float(median), "p99": float(p99)}


def bare(model: str) -> Callable[..., Figures]:
    """The signature on JPEGs in a loop of this process, one image a call."""
    import tensorflow as tf

    call = tf.saved_model.load(model).signatures["serving_default"]
    images = [tf.constant([image]) for image in photos(IMAGES)]

    def measure(threads: int, seconds: float) -> Figures:
        times: list[float] = []
        for image in images[:3]:
            call(image_bytes=image)
        start = time.perf_counter()

        def loop(number: int) -> None:
            while time.perf_counter() < start + seconds:
                began = time.perf_counter()
                call(image_bytes=images[number % IMAGES])["probabilities"].numpy()
                times.append(time.perf_counter() - began)
                number += 1

        running = [threading.Thread(target=loop, args=(number,)) for number in range(threads)]
        for thread in running:
            thread.start()
        for thread in running:
            thread.join()
        return figures(times, time.perf_counter() - start)

    return measure


def clients() -> Callable[..., Figures]:
    """What clients see that ask one image after the other on a connection each."""
    bodies = [
        json.dumps({"instances": [{"b64": base64.b64encode(image).decode()}]}).encode()
        for image in photos(IMAGES)
    ]

    async def measure(host: str, port: int, path: str, connections: int, seconds: float) -> Figures:
        head = f"POST {path} HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n"
        requests = [f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body for body in bodies]
        times: list[float] = []
        start = time.perf_counter()

        async def connection(number: int) -> None:
            reader, writer = await asyncio.open_connection(host, port, limit=2**22)
            while time.perf_counter() < start + seconds:
                began = time.perf_counter()
                writer.write(requests[number % IMAGES])
                answered = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
                size = next(
                    int(x.split(":")[1])
                    for x in answered.splitlines()
                    if x.startswith("content-length")
                )
                await reader.readexactly(size)
                if answered.split()[1] != "200":
                    raise RuntimeError(answered)
                times.append(time.perf_counter() - began)
                number += 1
            writer.close()

        await asyncio.gather(*(connection(number) for number in range(connections)))
        return figures(times, time.perf_counter() - start)

    return lambda **arguments: asyncio.run(measure(**arguments))


def in_a_loop(predict: Callable[[np.ndarray], np.ndarray]) -> Callable[..., dict[str, Any]]:
    """Measures a network on pixels, [n, SIDE, SIDE, 3] of 0..255 -> probabilities [n, classes]."""

    def measure(batch: int, seconds: float) -> dict[str, Any]:
        images = np.random.default_rng(0).uniform(0, 255, (batch, SIDE, SIDE, 3)).astype(np.float32)
        for _ in range(3):
            found = predict(images)
        times, start, used = [], time.perf_counter(), time.process_time()
        while time.perf_counter() < start + seconds:
            began = time.perf_counter()
            predict(images)
            times.append(time.perf_counter() - began)
        used = time.process_time() - used
        milliseconds = 1000 * float(np.median(times))
        return {"p50": milliseconds, "cpu": 1000 * used / len(times), "first": found[0].tolist()}

    return measure


def network(model: str) -> Callable[..., dict[str, Any]]:
    """The SavedModel as the embedded server runs it, without decoding."""
    from serving.server.running.servable import Servable

    servable = Servable(Path(model), 1)
    return in_a_loop(
        lambda images: servable.run("serving_tensor", {"images": images})["probabilities"]
    )


def folded_network(model: str, jit_compile: bool) -> Any:
    """tf.function: `images` as of `serving_tensor` -> probabilities, from the Keras file of an
    export.
    """
    import keras
    import tensorflow as tf

    from models.export import export
    from models.network import folding
    from models.pixels import augmentation

    extra = os.path.join(model, export.EXTRA)
    net = folding.fold(keras.models.load_model(os.path.join(extra, export.KERAS_FILE)))
    constants, settings = augmentation.read_constants(
        os.path.join(extra, augmentation.CONSTANTS_FILE)
    )
    spec = tf.TensorSpec([None, SIDE, SIDE, 3], tf.float32, "images")

    @tf.function(input_signature=[spec], jit_compile=jit_compile, autograph=False)
    def predict(images: tf.Tensor) -> tf.Tensor:
        return tf.nn.softmax(
            net(augmentation.subtract_mean(images, settings, constants), training=False)
        )

    return predict


def xla(model: str) -> Callable[..., dict[str, Any]]:
    """The folded network, compiled by XLA for each size of batch."""
    predict = folded_network(model, jit_compile=True)
    return in_a_loop(lambda images: predict(images).numpy())


if __name__ == "__main__":
    ways: dict[str, Callable[..., Callable[..., Any]]] = {
        "bare": bare,
        "network": network,
        "xla": xla,
        "clients": clients,
    }
    answer(ways[sys.argv[1]](*sys.argv[2:]))
