"""Pixels: the one place where training, evaluation and serving touch them.

What a view shows comes from `models.pixels.views`, in training from `models.pixels.fast_crops`.
Pixels are RGB, float32, 0..255 until the mean is subtracted.
"""

from __future__ import annotations

import dataclasses
import io
import json
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from models import fields
from models.pixels import crops, decoding, views
from models.settings import Transform, check_transform

CONSTANTS_FILE = "augmentation.npz"

Read = Callable[[Any], tuple[bytes, int]]


@dataclasses.dataclass(frozen=True, eq=False)
class Constants:
    """What Transform measured on the training split.

    Attributes:
      pixel_mean: float32 [size, size, 3], mean image of the test crops, RGB, 0..255.
      channel_mean: float32 [3], mean colour, RGB, 0..255.
      covariance: float32 [3, 3], covariance of RGB over all pixels, levels squared.
      labels: class names (synsets) in label order, which is sorted order.
      class_counts: training examples of each class, in label order.
    """

    pixel_mean: np.ndarray
    channel_mean: np.ndarray
    covariance: np.ndarray
    labels: tuple[str, ...]
    class_counts: tuple[int, ...]


def write_constants(path: str, constants: Constants, settings: Transform) -> None:
    """Writes what was measured, and the settings that it was measured with, as a NumPy archive."""
    buffer = io.BytesIO()
    np.savez(buffer, **vars(constants), settings=json.dumps(dataclasses.asdict(settings)))
    with tf.io.gfile.GFile(path, "wb") as file:
        file.write(buffer.getvalue())


def read_constants(path: str) -> tuple[Constants, Transform]:
    """Reads what `write_constants` has written.

    Raises:
      tf.errors.NotFoundError: there is no such file. ValueError: its settings are not of this
      version.
    """
    with tf.io.gfile.GFile(path, "rb") as file, np.load(io.BytesIO(file.read())) as values:
        constants = Constants(
            pixel_mean=values["pixel_mean"],
            channel_mean=values["channel_mean"],
            covariance=values["covariance"],
            labels=tuple(str(label) for label in values["labels"]),
            class_counts=tuple(int(count) for count in values["class_counts"]),
        )
        settings: dict[str, Any] = json.loads(str(values["settings"]))
    try:
        return constants, fields.build(Transform, settings, "transform.")
    except ValueError as error:
        raise ValueError(
            f"{path} was written by another version of this project: {error} Use that version, or"
            " run Transform and Trainer again."
        ) from None


def strengthen(settings: Transform, strength: float) -> Transform:
    """Settings with random ranges `strength` times as wide (0 turns all but the mirror off)."""
    spread = round(strength * (settings.scale_max - settings.scale_min))
    return dataclasses.replace(
        settings,
        scale_max=settings.scale_min + spread,
        area_min=min(1.0, max(0.01, 1 - strength + strength * settings.area_min)),
        pad=round(strength * settings.pad),
        colour=strength * settings.colour,
    )


