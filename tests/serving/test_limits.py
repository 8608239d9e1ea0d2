"""What images announce, whatever their format, and wherever they lie in a request."""

import io
import struct

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from serving_models import png

from serving.server.errors import ServingError
from serving.server.limits import Limits, pixels_of

SIDES = (40, 30)


def encoded(kind, frames=1, **options):
    images = [Image.effect_noise(SIDES, 50 + i).convert("RGB") for i in range(frames)]
    more = {"save_all": True, "append_images": images[1:]} if frames > 1 else {}
    stream = io.BytesIO()
    images[0].save(stream, kind, **more, **options)
    return stream.getvalue()


def gif(*frames, screen=(1, 1)):
    """A GIF of frames of these sides with no colours in them."""
    head = b"GIF89a" + struct.pack("<HHBBB", *screen, 0x80, 0, 0) + bytes(6)
    bodies = [
        b"!\xf9\x04" + bytes(5) + b"," + struct.pack("<HHHHB", 0, 0, *sides, 0) + b"\x02\x02\x44\x01\x00"
        for sides in frames
    ]
    return head + b"".join(bodies) + b";"


IMAGES = {
    "jpeg": encoded("JPEG"),
    "jpeg that PIL does not open": encoded("JPEG").replace(b"\xff\xd8", b"\xff\xd8\xff\xe0\0\x06JFIF", 1),
    "png": encoded("PNG"),
    "bmp": encoded("BMP"),
    "gif": encoded("GIF"),
    "webp": encoded("WEBP"),
    "webp, lossless": encoded("WEBP", lossless=True),
    "webp with a header": encoded("WEBP", exif=b"Exif\0\0abcd"),
}


@pytest.mark.parametrize("name", IMAGES)
def test_pixels_are_those_that_tensorflow_decodes(name):
    shape = tf.io.decode_image(IMAGES[name], channels=3, expand_animations=False).shape
    assert pixels_of(IMAGES[name]) == shape[0] * shape[1] == 40 * 30


@pytest.mark.parametrize("kind", ["GIF", "WEBP"])
def test_all_frames_count(kind):
    assert pixels_of(encoded(kind, frames=3)) == 3 * 40 * 30


def test_a_frame_that_is_larger_than_its_gif_counts():
    """TensorFlow decodes it: 600 KB took 3.6 GB."""
    assert pixels_of(gif((1, 1), (30_000, 30_000))) == 1 + 30_000**2
    assert pixels_of(gif((1, 1), (1, 1), screen=(300, 200))) == 2 * 300 * 200


@pytest.mark.parametrize("value", [b"", b"abc", b"RIFFabcdWEBPVP8?", b"\xff\xd8\xff\xda", *IMAGES.values()])
def test_what_is_cut_off_is_no_error(value):
    for end in range(len(value)):
        assert pixels_of(value[:end]) >= 0


@given(st.sampled_from(list(IMAGES.values())), st.integers(0, 100), st.binary(max_size=4))
def test_damage_is_no_error(value, at, damage):
    assert pixels_of(value[:at] + damage + value[at + len(damage) :]) >= 0


def test_a_few_bytes_of_webp_are_not_decoded():
    """A WebP of one colour has 34 bytes, whatever its sides."""
    stream = io.BytesIO()
    Image.new("RGB", (2000, 1500)).save(stream, "WEBP", lossless=True, method=0)
    assert len(stream.getvalue()) < 50
    with pytest.raises(ServingError, match="row 0: an image of 3000000 pixels is larger than 1000"):
        Limits(10**6, 1000).check({"x": np.array([stream.getvalue()], object)})


def test_images_in_examples_are_looked_at():
    def example(content):
        feature = tf.train.Feature(bytes_list=tf.train.BytesList(value=[b"name", content]))
        features = tf.train.Features(feature={"image/encoded": feature})
        return tf.train.Example(features=features).SerializeToString()

    limits = Limits(10**6, 1000)
    limits.check({"inputs": np.array([example(png((1, 2, 3))), b"\xff no example"], object)})
    wide = example(png((1, 2, 3), size=(40, 30)))
    with pytest.raises(ServingError, match="Input inputs, row 1: an image of 1200 pixels"):
        limits.check({"inputs": np.array([example(b"x"), wide], object)})
