"""Training views outside TensorFlow's graph: the same pixels as there, in half the time.

libjpeg-turbo through simplejpeg gives the same pixels as TensorFlow's decoder sooner, the more so
as it is asked for the rows down to the window's last one only; Numba compiles the resampling, with
mean, colour shift and mirror in the same pass. What simplejpeg does not decode (CMYK, damaged
files) and what lies or is to be shrunk goes through `models.pixels.decoding.load`.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import simplejpeg
import tensorflow as tf

from models.pixels import decoding, views
from models.pixels.compiled import compiled, cores, under_way
from models.pixels.crops import Drawn, Shape
from models.settings import Transform

_SOF = range(0xC0, 0xD0)  # start of frame, but for three:
_NO_SOF = (0xC4, 0xC8, 0xCC)
_SEQUENTIAL = (0xC0, 0xC1)
_SOS = 0xDA
_END = b"\xff\xd9"
_1, _2, _3, _4, _5, _6, _7, _8, _9 = (np.uint64(number) for number in range(1, 10))


def look(
    encoded: Callable[[int], bytes],
    count: int,
    view: Callable[[int, Shape], Drawn],
    mean: np.ndarray,
    settings: Transform,
) -> np.ndarray:
    """What a batch of views shows, one thread a core.

    Args:
      encoded: place in the batch -> bytes, a JPEG or PNG.
      count: images in the batch.
      view: place in the batch, height and width of the image -> what is looked at.
      mean: float32 [size, size, 3], subtracted before the window moves and is mirrored.
      settings: `upright` and `shorter_side` are used.

    Returns:
      float32 [count, size, size, 3], RGB.

    Raises:
      tf.errors.InvalidArgumentError: bytes that are no image.
    """
    images = _empty([count, *mean.shape])
    means = tuple(np.ascontiguousarray(side, np.float32) for side in (mean, mean[:, ::-1]))
    places = iter(range(count))

    def some() -> None:
        for place in places:  # shared: whoever is free takes the next one
            one = functools.partial(view, place)
            pixels, drawn = _decode(encoded(place), one, len(mean), settings)
            scale, offset, moved, mirror, shift = drawn
            _resample(pixels, scale, offset, mirror, shift, means[int(mirror)], images[place])
            if any(moved):
                images[place] = _moved(images[place], *moved, mirror)

    with under_way:
        threads = _threads()
        for work in [threads.submit(some) for _ in range(cores())]:
            work.result()
    return images


class _Memory:
    """Memory of a batch, which is used again when TensorFlow and all arrays have let go of it.

    Fresh memory costs a fault for each of its pages. TensorFlow takes an array as it is when it
    begins at a multiple of 64 bytes.
    """

    _free: list[np.ndarray] = []
    _spare = 4  # batches: two under way, one ready, one in use

    def __init__(self, size: int):
        while True:
            try:  # no test before: another thread may be quicker
                self._bytes = self._free.pop()
            except IndexError:
                self._bytes = np.empty(size + 64, np.uint8)
                break
            if self._bytes.size == size + 64:
                break
        begin = -self._bytes.ctypes.data % 64
        # Arrays made from this interface, and views of them, keep this object alive.
        self.__array_interface__ = self._bytes[begin : begin + size].__array_interface__

    def __del__(self) -> None:
        if len(self._free) < self._spare:
            self._free.append(self._bytes)


def _empty(shape: Sequence[int]) -> np.ndarray:
    """A float32 array without values."""
    return np.asarray(_Memory(math.prod(shape) * 4)).view(np.float32).reshape(shape)


@functools.cache
def _threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(cores(), "views")


def _moved(image: np.ndarray, down: int, right: int, mirrored: bool) -> np.ndarray:
    """The image moved up and to the left by so many pixels; zeros come in from outside."""
    size, window = len(image), np.zeros_like(image)
    steps = down, -right if mirrored else right
    into = tuple(slice(max(-step, 0), max(size - step, 0)) for step in steps)
    window[into] = image[tuple(slice(max(step, 0), max(size + step, 0)) for step in steps)]
    return window


def _decode(
    encoded: bytes, view: Callable[[Shape], Drawn], size: int, settings: Transform
) -> tuple[np.ndarray, Drawn]:
    """The view, and the pixels that it needs or more, uint8 [height, width, 3]."""
    frame = _frame(encoded)
    if frame is not None and _as_it_is(encoded, frame.shape, settings):
        drawn = view(frame.shape)
        pixels = _jpeg(encoded, frame, drawn, size)
        if pixels is not None:
            return pixels, drawn
    if _is_plain_png(encoded, settings):  # what `load` does with it, without its many small steps
        pixels = tf.io.decode_png(encoded, channels=3).numpy()
    else:
        pixels = decoding.load(encoded, settings).numpy()
    height, width, _ = pixels.shape
    return pixels, view((height, width))


def _is_plain_png(encoded: bytes, settings: Transform) -> bool:
    """Whether it is a PNG that is neither too large nor to be shrunk."""
    shape = int.from_bytes(encoded[20:24], "big"), int.from_bytes(encoded[16:20], "big")
    few = math.prod(shape) <= decoding.MAX_PIXELS
    return encoded[:8] == decoding.PNG and few and _as_it_is(encoded, shape, settings)


def _as_it_is(encoded: bytes, shape: Shape, settings: Transform) -> bool:
    """Whether an image is neither turned nor shrunk."""
    if settings.shorter_side and min(shape) > settings.shorter_side:
        return False
    return not settings.upright or decoding.EXIF not in encoded[: decoding.EXIF_WITHIN]


def _jpeg(encoded: bytes, frame: _Frame, drawn: Drawn, size: int) -> np.ndarray | None:
    """The rows down to the last one that the view needs; None where simplejpeg finds damage."""
    height = frame.shape[0]
    scale, bottom = drawn.scale[0], drawn.offset[0] + size
    # The decoder mixes colour from the rows beside.
    rows = min(math.ceil(bottom / scale + max(1 / scale, 1) + views.MARGIN), height)
    shortened = rows < height and not frame.whole_only
    if shortened:
        # A sequential decoder that is told of fewer rows stops after them.
        place = frame.place + 5
        encoded = b"".join((encoded[:place], rows.to_bytes(2, "big"), encoded[place + 2 :]))
    try:
        return simplejpeg.decode_jpeg(encoded, "RGB", strict=not shortened)
    except ValueError:
        return None


class _Frame(NamedTuple):
    """Where a JPEG's frame starts, height and width, whether the file must be decoded whole."""

    place: int
    shape: Shape
    whole_only: bool


