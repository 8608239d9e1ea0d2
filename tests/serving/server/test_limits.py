"""What images announce, wherever they lie in a request."""

import contextlib
import io
import struct
import time

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from serving.server.rpc_errors import Code, ServingError
from serving.server.running.limits import (
    MAX_PIXEL_SCANS,
    MAX_SEGMENTS,
    Limits,
    announced,
)
from tests.helpers.serving_models import png

SIDES = (40, 30)


def encoded(kind, frames=1, **options):
    images = [Image.effect_noise(SIDES, 50 + i).convert("RGB") for i in range(frames)]
    more = {"save_all": True, "append_images": images[1:]} if frames > 1 else {}
    stream = io.BytesIO()
    images[0].save(stream, kind, **more, **options)
    return stream.getvalue()


IMAGES = {
    "jpeg": encoded("JPEG"),
    "jpeg that PIL does not open": (
        encoded("JPEG").replace(b"\xff\xd8", b"\xff\xd8\xff\xe0\0\x06JFIF", 1)
    ),
    "png": encoded("PNG"),
}


@pytest.mark.parametrize("name", IMAGES)
def test_pixels_are_those_that_tensorflow_decodes(name):
    shape = tf.io.decode_image(IMAGES[name], channels=3, expand_animations=False).shape
    assert announced(IMAGES[name])[0] == shape[0] * shape[1] == 40 * 30


@pytest.mark.parametrize("value", [b"", b"abc", b"\xff\xd8\xff\xda", *IMAGES.values()])
def test_what_is_cut_off_is_no_error(value):
    for end in range(len(value)):
        assert announced(value[:end])[0] >= 0


@given(st.sampled_from(list(IMAGES.values())), st.integers(0, 100), st.binary(max_size=4))
def test_damage_is_no_error(value, at, damage):
    assert announced(value[:at] + damage + value[at + len(damage) :])[0] >= 0


def scans(number, side=9900):
    """A progressive JPEG with further scans of nothing."""
    stream = io.BytesIO()
    Image.new("L", (16, 16)).save(stream, "JPEG", progressive=True)
    value = stream.getvalue()
    frame = value.index(b"\xff\xc2") + 5
    empty = b"\xff\xda\0\x08\x01\x01\x00\x01\x05\x00\x00"
    return (
        value[:frame]
        + struct.pack(">HH", side, side)
        + value[frame + 4 : -2]
        + empty * number
        + b"\xff\xd9"
    )


def test_scans_of_a_jpeg_are_counted():
    assert announced(IMAGES["jpeg"]) == (40 * 30, 1)
    some = announced(encoded("JPEG", progressive=True))[1]
    assert 5 < some < 15
    assert announced(scans(7, 16))[1] == announced(scans(0, 16))[1] + 7


@pytest.mark.parametrize(
    "note", [b"\xff\xda" * 900, b"\xff\xd9", b"\xff\xc0\0\x0b\x08\xff\xff\xff\xff"]
)
def test_what_looks_like_markers_in_notes_is_none(note):
    value = IMAGES["jpeg"]
    noted = value[:2] + b"\xff\xe5" + struct.pack(">H", len(note) + 2) + note + value[2:]
    assert tf.io.decode_jpeg(noted).shape == (30, 40, 3)
    assert announced(noted) == (40 * 30, 1)


@pytest.mark.parametrize(
    "cut", [b"\xff", b"\xff\xc4", b"\xff\xc4\x01", b"\xff\xc0\0\x0b", b"\0\xff\xd3\xff\xff\xda"]
)
def test_a_cut_end_hides_nothing(cut):
    pixels, number = announced(scans(4000)[:-2] + cut)
    assert pixels == 9900 * 9900 and number > 4000


def test_a_jpeg_of_many_scans_is_refused_wherever_it_lies():
    limits = Limits(10**8, 10**8)
    limits.check({"x": np.array([scans(20), example(scans(20))], object)})
    for value in (scans(4000), example(scans(4000)), example(b"GIF8", scans(100))):
        with pytest.raises(
            ServingError, match=r"row 0: a JPEG of 98010000 pixels in \d+ scans is too much"
        ):
            limits.check({"x": np.array([value], object)})


def test_a_jpeg_of_very_many_segments_is_refused_at_once():
    value = IMAGES["jpeg"][:2] + b"\xff\xfe\0\x02" * 10_000_000 + IMAGES["jpeg"][2:]
    start = time.monotonic()
    with pytest.raises(ServingError, match=f"in {MAX_SEGMENTS + 1} scans"):
        Limits(10**9, 10**8).check({"x": np.array([value], object)})
    assert time.monotonic() - start < 1


def example(*contents):
    feature = tf.train.Feature(bytes_list=tf.train.BytesList(value=contents))
    features = tf.train.Features(feature={"image/encoded": feature})
    return tf.train.Example(features=features).SerializeToString()


# A field that is unknown to tf.Example, in front of it, whose first bytes are those of an image.
DISGUISES = {
    "png": b"\x89PNG\r\n\x1a\n\0\0" + b"R\x0c\0\0\0\0" + bytes((0, 0, 0, 1) * 2),
}


