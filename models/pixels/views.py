"""Views: which part of which image at which scale, and the pixels that it shows.

An image is looked at through a `View`: it is resized and a window of the result is cut out, a
square for all but the multi-scale test. The view is drawn first, from the image's shape alone; then
only the part of the pixels that the view needs is resampled, with the same result as resizing the
whole image and cropping.

Resampling is bilinear and antialiased, as PIL's. Pixels are RGB, 0..255.
"""

from __future__ import annotations

from typing import NamedTuple

import tensorflow as tf

from models.settings import Transform

# Rows and columns that are kept around the reach of the kernels, for rounding.
MARGIN = 4
# Of a longer image, `whole_view` shows the middle: one of 1 x 60,000 pixels would not fit into any
# memory.
MAX_ASPECT = 3


class View(NamedTuple):
    """A window of the resized image; `scale` and `offset` as in models.pixels.crops.Drawn."""

    scale: tf.Tensor
    offset: tf.Tensor


def _resized(shape: tf.Tensor, shorter_side: tf.Tensor | int) -> tuple[tf.Tensor, tf.Tensor]:
    """Scale (float64 [2]) and shape (int32 [2]) of the image with this shorter side."""
    shorter = tf.reduce_min(shape)
    # torchvision's rounding: the longer side is cut off.
    scaled = tf.cast(shape, tf.int64) * tf.cast(shorter_side, tf.int64)
    target = tf.cast(scaled // tf.cast(shorter, tf.int64), tf.int32)
    return tf.cast(target, tf.float64) / tf.cast(shape, tf.float64), target


def center_view(shape: tf.Tensor, settings: Transform) -> View:
    """The middle at `test_shorter_side`; odd margins leave the smaller half in front."""
    scale, target = _resized(shape, settings.test_shorter_side)
    return View(scale, tf.cast((target - settings.size) // 2, tf.float64))


def corner_views(shape: tf.Tensor, settings: Transform) -> list[View]:
    """The four corners at `test_shorter_side`: top left, top right, bottom left, bottom right."""
    scale, target = _resized(shape, settings.test_shorter_side)
    last = tf.cast(target - settings.size, tf.float64)
    corners = [(0, 0), (0, 1), (1, 0), (1, 1)]
    return [View(scale, last * tf.constant(corner, tf.float64)) for corner in corners]


def whole_view(shape: tf.Tensor, shorter_side: tf.Tensor | int) -> tuple[View, tf.Tensor]:
    """The image at a shorter side, of the longer one the middle `MAX_ASPECT` times as much at most;
    with height and width of the window (int32 [2]).
    """
    scale, target = _resized(shape, shorter_side)
    sides = tf.minimum(target, MAX_ASPECT * shorter_side)
    return View(scale, tf.cast((target - sides) // 2, tf.float64)), sides


# Resampling.


def shrink(pixels: tf.Tensor, shorter_side: int) -> tf.Tensor:
    """The image resized to a shorter side: uint8 [height, width, 3] from the same."""
    scale, target = _resized(tf.shape(pixels)[:2], shorter_side)
    resized = _resample(pixels, tf.zeros_like(target), View(scale, tf.zeros_like(scale)), target)
    return tf.cast(tf.clip_by_value(tf.round(resized), 0, 255), tf.uint8)


def look_at(pixels: tf.Tensor, view: View, size: tf.Tensor | int) -> tf.Tensor:
    """What a view of an image (uint8 [height, width, 3]) shows: float32 [*size, 3].

    `size` is the side of the window, or its height and width (int32 [2]).
    """
    sides = tf.broadcast_to(size, [2])
    begin, extent = _needed(view, tf.shape(pixels)[:2], sides)
    window = tf.slice(pixels, [*tf.unstack(begin), 0], [*tf.unstack(extent), 3])
    return _resample(window, begin, view, sides)


def _needed(view: View, shape: tf.Tensor, size: tf.Tensor | int) -> tuple[tf.Tensor, tf.Tensor]:
    """Begin and extent (int32 [2]) of the pixels that the view's resampling kernels reach."""
    reach = tf.maximum(1 / view.scale, 1) + MARGIN
    sides, last = tf.cast(shape, tf.float64), view.offset + tf.cast(size, tf.float64)
    begin = tf.clip_by_value(tf.floor(view.offset / view.scale - reach), 0, sides - 1)
    end = tf.clip_by_value(tf.math.ceil(last / view.scale + reach), begin + 1, sides)
    return tf.cast(begin, tf.int32), tf.cast(end - begin, tf.int32)


def _resample(
    window: tf.Tensor, begin: tf.Tensor, view: View, size: tf.Tensor | list[int]
) -> tf.Tensor:
    """Antialiased bilinear resampling to two sides; `begin` is the window's place in its image."""
    translation = tf.cast(begin, tf.float64) * view.scale - view.offset
    height, width = tf.unstack(size)
    rows = _resample_rows(window, height, view.scale[0], translation[0])
    columns = _resample_rows(tf.transpose(rows, [1, 0, 2]), width, view.scale[1], translation[1])
    return tf.transpose(columns, [1, 0, 2])


def _resample_rows(
    pixels: tf.Tensor, height: tf.Tensor, scale: tf.Tensor, translation: tf.Tensor
) -> tf.Tensor:
    """Resamples [H, W, 3] vertically, to float32 [height, W, 3].

    A row is given as one pixel of many channels, of which TensorFlow adds up many in an
    instruction. Left to itself the kernel is as fast vertically, and horizontally takes each value
    by itself: a third of the time of Transform (perf).
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