def _frame(encoded: bytes) -> _Frame | None:
    """The frame of a grey or colour JPEG; None for anything else.

    It is decoded whole when its pixels are spread over several scans, or when the file does not end
    as a JPEG: only then is damage found.
    """
    at, frame = 2, None
    if encoded[:2] != b"\xff\xd8":
        return None
    while at + 9 < len(encoded) and encoded[at] == 0xFF:
        marker = encoded[at + 1]
        if marker == _SOS:
            if frame is None or encoded[frame + 9] not in (1, 3):
                return None
            several = encoded[frame + 1] not in _SEQUENTIAL or encoded[at + 4] != encoded[frame + 9]
            height = int.from_bytes(encoded[frame + 5 : frame + 7], "big")
            width = int.from_bytes(encoded[frame + 7 : frame + 9], "big")
            if not height or not width:
                return None
            return _Frame(frame, (height, width), several or encoded[-2:] != _END)
        if marker in _SOF and marker not in _NO_SOF:
            frame = at
        at += 2 + int.from_bytes(encoded[at + 2 : at + 4], "big")
    return None


@compiled
def _taps(scale, offset, length, first, weights):
    """Fills `first` pixel [size] and weights [taps, size] of triangles; returns the most taps."""
    reach = max(1 / scale, 1.0)
    most = 0
    for place in range(len(first)):
        centre = (place + offset + 0.5) / scale - 0.5
        low = min(max(int(np.floor(centre - reach)) + 1, 0), length - 1)
        high = max(min(int(np.ceil(centre + reach)) - 1, length - 1), low)
        total = 0.0
        for pixel in range(low, high + 1):
            weight = max(1 - abs(pixel - centre) / reach, 0.0)
            weights[pixel - low, place] = weight
            total += weight
        if total > 0:
            weights[: high - low + 1, place] /= total
        else:  # the view ends beside the image, by rounding
            weights[0, place] = 1
        first[place] = low
        most = max(most, high - low + 1)
    return most


@compiled
def _resample(pixels, scale, offset, mirror, shift, mean, image):
    """Fills `image`: float32 [size, size, 3]; `mean` is mirrored already where `mirror` is set."""
    size = len(image)
    height, width, _ = pixels.shape
    depth = max(int(2 * max(1 / scale[0], 1 / scale[1])) + 2, 3)
    top, left = np.empty(size, np.int32), np.empty(size, np.int32)
    rows, columns = np.zeros((depth, size), np.float32), np.zeros((depth, size), np.float32)
    tall = _taps(scale[0], offset[0], height, top, rows)
    wide = _taps(scale[1], offset[1], width, left, columns)
    begin, end = 3 * left[0], min(3 * (left[-1] + wide), 3 * width)
    # Unsigned: Numba would test every index for being negative, and LLVM make no vectors.
    places = np.empty(size, np.uint64)
    weights = np.empty((size, depth), np.float32)
    added = np.empty(3 * size, np.float32)
    for x in range(size):
        source = size - 1 - x if mirror else x
        places[x] = 3 * left[source] - begin
        weights[x] = columns[:, source]
        added[3 * x : 3 * x + 3] = shift
    flat = pixels.reshape(height, 3 * width)
    line = np.zeros(end - begin + 3 * depth + 1, np.float32)
    sums = np.empty(3 * size + 1, np.float32)
    for y in range(size):
        for tap in range(tall):
            weight, source_row = rows[tap, y], flat[min(top[y] + tap, height - 1), begin:end]
            if tap == 0:
                for j in range(end - begin):
                    line[j] = weight * np.float32(source_row[j])
            elif weight > 0:
                for j in range(end - begin):
                    line[j] += weight * np.float32(source_row[j])
        # Four numbers at a time are one instruction; the next pixel overwrites the fourth.
        for x in range(size):
            p, q = places[x], np.uint64(3 * x)
            a = b = c = d = np.float32(0)
            if wide <= 3:
                u, v, w = weights[x, 0], weights[x, 1], weights[x, 2]
                a = u * line[p] + v * line[p + _3] + w * line[p + _6]
                b = u * line[p + _1] + v * line[p + _4] + w * line[p + _7]
                c = u * line[p + _2] + v * line[p + _5] + w * line[p + _8]
                d = u * line[p + _3] + v * line[p + _6] + w * line[p + _9]
            else:
                for tap in range(wide):
                    w = weights[x, tap]
                    a += w * line[p]
                    b += w * line[p + _1]
                    c += w * line[p + _2]
                    d += w * line[p + _3]
                    p += _3
            sums[q] = a
            sums[q + _1] = b
            sums[q + _2] = c
            sums[q + _3] = d
        out, base = image[y].reshape(-1), mean[y].reshape(-1)
        for j in range(3 * size):
            out[j] = sums[j] + (added[j] - base[j])
