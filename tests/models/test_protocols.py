"""Protocols against one image at a time."""

import io
import struct
import zlib

import numpy as np
import pytest
import tensorflow as tf
from memory import peak_rise
from PIL import Image

from models import augmentation, protocols, views
from models.settings import Transform
from tests import data

SETTINGS = Transform(size=24, test_shorter_side=28)
CONSTANTS = augmentation.Constants(
    pixel_mean=np.full([24, 24, 3], 120, np.float32),
    channel_mean=np.full([3], 120, np.float32),
    covariance=np.eye(3, dtype=np.float32),
    labels=("a", "b", "c", "d"),
    class_counts=(1, 1, 1, 1),
)
IMAGES = [data.jpeg(number, 30 + number, 45 - number) for number in range(11)]
WEIGHTS = np.random.default_rng(0).normal(0, 0.002, [24 * 24 * 3, 4]).astype(np.float32)


class Net:
    """A linear net that notes how many images it gets."""

    def __init__(self, dtype=tf.float32):
        self.sizes = []
        self._dtype = dtype

    def __call__(self, images):
        self.sizes.append(int(images.shape[0]))
        return tf.cast(tf.reshape(images, [-1, 24 * 24 * 3]) @ WEIGHTS, self._dtype)


def softmax(logits):
    powers = np.exp(logits - logits.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


def expected(name, encoded):
    if name == "center":
        crops = augmentation.center(encoded, SETTINGS, CONSTANTS).numpy()[None]
    else:
        crops = augmentation.ten_crop(encoded, SETTINGS, CONSTANTS).numpy()
    return softmax(crops.reshape(-1, 24 * 24 * 3) @ WEIGHTS).mean(0)


@pytest.mark.parametrize("count", [0, 1, 4, 5, 8, 11])
@pytest.mark.parametrize("sub_batch", [1, 4, 32])
def test_every_image_is_scored_once_and_in_order(count, sub_batch):
    names = ["center", "ten_crop"]
    scores = protocols.predict(
        Net(), tf.constant(IMAGES[:count], tf.string), names, SETTINGS, CONSTANTS, sub_batch
    )
    assert list(scores) == names
    for name in names:
        assert scores[name].shape == (count, 4) and scores[name].dtype == tf.float32
        for row, image in zip(scores[name].numpy(), IMAGES, strict=False):
            np.testing.assert_allclose(row, expected(name, image), atol=2e-6)


@pytest.mark.parametrize(("name", "sizes"), [("center", [4, 4, 3]), ("ten_crop", [20, 20, 20, 20, 20, 10])])
def test_no_more_images_than_the_limit_are_in_the_network(name, sizes):
    net = Net()
    limit = 4 if name == "center" else 29
    protocols.predict(net, tf.constant(IMAGES), [name], SETTINGS, CONSTANTS, limit)
    assert net.sizes == sizes and max(sizes) <= limit


def test_inside_a_graph_with_an_unknown_batch():
    def forward(images):
        return tf.reshape(images, [-1, 24 * 24 * 3]) @ WEIGHTS

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string)], autograph=False)
    def graph(encoded):
        return protocols.predict(forward, encoded, ["center", "ten_crop"], SETTINGS, CONSTANTS, 4)

    for count in (0, 1, 11):
        scores = graph(tf.constant(IMAGES[:count], tf.string))
        for name, value in scores.items():
            wanted = [expected(name, encoded) for encoded in IMAGES[:count]]
            np.testing.assert_allclose(value, np.reshape(wanted, [-1, 4]), atol=2e-6)


@pytest.mark.parametrize("dtype", [tf.float16, tf.bfloat16])
def test_probabilities_are_float32_whatever_the_network_computes_in(dtype):
    scores = protocols.predict(Net(dtype), tf.constant(IMAGES[:3]), ["ten_crop"], SETTINGS, CONSTANTS)
    assert scores["ten_crop"].dtype == tf.float32
    np.testing.assert_allclose(np.sum(scores["ten_crop"], axis=1), 1, atol=1e-6)


def test_unknown_protocol_is_named_with_the_valid_ones():
    with pytest.raises(ValueError, match="no test protocol eleven_crop; use one of center, ten_crop"):
        protocols.predict(Net(), tf.constant(IMAGES), ["eleven_crop"], SETTINGS, CONSTANTS)


def png_header(width, height):
    """A valid PNG of one pixel whose header claims another size."""
    image = io.BytesIO()
    Image.new("RGB", (1, 1)).save(image, "PNG")
    header = b"IHDR" + struct.pack(">II", width, height) + image.getvalue()[24:29]
    return image.getvalue()[:12] + header + struct.pack(">I", zlib.crc32(header)) + image.getvalue()[33:]


def jpeg_header(width, height):
    """A JPEG of one pixel whose frame header claims another size."""
    image = io.BytesIO()
    Image.new("RGB", (1, 1)).save(image, "JPEG")
    before, after = image.getvalue().split(b"\xff\xc0", 1)
    return before + b"\xff\xc0" + after[:3] + struct.pack(">HH", height, width) + after[7:]


@pytest.mark.parametrize("name", ["center", "ten_crop"])
@pytest.mark.parametrize("encoded", [png_header(20_000, 5_001), jpeg_header(5_001, 20_000)])
def test_bombs_are_refused_before_they_are_decoded(name, encoded):
    def forward(images):
        return tf.reshape(images, [-1, 24 * 24 * 3]) @ WEIGHTS

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string)], autograph=False)
    def graph(batch):
        return protocols.predict(forward, batch, [name], SETTINGS, CONSTANTS)

    # 300 MB decoded.
    def score():
        with pytest.raises(tf.errors.InvalidArgumentError, match="more than 100,000,000 pixels"):
            graph(tf.constant([IMAGES[0], encoded]))

    graph(tf.constant(IMAGES[:1]))
    assert peak_rise(score) < 100


def test_the_limit_lets_other_images_pass_as_they_are():
    for encoded in (IMAGES[0], data.png(3), data.grey(3), b"GIF89a", b"no image", b"", png_header(1, 1)[:12]):
        assert views.limited(tf.constant(encoded)) == encoded
    for encoded in (png_header(20_000, 5_000), jpeg_header(20_000, 5_000)):
        assert views.limited(tf.constant(encoded)) == encoded
