"""Ingestion against a plain sequential copy of the same bytes.

    python -m benchmarks.ingestion [--images 16000] [--rounds 3]
    python -m benchmarks.ingestion --kind ilsvrc --source FOLDER

Without `--source` a tar of photographs is made. The peers read every image in the order of the
index and write it as a TFRecord, with one thread: alone, and with the ingestion's own check of
every image. The file cache is warm for all. Every way runs in a process of its own that has
TensorFlow loaded; two workers are processes that import it first, which is told apart. Memory is
the peak of a process of its own.
"""

from __future__ import annotations

import argparse
import dataclasses
import glob
import gzip
import os
import resource
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

import apache_beam as beam
import tensorflow as tf
from tfx.types import standard_artifacts

from benchmarks import report, sources
from benchmarks.rounds import Worker, answer, take_turns
from components import files
from components.example_gen import component, ingest_summary, source
from components.example_gen.properties import resolved
from components.example_gen.settings import Data
from components.example_gen.writing import image_files, index

_COPY = "plain copy"
_CHECKED = "plain copy + the same check"


def copy(config: Data, folder: str, check: bool) -> dict[str, float]:
    """What any tool must do at least: read every image in order, write it as a record."""
    where = source.find(config)
    tables = [index.build(where, split) for split in ("train", "eval") if getattr(where, split)]
    start, size, count = time.perf_counter(), 0, 0
    with tf.io.TFRecordWriter(os.path.join(folder, "copy")) as writer:
        for table in tables:
            streams = {path: files.open_read(path) for path in table["path"].unique().to_pylist()}
            for batch in table.to_batches(1000):
                for row in batch.to_pylist():
                    streams[row["path"]].seek(row["offset"])
                    data = streams[row["path"]].read(row["size"])
                    if check:
                        image_files.normalize(data, config.max_pixels)
                    writer.write(data)
                    count, size = count + 1, size + len(data)
    return {"seconds": time.perf_counter() - start, "images": count, "bytes": size}


def ingest(config: Data, folder: str, workers: int) -> str:
    """Runs driver and executor; returns the artifact's folder."""
    args = ["--runner=FnApiRunner"]
    if workers > 1:
        args += ["--direct_running_mode=multi_processing", f"--direct_num_workers={workers}"]
    properties = resolved(dict(component.example_gen(config).exec_properties))
    artifact = standard_artifacts.Examples()
    artifact.uri = os.path.join(folder, "ImageExampleGen", "examples", "1")
    context = component.ImageExampleGen_Executor.Context(
        make_beam_pipeline_fn=lambda: beam.Pipeline(argv=args)
    )
    component.ImageExampleGen_Executor(context).Do({}, {"examples": [artifact]}, properties)
    return artifact.uri


def steady(uri: str, workers: int) -> float:
    """Images a second after every worker's first shard: without the start of processes."""
    paths = sorted(glob.glob(os.path.join(uri, "Split-*", "*")), key=os.path.getmtime)
    times = [os.path.getmtime(path) for path in paths]
    count = sum(1 for _ in tf.data.TFRecordDataset(paths[workers:]))
    return count / (times[-1] - times[workers - 1])


def measure(way: str, config: Data) -> dict[str, float]:
    """Runs one way in a folder of its own: seconds, peak memory (MB), and what else is known of it.

    Args:
      way: _COPY, _CHECKED or the number of workers.
    """
    with tempfile.TemporaryDirectory() as folder:
        if way in (_COPY, _CHECKED):
            return copy(config, folder, way == _CHECKED)
        start = time.perf_counter()
        uri = ingest(config, folder, int(way))
        seconds = time.perf_counter() - start
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        return {"seconds": seconds, "steady": steady(uri, int(way)), "peak": peak}


