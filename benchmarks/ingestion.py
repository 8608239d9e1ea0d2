"""Ingestion against a plain sequential copy of the same bytes, and what gzip would cost.

    python -m benchmarks.ingestion [--kind ilsvrc --source FOLDER] [--images 4000] [--workers 1 2]

Without `--source` a tar of 375 x 500 JPEGs of about ImageNet's file size is made. One line a
measurement: seconds, images/s, MB/s of image bytes. The file cache is warm for all of them.
Two workers are processes that import TensorFlow first: small data is faster with one.
"""

from __future__ import annotations

import argparse
import glob
import gzip
import io
import os
import resource
import tarfile
import tempfile
import time

import apache_beam as beam
import numpy as np
import tensorflow as tf
from PIL import Image
from tfx.components.example_gen import driver
from tfx.orchestration import data_types
from tfx.types import standard_artifacts

from components.example_gen import component, files, index, shards, source, summary
from pipeline.config import Data, to_dict

_CLASSES = 10


def make_source(folder: str, images: int) -> str:
    """Writes train.tar with `images` distinct 375 x 500 JPEGs of about 110 kB in class folders."""
    rng = np.random.default_rng(0)
    small = Image.fromarray(rng.integers(0, 256, (48, 63, 3), np.uint8))
    picture = np.asarray(small.resize((500, 375), Image.Resampling.BICUBIC), float)
    noise = rng.normal(0, 16, (2 * 375, 2 * 500, 3))
    with tarfile.open(os.path.join(folder, "train.tar"), "w") as tar:
        for number in range(images):
            y, x = rng.integers(0, 375), rng.integers(0, 500)
            pixels = (picture + noise[y : y + 375, x : x + 500]).clip(0, 255).astype(np.uint8)
            out = io.BytesIO()
            Image.fromarray(pixels).save(out, "JPEG", quality=88)
            info = tarfile.TarInfo(f"c{number % _CLASSES}/{number:06d}.jpg")
            info.size = out.tell()
            tar.addfile(info, io.BytesIO(out.getvalue()))
    return folder


def copy_sequentially(config: dict, folder: str) -> tuple[int, int]:
    """What any tool must do at least: read every image in order, write it as a record."""
    where = source.layout(config)
    count = size = 0
    with tf.io.TFRecordWriter(os.path.join(folder, "copy")) as writer:
        for split in ("train", "eval") if where.eval else ("train",):
            table = index.build(where, split)
            streams = {path: files.open_read(path) for path in table["path"].unique().to_pylist()}
            for batch in table.to_batches(1000):
                for row in batch.to_pylist():
                    streams[row["path"]].seek(row["offset"])
                    writer.write(streams[row["path"]].read(row["size"]))
                    count, size = count + 1, size + row["size"]
    return count, size


def ingest(config: dict, folder: str, workers: int) -> str:
    """Runs TFX's driver and our executor; returns the artifact's folder."""
    args = ["--runner=FnApiRunner"]
    if workers > 1:
        args += ["--direct_running_mode=multi_processing", f"--direct_num_workers={workers}"]
    info = data_types.PipelineInfo("benchmark", folder)
    properties = driver.FileBasedDriver(None).resolve_exec_properties(
        dict(component.example_gen(config).exec_properties), info, data_types.ComponentInfo("", "", info)
    )
    artifact = standard_artifacts.Examples()
    artifact.uri = os.path.join(folder, "ImageExampleGen", "examples", str(workers))
    context = component.Executor.Context(make_beam_pipeline_fn=lambda: beam.Pipeline(argv=args))
    component.Executor(context).Do({}, {"examples": [artifact]}, properties)
    return artifact.uri


def steady(uri: str, workers: int) -> float:
    """Images a second after every worker's first shard: without the imports of new processes."""
    paths = sorted(glob.glob(os.path.join(uri, "Split-*", "*")), key=os.path.getmtime)
    times = [os.path.getmtime(path) for path in paths]
    count = sum(1 for _ in tf.data.TFRecordDataset(paths[workers:]))
    return count / (times[-1] - times[workers - 1])


def gzip_cost(uri: str) -> str:
    """Gzips one shard as TFX would, and reads it back."""
    path = sorted(glob.glob(os.path.join(uri, "Split-train", "*")))[0]
    plain = files.read(path)
    start = time.perf_counter()
    packed = gzip.compress(plain, 6)
    pack = time.perf_counter() - start
    start = time.perf_counter()
    gzip.decompress(packed)
    unpack = time.perf_counter() - start
    mega = len(plain) / 1e6
    return (
        f"gzip of a shard: {len(packed) / len(plain):.3f} of the size; "
        f"{mega / pack:.0f} MB/s to write, {mega / unpack:.0f} MB/s to read"
    )


def _report(name: str, seconds: float, count: int, size: int) -> None:
    print(f"{name:<34} {seconds:7.2f} s {count / seconds:9,.0f} images/s {size / seconds / 1e6:8.1f} MB/s")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kind", default="folder", help="ilsvrc, or folder (tars)")
    parser.add_argument("--source", default="", help="folder of the archives; default: made")
    parser.add_argument("--images", type=int, default=4000, help="images to make without --source")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = options.source or make_source(folder, options.images)
        config = to_dict(Data(kind=options.kind, source=root))
        where = source.layout(config)
        start = time.perf_counter()
        table = index.build(where, "train")
        seconds = time.perf_counter() - start
        row = len(shards.to_bytes(table)) / table.num_rows
        print(f"index: {table.num_rows / seconds:,.0f} images/s, {row:.0f} bytes an image")
        start = time.perf_counter()
        count, size = copy_sequentially(config, folder)
        _report("sequential copy, no check", time.perf_counter() - start, count, size)
        for workers in options.workers:
            start = time.perf_counter()
            uri = ingest(config, folder, workers)
            _report(f"ImageExampleGen, {workers} worker(s)", time.perf_counter() - start, count, size)
            print(f"{'  once the workers have started':<34} {steady(uri, workers):>29,.0f} images/s")
        print(summary.describe(summary.read_summary(uri)))
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(f"peak memory of this process: {peak:,.0f} MB")
        print(gzip_cost(uri))


if __name__ == "__main__":
    main()
