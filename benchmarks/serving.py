"""The embedded server against the bare model in a loop, and against KServe's ModelServer.

    python -m benchmarks.serving [--depth 50 --size 224] [--clients 1 8 32] [--rounds 3] [--kserve PYTHON]

A ResNet with random weights, 1,000 classes; requests are JPEGs of 375 x 500 and 110 kB. Every server is a
process of its own, clients are another one, with keep-alive connections that ask one image at a time:
  bare      the SavedModel's `serving_default` on the same JPEGs in a loop, one thread or one a core;
  server    this project's, over REST; `batching` with --enable_batching;
  KServe    its ModelServer, for which PYTHON has kserve and tensorflow installed.
They take turns, `--rounds` times; a figure is the median of the rounds. Then where the time goes, one image
at a time: decoding and cropping, the network, JSON. And the memory of the server over 20 hot swaps.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import contextlib
import io
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from serving.client import Client, ClientError

IMAGES, CLASSES, SWAPS = 32, 1000, 20


def photographs(number: int) -> list[bytes]:
    """Distinct JPEGs of 375 x 500, about 110 kB each, as ImageNet's are on average."""
    rng = np.random.default_rng(0)
    found = []
    for _ in range(number):
        coarse = Image.fromarray(rng.integers(0, 256, (48, 63, 3), np.uint8))
        smooth = np.asarray(coarse.resize((500, 375), Image.Resampling.BICUBIC), float)
        pixels = smooth + rng.normal(0, 16, smooth.shape)
        out = io.BytesIO()
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(out, "JPEG", quality=88)
        found.append(out.getvalue())
    return found


def bare(model: str, threads: int, seconds: float) -> dict[str, float]:
    """The signature in a loop, in this process."""
    import tensorflow as tf

    call = tf.saved_model.load(model).signatures["serving_default"]
    images = [tf.constant([image]) for image in photographs(IMAGES)]
    times: list[float] = []
    for image in images[:3]:
        call(image_bytes=image)
    end = time.perf_counter() + seconds

    def loop(first: int) -> None:
        number = first
        while time.perf_counter() < end:
            start = time.perf_counter()
            call(image_bytes=images[number % len(images)])["probabilities"].numpy()
            times.append(time.perf_counter() - start)
            number += 1

    asked = [threading.Thread(target=loop, args=(i,)) for i in range(threads)]
    start = time.perf_counter()
    for thread in asked:
        thread.start()
    for thread in asked:
        thread.join()
    return figures(times, time.perf_counter() - start)


def figures(times: Sequence[float], seconds: float) -> dict[str, float]:
    """Images a second, and milliseconds: median and 99th percentile."""
    median, p99 = np.percentile(times, (50, 99)) * 1000
    return {"rate": len(times) / seconds, "p50": float(median), "p99": float(p99)}