def compare(config: Data, rounds: int) -> tuple[list[report.Row], list[str]]:
    """The rows and facts about speed."""
    ways = (_COPY, _CHECKED, "1", "2")
    workers = {
        way: Worker(sys.executable, "-m", "benchmarks.ingestion", "--answer") for way in ways
    }
    known: dict[str, list[dict[str, float]]] = {way: [] for way in ways}

    def turn(way: str) -> Callable[[], float]:
        def run() -> float:
            known[way].append(workers[way].ask(way=way, config=dataclasses.asdict(config)))
            return count / known[way][-1]["seconds"]

        return run

    first = workers[_COPY].ask(way=_COPY, config=dataclasses.asdict(config))
    count, mega = int(first["images"]), first["bytes"] / 1e6
    speed = take_turns({way: turn(way) for way in ways}, rounds)
    for worker in workers.values():
        worker.close()
    rate = {way: [one["steady"] for one in known[way]] for way in "12"}
    volume = {
        way: [image_files / count * mega for image_files in speed[way]] for way in (_COPY, "1")
    }
    rows = [
        report.Row("one worker, whole run", speed["1"], "images/s", _COPY, speed[_COPY], bar=0.8),
        report.Row("the same in bytes", volume["1"], "MB/s", _COPY, volume[_COPY], bar=0.8),
        report.Row(
            "one worker, whole run", speed["1"], "images/s", _CHECKED, speed[_CHECKED], bar=0.8
        ),
        report.Row("one worker, once started", rate["1"], "images/s", _COPY, speed[_COPY]),
        report.Row(
            "one worker, once started", rate["1"], "images/s", _CHECKED, speed[_CHECKED], bar=0.8
        ),
        report.Row(
            "two workers, once started",
            rate["2"],
            "images/s",
            "one worker, once started",
            rate["1"],
            bar=1.8,
        ),
        report.Row("two workers, whole run", speed["2"], "images/s", "one worker", speed["1"]),
    ]
    return rows, [_pay(count, known["2"], *(statistics.median(rate[way]) for way in "12"))]


def _pay(count: int, runs: list[dict[str, float]], one: float, two: float) -> str:
    """From how many images on two processes are faster, by their start-up and the steady rates."""
    start = statistics.median(run["seconds"] for run in runs) - count / two
    if two <= one:
        return (
            f"Two worker processes need {start:.1f} s to start, and pay at no number of images"
            " here."
        )
    number = start / (1 / one - 1 / two)
    return (
        f"Two worker processes need {start:.1f} s to start, and pay from {number:,.0f} images on."
    )


def memory(few: int, many: int) -> report.Row:
    """Peak memory of a process for each of two numbers of images."""
    peaks = []
    for number in (few, many):
        with tempfile.TemporaryDirectory() as folder:
            root = sources.write_tar(folder, sources.many_photos(number))
            worker = Worker(sys.executable, "-m", "benchmarks.ingestion", "--answer")
            config = dataclasses.asdict(Data(kind="folder", source=root))
            peaks.append(worker.ask(way="1", config=config)["peak"])
            worker.close()
    what = f"peak memory, {many:,} images"
    return report.Row(what, peaks[1:], "MB", f"{few:,} images", peaks[:1], bar=1.1, at_most=True)


def index_fact(config: Data) -> str:
    """Speed and size of the index of the train split."""
    start = time.perf_counter()
    table = index.build(source.find(config), "train")
    seconds = time.perf_counter() - start
    row = table.nbytes / table.num_rows
    return f"Index: {table.num_rows / seconds:,.0f} images/s, {row:.0f} bytes an image."


def gzip_fact(config: Data) -> str:
    """What gzip of a shard would save and cost."""
    with tempfile.TemporaryDirectory() as folder:
        uri = ingest(config, folder, 1)
        described = ingest_summary.describe(ingest_summary.read_summary(uri))
        plain = files.read(min(glob.glob(os.path.join(uri, "Split-train", "*"))))
    start = time.perf_counter()
    packed = gzip.compress(plain, 6)
    pack = len(plain) / 1e6 / (time.perf_counter() - start)
    return (
        f"{described}. gzip of a shard, as TFX writes it: {len(packed) / len(plain):.1%} of the"
        f" size at {pack:.0f} MB/s; it is off."
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kind", default="folder", help="ilsvrc, or folder (tars)")
    parser.add_argument("--source", default="", help="folder of the archives; default: made")
    parser.add_argument("--images", type=int, default=16000, help="images to make without --source")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--answer", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.answer:
        answer(lambda way, config: measure(way, Data(**config)))
        return
    folder = "" if options.source else tempfile.mkdtemp()
    try:
        root = options.source or sources.write_tar(folder, sources.many_photos(options.images))
        # Small shards, so that the rate once the workers have started counts no half of one.
        few: dict[str, Any] = {} if options.source else {"train_shards": 32, "eval_shards": 4}
        config = Data(kind=options.kind, source=root, **few)
        rows, facts = compare(config, options.rounds)
        facts += [index_fact(config), gzip_fact(config)]
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    rows.append(memory(options.images // 10, options.images))
    given = " ".join(["python -m benchmarks.ingestion", *sys.argv[1:]])
    report.write("ingestion", given, rows, facts)


if __name__ == "__main__":
    main()
