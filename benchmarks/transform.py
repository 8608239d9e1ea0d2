"""Transform and StatisticsGen against plain decoding of the same JPEGs, and their peak memory.

    python -m benchmarks.transform [--images 3000] [--rounds 3]

TFX's executors run with the exec properties of the pipeline's own graph: StatisticsGen, Transform's
analysis of every image, and the analysis with the scale stage (shorter side 256). Figures are of
one core: images over processor seconds, of all threads. Each run is a process of its own, with a
tenth of the images and with all; "further images" is the difference of the two, without what a job
costs before its first image. The peer is `tf.io.decode_jpeg` in a loop of one thread. Memory is the
peak of the process, as the two sizes have it.
"""

from __future__ import annotations

import argparse
import dataclasses
import gc
import os
import resource
import sys
import tempfile
import time
from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from benchmarks import beam_runners, report, sources
from benchmarks.rounds import Worker, answer

_PEER = "tf.io.decode_jpeg"
# Nearly all images are for training: Transform analyses those alone.
_HOLDOUT = 0.02


@dataclasses.dataclass(frozen=True)
class Stage:
    """A job of the pipeline's graph, and the shorter side of its scale stage (0: none)."""

    job: str
    shorter_side: int = 0


STAGES = {
    "StatisticsGen": Stage("StatisticsGen"),
    "Transform, analysis": Stage("Transform"),
    "Transform, analysis and scale stage": Stage("Transform", 256),
}


def measure(folder: str, source: str, way: str, uri: str) -> dict[str, Any]:
    """What one job costs this process: processor seconds, and peak memory in MB.

    Args:
      folder: for outputs.
      source: of the images.
      way: of STAGES, or "" for the ingestion, which all others read.
      uri: the Examples of the ingestion.
    """
    stage = STAGES[way] if way else Stage("ExampleGen")
    graph = beam_runners.Graph(
        folder, source, 224, holdout=_HOLDOUT, shorter_side=stage.shorter_side
    )
    if way:
        graph.read(uri)
    outputs, _, processor = graph.run(stage.job, "direct")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    uri = outputs["examples"].uri if not way else ""
    return {"processor": processor, "peak": peak, "uri": uri}


def decode(pictures: Sequence[bytes]) -> float:
    """Images a second of one core: a loop over decoding."""
    start = time.process_time()
    for encoded in pictures:
        tf.io.decode_jpeg(encoded, channels=3)
    return len(pictures) / (time.process_time() - start)


def _ask(**arguments: str) -> dict[str, Any]:
    """`measure` in a process of its own."""
    worker = Worker(sys.executable, "-m", "benchmarks.transform", "--answer")
    try:
        return worker.ask(**arguments)
    finally:
        worker.close()


def run_all(folder: str, numbers: Sequence[int], rounds: int) -> list[report.Row]:
    """Every stage at both sizes, `rounds` times; returns the rows of the table."""
    few, many = numbers
    inputs = {}
    for number in numbers:
        root = os.path.join(folder, str(number))
        source = sources.write_tar(os.path.join(root, "source"), sources.many_photos(number))
        uri = _ask(folder=root, source=source, way="", uri="")["uri"]
        inputs[number] = {"folder": root, "source": source, "uri": uri}
    pictures = list(sources.many_photos(min(few, 200)))
    decode(pictures)
    decoded: list[float] = []
    found: dict[str, list[list[dict[str, Any]]]] = {way: [] for way in STAGES}
    for turn in range(rounds):
        decoded.append(decode(pictures))
        for way in list(STAGES)[:: 1 if turn % 2 == 0 else -1]:
            found[way].append([_ask(**inputs[number], way=way) for number in numbers])
            print(
                f"  round {turn + 1} of {rounds}: {way}: {found[way][-1]}",
                file=sys.stderr,
                flush=True,
            )
    rows = []
    for way, seen in found.items():
        further = [
            (many - few) / (large["processor"] - small["processor"]) for small, large in seen
        ]
        whole = [many / large["processor"] for _, large in seen]
        rows.append(
            report.Row(f"{way}, further images", further, "images/s a core", _PEER, decoded)
        )
        rows.append(report.Row(f"{way}, {many:,} images", whole, "images/s a core", _PEER, decoded))
    for way, seen in found.items():
        peaks = [[run["peak"] for run in sizes] for sizes in zip(*seen, strict=True)]
        what = f"{way}, peak memory, {many:,} images"
        rows.append(
            report.Row(what, peaks[1], "MB", f"{few:,} images", peaks[0], bar=1.1, at_most=True)
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=3000, help="ten times the smaller size")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--answer", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.answer:
        gc.freeze()  # as the runner does with all that is imported
        answer(measure)
        return
    # The peer is a loop of one thread.
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        rows = run_all(folder, (options.images // 10, options.images), options.rounds)
    report.write("transform", " ".join(["python -m benchmarks.transform", *sys.argv[1:]]), rows)


if __name__ == "__main__":
    main()
