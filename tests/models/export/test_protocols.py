"""Protocols against one image at a time."""

import dataclasses
import functools
import io
import struct
import zlib

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from models import settings
from models.export import protocols
from models.network import architecture
from models.pixels import augmentation, decoding
from models.settings import Transform
from tests.helpers import data, tiny_net
from tests.helpers.memory import peak_rise

SETTINGS = Transform(size=24, test_shorter_side=28, test_scales=(24, 33))
NETWORK = tiny_net.network(SETTINGS)
CONSTANTS = NETWORK.constants
IMAGES = [data.jpeg(number, 30 + number, 45 - number) for number in range(11)]
NAMES = ["center", "ten_crop", "multi_scale"]


def noted(shapes):
    """The network, which notes the shapes that it gets."""

    def note(function):
        def call(images):
            shapes.append(tuple(images.shape[:3]))
            return function(images)

        return call

    return dataclasses.replace(NETWORK, forward=note(NETWORK.forward), dense=note(NETWORK.dense))


@functools.cache
def graph(sub_batch):
    """`predict` for batches of any length."""

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string)], autograph=False)
    def scores(encoded):
        return protocols.predict(NETWORK, encoded, NAMES, sub_batch)

    return scores


@functools.cache
def expected(name, encoded):
    if name == "multi_scale":
        pixels = decoding.decode(encoded)
        whole = [augmentation.whole(pixels, side, CONSTANTS) for side in (24, 33)]
        both = [NETWORK.dense(tf.stack([view, view[:, ::-1]])) for view in whole]
        logits = tf.concat(both, axis=0)
    elif name == "ten_crop":
        logits = NETWORK.model(augmentation.ten_crop(encoded, SETTINGS, CONSTANTS))
    else:
        logits = NETWORK.model(augmentation.center(encoded, SETTINGS, CONSTANTS)[tf.newaxis])
    powers = np.exp(logits)
    return (powers / powers.sum(-1, keepdims=True)).mean(0)


@pytest.mark.parametrize(
    ("views", "size", "shorter_side"),
    [("center", 24, 30), ("center", 32, 36), ("ten_crop", 32, 0), ("center", 0, 40)],
)
def test_a_protocol_is_a_line_of_the_table(monkeypatch, views, size, shorter_side):
    """Its crops are those of a network of that size, which the fully convolutional one sees."""
    line = settings.Protocol(views, size, shorter_side)
    monkeypatch.setitem(settings.PROTOCOLS, "new", line)
    other = dataclasses.replace(
        SETTINGS,
        size=size or 24,
        test_shorter_side=shorter_side or 28,
        test_scales=(),
        mean="channel" if size else SETTINGS.mean,
    )
    if other.test_shorter_side < other.size:
        with pytest.raises(ValueError, match="test_shorter_side=28: must be at least"):
            protocols.predict(NETWORK, tf.constant(IMAGES), ["new"])
        return
    scores = protocols.predict(NETWORK, tf.constant(IMAGES), ["new"])["new"]
    network = NETWORK.dense if size else NETWORK.forward
    for row, image in zip(scores, IMAGES, strict=True):
        powers = np.exp(network(augmentation.center(image, other, CONSTANTS)[tf.newaxis])[0])
        np.testing.assert_allclose(row, powers / powers.sum(), atol=2e-6)


@pytest.mark.parametrize("count", [0, 1, 4, 5, 8, 11])
@pytest.mark.parametrize("sub_batch", [1, 4, 32])
def test_every_image_is_scored_once_and_in_order(count, sub_batch):
    scores = graph(sub_batch)(tf.constant(IMAGES[:count], tf.string))
    assert sorted(scores) == sorted(NAMES)
    for name in NAMES:
        assert scores[name].shape == (count, 4) and scores[name].dtype == tf.float32
        for row, image in zip(scores[name].numpy(), IMAGES, strict=False):
            np.testing.assert_allclose(row, expected(name, image), atol=2e-6)


@pytest.mark.parametrize(
    ("name", "limit", "sizes"),
    [
        ("center", 4, [4, 4, 3]),
        ("ten_crop", 29, [20, 20, 20, 20, 20, 10]),
        ("multi_scale", 29, [2] * 22),
    ],
)
def test_no_more_images_than_the_limit_are_in_the_network(name, limit, sizes):
    shapes = []
    protocols.predict(noted(shapes), tf.constant(IMAGES), [name], limit)
    assert [count for count, _, _ in shapes] == sizes


