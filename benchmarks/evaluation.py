"""TFX's Evaluator against the bare model on the same images.

    python -m benchmarks.evaluation [--images 800 --size 224 --depth 18 --classes 1000 --rounds 3]

Exports a network with random weights and writes photographs as an Examples artifact; for each test
protocol:
  bare       the model's `evaluate` signature on batches that tf.data reads, top-1 and top-5 in NumPy;
  Evaluator  this project's component: TFX's executor with our metrics, bounds, a slice for every class.
Both read the model and the images from disk, in the same process, and must count the same errors.
Protocols of many crops get fewer images (IMAGES_OF). What the Evaluator takes on no images is where
the line through two numbers of images of the first protocol begins. Imports are not included; the
file cache is warm.
"""

from __future__ import annotations

import argparse
import dataclasses
import gc
import glob
import json
import os
import shutil
import statistics
import sys
import tempfile
import time

import keras
import numpy as np
import tensorflow as tf
from tfx.types import artifact_utils, standard_artifacts
from tfx.utils import json_utils, proto_utils

from benchmarks import photos, report, rounds
from components.evaluator import component as evaluator
from components.evaluator import evaluation
from components.evaluator.metric_table import METRICS
from models.export import export, protocols
from models.network import architecture
from models.pixels.augmentation import Constants
from models.settings import PROTOCOLS, Transform
from pipeline.config import beam_arguments as beam_options
from pipeline.config.settings import Beam

BATCH = 64
# Part of the images for a protocol with so many forward passes an image.
IMAGES_OF = {"center": 1.0, "ten_crop": 0.08, "multi_scale": 0.025}
_BAR = 1.3
# The second number of images of the line, as a part of the first.
_FEW = 0.25


def make_examples(folder: str, images: int, classes: int) -> None:
    """Writes photographs as the eval split of an Examples artifact."""
    os.makedirs(split := os.path.join(folder, "Split-eval"))
    with tf.io.TFRecordWriter(os.path.join(split, "data_tfrecord-00000-of-00001")) as writer:
        for number, photo in enumerate(photos.photos(images)):
            image = tf.train.Feature(bytes_list=tf.train.BytesList(value=[photo]))
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
    model = architecture.resnet(depth, classes=classes)
    # Without training the logits are in the thousands, and all probabilities but one exactly 0:
    # ties.
    images = np.random.default_rng(0).normal(0, 50, (8, size, size, 3)).astype(np.float32)
    kernel = model.get_layer("logits").kernel
    kernel.assign(kernel / keras.ops.std(model(images)))
    export.export(protocols.network(model, settings, constants), path, None, names)


@dataclasses.dataclass(frozen=True)
class Case:
    """A model and the images that it is evaluated on."""

    model: str
    examples: str
    names: tuple[str, ...]
    images: int
    classes: int

    def bare(self) -> dict[str, dict[str, float]]:
        """The errors that a loop over batches counts."""
        function = tf.saved_model.load(os.path.join(self.model, "Format-Serving")).signatures[
            "evaluate"
        ]
        spec = {evaluation.LABEL: tf.io.FixedLenFeature([], tf.int64)}
        wrong = {name: np.zeros(2) for name in self.names}
        files = sorted(glob.glob(os.path.join(self.examples, "Split-eval", "*")))
        for batch in tf.data.TFRecordDataset(files).batch(BATCH).prefetch(2):
            labels = tf.io.parse_example(batch, spec)[evaluation.LABEL].numpy()
            for name, scores in function(examples=batch).items():
                scores = scores.numpy()
                own = scores[np.arange(len(labels)), labels]
                before = (scores > own[:, None]).sum(1)
                wrong[name] += [(before >= k).sum() for k in (1, 5)]
        return {n: dict(zip(METRICS, wrong[n] / self.images, strict=True)) for n in self.names}

    def evaluator(self) -> dict[str, dict[str, float]]:
        """The errors that the Evaluator counts."""
        examples, model = standard_artifacts.Examples(), standard_artifacts.Model()
        examples.uri, model.uri = self.examples, self.model
        examples.split_names = artifact_utils.encode_split_names(["eval"])
        metrics, blessing = standard_artifacts.ModelEvaluation(), standard_artifacts.ModelBlessing()
        metrics.uri, blessing.uri = f"{self.examples}.evaluation", f"{self.examples}.blessing"
        shutil.rmtree(metrics.uri, ignore_errors=True)
        # What ingestion leaves, as far as the Evaluator looks.
        with open(os.path.join(self.examples, "summary.json"), "w") as file:
            json.dump({"splits": {"eval": {"examples": self.images}}}, file)
        config = evaluation.eval_config(self.names, self.names[0], self.classes, 1.0, 1.0, 0.01)
        properties = {
            "eval_config": proto_utils.proto_to_json(config),
            "example_splits": json_utils.dumps(["eval"]),
        }
        # As the local runner starts the node.
        args = beam_options.arguments(Beam())
        executor = evaluator.Executor(evaluator.Executor.Context(beam_pipeline_args=args))
        inputs = {"examples": [examples], "model": [model]}
        executor.Do(inputs, {"evaluation": [metrics], "blessing": [blessing]}, properties)
        return evaluation.errors(metrics.uri)


