"""The fused batch normalisation against Keras' own."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from models.network.architecture import BN_EPSILON, BN_MOMENTUM
from models.network.layers import BatchNormalization

IMAGES = np.random.default_rng(0).normal(3, 2, [8, 5, 7, 6]).astype(np.float32)
OPTIONS = {"momentum": BN_MOMENTUM, "epsilon": BN_EPSILON}


def layers(**options):
    """Ours and Keras', with the same random parameters and statistics."""
    ours = BatchNormalization(**OPTIONS, **options)
    peer = keras.layers.BatchNormalization(**OPTIONS, **options)
    rng = np.random.default_rng(1)
    values = [rng.uniform(0.5, 2, 6) for _ in range(4)]
    for layer in (ours, peer):
        layer.build(IMAGES.shape)
        layer.set_weights(values)
    return ours, peer


def gradients(layer, images):
    weights = np.random.default_rng(2).normal(size=images.shape)
    with tf.GradientTape() as tape:
        images = tf.constant(images)
        tape.watch(images)
        outputs = layer(images, training=True)
        loss = tf.reduce_sum(tf.cast(outputs, tf.float64) * weights)
    sources = [images, *(variable.value for variable in layer.trainable_variables)]
    return [outputs, *tape.gradient(loss, sources)]


def test_training_gives_the_same_outputs_and_gradients():
    for ours, peer in zip(*(gradients(layer, IMAGES) for layer in layers()), strict=True):
        np.testing.assert_allclose(ours, peer, rtol=1e-4, atol=1e-4)


def test_moving_statistics_gather_mean_and_unbiased_variance():
    ours, peer = layers()
    before = ours.moving_variance.numpy()
    for layer in (ours, peer):
        layer(IMAGES, training=True)
    np.testing.assert_allclose(ours.moving_mean, peer.moving_mean, rtol=1e-5)
    unbiased = IMAGES.reshape(-1, 6).var(0, ddof=1)
    np.testing.assert_allclose(ours.moving_variance, 0.9 * before + 0.1 * unbiased, rtol=1e-5)


@pytest.mark.parametrize("training", [True, False])
def test_a_frozen_layer_uses_and_keeps_its_statistics(training):
    ours, peer = layers()
    ours.trainable = peer.trainable = False
    before = ours.get_weights()
    np.testing.assert_allclose(
        ours(IMAGES, training=training), peer(IMAGES, training=training), rtol=1e-5
    )
    assert all((a == b).all() for a, b in zip(ours.get_weights(), before, strict=True))


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16", "float64"])
def test_other_precisions(policy):
    ours, peer = (gradients(layer, IMAGES) for layer in layers(dtype=policy))
    assert ours[0].dtype == peer[0].dtype
    tolerance = {"mixed_bfloat16": 0.05, "mixed_float16": 0.01, "float64": 1e-9}[policy]
    np.testing.assert_allclose(
        tf.cast(ours[0], tf.float64), tf.cast(peer[0], tf.float64), atol=tolerance * 5
    )
