"""The network that is exported, and its figures."""

from __future__ import annotations

import dataclasses
import itertools
import time
from collections.abc import Callable

import keras
import tensorflow as tf

from models.data import input as batches
from models.network import architecture
from models.training import bn_statistics, strategy
from models.training.arguments import Task
from models.training.callbacks import VALIDATION_ERROR
from models.training.metrics import metrics
from models.weights import finetune

BEFORE = f"{VALIDATION_ERROR}_before_bn"


def inference_copy(model: keras.Model, task: Task) -> keras.Model:
    """The trained network in float32 on one device, without what only training needs."""
    with strategy.precision("float32"):
        copy = architecture.build(task.model, len(task.constants.labels))
    copy.set_weights(model.get_weights())
    return copy


def re_estimate(network: keras.Model, task: Task, replicas: int) -> None:
    """Computes batch normalisation over the first `train.bn_examples` images of the training
    stream, in whole batches as large as each replica's were.
    """
    train = dataclasses.replace(task.train, batch_size=task.train.batch_size // replicas)
    finetune.freeze(network, train.frozen_stages)
    stream = batches.train_dataset(
        task.train_files,
        task.augmentation,
        task.constants,
        train,
        total=sum(task.constants.class_counts),
    )
    count = -(-train.bn_examples // train.batch_size)
    bn_statistics.re_estimate(network, (images for images, _ in itertools.islice(stream, count)))
    # It is exported, and whoever loads it may train all of it.
    for layer in network.layers:
        layer.trainable = True


def evaluate(network: keras.Model, task: Task, total: int) -> dict[str, float]:
    """Means over the `total` examples of the evaluation split, as "val_..."
    (models.training.metrics), and "images_per_second".
    """

    @tf.function
    def forward(images: tf.Tensor) -> tf.Tensor:
        return network(images, training=False)

    found = metrics(len(task.constants.labels))
    start = time.monotonic()
    for images, labels, weights in batches.eval_dataset(
        task.eval_files, task.transform, task.constants, task.train.batch_size, total=total
    ):
        logits = forward(images)
        for metric in found:
            metric.update_state(labels, logits, sample_weight=weights)
    figures = {f"val_{metric.name}": float(metric.result()) for metric in found}
    return {**figures, "images_per_second": total / (time.monotonic() - start)}


def finish(
    network: keras.Model, task: Task, replicas: int, total: int, say: Callable[[str], None]
) -> dict[str, float]:
    """Computes the network's batch normalisation once more, where that is asked for.

    Returns:
      The figures of `evaluate`, and the top-1 error before as `BEFORE`; `say` is told both errors.
    """
    figures = evaluate(network, task, total)
    if not task.train.bn_examples:
        return figures
    before = figures[VALIDATION_ERROR]
    re_estimate(network, task, replicas)
    figures = evaluate(network, task, total)
    say(
        f"batch normalisation over {task.train.bn_examples:,} examples: top-1 error "
        f"{figures[VALIDATION_ERROR]:.2%}, before {before:.2%}"
    )
    return {**figures, BEFORE: before}