def compare(case: Case, turns: int) -> dict[str, list[float]]:
    """Seconds of both ways, a figure a round.

    Raises:
      AssertionError: they count different errors.
    """
    ways = {"Evaluator": case.evaluator, "bare": case.bare}
    found: dict[str, dict[str, dict[str, float]]] = {}

    def timed(way: str) -> float:
        start = time.perf_counter()
        found[way] = ways[way]()
        return time.perf_counter() - start

    seconds = rounds.take_turns({way: lambda way=way: timed(way) for way in ways}, turns)
    for name in case.names:
        one, other = (list(errors[name].values()) for errors in found.values())
        np.testing.assert_allclose(one, other, atol=0.5 / case.images)
    return seconds


def cases(folder: str, options: argparse.Namespace) -> list[Case]:
    """One for every protocol, of which the first has another with few images; all made here."""
    made = []
    for name in options.protocols:
        model = os.path.join(folder, name)
        print(f"exporting the model of {name}", file=sys.stderr, flush=True)
        make_model(
            os.path.join(model, "Format-Serving"),
            options.depth,
            options.size,
            options.classes,
            [name],
        )
        whole = max(20, round(options.images * IMAGES_OF[name]))
        for images in (whole, round(whole * _FEW)) if name == options.protocols[0] else (whole,):
            examples = os.path.join(folder, f"examples-{images}")
            if not os.path.exists(examples):
                make_examples(examples, images, options.classes)
            made.append(Case(model, examples, (name,), images, options.classes))
    return made


def table(
    made: list[Case], measured: list[dict[str, list[float]]]
) -> tuple[list[report.Row], list[str]]:
    """Rows and facts; the second case is the first with few images."""
    rows, facts = [], []
    for number, (case, seconds) in enumerate(zip(made, measured, strict=True)):
        if number == 1:
            continue
        ours, bare = seconds["Evaluator"], seconds["bare"]
        what = f"{case.names[0]}, {case.images:,} images"
        rows.append(report.Row(what, ours, "s", "bare batched predict", bare, _BAR, at_most=True))
        speed, limit = (case.images / statistics.median(way) for way in (ours, bare))
        facts.append(
            f"{case.names[0]}: {speed:.3g} images/s through the Evaluator, {limit:.3g} bare."
        )
    numbers = made[0].images, made[1].images
    ours, bare = (
        fixed(*numbers, measured[0][way], measured[1][way]) for way in ("Evaluator", "bare")
    )
    facts.append(
        f"Without any image the Evaluator takes {ours:.1f} s and the bare loop {bare:.1f} s,"
        f" loading the model included (the line through {numbers[1]:,} and {numbers[0]:,} images of"
        f" {made[0].names[0]})."
    )
    return rows, facts


def fixed(many: int, few: int, slow: list[float], fast: list[float]) -> float:
    """Seconds on no images, by the line through the medians at two numbers of images."""
    high, low = statistics.median(slow), statistics.median(fast)
    return low - few * (high - low) / (many - few)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--images", type=int, default=800, help="of center; others get parts (IMAGES_OF)"
    )
    parser.add_argument(
        "--size", type=int, default=224, help="side of the network's images in pixels"
    )
    parser.add_argument("--depth", type=int, default=18)
    parser.add_argument("--classes", type=int, default=1000, help="6 or more")
    parser.add_argument("--rounds", type=int, default=3, help="turns of each way")
    parser.add_argument("--protocols", nargs="+", default=list(PROTOCOLS), choices=PROTOCOLS)
    options = parser.parse_args()
    # As the local runner does after its imports.
    gc.freeze()
    measured = []
    with tempfile.TemporaryDirectory() as folder:
        made = cases(folder, options)
        for case in made:
            print(f"{case.names[0]}, {case.images:,} images", file=sys.stderr, flush=True)
            measured.append(compare(case, options.rounds))
    rows, facts = table(made, measured)
    network = (
        f"ResNet-{options.depth} on {options.size}x{options.size} pixels, {options.classes:,}"
        " classes"
    )
    report.write(
        "evaluation",
        " ".join(["python -m benchmarks.evaluation", *sys.argv[1:]]),
        rows,
        [*facts, f"{network}; both ways count the same errors."],
    )


if __name__ == "__main__":
    main()