@pytest.mark.parametrize("name", DISGUISES)
def test_an_example_that_begins_as_an_image_is_looked_into(name):
    value = DISGUISES[name] + example(png((1, 2, 3), size=(40, 30)))
    parsed = tf.io.parse_single_example(
        value, {"image/encoded": tf.io.FixedLenFeature([], tf.string)}
    )
    assert parsed["image/encoded"].numpy().startswith(b"\x89PNG")
    with pytest.raises(ServingError, match="row 0: an image of 1200 pixels"):
        Limits(10**6, 1000).check({"inputs": np.array([value], object)})


def test_images_in_sequences_are_looked_at():
    one = tf.train.Feature(bytes_list=tf.train.BytesList(value=[png((1, 2, 3), size=(40, 30))]))
    lists = tf.train.FeatureLists(feature_list={"frames": tf.train.FeatureList(feature=[one])})
    value = tf.train.SequenceExample(feature_lists=lists).SerializeToString()
    with pytest.raises(ServingError, match="row 0: an image of 1200 pixels"):
        Limits(10**6, 1000).check({"inputs": np.array([value], object)})


def test_images_in_examples_are_looked_at():
    limits = Limits(10**6, 1000)
    limits.check(
        {"inputs": np.array([example(b"name", png((1, 2, 3))), b"\xff no example"], object)}
    )
    wide = example(png((1, 2, 3), size=(40, 30)))
    with pytest.raises(ServingError, match="Input inputs, row 1: an image of 1200 pixels"):
        limits.check({"inputs": np.array([example(b"x"), wide], object)})


def test_limits_are_what_is_still_allowed():
    value = png((1, 2, 3), size=(40, 30))
    size = len(value)
    Limits(size, 1200).check({"x": np.array([value, b""], object), "y": np.zeros(3)})
    for limits, text in (
        (Limits(size - 1, 1200), f"{size} bytes are more than {size - 1} (--max_image_bytes)"),
        (Limits(size, 1199), "an image of 1200 pixels is larger than 1199 (--max_image_pixels)"),
    ):
        with pytest.raises(ServingError) as caught:
            limits.check({"x": np.zeros(3), "y": np.array([[b""], [value]], object)})
        assert caught.value.message == f"Input y, row 1: {text}"
        assert caught.value.code == Code.INVALID_ARGUMENT


def test_so_many_scans_of_so_many_pixels_are_still_allowed():
    most = MAX_PIXEL_SCANS // 10_000**2
    own = announced(scans(0, 10_000))[1]
    limits = Limits(10**8, 10**8)
    limits.check({"x": np.array([scans(most - own, 10_000)], object)})
    with pytest.raises(ServingError) as caught:
        limits.check({"x": np.array([scans(most - own + 1, 10_000)], object)})
    assert (
        caught.value.message
        == f"Input x, row 0: a JPEG of 100000000 pixels in {most + 1} scans is too much work:"
        " save it "
        "with fewer scans, or as a baseline JPEG"
    )


def test_so_many_segments_are_still_looked_at():
    for notes in (MAX_SEGMENTS - 1, MAX_SEGMENTS):
        value = b"\xff\xd8" + b"\xff\xfe\0\x02" * notes + b"\xff\xd9"
        assert announced(value) == (0, 1 if notes < MAX_SEGMENTS else MAX_SEGMENTS + 1)


def test_the_largest_frame_of_a_jpeg_counts():
    frame = b"\xff\xc0\0\x0b\x08\x01\x02\x03\x04\x01\x01\x11\0"
    small = b"\xff\xc2\0\x0b\x08\0\x02\0\x03\x01\x01\x11\0"
    for frames in (frame, frame + small, small + frame):
        assert announced(b"\xff\xd8" + frames + b"\xff\xd9") == (0x102 * 0x304, 1)


def test_fill_bytes_are_passed_over_in_one_look():
    # Twice as many took four times as long: 60 kB held the whole server for half a minute.
    assert announced(b"\xff\xd8" + b"\xff" * 2_000_000 + b"\0") == (0, 1)
    behind = b"\xff\xd8" + b"\xff" * 2_000_000 + IMAGES["jpeg"][2:]
    assert announced(behind) == announced(IMAGES["jpeg"])


@pytest.mark.parametrize(
    ("kind", "length", "refused"),
    [
        (b"tEXt", 2**31 - 1, True),
        (b"iCCP", 2**20 + 200, True),
        (b"tEXt", 2**19, False),  # the decoder says that it is cut off
        (b"IDAT", 2**31 - 1, False),  # pixels are read piece by piece
    ],
)
def test_a_part_of_a_png_that_announces_more_than_there_is(kind, length, refused):
    data = png((1, 2, 3))[:33] + length.to_bytes(4, "big") + kind + bytes(100)
    inputs = {"image_bytes": np.array([data], object)}
    with pytest.raises(ServingError) if refused else contextlib.nullcontext() as caught:
        Limits(10**9, 10**9).check(inputs)
    if refused:
        assert "a part of the PNG announces more bytes than there are" in caught.value.message
