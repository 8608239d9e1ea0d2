"""Views: which part of which image at which scale, and the pixels that it shows.

An image is looked at through a `View`: it is resized and a window of the result is cut out, a square for all
but the multi-scale test. The view is drawn first, from the image's shape alone; then only the part of the
JPEG that the view needs is decoded and resampled, with the same result as resizing the whole image and
cropping.

Resampling is bilinear and antialiased, as PIL's. Pixels are RGB, 0..255.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import tensorflow as tf

from models.settings import Transform

# Decoding a window is exact only if it reaches past the pixels that are used: chroma is upsampled from
# its neighbours, and a 4:1:1 JPEG has one chroma sample for four pixels.
MARGIN = 4
# Slow integer DCT, as PIL and libjpeg's default; TensorFlow's own default differs by up to 5 levels.
_DCT = "INTEGER_ACCURATE"
# A decoded image of so many pixels has 300 MB; ingestion has the same limit unless it is told otherwise.
MAX_PIXELS = 100_000_000
# Of a longer image, `whole_view` shows the middle: one of 1 x 60,000 pixels would not fit into any memory.
MAX_ASPECT = 3
_PNG = b"\x89PNG\r\n\x1a\n"


class View(NamedTuple):
    """A window of the resized image.

    `scale` float64 [2]: resized over original side, vertical and horizontal. `offset` float64 [2]: top and
    left of the window, in pixels of the resized image.
    """

    scale: tf.Tensor
    offset: tf.Tensor


Draw = Callable[[tf.Tensor], View]


def _resized(shape: tf.Tensor, shorter_side: tf.Tensor | int) -> tuple[tf.Tensor, tf.Tensor]:
    """Scale (float64 [2]) and shape (int32 [2]) of the image with this shorter side."""
    shorter = tf.reduce_min(shape)
    # torchvision's rounding: the longer side is cut off.
    target = tf.cast(
        tf.cast(shape, tf.int64) * tf.cast(shorter_side, tf.int64) // tf.cast(shorter, tf.int64), tf.int32
    )
    return tf.cast(target, tf.float64) / tf.cast(shape, tf.float64), target


def center_view(shape: tf.Tensor, settings: Transform) -> View:
    """The middle of the image at `test_shorter_side`; odd margins leave the smaller half in front."""
    scale, target = _resized(shape, settings.test_shorter_side)
    return View(scale, tf.cast((target - settings.size) // 2, tf.float64))


def corner_views(shape: tf.Tensor, settings: Transform) -> list[View]:
    """The four corners at `test_shorter_side`: top left, top right, bottom left, bottom right."""
    scale, target = _resized(shape, settings.test_shorter_side)
    last = tf.cast(target - settings.size, tf.float64)
    corners = [(0, 0), (0, 1), (1, 0), (1, 1)]
    return [View(scale, last * tf.constant(corner, tf.float64)) for corner in corners]


def whole_view(shape: tf.Tensor, shorter_side: tf.Tensor | int) -> tuple[View, tf.Tensor]:
    """The image at a shorter side, of the longer one the middle `MAX_ASPECT` times as much at most.

    Returns:
      The view, and height and width of its window (int32 [2]).
    """
    scale, target = _resized(shape, shorter_side)
    sides = tf.minimum(target, MAX_ASPECT * shorter_side)
    return View(scale, tf.cast((target - sides) // 2, tf.float64)), sides


# Decoding and resampling.


def limited(encoded: tf.Tensor) -> tf.Tensor:
    """The string scalar as it is, for images from strangers: a small file may decode to gigabytes.

    Raises:
      tf.errors.InvalidArgumentError: the header of the JPEG or PNG says more than MAX_PIXELS pixels.
    """

    def png() -> tf.Tensor:
        # Width and height begin the first chunk, IHDR.
        sides = tf.io.decode_raw(tf.strings.substr(encoded, 16, 8), tf.int32, little_endian=False)
        return tf.ensure_shape(sides[::-1], [2])

    # A shorter one is left to the decoder, which refuses it.
    is_png = (tf.strings.substr(encoded, 0, len(_PNG)) == _PNG) & (tf.strings.length(encoded) >= 24)
    sides = tf.case(
        [
            (tf.io.is_jpeg(encoded), lambda: tf.io.extract_jpeg_shape(encoded)[:2]),
            (is_png, png),
        ],
        default=lambda: tf.zeros([2], tf.int32),
    )
    message = f"The image has more than {MAX_PIXELS:,} pixels; make it smaller. Height and width:"
    few = tf.reduce_prod(tf.cast(sides, tf.int64)) <= MAX_PIXELS
    with tf.control_dependencies([tf.debugging.Assert(few, [message, sides])]):
        return tf.identity(encoded)


def decode(encoded: tf.Tensor) -> tf.Tensor:
    """The whole image: uint8 [height, width, 3] from a string scalar, whatever its number of channels."""
    return tf.cond(
        tf.io.is_jpeg(encoded),
        lambda: tf.io.decode_jpeg(encoded, channels=3, dct_method=_DCT),
        lambda: _decode_other(encoded),
    )


def shrink(encoded: tf.Tensor, shorter_side: int) -> tf.Tensor:
    """The image resized to a shorter side: uint8 [height, width, 3] from a string scalar."""

    def jpeg() -> tf.Tensor:
        shape = tf.io.extract_jpeg_shape(encoded)[:2]
        scale, target = _resized(shape, shorter_side)
        ratio = _ratio(scale)
        return whole(_reduced(encoded, ratio), scale * tf.cast(ratio, tf.float64), target)

    def other() -> tf.Tensor:
        pixels = _decode_other(encoded)
        return whole(pixels, *_resized(tf.shape(pixels)[:2], shorter_side))

    def whole(pixels: tf.Tensor, scale: tf.Tensor, target: tf.Tensor) -> tf.Tensor:
        return _resample(pixels, tf.zeros_like(target), View(scale, tf.zeros_like(scale)), target)

    resized = tf.cond(tf.io.is_jpeg(encoded), jpeg, other)
    return tf.cast(tf.clip_by_value(tf.round(resized), 0, 255), tf.uint8)


def look(encoded: tf.Tensor, draw: Draw, size: int) -> tf.Tensor:
    """What one view of an encoded image shows.

    Args:
      encoded: string scalar, JPEG (of which one window is decoded) or another format (decoded whole).
      draw: shape of the image, int32 [2] -> the view.
      size: side of the window.

    Returns:
      float32 [size, size, 3].
    """

    def jpeg() -> tf.Tensor:
        shape = tf.io.extract_jpeg_shape(encoded)[:2]  # its channel count is wrong for CMYK
        view = draw(shape)
        begin, extent = _needed(view, shape, size)
        pixels = tf.image.decode_and_crop_jpeg(
            encoded, tf.concat([begin, extent], axis=0), channels=3, dct_method=_DCT
        )
        return _resample(pixels, begin, view, [size, size])

    def other() -> tf.Tensor:
        pixels = _decode_other(encoded)
        return look_at(pixels, draw(tf.shape(pixels)[:2]), size)

    image = tf.cond(tf.io.is_jpeg(encoded), jpeg, other)
    return tf.ensure_shape(image, [size, size, 3])


def look_at(pixels: tf.Tensor, view: View, size: tf.Tensor | int) -> tf.Tensor:
    """What a view of a decoded image shows.

    Args:
      pixels: uint8 [height, width, 3].
      view: where the window is.
      size: side of the window, or its height and width (int32 [2]).

    Returns:
      float32 [*size, 3].
    """
    sides = tf.broadcast_to(size, [2])
    begin, extent = _needed(view, tf.shape(pixels)[:2], sides)
    window = tf.slice(pixels, [*tf.unstack(begin), 0], [*tf.unstack(extent), 3])
    return _resample(window, begin, view, sides)


def _decode_other(encoded: tf.Tensor) -> tf.Tensor:
    pixels = tf.io.decode_image(encoded, channels=3, expand_animations=False)
    return tf.ensure_shape(pixels, [None, None, 3])


def _ratio(scale: tf.Tensor) -> tf.Tensor:
    """Largest DCT reduction (1, 2, 4 or 8) that leaves at least the pixels the view shows."""
    largest = tf.reduce_max(scale)
    fits = [tf.cast(largest * ratio <= 1, tf.int32) for ratio in (2, 4, 8)]
    return tf.bitwise.left_shift(1, tf.add_n(fits))


def _reduced(encoded: tf.Tensor, ratio: tf.Tensor) -> tf.Tensor:
    """A JPEG, decoded at 1/ratio of its size: uint8 [height, width, 3]."""

    def at(ratio: int) -> tf.Tensor:
        return tf.io.decode_jpeg(encoded, channels=3, ratio=ratio, dct_method=_DCT)

    branches = [(tf.equal(ratio, r), lambda r=r: at(r)) for r in (2, 4, 8)]
    return tf.case(branches, default=lambda: at(1), exclusive=True)


def _needed(view: View, shape: tf.Tensor, size: tf.Tensor | int) -> tuple[tf.Tensor, tf.Tensor]:
    """Begin and extent (int32 [2]) of the pixels that the view's resampling kernels reach."""
    reach = tf.maximum(1 / view.scale, 1) + MARGIN
    sides, last = tf.cast(shape, tf.float64), view.offset + tf.cast(size, tf.float64)
    begin = tf.clip_by_value(tf.floor(view.offset / view.scale - reach), 0, sides - 1)
    end = tf.clip_by_value(tf.math.ceil(last / view.scale + reach), begin + 1, sides)
    return tf.cast(begin, tf.int32), tf.cast(end - begin, tf.int32)


