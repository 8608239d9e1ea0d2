"""The chain from bytes to pixels, against PIL and by its rules."""

import functools
import io
import struct
import zlib

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageOps

from models.pixels import decoding
from models.settings import Transform
from tests.helpers import data

UPRIGHT = Transform(upright=True)


def loaded(encoded, settings=UPRIGHT):
    """By the operations one by one and in a graph, which is what is served."""
    pixels = decoding.load(tf.constant(encoded), settings).numpy()
    np.testing.assert_array_equal(graph(settings)(tf.constant(encoded)), pixels)
    return pixels


@functools.cache
def graph(settings):
    return tf.function(lambda data: decoding.load(data, settings), autograph=False)


def exif_jpeg(orientation, endian=">", shape=(40, 56)):
    exif = Image.Exif()
    exif.endian = endian
    exif[0x010F], exif[0x0112], exif[0x0131] = "a camera", orientation, "software"
    return data.jpeg(3, *shape, exif=exif.tobytes())


def png(header, *chunks):
    def chunk(kind, content):
        return (
            struct.pack(">I", len(content))
            + kind
            + content
            + struct.pack(">I", zlib.crc32(kind + content))
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
    few, many = (
        encoded[:-2] + last * number + encoded[-2:] for number in (3, 5_000_000_000 // 5_000_000)
    )
    assert decoding.decode(tf.constant(few)).shape == (2000, 2500, 3)
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"in all of its scans"):
        decoding.decode(tf.constant(many))


@pytest.mark.parametrize("graph", [False, True])
def test_as_many_scans_as_are_allowed_are_decoded(monkeypatch, graph):
    encoded = flat(16, 24)
    encoded = encoded[:2] + segment(0xFE, b"\xda" * 50) + encoded[2:]  # a marker has two bytes
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
            with pytest.raises(
                tf.errors.InvalidArgumentError, match="more than 100,000,000 pixels"
            ):
                decode(tf.constant(encoded))


def test_grey_jpegs_are_what_pil_sees():
    encoded = data.grey(1)
    np.testing.assert_array_equal(loaded(encoded), Image.open(io.BytesIO(encoded)).convert("RGB"))


def segment(marker, content):
    return bytes([0xFF, marker]) + struct.pack(">H", len(content) + 2) + content


def tiff(entries, order=">", begin=8, count=None, stated=None):
    """A directory of (tag, kind, value) that begins there; `stated` and `count` are what is said of
    it.
    """
    head = struct.pack(f"{order}HI", 42, begin if stated is None else stated) + bytes(begin - 8)
    rows = b"".join(
        struct.pack(f"{order}HHIHH", tag, kind, 1, value, 0) for tag, kind, value in entries
    )
    length = struct.pack(f"{order}H", len(entries) if count is None else count)
    return (b"MM" if order == ">" else b"II") + head + length + rows


def orientation(*segments):
    return int(decoding.orientation(tf.constant(b"\xff\xd8" + b"".join(segments) + b"\xff\xd9")))


CAMERA, SHORT, TAG = (0x010F, 3, 5), 3, 0x0112
SIX = segment(0xE1, decoding.EXIF + tiff([(TAG, SHORT, 6)]))


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize(
    ("entries", "place", "expected"),
    [
        ([(TAG, SHORT, 6)], {}, 6),
        ([CAMERA, (TAG, SHORT, 7), CAMERA], {}, 7),
        ([CAMERA, (TAG, SHORT, 8)], {"begin": 9}, 8),
        ([CAMERA, (TAG, SHORT, 8)], {"begin": 0x0403}, 8),
        ([CAMERA, (TAG, SHORT, 8)], {"begin": 0x0403, "stated": 0x010403}, 1),
        ([(TAG, SHORT, 6)], {"stated": 0x01000008}, 1),
        ([CAMERA] * 260 + [(TAG, SHORT, 5)], {}, 5),
        # Only what the directory says is its own.
        ([CAMERA, (TAG, SHORT, 6)], {"count": 1}, 1),
        ([(TAG, SHORT, 6)], {"count": 0}, 1),
        ([CAMERA, (TAG, SHORT, 6)], {"count": 65_535}, 6),
        # The first that is one.
        ([(TAG, SHORT, 3), (TAG, SHORT, 6)], {}, 3),
        ([(TAG, SHORT, 9), (TAG, 4, 3), (TAG, SHORT, 2)], {}, 2),
        ([(TAG, SHORT, 0), (TAG, 1, 3), (0x1201, SHORT, 3)], {}, 1),
        ([(TAG, SHORT, 0x0600)], {}, 1),
        ([(TAG, SHORT, 0x0106)], {}, 1),
        ([], {}, 1),
    ],
)
def test_the_orientation_is_the_short_of_its_tag_in_the_first_directory(
    order, entries, place, expected
):
    assert orientation(segment(0xE1, decoding.EXIF + tiff(entries, order, **place))) == expected


def test_an_entry_that_is_cut_off_is_none():
    for missing in range(1, 13):
        content = tiff([CAMERA, (TAG, SHORT, 6)])[:-missing]
        assert orientation(segment(0xE1, decoding.EXIF + content), segment(0xE0, b"more")) == 1


NOTE = segment(0xFE, bytes(65_533))


@pytest.mark.parametrize(
    ("front", "expected"),
    [
        ([segment(0xE0, b"JFIF"), segment(0xFE, b"")], 6),
        ([segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0")], 6),
        ([segment(0xE1, b"Exif\0")], 6),
        ([segment(0xE2, SIX[4:])], 6),
        ([b"\xff" * 5], 6),
        ([segment(0xE0, bytes(255)), b"\xff", segment(0x01, bytes(254))], 6),
        ([NOTE] * 3, 6),
        # A length that is none leads on, not back.
        ([b"\xff\xe0\0\0"], 6),
        ([b"\xff\xe0\0\1"], 6),
        # Behind a scan, the end, another byte, or too far behind the beginning.
        ([segment(0xDA, b"scan")], 1),
        ([segment(0xD9, b"end.")], 1),
        ([b"\0"], 1),
        ([b"\xfe"], 1),
        ([segment(0x00, b"none")], 1),
        ([NOTE] * 4, 1),
        ([segment(0xE1, decoding.EXIF + tiff([(TAG, SHORT, 3)]))], 3),
        ([segment(0xE1, decoding.EXIF + tiff([CAMERA]))], 1),
        ([segment(0xE1, decoding.EXIF)], 1),
    ],
)
def test_the_orientation_is_that_of_the_first_exif_segment(front, expected):
    assert orientation(*front, SIX) == expected


def test_only_jpegs_have_an_orientation():
    value = b"\xff\xd8" + SIX
    assert int(decoding.orientation(tf.constant(value))) == 6
    for other in (b"\xff\xd9" + SIX, b"\0\xd8" + SIX):
        assert int(decoding.orientation(tf.constant(other))) == 1
    for end in range(len(value) - 12):
        assert int(decoding.orientation(tf.constant(value[:end]))) == 1
