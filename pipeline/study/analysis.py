"""Responses (paper, Figure 7) and gradients (section 4.1) of a trained network, layer by layer.

Both are measured on training images without augmentation.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Iterator

import keras
import numpy as np
import tensorflow as tf

from models import preprocessing
from models.data import input as batches
from models.export.export import KERAS_FILE
from models.network import architecture
from pipeline.study.definitions import Result

Layers = dict[str, float]  # layer -> figure, in the network's order
BATCH = 128  # images at a time, at most; fewer where the training has smaller batches


def responses(result: Result, examples: int) -> Layers:
    """`layer_responses` on the first `examples` training images of a finished member.

    Raises:
      ValueError: the member has no pushed model.
    """
    images = (images for images, _ in _batches(result, examples, full=False))
    return layer_responses(load(result), images)


def gradients(result: Result, examples: int, initial: bool = False) -> tuple[Layers, Layers]:
    """`layer_gradients` on the first `examples` training images of a finished member.

    `initial`: of the network before its first step, drawn anew from the member's seed.

    Raises:
      ValueError: the member has no pushed model.
    """
    model = build(result) if initial else load(result)
    return layer_gradients(model, _batches(result, examples, full=True))


def layer_responses(model: keras.Model, images: Iterable[np.ndarray]) -> Layers:
    """Standard deviation over all images, places and channels of the output of each 3x3 layer,
    after batch normalisation and before ReLU and addition.

    Args:
      model: of models.network.architecture; batch normalisation uses its moving averages, as in
        tests.
      images: batches, float32 [B, size, size, 3], mean subtracted.

    Returns:
      Layer without the suffix of its two parts -> standard deviation.
    """
    names = [layer.name for layer in _convolutions(model) if layer.kernel_size == (3, 3)]
    taps = keras.Model(model.input, [_normalised(model, name) for name in names])

    @tf.function(reduce_retracing=True)
    def moments(batch: tf.Tensor) -> tf.Tensor:
        outputs = taps(batch, training=False)
        outputs = outputs if isinstance(outputs, list) else [outputs]
        # A batch at a time in float32: the maps of a deep net are too large to keep.
        return tf.stack([tf.stack(tf.nn.moments(x, [0, 1, 2, 3])) for x in outputs])

    count, first, second = 0, np.zeros(len(names)), np.zeros(len(names))
    for batch in images:
        mean, variance = moments(batch).numpy().astype(np.float64).T
        count += len(batch)
        first += len(batch) * mean
        second += len(batch) * (variance + mean**2)
    deviations = np.sqrt(second / count - (first / count) ** 2)
    return {_layer(name): float(value) for name, value in zip(names, deviations, strict=True)}


def layer_gradients(
    model: keras.Model, examples: Iterable[tuple[np.ndarray, np.ndarray]]
) -> tuple[Layers, Layers]:
    """Norms of the gradient of the cross-entropy, without weight decay, at each convolution.

    Batch normalisation works as in training, on each batch. The moving averages of `model` change.

    Args:
      model: of models.network.architecture.
      examples: batches of equal size: images float32 [B, size, size, 3], mean subtracted, and
        labels int [B].

    Returns:
      Two figures by layer. Kernels: L2 norm of the gradient of the mean loss of all images.
      Responses (the output of the layer's batch normalisation): L2 norm of the gradient of an
      image's loss, as the root of the mean square over images.
    """
    convolutions = _convolutions(model)
    names = [layer.name for layer in convolutions]
    taps = keras.Model(model.input, [model.output, *(_normalised(model, name) for name in names)])
    kernels = [layer.kernel.value for layer in convolutions]
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)

    @tf.function(reduce_retracing=True)
    def backward(images: tf.Tensor, labels: tf.Tensor) -> tuple[list[tf.Tensor], tf.Tensor]:
        with tf.GradientTape() as tape:
            logits, *outputs = taps(images, training=True)
            value = loss(labels, logits)
        found = tape.gradient(value, kernels + outputs)
        squares = tf.stack([tf.reduce_sum(x**2) for x in found[len(kernels) :]])
        # The loss is a mean over B images: an image's own gradient is B times as large.
        return found[: len(kernels)], squares * tf.cast(tf.shape(images)[0], tf.float32)

    count, totals, squares = 0, [np.zeros(kernel.shape) for kernel in kernels], np.zeros(len(names))
    for images, labels in examples:
        found, of_outputs = backward(images, labels)
        count += 1
        totals = [total + new.numpy() for total, new in zip(totals, found, strict=True)]
        squares += of_outputs.numpy()
    norms = [float(np.linalg.norm(total / count)) for total in totals]
    layers = [_layer(name) for name in names]
    outputs = [math.sqrt(square / count) for square in squares]
    return dict(zip(layers, norms, strict=True)), dict(zip(layers, outputs, strict=True))


def load(result: Result) -> keras.Model:
    """The trained network, images without mean -> logits; ValueError: there is none."""
    path = os.path.join(result.model, "assets.extra", KERAS_FILE)
    if not os.path.isfile(path):
        raise ValueError(
            f"{result.member}, seed {result.seed}: there is no {path}; delete "
            f"{os.path.join(result.folder, 'result.json')} and run the study again."
        )
    return keras.saving.load_model(path, compile=False)


def build(result: Result) -> keras.Model:
    """The network with the weights that the member's training started with."""
    constants = preprocessing.load_constants(result.transform_graph)
    keras.utils.set_random_seed(result.config.train.seed + 1)  # as models.train.compiled_model
    return architecture.build(result.config.model, len(constants.labels))


def _convolutions(model: keras.Model) -> list[keras.layers.Conv2D]:
    """All convolutions but those of projection shortcuts, in the network's order."""
    return [
        layer
        for layer in model.layers
        if isinstance(layer, keras.layers.Conv2D) and not layer.name.endswith("_0_conv")
    ]


def _layer(convolution: str) -> str:
    return convolution.removesuffix("_conv")


def _normalised(model: keras.Model, convolution: str) -> keras.KerasTensor:
    return model.get_layer(f"{_layer(convolution)}_bn").output


def _batches(result: Result, examples: int, full: bool) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Training images as the protocol `center` shows them, and labels; `full` batches or all."""
    constants = preprocessing.load_constants(result.transform_graph)
    examples = min(examples, sum(constants.class_counts))
    batch = min(BATCH, result.config.train.batch_size, examples)
    examples -= examples % batch if full else 0
    stream = batches.eval_dataset(
        batches.resolve([result.train_files]),
        result.config.transform,
        constants,
        batch,
        total=examples,
        examples=examples,
    )
    for images, labels, weights in stream:
        real = weights.numpy() > 0  # the rest fills the last batch
        yield images.numpy()[real], labels.numpy()[real]
