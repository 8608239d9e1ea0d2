"""What the makers of files share: the pictures, and how a recipe is written down."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

Shape = tuple[int, int]
Make = Callable[[np.ndarray], bytes]
# Neither side divides by a block of 8 or 16 pixels.
SMALL: Shape = (51, 83)
USUAL: tuple[Shape, ...] = (SMALL, (301, 227))
# One pixel, less than a block, a block, long and thin, the sides at which decoders reduce, cameras.
ALL: tuple[Shape, ...] = (
    SMALL, (1, 1), (1, 2), (2, 1), (3, 5), (7, 9), (8, 8), (16, 16), (17, 33), (1, 8192), (8192, 1),
    (3, 8192), (8192, 3), (255, 256), (257, 640), (320, 321), (512, 512), (511, 1024), (1024, 768),
    (1024, 1024),
)  # fmt: skip
CAMERA: Shape = (3000, 4000)


class Recipe(NamedTuple):
    """How files of a kind are made.

    Attributes:
      kind: row of the table of docs/pixels.md.
      suffix: of the names.
      make: uint8 [height, width, 3] -> the file.
      shapes: height and width of the pictures.
    """

    kind: str
    suffix: str
    make: Make
    shapes: Sequence[Shape] = USUAL

    @property
    def small(self) -> Sequence[Shape]:
        """Of the shapes those of few pixels, as far as they show something of their own."""
        return self.shapes[:2] if len(self.shapes) > 2 else self.shapes[:1]


def photo(height: int, width: int, seed: int) -> np.ndarray:
    """Waves of colour with noise, as a photograph has it: uint8 [height, width, 3]."""
    rng = np.random.default_rng(seed)
    phase, period = rng.uniform(0, 6, [2, 3]), rng.uniform(8, 90, [2, 3])
    rows = np.sin(np.arange(height)[:, None] / period[0] + phase[0])
    columns = np.cos(np.arange(width)[:, None] / period[1] + phase[1])
    waves = (50 * rows).astype(np.int16)[:, None] + (50 * columns).astype(np.int16)[None]
    return _noisy(waves + np.int16(127), rng, 8)


def grain(height: int, width: int, seed: int) -> np.ndarray:
    """Grey noise of 40 levels around the middle, which shows every reduction: uint8 [height, width,
    3].
    """
    middle = np.full([height, width, 1], 128, np.int16)
    return np.repeat(_noisy(middle, np.random.default_rng(seed), 40), 3, axis=2)


def _noisy(pixels: np.ndarray, rng: np.random.Generator, spread: float) -> np.ndarray:
    height, width, channels = pixels.shape
    # Random numbers take longest of all: large pictures repeat them.
    tile = rng.normal(0, spread, [min(height, 509), min(width, 509), channels]).astype(np.int16)
    noise = np.tile(tile, [-(-height // len(tile)), -(-width // tile.shape[1]), 1])[:height, :width]
    return np.clip(pixels + noise, 0, 255).astype(np.uint8)


def save(image: Image.Image, format: str, **options: Any) -> bytes:
    """The file that PIL writes."""
    out = io.BytesIO()
    image.save(out, format, **options)
    return out.getvalue()


def writer(format: str, mode: str = "RGB", **options: Any) -> Callable[[np.ndarray], bytes]:
    """A maker of what PIL writes of a picture that was converted to `mode`."""
    return lambda picture: save(Image.fromarray(picture).convert(mode), format, **options)


def grey(picture: np.ndarray) -> np.ndarray:
    """uint8 [height, width]."""
    return np.asarray(Image.fromarray(picture).convert("L"))


def alpha(picture: np.ndarray) -> np.ndarray:
    """A slope of transparency, from none to all: uint8 [height, width]."""
    height, width, _ = picture.shape
    slope = np.linspace(0, 255, height * width).reshape(height, width)
    return slope.astype(np.uint8)


def rgba(picture: np.ndarray) -> Image.Image:
    """The picture with `alpha`."""
    return Image.fromarray(np.dstack([picture, alpha(picture)]))
