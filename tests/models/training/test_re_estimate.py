"""Statistics of batch normalisation after training, against NumPy."""

import keras
import numpy as np
import pytest

from models.network import architecture
from models.settings import Model
from models.training import bn_statistics

EPSILON = 1e-3
RNG = np.random.default_rng(0)
IMAGES = RNG.normal(20, 50, [24, 4, 4, 3]).astype(np.float32)


def small_net():
    """Two 1x1 convolutions, each followed by batch normalisation with scale and offset, and ReLU."""
    x = inputs = keras.Input([None, None, 3])
    for channels in (5, 4):
        x = keras.layers.Conv2D(channels, 1, use_bias=False)(x)
        x = architecture.BatchNormalization(epsilon=EPSILON)(x)
        x = keras.layers.Activation("relu")(x)
    model = keras.Model(inputs, x)
    rng = np.random.default_rng(1)
    model.set_weights([rng.uniform(0.5, 2, weight.shape) for weight in model.get_weights()])
    return model


def norms(model):
    return [layer for layer in model.layers if isinstance(layer, keras.layers.BatchNormalization)]


def expected(model, batches):
    """Mean and variance of the inputs of each layer over all batches together, in float64."""
    convolutions = [layer for layer in model.layers if isinstance(layer, keras.layers.Conv2D)]
    current = [batch.astype(np.float64) for batch in batches]
    results = []
    for convolution, norm in zip(convolutions, norms(model), strict=True):
        current = [batch @ convolution.kernel.numpy()[0, 0].astype(np.float64) for batch in current]
        everything = np.concatenate(current).reshape(-1, current[0].shape[-1])
        results.append((everything.mean(0), everything.var(0)))
        gamma, beta = norm.gamma.numpy(), norm.beta.numpy()
        current = [
            np.maximum(
                (x - x.mean((0, 1, 2))) / np.sqrt(x.var((0, 1, 2)) + EPSILON) * gamma + beta, 0
            )
            for x in current
        ]
    return results


@pytest.mark.parametrize("batches", [1, 2, 6])
def test_statistics_are_those_of_all_batches_together(batches):
    model, parts = small_net(), np.split(IMAGES, batches)
    reference = expected(model, parts)
    bn_statistics.re_estimate(model, parts)
    for layer, (mean, variance) in zip(norms(model), reference, strict=True):
        np.testing.assert_allclose(layer.moving_mean, mean, rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(layer.moving_variance, variance, rtol=1e-4)


def test_with_one_batch_inference_is_training():
    """The statistics in use are then those of the batch, so both modes compute the same."""
    model = architecture.build(Model(family="cifar", depth=8, shortcut="A"), 4)
    images = RNG.normal(0, 60, [16, 16, 16, 3]).astype(np.float32)
    bn_statistics.re_estimate(model, [images])
    np.testing.assert_allclose(
        model(images, training=False), model(images, training=True), atol=1e-3
    )


def test_a_mean_far_above_the_deviation_keeps_its_variance():
    model = small_net()
    far = IMAGES + 50_000
    reference = expected(model, np.split(far, 3))
    bn_statistics.re_estimate(model, np.split(far, 3))
    first, (_, variance) = norms(model)[0], reference[0]
    np.testing.assert_allclose(first.moving_variance, variance, rtol=0.02)


def test_frozen_layers_keep_their_statistics_and_use_them():
    model = small_net()
    first, second = norms(model)
    first.trainable = False
    before = first.get_weights()
    bn_statistics.re_estimate(model, [IMAGES])
    assert all((old == new).all() for old, new in zip(before, first.get_weights(), strict=True))
    fed = keras.Model(model.input, second.input)(IMAGES, training=False).numpy().reshape(-1, 4)
    np.testing.assert_allclose(second.moving_mean, fed.mean(0), rtol=1e-4)
    np.testing.assert_allclose(second.moving_variance, fed.var(0), rtol=1e-4)
