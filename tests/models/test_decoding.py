"""The chain from bytes to pixels, against PIL and by its rules."""

import io
import struct
import zlib

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageOps

from models import decoding
from models.settings import Transform
from tests import data

UPRIGHT = Transform(upright=True)


def loaded(encoded, settings=UPRIGHT):
    """By the operations one by one and in a graph, which is what is served."""
    graph = tf.function(lambda data: decoding.load(data, settings), autograph=False)
    pixels = decoding.load(tf.constant(encoded), settings).numpy()
    np.testing.assert_array_equal(graph(tf.constant(encoded)), pixels)
    return pixels


def exif_jpeg(orientation, endian=">", shape=(40, 56)):
    exif = Image.Exif()
    exif.endian = endian
    exif[0x010F], exif[0x0112], exif[0x0131] = "a camera", orientation, "software"
    return data.jpeg(3, *shape, exif=exif.tobytes())


def png(header, *chunks):
    def chunk(kind, content):
        return (
            struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
        )

    parts = [(b"IHDR", header), *chunks, (b"IEND", b"")]
    return decoding.PNG + b"".join(chunk(*part) for part in parts)


@pytest.mark.parametrize("endian", "<>")
@pytest.mark.parametrize("orientation", range(1, 9))
def test_jpegs_are_turned_as_pil_turns_them(orientation, endian):
    encoded = exif_jpeg(orientation, endian)
    stored = Image.open(io.BytesIO(encoded))
    np.testing.assert_array_equal(loaded(encoded), ImageOps.exif_transpose(stored))
    np.testing.assert_array_equal(loaded(encoded, Transform()), stored)


@pytest.mark.parametrize("orientation", [0, 9, 65535])
def test_an_orientation_that_is_none_turns_nothing(orientation):
    assert loaded(exif_jpeg(orientation)).shape == (40, 56, 3)


@given(st.data())
def test_damaged_exif_never_fails_nor_hangs(draw):
    encoded = bytearray(exif_jpeg(6))
    begin = encoded.index(b"Exif")
    for _ in range(draw.draw(st.integers(1, 6))):
        encoded[draw.draw(st.integers(begin - 4, begin + 80))] = draw.draw(st.integers(0, 255))
    cut = draw.draw(st.integers(0, len(encoded)))
    for some in (bytes(encoded), bytes(encoded[:cut])):
        assert 1 <= decoding.orientation(tf.constant(some)) <= 8


def test_exif_of_a_png_turns_nothing():
    out = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(data.pixels(3)).save(out, "PNG", exif=exif)
    assert loaded(out.getvalue()).shape == data.pixels(3).shape


def test_what_was_loaded_and_stored_is_loaded_as_it_is():
    settings = Transform(upright=True, shorter_side=30)
    pixels = loaded(exif_jpeg(6), settings)
    assert pixels.shape == (42, 30, 3)
    np.testing.assert_array_equal(loaded(tf.io.encode_png(pixels).numpy(), settings), pixels)


def test_small_images_are_not_enlarged():
    assert loaded(data.jpeg(1, 20, 25), Transform(shorter_side=30)).shape == (20, 25, 3)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "LA", "P", "1", "I;16"])
def test_png_of_every_mode_is_what_pil_sees(mode):
    encoded = data.png(5, mode)
    picture = Image.open(io.BytesIO(encoded))
    if mode == "I;16":
        picture = Image.fromarray((np.asarray(picture) >> 8).astype(np.uint8))
    np.testing.assert_array_equal(loaded(encoded), picture.convert("RGB"))


def other_formats():
    for name in ("BMP", "GIF", "WEBP", "TIFF", "AVIF", "PPM", "ICO"):
        out = io.BytesIO()
        Image.fromarray(data.pixels(1)).save(out, name)
        yield out.getvalue()
    yield from (b"", b"text", b"<svg/>", b"\xff\xd8", decoding.PNG[:7])


@pytest.mark.parametrize("graph", [False, True])
def test_other_formats_are_refused_in_one_sentence(graph):
    load = tf.function(decoding.decode) if graph else decoding.decode
    for encoded in other_formats():
        with pytest.raises(tf.errors.InvalidArgumentError, match=decoding.NO_IMAGE):
            load(tf.constant(encoded))


def test_headers_that_promise_too_much_are_refused_before_the_decoder_sees_them():
    wide = png(struct.pack(">IIBBBBB", 20_000, 5_001, 8, 2, 0, 0, 0))
    for encoded in (wide, data.bomb()):
        with pytest.raises(tf.errors.InvalidArgumentError, match="more than 100,000,000 pixels"):
            decoding.decode(tf.constant(encoded))


def flat(height, width):
    """A progressive JPEG of one colour, whose scans have few bytes."""
    out = io.BytesIO()
    Image.new("RGB", (width, height)).save(out, "JPEG", progressive=True)
    return out.getvalue()


def test_scans_without_end_are_refused():
    encoded = flat(2000, 2500)
    scan = encoded.rindex(b"\xff\xda")
    last = encoded[scan:-2]
    few, many = (encoded[:-2] + last * number + encoded[-2:] for number in (3, 5_000_000_000 // 5_000_000))
    assert decoding.decode(tf.constant(few)).shape == (2000, 2500, 3)
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"in all of its scans"):
        decoding.decode(tf.constant(many))


@pytest.mark.parametrize("graph", [False, True])
def test_as_many_scans_as_are_allowed_are_decoded(monkeypatch, graph):
    encoded = flat(16, 24)
    scans = encoded.count(decoding.SCAN)
    for allowed in (16 * 24 * scans, 16 * 24 * scans - 1):
        monkeypatch.setattr(decoding, "MAX_SCANNED", allowed)
        decode = tf.function(decoding.decode) if graph else decoding.decode
        if allowed == 16 * 24 * scans:
            assert decode(tf.constant(encoded)).shape == (16, 24, 3)
        else:
            with pytest.raises(tf.errors.InvalidArgumentError, match=r"in all of its scans"):
                decode(tf.constant(encoded))


@pytest.mark.parametrize("graph", [False, True])
@pytest.mark.parametrize("encoded", [data.jpeg(1, 16, 24), data.png(1)])
def test_as_many_pixels_as_are_allowed_are_decoded(monkeypatch, graph, encoded):
    width, height = Image.open(io.BytesIO(encoded)).size
    for fewer in (0, 1):
        monkeypatch.setattr(decoding, "MAX_PIXELS", width * height - fewer)
        decode = tf.function(decoding.decode) if graph else decoding.decode
        if not fewer:
            assert decode(tf.constant(encoded)).shape == (height, width, 3)
        else:
            with pytest.raises(tf.errors.InvalidArgumentError, match="more than 100,000,000 pixels"):
                decode(tf.constant(encoded))
