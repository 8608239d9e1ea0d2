"""How the cost of every stage grows with the number of images.

    python -m benchmarks.growth [--images 1000 4000 16000] [--rounds 3]

Small pictures (64 x 64), so that the images, not their pixels, are many; half of them are for
evaluation. TFX's executors run with the exec properties of the pipeline's own graph; training is
one epoch of a small network on the training split. Figures are processor seconds of this process,
which does the whole work, after all stages have run once on few images. The exponent is the slope
of the logarithm of the seconds over that of the images: 1 is linear, and what a stage costs before
its first image makes it smaller. From three sizes, each the same factor larger, the exponent of
what grows follows as well, where it does.
"""

from __future__ import annotations

import argparse
import glob
import itertools
import math
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence

import keras
import numpy as np
import tensorflow as tf

from benchmarks import beam_runners, report, sources
from models import preprocessing
from models.data import input as training_input
from models.network import architecture
from models.settings import Train, Transform

SIZE, BATCH = 32, 64
_JOBS = {
    "ingestion": "ExampleGen",
    "StatisticsGen": "StatisticsGen",
    "Transform": "Transform",
    "Evaluator": "Evaluator",
}


def costs(number: int, network: keras.Model) -> dict[str, float]:
    """Processor seconds of every stage on this many images."""
    with tempfile.TemporaryDirectory() as folder:
        source = sources.write_tar(os.path.join(folder, "source"), sources.small_pictures(number))
        graph = beam_runners.Graph(folder, source, SIZE, depth=18)
        found, outputs = {}, {}
        for stage, job in _JOBS.items():
            outputs[job], _, found[stage] = graph.run(job, "direct")
            print(
                f"  {number:,} images: {stage}: {found[stage]:.2f} s", file=sys.stderr, flush=True
            )
        uris = outputs["ExampleGen"]["examples"].uri, outputs["Transform"]["transform_graph"].uri
        found |= training(*uris, network)
        print(f"  {number:,} images: {found}", file=sys.stderr, flush=True)
    return found


def training(examples: str, transform_graph: str, network: keras.Model) -> dict[str, float]:
    """Processor seconds of an epoch of batches alone, and of training on them."""
    files = sorted(glob.glob(os.path.join(examples, "Split-train", "*")))
    total = training_input.count(files)
    settings = Transform(
        size=SIZE, test_shorter_side=round(SIZE * 8 / 7), scale_min=SIZE, scale_max=2 * SIZE
    )
    constants = preprocessing.load_constants(transform_graph)
    batches = training_input.train_dataset(
        files, settings, constants, Train(batch_size=BATCH), total=total
    )
    steps = training_input.steps_per_epoch(total, BATCH)
    found, start = {}, time.process_time()
    for _ in batches.take(steps):
        pass
    found["training input"] = time.process_time() - start
    start = time.process_time()
    network.fit(batches, steps_per_epoch=steps, epochs=1, verbose=0)
    found["training with its input"] = time.process_time() - start
    return found


def exponent(numbers: Sequence[int], seconds: Sequence[float]) -> float:
    """Slope of the line through the logarithms."""
    return float(np.polyfit(np.log(numbers), np.log(seconds), 1)[0])


def further_exponent(seconds: Sequence[float], factor: float) -> float:
    """The exponent p of fixed + c * images**p, from three sizes, each `factor` times the one
    before.

    Not a number where the seconds do not grow.
    """
    first, second = np.diff(seconds)
    return math.log(second / first) / math.log(factor) if min(first, second) > 0 else math.nan


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--images", type=int, nargs="+", default=[1000, 4000, 16000], help="two or more"
    )
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    tf.get_logger().setLevel("ERROR")
    network = architecture.cifar_resnet(8, classes=sources.CLASSES)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    network.compile(keras.optimizers.SGD(0.01, momentum=0.9), loss)
    # Tracing and first imports belong to no number of images.
    costs(256, network)
    rounds = [[costs(number, network) for number in options.images] for _ in range(options.rounds)]
    factors = {after / before for before, after in itertools.pairwise(options.images)}
    sizes = ", ".join(f"{number:,}" for number in options.images)
    rows, further_rows = [], []
    for stage in rounds[0][0]:
        seconds = [[found[stage] for found in seen] for seen in rounds]
        middle = [statistics.median(same) for same in zip(*seconds, strict=True)]
        what = f"{stage}: exponent ({', '.join(f'{one:.1f}' for one in middle)} s)"
        slopes = [exponent(options.images, one) for one in seconds]
        rows.append(report.Row(what, slopes, "", bar=1.05, at_most=True))
        if len(factors) == 1 and len(options.images) == 3:
            # Of the medians: one round of a stage that hardly grows may grow backwards.
            further = further_exponent(middle, *factors)
            what = f"{stage}: exponent without its fixed cost"
            if not math.isnan(further):
                further_rows.append(report.Row(what, [further], "", bar=1.15, at_most=True))
    facts = [f"Processor seconds in brackets are those of {sizes} images."]
    command = " ".join(["python -m benchmarks.growth", *sys.argv[1:]])
    report.write("growth", command, rows + further_rows, facts)


if __name__ == "__main__":
    main()
