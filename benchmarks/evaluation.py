"""The Evaluator against a plain loop over the same model and files.

    python -m benchmarks.evaluation [--images 2000 --size 64 --depth 18 --classes 1000]

Exports a network with random weights; then, for `center` alone and for all test protocols, one line each way:
  plain      the model's `evaluate` signature on batches that tf.data reads, top-1 and top-5 in NumPy;
  Evaluator  TFX's executor with this project's metrics, thresholds and a slice for every class.
Both read the model and the images from disk in the same process and must count the same errors. They take
turns, in alternating order; the times are those of the fastest turn, imports not included, warm file cache.
Beside other work on the machine the processor time is the fairer one.
"""

from __future__ import annotations

import argparse
import dataclasses
import glob
import io
import os
import shutil
import tempfile
import time
from collections.abc import Callable

import apache_beam as beam
import keras
import numpy as np
import tensorflow as tf
from PIL import Image
from tfx.components.evaluator import executor
from tfx.types import artifact_utils, standard_artifacts
from tfx.utils import json_utils, proto_utils

from components import evaluation
from components.evaluation import Errors
from models import export, protocols, resnet
from models.augmentation import Constants
from models.settings import PROTOCOLS, Transform
from pipeline import beam as beam_options
from pipeline.config import Beam

BATCH = 64


def make_examples(folder: str, images: int, classes: int) -> None:
    """Writes distinct 375 x 500 JPEGs as the eval split of an Examples artifact."""
    rng = np.random.default_rng(0)
    coarse = Image.fromarray(rng.integers(0, 256, (48, 63, 3), np.uint8))
    picture = np.asarray(coarse.resize((500, 375), Image.Resampling.BICUBIC), float)
    noise = rng.normal(0, 16, (2 * 375, 2 * 500, 3))
    os.makedirs(split := os.path.join(folder, "Split-eval"))
    with tf.io.TFRecordWriter(os.path.join(split, "data_tfrecord-00000-of-00001")) as writer:
        for number in range(images):
            y, x = rng.integers(0, 375), rng.integers(0, 500)
            pixels = rng.uniform(0.3, 1) * (picture + noise[y : y + 375, x : x + 500])
            out = io.BytesIO()
            Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(out, "JPEG", quality=88)
            image = tf.train.Feature(bytes_list=tf.train.BytesList(value=[out.getvalue()]))
            label = tf.train.Feature(int64_list=tf.train.Int64List(value=[number % classes]))
            features = tf.train.Features(feature={"image/encoded": image, evaluation.LABEL: label})
            writer.write(tf.train.Example(features=features).SerializeToString())


def make_model(path: str, depth: int, size: int, classes: int, names: list[str]) -> None:
    """Exports a ResNet with random weights."""
    keras.utils.set_random_seed(0)
    settings = Transform(size=size, test_shorter_side=round(size * 8 / 7))
    constants = Constants(
        pixel_mean=np.full((size, size, 3), 118, np.float32),
        channel_mean=np.full(3, 118, np.float32),
        covariance=np.eye(3, dtype=np.float32),
        labels=tuple(f"n{number:08d}" for number in range(classes)),
        class_counts=(1,) * classes,
    )
    model = resnet.resnet(depth, classes=classes)
    # Without training the logits are in the thousands, and all probabilities but one exactly 0: ties.
    images = np.random.default_rng(0).normal(0, 50, (8, size, size, 3)).astype(np.float32)
    kernel = model.get_layer("logits").kernel
    kernel.assign(kernel / keras.ops.std(model(images)))
    export.export(protocols.network(model, settings, constants), path, None, names)


def plain(folder: str, names: list[str]) -> dict[str, Errors]:
    """The errors that a loop over batches counts."""
    function = tf.saved_model.load(_model_path(folder)).signatures["evaluate"]
    spec = {evaluation.LABEL: tf.io.FixedLenFeature([], tf.int64)}
    wrong = {name: np.zeros(2) for name in names}
    files = sorted(glob.glob(os.path.join(folder, "examples", "Split-eval", "*")))
    count = 0
    for batch in tf.data.TFRecordDataset(files).batch(BATCH).prefetch(2):
        labels = tf.io.parse_example(batch, spec)[evaluation.LABEL].numpy()
        count += len(labels)
        for name, scores in function(examples=batch).items():
            scores = scores.numpy()
            own = scores[np.arange(len(labels)), labels]
            before = (scores > own[:, None]).sum(1)
            wrong[name] += [(before >= k).sum() for k in (1, 5)]
    return {name: Errors(*(wrong[name] / count)) for name in names}