def _resample(window: tf.Tensor, begin: tf.Tensor, view: View, size: tf.Tensor | list[int]) -> tf.Tensor:
    """Antialiased bilinear resampling to `size` (two sides); `begin` is the window's place in its image."""
    translation = tf.cast(begin, tf.float64) * view.scale - view.offset
    height, width = tf.unstack(size)
    rows = _resample_rows(window, height, view.scale[0], translation[0])
    columns = _resample_rows(tf.transpose(rows, [1, 0, 2]), width, view.scale[1], translation[1])
    return tf.transpose(columns, [1, 0, 2])


def _resample_rows(
    pixels: tf.Tensor, height: tf.Tensor, scale: tf.Tensor, translation: tf.Tensor
) -> tf.Tensor:
    """Resamples [H, W, 3] vertically, to float32 [height, W, 3].

    A row is given as one pixel of many channels, of which TensorFlow adds up many in an instruction. Left to
    itself the kernel is as fast vertically, and horizontally takes each value by itself: a third of the time
    of Transform (perf).
    """
    _, width, channels = tf.unstack(tf.shape(pixels))
    resized = tf.raw_ops.ScaleAndTranslate(
        images=tf.reshape(pixels, [1, -1, 1, width * channels]),
        size=tf.stack([height, 1]),
        scale=tf.stack([tf.cast(scale, tf.float32), 1.0]),
        translation=tf.stack([tf.cast(translation, tf.float32), 0.0]),
        kernel_type="triangle",
        antialias=True,
    )
    return tf.reshape(resized, [height, width, channels])
