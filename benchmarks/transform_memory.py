"""Peak memory of Transform on original-size photographs.

    python benchmarks/transform_memory.py --images 200 1200

Makes JPEGs of 500x375 to 1600x1200 pixels, runs TFX's Transform executor on them, each run in a process of
its own, and prints its peak resident memory: analysis of all images, analysis of 1 % of them, and analysis of
all with the scale stage (shorter side 256); each with Beam batches limited by bytes (as models.preprocessing
sets) and by rows (TFX's default). Bounded means that the peak does not grow with the number of images.
"""

from __future__ import annotations

import argparse
import dataclasses
import io
import json
import os
import resource
import subprocess
import sys
import tempfile
import time

SIZES = [(375, 500), (500, 375), (768, 1024), (1200, 1600)]
FEATURES = {"image/encoded": "BYTES", "image/filename": "BYTES", "image/class/synset": "BYTES"}
FEATURES |= {"image/height": "INT", "image/width": "INT", "image/class/label": "INT"}


def make_examples(folder: str, count: int) -> int:
    """Writes a train split and a schema; returns the bytes of the images."""
    import numpy as np
    import tensorflow as tf
    from PIL import Image

    rng = np.random.default_rng(0)
    photos = []
    for height, width in SIZES:
        coarse = rng.integers(0, 256, (height // 25, width // 25, 3), dtype=np.uint8)
        smooth = np.asarray(Image.fromarray(coarse).resize((width, height)), float)
        pixels = (smooth + rng.normal(0, 8, smooth.shape)).clip(0, 255).astype(np.uint8)
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "JPEG", quality=90)
        photos.append((buffer.getvalue(), height, width))

    def feature(value: bytes | int) -> tf.train.Feature:
        if isinstance(value, bytes):
            return tf.train.Feature(bytes_list=tf.train.BytesList(value=[value]))
        return tf.train.Feature(int64_list=tf.train.Int64List(value=[value]))

    split = os.path.join(folder, "examples", "Split-train")
    os.makedirs(split)
    total = 0
    with tf.io.TFRecordWriter(os.path.join(split, "data_tfrecord-00000-of-00001")) as writer:
        for number in range(count):
            encoded, height, width = photos[number % len(photos)]
            total += len(encoded)
            values = (encoded, b"%d.JPEG" % number, b"n%d" % (number % 2), height, width, number % 2)
            features = {name: feature(value) for name, value in zip(FEATURES, values, strict=True)}
            example = tf.train.Example(features=tf.train.Features(feature=features))
            writer.write(example.SerializeToString())
    os.makedirs(os.path.join(folder, "schema"))
    with open(os.path.join(folder, "schema", "schema.pbtxt"), "w") as file:
        for name, kind in FEATURES.items():
            file.write(
                f'feature {{ name: "{name}" type: {kind} shape {{}} presence {{ min_fraction: 1 }} }}\n'
            )
    return total


def transform(folder: str, shorter_side: int, fraction: float, by_bytes: bool) -> None:
    """Runs the executor and prints {"mib": peak, "base_mib": peak after imports, "seconds": ...}."""
    from absl import flags
    from tfx.components.transform.executor import Executor
    from tfx.proto import transform_pb2
    from tfx.types import standard_artifacts
    from tfx.types import standard_component_specs as keys
    from tfx.utils import proto_utils

    from models import preprocessing  # noqa: F401  (sets the flag that is set again below)
    from models.settings import Transform

    flags.FLAGS.set_default("tfxio_use_byte_size_batching", by_bytes)

    def artifact(kind: type, name: str):
        made = kind()
        made.uri = os.path.join(folder, name)
        return made

    examples = artifact(standard_artifacts.Examples, "examples")
    examples.split_names = '["train"]'
    outputs = {keys.TRANSFORM_GRAPH_KEY: [artifact(standard_artifacts.TransformGraph, "graph")]}
    if shorter_side:
        outputs[keys.TRANSFORMED_EXAMPLES_KEY] = [artifact(standard_artifacts.Examples, "transformed")]
    split = transform_pb2.SplitsConfig(analyze=["train"], transform=["train"] if shorter_side else [])
    settings = dataclasses.asdict(Transform(shorter_side=shorter_side, analyze_fraction=fraction))
    properties = {
        keys.PREPROCESSING_FN_KEY: "models.preprocessing.preprocessing_fn",
        keys.CUSTOM_CONFIG_KEY: json.dumps({"transform": settings}),
        keys.DISABLE_STATISTICS_KEY: 1,
        keys.SPLITS_CONFIG_KEY: proto_utils.proto_to_json(split),
    }
    inputs = {keys.EXAMPLES_KEY: [examples], keys.SCHEMA_KEY: [artifact(standard_artifacts.Schema, "schema")]}
    context = Executor.Context(["--runner=FnApiRunner"], tmp_dir=os.path.join(folder, "tmp"), unique_id="1")
    base, start = _peak_mib(), time.monotonic()
    Executor(context).Do(inputs, outputs, properties)
    seconds = round(time.monotonic() - start, 1)
    print(json.dumps({"mib": _peak_mib(), "base_mib": base, "seconds": seconds}))


def _peak_mib() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


def measure(count: int, **options: int | float | bool) -> dict[str, int | float]:
    """Makes `count` images and transforms them in a process of their own."""
    with tempfile.TemporaryDirectory() as folder:
        size = make_examples(folder, count) // 2**20
        command = [sys.executable, os.path.abspath(__file__), "--worker"]
        command.append(json.dumps({"folder": folder, **options}))
        root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
        environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "PYTHONPATH": root}
        result = subprocess.run(command, env=environment, check=True, capture_output=True)
        return {"jpeg_mib": size, **json.loads(result.stdout.splitlines()[-1])}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--images", type=int, nargs="+", default=[200, 1200])
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        transform(**json.loads(arguments.worker))
        return
    print("| images | JPEG MiB | stage | batches by | peak MiB | after imports | seconds |")
    print("|---|---|---|---|---|---|---|")
    stages = {"analysis": (0, 1.0), "analysis of 1 %": (0, 0.01), "scale": (256, 1.0)}
    for count in arguments.images:
        for stage, (shorter_side, fraction) in stages.items():
            for by_bytes in (True, False):
                seen = measure(count, shorter_side=shorter_side, fraction=fraction, by_bytes=by_bytes)
                limit = "bytes" if by_bytes else "rows"
                row = (count, seen["jpeg_mib"], stage, limit, seen["mib"], seen["base_mib"], seen["seconds"])
                print(f"| {' | '.join(map(str, row))} |", flush=True)


if __name__ == "__main__":
    main()