def test_multi_scale_sees_whole_images_up_to_an_aspect_of_three():
    shapes = []
    encoded = [
        data.jpeg(0, height, width) for height, width in [(30, 40), (100, 60), (10, 90), (2000, 4)]
    ]
    protocols.predict(noted(shapes), tf.constant(encoded), ["multi_scale"])
    sides = [[(24, 32), (33, 44)], [(40, 24), (55, 33)], [(24, 72), (33, 99)], [(72, 24), (99, 33)]]
    assert shapes == [(2, *side) for image in sides for side in image]


@pytest.mark.parametrize(
    ("model", "size"),
    [(architecture.resnet(18, classes=5), 64), (architecture.cifar_resnet(8, classes=5), 24)],
    ids=["imagenet", "cifar"],
)
def test_fully_convolutional_network_is_the_network_at_the_size_of_training(model, size):
    rng = np.random.default_rng(0)
    model.set_weights([np.abs(rng.normal(0, 0.1, value.shape)) for value in model.get_weights()])
    network = protocols.network(model, Transform(size=size, test_shorter_side=size), CONSTANTS)
    images = rng.uniform(-100, 100, [3, size, size, 3]).astype(np.float32)
    logits = network.forward(images)
    assert np.ptp(logits, axis=0).min() > 0
    np.testing.assert_array_equal(network.dense(images), logits)


def test_networks_of_other_classes_are_no_ensemble():
    other = tiny_net.network(SETTINGS, labels="abdc")
    for networks in ([], [NETWORK, other]):
        with pytest.raises(ValueError, match=f"{len(networks)} networks cannot be averaged"):
            protocols.predict(networks, tf.constant(IMAGES), ["center"])


@pytest.mark.parametrize("dtype", [tf.float16, tf.bfloat16])
@pytest.mark.parametrize("name", NAMES)
def test_probabilities_are_float32_whatever_the_network_computes_in(name, dtype):
    half = dataclasses.replace(
        NETWORK,
        forward=lambda images: tf.cast(NETWORK.forward(images), dtype),
        dense=lambda images: tf.cast(NETWORK.dense(images), dtype),
    )
    scores = protocols.predict(half, tf.constant(IMAGES[:3]), [name])[name]
    assert scores.dtype == tf.float32
    np.testing.assert_allclose(np.sum(scores, axis=1), 1, atol=1e-6)


def test_unknown_protocol_is_named_with_the_valid_ones():
    with pytest.raises(
        ValueError,
        match=f"no test protocol eleven_crop; use one of {', '.join(settings.PROTOCOLS)}",
    ):
        protocols.predict(NETWORK, tf.constant(IMAGES), ["eleven_crop"])


def test_scales_that_the_window_does_not_fit_into_are_refused():
    small = dataclasses.replace(
        NETWORK, settings=dataclasses.replace(SETTINGS, test_scales=(24, 23))
    )
    with pytest.raises(ValueError, match=r"transform.test_scales=\[24, 23\]: must be at least"):
        protocols.predict(small, tf.constant(IMAGES), ["multi_scale"])


def png_header(width, height):
    """A valid PNG of one pixel whose header claims another size."""
    image = io.BytesIO()
    Image.new("RGB", (1, 1)).save(image, "PNG")
    header = b"IHDR" + struct.pack(">II", width, height) + image.getvalue()[24:29]
    return (
        image.getvalue()[:12]
        + header
        + struct.pack(">I", zlib.crc32(header))
        + image.getvalue()[33:]
    )


def jpeg_header(width, height):
    """A JPEG of one pixel whose frame header claims another size."""
    image = io.BytesIO()
    Image.new("RGB", (1, 1)).save(image, "JPEG")
    before, after = image.getvalue().split(b"\xff\xc0", 1)
    return before + b"\xff\xc0" + after[:3] + struct.pack(">HH", height, width) + after[7:]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("encoded", [png_header(20_000, 5_001), jpeg_header(5_001, 20_000)])
def test_bombs_are_refused_before_they_are_decoded(name, encoded):
    @tf.function(input_signature=[tf.TensorSpec([None], tf.string)], autograph=False)
    def graph(batch):
        return protocols.predict(NETWORK, batch, [name])

    # 300 MB decoded.
    def score():
        with pytest.raises(tf.errors.InvalidArgumentError, match="more than 100,000,000 pixels"):
            graph(tf.constant([IMAGES[0], encoded]))

    graph(tf.constant(IMAGES[:1]))
    assert peak_rise(score) < 100
