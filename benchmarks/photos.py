"""Photographs for benchmarks: distinct JPEGs of 500 x 375 pixels and about 110 kB, as ImageNet's on
average.

Smooth colours under noise, so that the entropy decoder has as much to do as with a photograph of
that size.
"""

from __future__ import annotations

import io
from collections.abc import Iterator

import numpy as np
from PIL import Image

HEIGHT, WIDTH = 375, 500
_QUALITY = 90


def photos(number: int, seed: int = 0) -> Iterator[bytes]:
    """`number` JPEGs (4:2:0, quality 90), each another window of the same noise at another
    contrast.
    """
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (48, 63, 3), np.uint8))
    smooth = np.asarray(coarse.resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC), np.float32)
    noise = rng.normal(0, 16, (2 * HEIGHT, 2 * WIDTH, 3)).astype(np.float32)
    for _ in range(number):
        y, x = rng.integers(0, HEIGHT), rng.integers(0, WIDTH)
        pixels = rng.uniform(0.9, 1.1) * (smooth + noise[y : y + HEIGHT, x : x + WIDTH])
        out = io.BytesIO()
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(out, "JPEG", quality=_QUALITY)
        yield out.getvalue()
