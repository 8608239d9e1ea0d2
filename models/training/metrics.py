"""Loss and errors of integer labels [B] and logits [B, classes]."""

from __future__ import annotations

import keras

from models.settings import Train


def loss(train: Train, classes: int) -> keras.losses.Loss:
    """Cross-entropy, smoothed by `train.label_smoothing`."""
    if not train.label_smoothing:
        return keras.losses.SparseCategoricalCrossentropy(from_logits=True)

    def smoothed(labels, logits):
        return keras.losses.categorical_crossentropy(
            keras.ops.one_hot(_indices(labels), classes, dtype=logits.dtype),
            logits,
            from_logits=True,
            label_smoothing=train.label_smoothing,
        )

    return smoothed


def metrics(classes: int) -> list[keras.metrics.Metric]:
    """Means of cross-entropy (without smoothing and weight decay), top-1 and top-5 error.

    Ties count against the label, and logits that are not finite are errors: a collapsed network is
    no good one.
    """

    def error(labels, logits, k: int):
        ops = keras.ops
        own = ops.take_along_axis(logits, _indices(labels)[:, None], axis=1)
        rank = ops.sum(ops.cast(logits >= own, "int32"), axis=1)
        correct = ops.logical_and(rank <= k, ops.all(ops.isfinite(logits), axis=1))
        return 1.0 - ops.cast(correct, "float32")

    mean = keras.metrics.MeanMetricWrapper
    return [
        keras.metrics.SparseCategoricalCrossentropy(name="cross_entropy", from_logits=True),
        mean(error, name="top1_error", k=1),
        mean(error, name="top5_error", k=min(5, classes)),
    ]


def _indices(labels):
    # Keras tries loss and metrics on the mean of the replicas' labels, which is a float.
    return keras.ops.cast(keras.ops.reshape(labels, [-1]), "int32")
