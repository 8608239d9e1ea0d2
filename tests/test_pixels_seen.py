"""What is seen of a file, against PIL, formulas and the picture that it was made of
(docs/pixels.md).
"""

import dataclasses
import io

import numpy as np
import pytest
from PIL import Image, ImageOps

from components.example_gen.writing import image_files
from models.pixels import decoding
from tests.helpers import corpus, doors
from tests.helpers.corpus import bitmaps, foreign, jpeg, png
from tests.helpers.corpus.recipes import grey, photo, save, writer

PICTURE = photo(51, 83, 3)
UPRIGHT = dataclasses.replace(doors.OWN, shorter_side=0)
# Kinds of which PIL has another opinion, each with the page's.
_NOT_AS_PIL = {
    "JPEG CMYK without Adobe's marker",  # PIL takes every CMYK JPEG for Adobe's inverted kind
    "JPEG EXIF of odd types",  # PIL takes a LONG
    "JPEG EXIF beyond 256 kB",
    "JPEG EXIF behind too many segments",
    "PNG eXIf rotated",  # a rotation is taken from JPEGs only
    "PNG odd chunks",  # PIL refuses
    "PNG damaged checksum of a note",
}
# PIL computes with CMYK in another order; of what is missing, libjpeg's versions make other greys.
_NEARLY = {"JPEG CMYK, Adobe", "JPEG YCCK", "JPEG truncated and closed"}


def seen(data, settings=UPRIGHT):
    """uint8 [height, width, 3] of the record."""
    return decoding.load(image_files.normalize(data, 10**8).encoded, settings).numpy()


def by_pil(data):
    picture = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    if picture.mode.startswith("I"):
        return np.repeat((np.asarray(picture) >> 8)[..., None], 3, axis=2)
    return np.asarray(picture.convert("RGB"))


@pytest.mark.parametrize("file", corpus.files(small=True), ids=lambda file: file.name)
def test_what_is_kept_is_what_pil_shows(file):
    found = doors.ingest(file.data)
    if isinstance(found, doors.Refused) or found.original or file.kind in _NOT_AS_PIL:
        return
    pixels = decoding.load(file.data, UPRIGHT).numpy().astype(int)
    assert np.abs(pixels - by_pil(file.data)).max() <= (1 if file.kind in _NEARLY else 0)


def test_inks_without_adobes_marker_are_not_inverted():
    data = jpeg.without(jpeg._cmyk(PICTURE, quality=100, subsampling=0), 0xEE)
    # PIL stores 255 - ink, and without the marker that counts as ink.
    ink = 255.0 - np.dstack([255 - PICTURE, grey(PICTURE) // 4])
    wanted = (255 - ink[..., :3]) * (255 - ink[..., 3:]) / 255
    assert np.abs(seen(data) - wanted).max() < 6


@pytest.mark.parametrize("little", [False, True])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_all_rotations_are_pils(orientation, little):
    data = jpeg.noted(jpeg.exif(orientation, little))(PICTURE)
    np.testing.assert_array_equal(seen(data), by_pil(data))
    np.testing.assert_array_equal(seen(data, doors.STORED), seen(jpeg.plain(PICTURE)))


@pytest.mark.parametrize(
    "make",
    [
        bitmaps.direct(24), bitmaps.direct(24, top_down=True), bitmaps.direct(24, os2=True),
        bitmaps.direct(32), bitmaps.direct(32, (0xFF0000, 0xFF00, 0xFF, 0xFF000000)),
        writer("WEBP", lossless=True, method=0),
        writer("PNG"), png.encode, png._deep(png.RGB), png._deep(png.RGBA), png._deep(png.RGB, True),
        foreign._animated("WEBP", lossless=True, method=0), png._animated, png._many_chunks,
    ],
)  # fmt: skip
def test_lossless_files_show_their_picture(make):
    data = make(PICTURE, 8, png.RGB) if make is png.encode else make(PICTURE)
    np.testing.assert_array_equal(seen(data), PICTURE)


@pytest.mark.parametrize("format", ["PNG", "WEBP"])
def test_what_is_transparent_shows_its_colour(format):
    data = save(foreign.rgba(PICTURE), format, lossless=True, exact=True)
    np.testing.assert_array_equal(seen(data), PICTURE)


@pytest.mark.parametrize("depth", [1, 4, 8])
def test_palettes_show_their_colours(depth):
    indices = grey(PICTURE) >> (8 - depth)
    colours = np.random.default_rng(depth).integers(0, 256, [2**depth, 3]).astype(np.uint8)
    for make in (bitmaps.indexed(depth), bitmaps.indexed(depth, os2=True), png._palette(depth)):
        np.testing.assert_array_equal(seen(make(PICTURE)), colours[indices])


def test_a_partial_first_frame_lies_where_its_screen_has_it():
    data = foreign._partial_gif(PICTURE)
    whole = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    assert whole.shape == (102, 166, 3)
    found = seen(data)
    np.testing.assert_array_equal(found, whole)
    frame = np.asarray(Image.fromarray(PICTURE).quantize(64).convert("RGB"))
    np.testing.assert_array_equal(found[2 : 2 + 51, 3 : 3 + 83], frame)


def test_an_index_beyond_the_palette_is_black():
    found = seen(png._short_palette(PICTURE))
    assert not found[grey(PICTURE) >= 32].any()


@pytest.mark.parametrize("format", ["WEBP", "HEIF", "AVIF"])
def test_converted_photographs_are_upright(format):
    lying = seen(writer(format, quality=90)(PICTURE))
    turned = seen(writer(format, quality=90, exif=foreign._TURNED)(PICTURE), doors.STORED)
    # The decoder of HEIC turns the picture before it upsamples its colours.
    assert np.abs(turned.astype(int) - np.rot90(lying, -1)).mean() < (
        2 if format == "HEIF" else 1e-9
    )


def test_twelve_bits_in_sixteen_are_nearly_black_and_counted():
    found = image_files.normalize(png._twelve_bits(PICTURE), 10**8)
    assert seen(found.encoded).max() <= 15 and found.deepest == 16 * int(grey(PICTURE).max()) + 7
