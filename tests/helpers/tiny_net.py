"""A network small enough for NumPy: two convolutions of stride 2, global pooling, a dense layer.

Its layers have the names of models.network.architecture, as stages of one block each.
"""

import keras
import numpy as np

from models.export import protocols
from models.pixels import augmentation


def build(seed=0, classes=4, dtype="float32"):
    """Random weights, of a size at which probabilities are neither equal nor 0 or 1."""
    policy = keras.DTypePolicy(dtype)
    inputs = keras.Input([None, None, 3], name="images")
    x = inputs
    for stage, filters in enumerate((6, 8), start=2):
        x = keras.layers.ZeroPadding2D(1, dtype=policy)(x)
        name = f"conv{stage}_block1_out"
        x = keras.layers.Conv2D(filters, 3, 2, activation="relu", dtype=policy, name=name)(x)
    x = keras.layers.GlobalAveragePooling2D(dtype="float32", name="avg_pool")(x)
    model = keras.Model(inputs, keras.layers.Dense(classes, dtype="float32", name="logits")(x))
    rng = np.random.default_rng(seed)
    model.set_weights([rng.normal(0, 0.06, np.shape(value)) for value in model.get_weights()])
    return model


def network(settings, seed=0, labels=("a", "b", "c", "d"), dtype="float32"):
    """With a mean image that is no plane and a mean colour of its own."""
    rng = np.random.default_rng(seed + 100)
    constants = augmentation.Constants(
        pixel_mean=rng.uniform(90, 150, [settings.size, settings.size, 3]).astype(np.float32),
        channel_mean=rng.uniform(90, 150, [3]).astype(np.float32),
        covariance=np.eye(3, dtype=np.float32),
        labels=tuple(labels),
        class_counts=(1,) * len(labels),
    )
    return protocols.network(build(seed, len(labels), dtype), settings, constants)
