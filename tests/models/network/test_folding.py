"""Folded networks against those they came from."""

import keras
import numpy as np
import pytest

from models.network import architecture, folding
from tests.helpers import tiny_net

NETWORKS = {
    "cifar A": lambda: architecture.cifar_resnet(8, classes=5),
    "cifar B": lambda: architecture.cifar_resnet(8, classes=5, shortcut="B", weight_decay=1e-4),
    "plain": lambda: architecture.cifar_resnet(8, classes=5, residual=False),
    "bottleneck v1.5": lambda: architecture.resnet(50, classes=5, variant="v1.5"),
}


def trained(model):
    """Random statistics, scales and offsets: no batch normalisation is nearly an identity."""
    rng = np.random.default_rng(0)
    for variable in model.variables:
        low, high = {"gamma": (0.2, 1.5), "moving_variance": (0.5, 4)}.get(variable.name, (-1, 1))
        if variable.name in ("gamma", "beta", "moving_mean", "moving_variance"):
            variable.assign(rng.uniform(low, high, variable.shape))
    return model


def normalisations(model):
    return [layer for layer in model.layers if isinstance(layer, keras.layers.BatchNormalization)]


@pytest.mark.parametrize("name", NETWORKS)
def test_a_folded_network_has_the_same_logits_and_no_batch_normalisation(name):
    model = trained(NETWORKS[name]())
    before = model.get_weights()
    images = np.random.default_rng(1).normal(0, 1, [2, 40, 40, 3]).astype(np.float32)
    logits = np.asarray(model(images, training=False))
    folded = folding.fold(model)
    assert normalisations(model) and not normalisations(folded)
    assert [layer.name for layer in folded.layers] == [layer.name for layer in model.layers]
    np.testing.assert_allclose(folded(images), logits, atol=1e-5 * np.abs(logits).max())
    # The model that goes on learning is untouched.
    for kept, weight in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(kept, weight)


def test_parts_are_found_in_a_folded_network_too():
    model = trained(architecture.cifar_resnet(8, classes=5))
    images = np.random.default_rng(1).normal(0, 1, [2, 40, 40, 3]).astype(np.float32)
    for part in (architecture.feature_maps, lambda network: architecture.head_parts(network)[0]):
        found, expected = (part(network)(images) for network in (folding.fold(model), model))
        keras.tree.map_structure(
            lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5 * np.abs(b).max()),
            found,
            expected,
        )


def test_what_a_convolution_cannot_take_up_stays():
    """Behind an activation, behind a convolution that others read as well or that is an output, and
    behind none."""
    inputs = keras.Input([8, 8, 3])
    first = keras.layers.BatchNormalization(name="first")(inputs)
    active = keras.layers.Conv2D(4, 3, activation="relu", use_bias=False)(first)
    active = keras.layers.BatchNormalization(name="active")(active)
    shared = keras.layers.Conv2D(4, 3, use_bias=False)(active)
    outputs = keras.layers.Add()([keras.layers.BatchNormalization(name="shared")(shared), shared])
    shown = keras.layers.Conv2D(4, 3, use_bias=False)(outputs)
    last = keras.layers.BatchNormalization(name="last")(shown)
    model = trained(keras.Model(inputs, [shown, last]))
    folded = folding.fold(model)
    assert [layer.name for layer in normalisations(folded)] == ["first", "active", "shared", "last"]
    images = np.random.default_rng(1).normal(0, 1, [2, 8, 8, 3]).astype(np.float32)
    for found, expected in zip(folded(images), model(images, training=False), strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-5)


def test_a_network_without_batch_normalisation_is_copied():
    model = tiny_net.build()
    images = np.random.default_rng(1).normal(0, 50, [2, 24, 24, 3]).astype(np.float32)
    np.testing.assert_array_equal(folding.fold(model)(images), model(images))
