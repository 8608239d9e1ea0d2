"""Sources and Examples for benchmarks, of `benchmarks.photos` or of small pictures."""

from __future__ import annotations

import io
import itertools
import os
import tarfile
from collections.abc import Iterable, Iterator

import numpy as np
from PIL import Image

from benchmarks.photos import photos

CLASSES = 10
# Making a photograph takes longer than all that is measured: the same ones come again under other
# names.
_DISTINCT = 400


def many_photos(number: int) -> Iterator[bytes]:
    """`number` photographs, of which 400 are distinct."""
    return itertools.islice(itertools.cycle(list(photos(min(number, _DISTINCT)))), number)


def small_pictures(number: int, side: int = 64) -> Iterator[bytes]:
    """`number` distinct JPEGs of side x side pixels."""
    rng = np.random.default_rng(0)
    noise = rng.normal(128, 40, (8 * side, 8 * side, 3)).clip(0, 255).astype(np.uint8)
    for _ in range(number):
        y, x = rng.integers(0, 7 * side, 2)
        out = io.BytesIO()
        Image.fromarray(noise[y : y + side, x : x + side]).save(out, "JPEG", quality=75)
        yield out.getvalue()


def write_tar(folder: str, pictures: Iterable[bytes]) -> str:
    """Writes train.tar with the pictures in ten class folders by turns; returns `folder`."""
    os.makedirs(folder, exist_ok=True)
    with tarfile.open(os.path.join(folder, "train.tar"), "w") as tar:
        for number, encoded in enumerate(pictures):
            info = tarfile.TarInfo(f"c{number % CLASSES}/{number:06d}.jpg")
            info.size = len(encoded)
            tar.addfile(info, io.BytesIO(encoded))
    return folder
