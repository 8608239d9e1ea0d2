"""The corpus is what it says: of what is written by hand PIL sees the pictures that were meant."""

import collections
import io

import numpy as np
import pytest
from PIL import Image

from tests.helpers import corpus
from tests.helpers.corpus import bitmaps, jpeg_bits, png
from tests.helpers.corpus.recipes import grey, photo

PICTURE = photo(33, 45, 7)


def seen(data, mode="RGB"):
    return np.asarray(Image.open(io.BytesIO(data)).convert(mode))


def test_every_run_makes_the_same_files_with_names_of_their_own():
    first = corpus.files(small=True)
    corpus.files.cache_clear()
    again = corpus.files(small=True)
    assert first is not again
    assert first == again and len({file.name for file in first}) == len(first)


def test_the_small_corpus_has_every_kind_and_the_large_one_all_sides():
    assert {file.kind for file in corpus.files(small=True)} == set(corpus.kinds())
    shapes = collections.Counter(shape for recipe in corpus.RECIPES for shape in recipe.shapes)
    assert {(1, 1), (1, 8192), (8192, 3), (512, 512), (3000, 4000)} < shapes.keys()
    assert 400 < shapes.total() < 800


@pytest.mark.parametrize("interlaced", [False, True])
@pytest.mark.parametrize("depth", [1, 2, 4, 8])
def test_the_png_encoder_writes_what_pil_reads(depth, interlaced):
    levels = grey(PICTURE) >> (8 - depth)
    data = png.encode(levels[..., None], depth, png.GREY, interlaced)
    np.testing.assert_array_equal(seen(data, "L"), levels * (255 // (2**depth - 1)))
    assert Image.open(io.BytesIO(data)).info.get("interlace", 0) == interlaced


@pytest.mark.parametrize("interlaced", [False, True])
def test_sixteen_bits_have_the_picture_in_their_high_bytes(interlaced):
    np.testing.assert_array_equal(seen(png._deep(png.RGB, interlaced)(PICTURE)), PICTURE)


def test_bmps_have_the_picture():
    for make in (bitmaps.direct(24), bitmaps.direct(32), bitmaps.direct(24, top_down=True)):
        np.testing.assert_array_equal(seen(make(PICTURE)), PICTURE)
    for make, lost in ((bitmaps.direct(16), 7), (bitmaps.direct(16, (0xF800, 0x7E0, 0x1F)), 7)):
        assert np.abs(seen(make(PICTURE)).astype(int) - PICTURE).max() <= lost
    indexed = bitmaps.indexed(8)(PICTURE)
    np.testing.assert_array_equal(seen(indexed), seen(bitmaps.indexed(8, os2=True)(PICTURE)))
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(indexed))), grey(PICTURE))
    for depth in (4, 8):
        runs = np.asarray(Image.open(io.BytesIO(bitmaps.run_lengths(depth)(PICTURE))))
        np.testing.assert_array_equal(runs, grey(PICTURE) >> (8 - depth))


def test_the_lossless_jpeg_has_the_picture():
    np.testing.assert_array_equal(seen(jpeg_bits.lossless(PICTURE)), PICTURE)


def test_the_blocks_of_handmade_jpegs_have_the_means_of_the_picture():
    # The writer of 12 bits with 8, for there is no reader of 12.
    decoded = seen(jpeg_bits._blocks(PICTURE[:32, :40, :1].astype(float), 8), "L").astype(float)
    means = PICTURE[:32, :40, 0].reshape(4, 8, 5, 8).mean((1, 3))
    assert np.abs(decoded[4::8, 4::8] - means).max() <= 2
