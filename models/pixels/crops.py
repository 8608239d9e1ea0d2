"""Random training views: the part of a photograph, its scale, mirror and light.

Drawn by NumPy: the same draws as TensorFlow operations cost a tenth of all that an image costs.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from models.settings import Transform

_ASPECTS = (3 / 4, 4 / 3)
_TRIES = 10


class Drawn(NamedTuple):
    """A view of one image.

    Attributes:
      scale: float64 [2], resized over original side, vertical and horizontal.
      offset: float64 [2], top and left of the window, in pixels of the resized image.
      moved: how many rows down and columns to the right the window moves once the mean is
        subtracted; what lay outside of it before is 0.
      mirror: whether it is mirrored left to right, last of all.
      shift: float32 [3], added to all pixels, in levels of RGB.
    """

    scale: np.ndarray
    offset: np.ndarray
    moved: tuple[int, int] = (0, 0)
    mirror: bool = False
    shift: np.ndarray = np.zeros(3, np.float32)


Shape = tuple[int, int]


def draw(shape: Shape, settings: Transform, basis: np.ndarray, rng: np.random.Generator) -> Drawn:
    """A view as the network is trained on it (paper, sections 3.4 and 4.2).

    Args:
      shape: height and width of the image.
      settings: of the views.
      basis: float [3, 3], colours that are mixed with normal weights of deviation
        `settings.colour`.
      rng: all randomness comes from here.
    """
    view = CROPS[settings.crop](shape, settings, rng)
    mirror = settings.flip and rng.random() < 0.5
    shift = basis @ rng.normal(0, settings.colour, 3) if settings.colour else np.zeros(3)
    return view._replace(mirror=mirror, shift=shift.astype(np.float32))


def _resized(shape: Shape, shorter_side: int) -> tuple[np.ndarray, np.ndarray]:
    """Scale and shape of the image with this shorter side, rounded as in `views`."""
    sides = np.array(shape)
    target = sides * shorter_side // sides.min()
    return target / sides, target


def _none(shape: Shape, settings: Transform, rng: np.random.Generator) -> Drawn:
    """The test's crop."""
    scale, target = _resized(shape, settings.test_shorter_side)
    return Drawn(scale, (target - settings.size) // 2 * 1.0)


def _pad(shape: Shape, settings: Transform, rng: np.random.Generator) -> Drawn:
    """The test's crop with `pad` zeros on every side, window uniform over both."""
    down, right = rng.integers(-settings.pad, settings.pad, 2, endpoint=True)
    return _none(shape, settings, rng)._replace(moved=(int(down), int(right)))


def _scale(shape: Shape, settings: Transform, rng: np.random.Generator) -> Drawn:
    """Shorter side uniform over [scale_min, scale_max], window uniform over the image."""
    side = int(rng.integers(settings.scale_min, settings.scale_max, endpoint=True))
    scale, target = _resized(shape, side)
    return Drawn(scale, np.floor(rng.random(2) * (target - settings.size + 1)))


def _inception(shape: Shape, settings: Transform, rng: np.random.Generator) -> Drawn:
    """Window of [area_min, 1] of the area and aspect 3/4..4/3; central if ten tries do not fit."""
    height, width = shape
    low, high = (math.log(aspect) for aspect in _ASPECTS)
    for _ in range(_TRIES):
        area = rng.uniform(settings.area_min, 1) * height * width
        aspect = math.exp(rng.uniform(low, high))
        tall, wide = round(math.sqrt(area / aspect)), round(math.sqrt(area * aspect))
        if 1 <= tall <= height and 1 <= wide <= width:
            window = np.array([tall, wide])
            origin = np.floor(rng.random(2) * (np.array(shape) - window + 1))
            break
    else:
        # The whole image, cut to the nearest allowed aspect.
        sides = min(height, width / _ASPECTS[0]), min(width, height * _ASPECTS[1])
        window = np.array(sides).round()
        origin = np.floor((np.array(shape) - window) / 2)
    scale = settings.size / window
    return Drawn(scale, origin * scale)


# Where the window is; mirror and light are the same for all.
Crop = Callable[[Shape, Transform, np.random.Generator], Drawn]
CROPS: dict[str, Crop] = {"scale": _scale, "inception": _inception, "pad": _pad, "none": _none}