def with_evaluator(folder: str, names: list[str], classes: int) -> dict[str, Errors]:
    """The errors that TFX's Evaluator counts."""
    examples, model = standard_artifacts.Examples(), standard_artifacts.Model()
    examples.uri, model.uri = os.path.join(folder, "examples"), os.path.join(folder, "model")
    examples.split_names = artifact_utils.encode_split_names(["eval"])
    metrics, blessing = standard_artifacts.ModelEvaluation(), standard_artifacts.ModelBlessing()
    metrics.uri, blessing.uri = os.path.join(folder, "evaluation"), os.path.join(folder, "blessing")
    shutil.rmtree(metrics.uri, ignore_errors=True)
    config = evaluation.eval_config(names, names[0], classes, 1.0, 1.0, 0.01)
    properties = {
        "eval_config": proto_utils.proto_to_json(config),
        "example_splits": json_utils.dumps(["eval"]),
    }
    args = beam_options.arguments(Beam())
    context = executor.Executor.Context(make_beam_pipeline_fn=lambda: beam.Pipeline(argv=args))
    inputs = {"examples": [examples], "model": [model]}
    executor.Executor(context).Do(inputs, {"evaluation": [metrics], "blessing": [blessing]}, properties)
    return evaluation.errors(metrics.uri)


def compare(folder: str, images: int, names: list[str], classes: int, rounds: int) -> None:
    """Times both ways in turns and prints them.

    Raises:
      AssertionError: they count different errors.
    """
    ways: dict[str, Callable[[], dict[str, Errors]]] = {
        "plain": lambda: plain(folder, names),
        "Evaluator": lambda: with_evaluator(folder, names, classes),
    }
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    processor: dict[str, list[float]] = {way: [] for way in ways}
    found = {}
    for turn in range(rounds):
        for way in list(ways)[:: 1 if turn % 2 == 0 else -1]:
            start, busy = time.perf_counter(), time.process_time()
            found[way] = ways[way]()
            seconds[way].append(time.perf_counter() - start)
            processor[way].append(time.process_time() - busy)
    for name in names:
        one, other = (dataclasses.astuple(errors[name]) for errors in found.values())
        np.testing.assert_allclose(one, other, atol=0.5 / images)
    print(f"{' + '.join(names)}: {images} images")
    for way in ways:
        wall, busy = min(seconds[way]), min(processor[way])
        print(f"  {way:<10} {wall:7.2f} s {images / wall:8.1f} images/s {busy:8.2f} s of processor time")
    wall, busy = (min(times["Evaluator"]) / min(times["plain"]) for times in (seconds, processor))
    print(f"  Evaluator / plain: {wall:.2f}; of processor time: {busy:.2f}")
    errors = (f"{name} {error.top1:.2%} {error.top5:.2%}" for name, error in found["plain"].items())
    print("  the same errors, top-1 and top-5:", ", ".join(errors), flush=True)


def _model_path(folder: str) -> str:
    return os.path.join(folder, "model", "Format-Serving")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--size", type=int, default=64, help="side of the network's images in pixels")
    parser.add_argument("--depth", type=int, default=18)
    parser.add_argument("--classes", type=int, default=1000, help="6 or more")
    parser.add_argument("--rounds", type=int, default=2, help="turns of each way")
    parser.add_argument("--protocols", nargs="+", default=["center", ",".join(PROTOCOLS)], metavar="A,B,..")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        make_examples(os.path.join(folder, "examples"), options.images, options.classes)
        for names in (group.split(",") for group in options.protocols):
            make_model(_model_path(folder), options.depth, options.size, options.classes, names)
            compare(folder, options.images, names, options.classes, options.rounds)


if __name__ == "__main__":
    main()