def train_images(
    records: tf.data.Dataset,
    read: Read,
    batch_size: int,
    seed: int,
    settings: Transform,
    constants: Constants,
) -> tf.data.Dataset:
    """Random views of images, as the network is trained on them (paper, sections 3.4 and 4.2).

    Args:
      records: (number int64, record); the view depends on (seed, number) alone.
      read: a record, as NumPy has it -> encoded image (JPEGs are fastest) and label.
      batch_size: of the batches; a last one that is not full is left out.
      seed: 0 or more.
      settings: which views are drawn.
      constants: mean and covariance of the training split.

    Returns:
      Batches (float32 [batch_size, size, size, 3], int64 labels [batch_size]), RGB, mean
      subtracted. Bytes that are no image end the stream with an error.

    Raises:
      ValueError: settings that no crop fits.
    """
    # Numba takes a second to import, which evaluation and serving need not wait for.
    from models.pixels import fast_crops

    check_transform(settings)
    shape = [settings.size, settings.size, 3]
    mean = np.broadcast_to(_mean(settings, constants), shape)
    basis = _basis(constants)

    def look(batch: np.ndarray, numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        labels = np.empty(len(batch), np.int64)

        def encoded(place: int) -> bytes:
            image, labels[place] = read(batch[place])
            return image

        def view(place: int, sides: crops.Shape) -> crops.Drawn:
            # Counter-based: made in microseconds, and streams of neighbouring numbers are
            # independent.
            rng = np.random.Generator(np.random.Philox(key=[seed, numbers[place]]))
            return crops.draw(sides, settings, basis, rng)

        return fast_crops.look(encoded, len(batch), view, mean, settings), labels

    def images(numbers: tf.Tensor, batch: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        pixels, labels = tf.numpy_function(
            look, [batch, numbers], [tf.float32, tf.int64], stateful=False
        )
        return tf.ensure_shape(pixels, [batch_size, *shape]), tf.ensure_shape(labels, [batch_size])

    # Two batches under way keep every thread busy to the end of the first.
    batches = records.batch(batch_size, drop_remainder=True)
    return batches.map(tf.autograph.experimental.do_not_convert(images), 2, deterministic=True)


def center(encoded: tf.Tensor, settings: Transform, constants: Constants) -> tf.Tensor:
    """The central crop of the image (a JPEG or PNG, string scalar) whose shorter side is
    `settings.test_shorter_side`: float32 [size, size, 3], RGB, mean subtracted.
    """
    check_transform(settings)
    return subtract_mean(center_pixels(encoded, settings), settings, constants)


def center_pixels(encoded: tf.Tensor, settings: Transform) -> tf.Tensor:
    """The crop of `center` before the mean is subtracted: float32 [size, size, 3], RGB, 0..255."""
    pixels = decoding.load(encoded, settings)
    view = views.center_view(tf.shape(pixels)[:2], settings)
    return views.look_at(pixels, view, settings.size)


def ten_crop(encoded: tf.Tensor, settings: Transform, constants: Constants) -> tf.Tensor:
    """The ten test crops of AlexNet and the paper (section 3.4).

    Returns:
      float32 [10, size, size, 3], mean subtracted: top left, top right, bottom left, bottom right
      and central crop of the image whose shorter side is `test_shorter_side`, then their mirrors.
    """
    check_transform(settings)
    pixels = decoding.load(encoded, settings)
    shape = tf.shape(pixels)[:2]
    places = [*views.corner_views(shape, settings), views.center_view(shape, settings)]
    images = tf.stack([views.look_at(pixels, view, settings.size) for view in places])
    images = subtract_mean(images, settings, constants)
    return tf.concat([images, tf.reverse(images, axis=[2])], axis=0)


def whole(pixels: tf.Tensor, shorter_side: tf.Tensor | int, constants: Constants) -> tf.Tensor:
    """Pixels (uint8 [H, W, 3]) at a shorter side, without the ends of those longer than 3:1.

    Returns:
      float32 [h, w, 3], the smaller of both `shorter_side` and the larger 3 times that at most;
      RGB, mean colour subtracted: a mean image has another size.
    """
    view, sides = views.whole_view(tf.shape(pixels)[:2], shorter_side)
    return subtract_channel_mean(views.look_at(pixels, view, sides), constants)


def subtract_mean(images: tf.Tensor, settings: Transform, constants: Constants) -> tf.Tensor:
    """Subtracts the mean image or mean colour from float32 [..., size, size, 3], RGB, 0..255."""
    return images - tf.constant(_mean(settings, constants), tf.float32)


def _mean(settings: Transform, constants: Constants) -> np.ndarray:
    return constants.channel_mean if settings.mean == "channel" else constants.pixel_mean


def subtract_channel_mean(images: tf.Tensor, constants: Constants) -> tf.Tensor:
    """Subtracts the mean colour from float32 [..., 3], RGB, 0..255."""
    return images - tf.constant(constants.channel_mean, tf.float32)


def _basis(constants: Constants) -> np.ndarray:
    """The principal components of RGB times their eigenvalues: float64 [3, 3], levels.

    AlexNet multiplies each component by its eigenvalue, whose size depends on the unit of the
    pixels: 0..1, as fb.resnet.torch's published constants (0.2175, 0.0188, 0.0045) show. That is a
    shift of 0.1 * 55 levels along the first component of ImageNet.
    """
    values, vectors = np.linalg.eigh(np.asarray(constants.covariance, np.float64))
    return vectors * values / 255
