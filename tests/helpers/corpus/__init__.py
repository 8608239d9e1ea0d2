"""Image files as they lie about in the world, made by the tests: the same bytes in every run.

Each is one of a kind, a row of the table of docs/pixels.md.
"""

from __future__ import annotations

import functools
import re
import zlib
from collections.abc import Iterator
from typing import NamedTuple

from tests.helpers.corpus import foreign, jpeg, jpeg_damage, png
from tests.helpers.corpus.recipes import Recipe, grain, photo

RECIPES: tuple[Recipe, ...] = (*jpeg.RECIPES, *jpeg_damage.RECIPES, *png.RECIPES, *foreign.RECIPES)


class File(NamedTuple):
    """A file: its name says its kind and the picture's height and width, unless it is to mislead."""

    name: str
    data: bytes
    kind: str


def kinds() -> list[str]:
    """All kinds, in the order of `files`."""
    return list(dict.fromkeys(recipe.kind for recipe in RECIPES))


@functools.cache
def files(small: bool = False) -> tuple[File, ...]:
    """All files, several hundred; with `small` at least one of each kind, and none of many pixels."""
    return tuple(_files(small))


def _files(small: bool) -> Iterator[File]:
    for number, recipe in enumerate(RECIPES):
        for height, width in recipe.small if small else recipe.shapes:
            seed = zlib.crc32(f"{recipe.kind} {number} {height} {width}".encode())
            picture = (grain if height == width >= 512 else photo)(height, width, seed)
            yield File(_name(recipe, number, height, width), recipe.make(picture), recipe.kind)


def _name(recipe: Recipe, number: int, height: int, width: int) -> str:
    words = re.sub(r"\W+", "_", recipe.kind).strip("_")
    return f"{number:03d}_{words}_{height}x{width}{recipe.suffix}"
