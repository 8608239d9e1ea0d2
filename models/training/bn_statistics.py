"""Mean and variance of batch normalisation, computed once more when the weights are final.

What training gathers is a moving average over changing weights. The authors replace it by a plain
average over many training examples (the notes on their published models).
"""

from __future__ import annotations

from collections.abc import Iterable

import keras
import numpy as np
import tensorflow as tf


def re_estimate(model: keras.Model, batches: Iterable[tf.Tensor]) -> None:
    """Gives every layer of batch normalisation the mean and variance of its inputs.

    Each batch goes through the network as in training: all layers normalise with the batch's own
    statistics. A layer's mean is E[x] and its variance E[x^2] - E[x]^2 over all batches together;
    the batches' own moments are float32, their sums float64.

    Args:
      model: functional. Layers that are not trainable normalise with the statistics that they have,
        and keep them.
      batches: images float32 [n, H, W, 3], mean subtracted; all of one shape, one batch or more.
    """
    kind = keras.layers.BatchNormalization
    layers = [layer for layer in model.layers if isinstance(layer, kind) and layer.trainable]
    if not layers:
        return
    inputs = keras.Model(model.input, {layer.name: layer.input for layer in layers})

    @tf.function
    def moments(images: tf.Tensor) -> dict[str, tf.Tensor]:
        return {name: _moments(x) for name, x in inputs(images, training=True).items()}

    sums = {layer.name: np.zeros(()) for layer in layers}
    count = 0
    for images in batches:
        for name, part in moments(images).items():
            sums[name] = sums[name] + part.numpy()
        count += 1
    for layer in layers:
        mean, square = sums[layer.name] / count
        layer.moving_mean.assign(mean)
        # Where a channel is constant, rounding may give a variance below 0.
        layer.moving_variance.assign(np.maximum(square - mean**2, 0.0))


def _moments(x: tf.Tensor) -> tf.Tensor:
    """E[x] and E[x^2] over all but the last axis: float64 [2, channels]."""
    found = tf.nn.moments(x, [*range(x.shape.rank - 1)])
    mean, variance = (tf.cast(part, tf.float64) for part in found)
    return tf.stack([mean, variance + mean**2])
