"""Protocols against slow ones of NumPy and PIL alone: pictures, crops, network and averages."""

import io

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from models.export import protocols
from models.settings import Transform
from tests.helpers import data, tiny_net

# Two networks as different as an ensemble's may be.
NETWORKS = [
    tiny_net.network(Transform(size=24, test_shorter_side=28)),
    tiny_net.network(
        Transform(size=20, test_shorter_side=25, test_scales=(20, 27, 42), mean="channel"), seed=1
    ),
]
IMAGES = {
    "landscape": data.jpeg(1, 75, 100),
    "portrait": data.jpeg(2, 111, 60, subsampling=0),
    "square": data.jpeg(3, 64, 64),
    "panorama": data.jpeg(4, 30, 150),  # 5:1
    "tower": data.jpeg(5, 211, 40),
    "smaller": data.jpeg(6, 13, 17),
    "larger": data.jpeg(7, 188, 250),
    "grey": data.grey(8),
    "png": data.png(9),
    "png_rgba": data.png(10, "RGBA"),
    "png_grey": data.png(11, "L"),
}
# Levels by which a resampled pixel may differ from PIL's: both compute in float32, TensorFlow also
# the place in the image, of which 250 is rounded by 1.5e-5. The greatest difference found is 2e-4;
# decoded pixels are the same.
PIXEL_ERROR = 3e-4


def pixels(encoded):
    return np.asarray(Image.open(io.BytesIO(encoded)).convert("RGB"))


def resized(image, shorter):
    """float64 [h, w, 3]. Channels one by one: PIL rounds colours to whole levels, but not its mode
    F.
    """
    height, width = image.shape[:2]
    sides = [shorter * side // min(height, width) for side in (height, width)]
    planes = [Image.fromarray(image[..., channel].astype(np.float32)) for channel in range(3)]
    planes = [plane.resize(sides[::-1], Image.Resampling.BILINEAR) for plane in planes]
    return np.stack([np.asarray(plane, float) for plane in planes], -1)


def middle(image, sides):
    top, left = ((have - want) // 2 for have, want in zip(image.shape, sides, strict=False))
    return image[top : top + sides[0], left : left + sides[1]]


def conv(x, kernel, bias):
    """3x3, stride 2, a border of one zero, ReLU."""
    padded = np.pad(x, [(1, 1), (1, 1), (0, 0)])
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), (0, 1))[::2, ::2]
    return np.maximum(np.einsum("abcyx,yxcf->abf", windows, kernel) + bias, 0)


def last_map(network, image):
    kernel1, bias1, kernel2, bias2, _, _ = network.model.get_weights()
    return conv(conv(image, kernel1, bias1), kernel2, bias2)


def scores(network, features):
    kernel, bias = network.model.get_weights()[4:]
    return features @ kernel + bias


def softmax(logits):
    powers = np.exp(logits - logits.max())
    return powers / powers.sum()


def subtract_mean(network, crop):
    constants = network.constants
    return crop - (
        constants.pixel_mean if network.settings.mean == "pixel" else constants.channel_mean
    )


def crop_probabilities(network, crop):
    return softmax(scores(network, last_map(network, crop).mean((0, 1))))


def center(network, image):
    settings = network.settings
    crop = middle(resized(image, settings.test_shorter_side), [settings.size] * 2)
    return crop_probabilities(network, subtract_mean(network, crop))


def ten_crop(network, image):
    size = network.settings.size
    whole = resized(image, network.settings.test_shorter_side)
    crops = [whole[:size, :size], whole[:size, -size:], whole[-size:, :size], whole[-size:, -size:]]
    crops = [subtract_mean(network, crop) for crop in [*crops, middle(whole, [size, size])]]
    # Mirrored after the mean is subtracted, as in training.
    crops += [crop[:, ::-1] for crop in crops]
    return np.mean([crop_probabilities(network, crop) for crop in crops], axis=0)


def multi_scale(network, image):
    found = []
    for side in network.settings.test_scales or [
        round(s * 24 / 224) for s in (224, 256, 384, 480, 640)
    ]:
        whole = resized(image, side)
        whole = middle(whole, [min(length, 3 * side) for length in whole.shape[:2]])
        for view in (whole, whole[:, ::-1]):
            maps = last_map(network, view - network.constants.channel_mean)
            window = network.settings.size // 4
            places = [
                scores(network, maps[y : y + window, x : x + window].mean((0, 1)))
                for y, x in np.ndindex(maps.shape[0] - window + 1, maps.shape[1] - window + 1)
            ]
            found.append(softmax(np.mean(places, axis=0)))
    return np.mean(found, axis=0)


REFERENCE = {"center": center, "ten_crop": ten_crop, "multi_scale": multi_scale}


def tolerance(network):
    """By how much `PIXEL_ERROR` can change a probability.

    A layer multiplies the greatest error of its inputs by the greatest sum of a unit's |weights| at
    most (ReLU and means do not enlarge it), and softmax halves it: a row of its Jacobian sums to 2
    p (1 - p).
    """
    error = PIXEL_ERROR
    for kernel in network.model.get_weights()[::2]:
        error *= np.abs(kernel).sum(tuple(range(kernel.ndim - 1))).max()
    return error / 2


@pytest.fixture(scope="module")
def expected():
    """Protocol -> [network][image] -> probabilities."""
    pictures = [pixels(encoded) for encoded in IMAGES.values()]
    return {
        name: np.array([[slow(network, picture) for picture in pictures] for network in NETWORKS])
        for name, slow in REFERENCE.items()
    }


@tf.function(input_signature=[tf.TensorSpec([None], tf.string)], autograph=False)
def predict(encoded):
    """Of every network alone, and of all together."""
    return [
        protocols.predict(some, encoded, list(REFERENCE), sub_batch=4)
        for some in (*NETWORKS, NETWORKS)
    ]


def test_the_tolerance_tells_protocols_and_networks_apart(expected):
    limit = max(tolerance(network) for network in NETWORKS)
    for name, values in expected.items():
        assert np.abs(values[0] - values[1]).max(-1).min() > 10 * limit
        for other in set(expected) - {name}:
            assert np.median(np.abs(values - expected[other]).max(-1)) > 3 * limit


@pytest.mark.parametrize("count", [0, 1, 7, 11])
def test_every_image_is_scored_once_and_in_order(expected, count):
    *alone, together = predict(tf.constant(list(IMAGES.values())[:count], tf.string))
    for name, values in expected.items():
        for network, found, wanted in zip(NETWORKS, alone, values, strict=True):
            assert found[name].shape == (count, 4) and found[name].dtype == tf.float32
            np.testing.assert_allclose(found[name], wanted[:count], atol=tolerance(network))
        np.testing.assert_allclose(together[name], (alone[0][name] + alone[1][name]) / 2, atol=1e-6)