async def load(url: str, connections: int, seconds: float) -> dict[str, float]:
    """What clients see that ask one image after the other on a connection each."""
    address = url.removeprefix("http://").split("/")[0]
    path = url.removeprefix("http://").removeprefix(address)
    host, port = address.split(":")
    requests = []
    for image in photographs(IMAGES):
        body = json.dumps({"instances": [{"b64": base64.b64encode(image).decode()}]}).encode()
        head = f"POST {path} HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n"
        requests.append(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
    times: list[float] = []
    end = time.perf_counter() + seconds

    async def connection(first: int) -> None:
        reader, writer = await asyncio.open_connection(host, int(port), limit=2**22)
        number = first
        while time.perf_counter() < end:
            start = time.perf_counter()
            writer.write(requests[number % len(requests)])
            head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
            size = next(int(x.split(":")[1]) for x in head.splitlines() if x.startswith("content-length"))
            await reader.readexactly(size)
            if head.split()[1] != "200":
                raise RuntimeError(head)
            times.append(time.perf_counter() - start)
            number += 1
        writer.close()

    start = time.perf_counter()
    await asyncio.gather(*(connection(i) for i in range(connections)))
    return figures(times, time.perf_counter() - start)


def child(*arguments: object) -> dict[str, float]:
    """What this module prints in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.serving", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


@contextlib.contextmanager
def server(command: list[str], port: int) -> Iterator[int]:
    """A server that is ready; its process id."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        client = Client(f"http://127.0.0.1:{port}", "resnet")
        image, end = photographs(1), time.monotonic() + 120
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
        process.wait(60)


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


def compare(base: str, options: argparse.Namespace) -> None:
    """Prints the table."""
    cores = os.cpu_count() or 1
    rows: dict[tuple[str, int], list[dict[str, float]]] = {}
    used: dict[str, float] = {}
    for _ in range(options.rounds):
        for threads in (1, cores):
            rows.setdefault(("bare", threads), []).append(
                child("--bare", base, "--threads", threads, "--seconds", options.seconds)
            )
        for name, (command, port) in servers(base, options.kserve).items():
            with server(command, port) as pid:
                url = f"http://127.0.0.1:{port}/v1/models/resnet:predict"
                for clients in options.clients:
                    found = child("--load", url, "--connections", clients, "--seconds", options.seconds)
                    rows.setdefault((name, clients), []).append(found)
                used[name] = max(memory(pid), used.get(name, 0))
    alone, all_cores = (_median(rows["bare", n]) for n in (1, cores))
    titles = (
        "",
        "clients",
        "images/s",
        "to bare on all cores",
        "p50, ms",
        "to bare",
        "p99, ms",
        "memory, MB",
    )
    print(f"| {' | '.join(titles)} |\n|{'---|' * len(titles)}")
    for (name, clients), measured in rows.items():
        row = _median(measured)
        held = f"{used[name]:.0f}" if name in used else ""
        rates = f"{row['rate']:.1f} | {row['rate'] / all_cores['rate']:.2f}"
        times = f"{row['p50']:.1f} | {row['p50'] / alone['p50']:.2f} | {row['p99']:.1f}"
        print(f"| {name} | {clients} | {rates} | {times} | {held} |")


def _median(rounds: Sequence[dict[str, float]]) -> dict[str, float]:
    return {key: statistics.median(one[key] for one in rounds) for key in rounds[0]}


def shares(model: str) -> None:
    """Prints where the time of one image goes, in milliseconds."""
    import tensorflow as tf

    from serving.server import requests, responses
    from serving.server.servable import Servable

    servable, images = Servable(Path(model), 1), photographs(IMAGES)
    size = servable.signatures["serving_tensor"].inputs["images"].tensor_shape.dim[1].size
    pixels = np.random.default_rng(0).uniform(0, 255, (1, size, size, 3)).astype(np.float32)
    bodies = [json.dumps({"instances": [{"b64": base64.b64encode(i).decode()}]}).encode() for i in images]
    dtype = {"image_bytes": tf.string.as_datatype_enum}
    answer = servable.run("serving_default", {"image_bytes": np.array([images[0]], object)})
    floats = {"probabilities": tf.float32.as_datatype_enum}
    whole = _milliseconds(
        lambda n: servable.run("serving_default", {"image_bytes": np.array([images[n]], object)})
    )
    network = _milliseconds(lambda n: servable.run("serving_tensor", {"images": pixels}))
    read = _milliseconds(lambda n: requests.decode_predict(requests.parse_json(bodies[n]), dtype))
    write = _milliseconds(lambda n: responses.predict_body(answer, floats, True))
    print(f"model {whole:.2f} ms: network {network:.2f}, decoding and cropping {whole - network:.2f}")
    print(f"JSON and base64: {read:.2f} ms to read, {write:.2f} ms to write {CLASSES} numbers")


def _milliseconds(call: Any) -> float:
    for number in range(3):
        call(number)
    times = []
    for number in range(IMAGES):
        start = time.perf_counter()
        call(number)
        times.append(time.perf_counter() - start)
    return 1000 * statistics.median(times)


def swaps(model: str) -> None:
    """Prints the server's memory over hot swaps of the same model, and the weights' size."""
    weights = sum(entry.stat().st_size for entry in os.scandir(f"{model}/variables"))
    with tempfile.TemporaryDirectory() as base:
        shutil.copytree(model, f"{base}/1")
        command, port = servers(base, "")["server"]
        with server([*command, "--file_system_poll_wait_seconds=0.1"], port) as pid:
            client, held = Client(f"http://127.0.0.1:{port}", "resnet"), []
            image = photographs(1)
            for number in range(2, SWAPS + 2):
                shutil.copytree(model, f"{base}/.{number}")
                os.rename(f"{base}/.{number}", f"{base}/{number}")
                shutil.rmtree(f"{base}/{number - 1}")
                while [v["version"] for v in client.status() if v["state"] != "END"] != [str(number)]:
                    time.sleep(0.1)
                client.predict(image)
                held.append(memory(pid, "VmRSS"))
    listed = ", ".join(f"{value:.0f}" for value in held)
    print(f"memory after each of {SWAPS} swaps of {weights / 2**20:.0f} MB of weights, MB: {listed}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--depth", type=int, default=50)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=8.0, help="of every measurement")
    parser.add_argument("--kserve", default="", metavar="PYTHON", help="that has kserve and tensorflow")
    for name in ("--bare", "--load", "--threads", "--connections"):  # its own child processes
        parser.add_argument(name, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.bare:
        print(json.dumps(bare(f"{options.bare}/1", int(options.threads), options.seconds)))
    elif options.load:
        print(json.dumps(asyncio.run(load(options.load, int(options.connections), options.seconds))))
    else:
        from benchmarks import evaluation  # TFX

        with tempfile.TemporaryDirectory() as base:
            evaluation.make_model(f"{base}/1", options.depth, options.size, CLASSES, ["center"])
            compare(base, options)
            shares(f"{base}/1")
            swaps(f"{base}/1")


if __name__ == "__main__":
    main()
