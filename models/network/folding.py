"""Batch normalisation folded into the convolutions before it, for models that only predict."""

from __future__ import annotations

import collections
from typing import Any

import keras
import numpy as np


def fold(model: keras.Model) -> keras.Model:
    """The function of `model(images, training=False)`, up to rounding, with batch normalisation in
    the kernels and biases of the convolutions.

    Args:
      model: a functional model; it stays as it is. A batch normalisation that does not stand alone
        behind a convolution without bias and activation is kept.

    Returns:
      A model for inference, with weights and layers of its own. All names are kept; in the place of
      what was folded is an identity.
    """
    convolutions = _convolutions(model)
    names = {convolution.name for convolution in convolutions.values()}

    def clone(layer: keras.layers.Layer) -> keras.layers.Layer:
        if layer.name in convolutions:
            return keras.layers.Identity(name=layer.name, dtype=layer.dtype_policy)
        bias = {"use_bias": True} if layer.name in names else {}
        return type(layer).from_config({**layer.get_config(), **bias})

    def call(layer: keras.layers.Layer, *args: Any, **kwargs: Any) -> Any:
        return layer(*args) if layer.name in convolutions else layer(*args, **kwargs)

    folded = keras.models.clone_model(model, clone_function=clone, call_function=call)
    copies = {layer.name: layer for layer in folded.layers}
    for layer in model.layers:
        if layer.name in convolutions:
            scale, bias = _scale_and_bias(layer)
            convolution = convolutions[layer.name]
            copies[convolution.name].set_weights([np.asarray(convolution.kernel) * scale, bias])
        elif layer.weights and layer.name not in names:
            copies[layer.name].set_weights(layer.get_weights())
    return folded


def _convolutions(model: keras.Model) -> dict[str, keras.layers.Conv2D]:
    """Name of each batch normalisation that can be folded -> the convolution before it."""
    by_output = {id(layer.output): layer for layer in model.layers}
    read = collections.Counter(id(tensor) for tensor in model.outputs)
    for operation in model.operations:
        read.update(id(tensor) for tensor in keras.tree.flatten(operation.input))
    found = {}
    for layer in model.layers:
        if not isinstance(layer, keras.layers.BatchNormalization):
            continue
        before = by_output.get(id(layer.input), layer)
        if not isinstance(before, keras.layers.Conv2D) or before.use_bias:
            continue
        if before.activation is keras.activations.linear and read[id(layer.input)] == 1:
            found[layer.name] = before
    return found


def _scale_and_bias(layer: keras.layers.BatchNormalization) -> tuple[np.ndarray, np.ndarray]:
    """float64 [channels] each, so that only the products are rounded."""
    weights = (layer.gamma, layer.beta, layer.moving_mean, layer.moving_variance)
    gamma, beta, mean, variance = (np.asarray(weight, np.float64) for weight in weights)
    scale = gamma / np.sqrt(variance + layer.epsilon)
    return scale, beta - mean * scale
