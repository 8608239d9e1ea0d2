"""What Transform does: one analysis of the training split, and the scale stage.

The analysis writes one file into the TransformGraph's assets: class names and counts, mean image,
mean colour, RGB covariance, and the settings they were measured with. `load_constants` reads it.
"""

from __future__ import annotations

import collections
import os
from collections.abc import Iterable, Mapping
from typing import Any

import apache_beam as beam
import numpy as np
import tensorflow as tf
import tensorflow_transform as tft
import tensorflow_transform.beam as tft_beam

from models.compat import tfx_bsl_batches
from models.pixels import augmentation, decoding
from models.pixels.augmentation import Constants
from models.settings import Transform, check_transform

# Every runner imports this module in the process that builds the Beam job, before it does so.
tfx_bsl_batches.limit_bytes()


def preprocessing_fn(
    inputs: Mapping[str, Any], custom_config: Mapping[str, Any]
) -> dict[str, tf.Tensor]:
    """Transform's entry point.

    Class names and counts are taken from all examples, mean and covariance from those whose file
    name hashes below `analyze_fraction`, seen through the test crop.

    Args:
      inputs: a batch of the features of the data contract; scalars, dense, ragged or sparse.
      custom_config: {"transform": the fields of models.settings.Transform}; other keys are ignored.

    Returns:
      [batch] tensors: image/encoded, image/height, image/width, image/class/label,
      image/class/synset and image/filename. With `shorter_side`, larger images are turned upright
      where that is asked, shrunk and stored as PNG, and height and width follow; smaller ones pass
      byte for byte.
    """
    settings = Transform(**custom_config["transform"])
    check_transform(settings)
    names = ("encoded", "height", "width", "class/label", "class/synset", "filename")
    columns = {f"image/{name}": _flat(inputs[f"image/{name}"]) for name in names}
    _analyze(columns, settings)
    return rescale(columns, settings) if settings.shorter_side else columns


def load_constants(transform_graph_path: str) -> Constants:
    """Reads what the analysis measured from a TransformGraph's folder.

    Raises:
      FileNotFoundError: the folder is no TransformGraph of this project.
    """
    folder = tft.TFTransformOutput(transform_graph_path).transform_savedmodel_dir
    path = os.path.join(folder, tf.saved_model.ASSETS_DIRECTORY, augmentation.CONSTANTS_FILE)
    if not tf.io.gfile.exists(path):
        raise FileNotFoundError(
            f"{path} does not exist; give the TransformGraph folder of a finished Transform run."
        )
    return augmentation.read_constants(path)[0]


def _flat(column: Any) -> tf.Tensor:
    """One value per row, whether the schema made the column dense, ragged or sparse."""
    if isinstance(column, tf.SparseTensor | tf.RaggedTensor):
        column = column.values
    return tf.reshape(column, [-1])


def _analyze(columns: Mapping[str, tf.Tensor], settings: Transform) -> None:
    rows = _sampled(columns["image/filename"], settings)
    totals = _totals(columns["image/encoded"], rows, settings)
    # The path is a constant of the graph, which makes the file one of its assets.
    tft.experimental.ptransform_analyzer(
        inputs=[columns["image/class/label"], columns["image/class/synset"], *totals],
        ptransform=_Measure(settings),
        output_dtypes=[tf.string],
        output_shapes=[[]],
        output_asset_default_values=[b""],
        name="augmentation",
    )


def _sampled(filenames: tf.Tensor, settings: Transform) -> tf.Tensor:
    """Row numbers (int32 [n]) of the examples that are measured."""
    buckets = 1_000_000
    below = round(settings.analyze_fraction * buckets)
    chosen = tf.strings.to_hash_bucket_fast(filenames, buckets) < below
    return tf.cast(tf.where(chosen)[:, 0], tf.int32)


def _totals(encoded: tf.Tensor, rows: tf.Tensor, settings: Transform) -> tuple[tf.Tensor, ...]:
    """Sums over the rows, one image in memory at a time.

    Returns:
      Number of images int64 [1], sum of test crops float64 [1, size, size, 3], and sum over all
      pixels of the outer product of RGB, float64 [1, 3, 3].
    """
    size = settings.size

    def add(row: tf.Tensor, image: tf.Tensor, outer: tf.Tensor) -> tuple[tf.Tensor, ...]:
        pixels = augmentation.center_pixels(encoded[rows[row]], settings)
        colours = tf.reshape(pixels, [-1, 3])
        # Of one image float32 is enough, and five times as fast; sums over images are float64.
        products = tf.matmul(colours, colours, transpose_a=True)
        return row + 1, image + tf.cast(pixels, tf.float64), outer + tf.cast(products, tf.float64)

    start = (tf.constant(0), tf.zeros([size, size, 3], tf.float64), tf.zeros([3, 3], tf.float64))
    count, image, outer = tf.while_loop(
        lambda row, *_: row < tf.size(rows), add, start, parallel_iterations=1
    )
    return tf.cast(count, tf.int64)[tf.newaxis], image[tf.newaxis], outer[tf.newaxis]


class _Measure(tft_beam.experimental.PTransformAnalyzer):
    """Batches of (labels, synsets, counts, image sums, outer sums) -> path of the written asset."""

    def __init__(self, settings: Transform):
        super().__init__()
        self._settings = settings

    def expand(self, batches: beam.PCollection) -> beam.PCollection:
        path = os.path.join(self.base_temp_dir, augmentation.CONSTANTS_FILE)
        total = batches | "Sum" >> beam.Map(_summed) | "Add" >> beam.CombineGlobally(_added)
        return total | "Write" >> beam.Map(_write, path, self._settings)


def _summed(batch: tuple[np.ndarray, ...]) -> tuple:
    labels, synsets, count, image, outer = batch
    classes = collections.Counter(zip(labels.tolist(), synsets.tolist(), strict=True))
    return classes, count.sum(), image.sum(0), outer.sum(0)


def _added(totals: Iterable[tuple]) -> tuple:
    classes: collections.Counter = collections.Counter()
    count, image, outer = 0, 0.0, 0.0
    for more in totals:
        classes.update(more[0])
        count, image, outer = count + more[1], image + more[2], outer + more[3]
    return classes, count, image, outer


def _write(total: tuple, path: str, settings: Transform) -> np.ndarray:
    classes, count, image, outer = total
    if not count:
        raise ValueError(
            "Transform found no example to measure mean and covariance on; "
            "raise transform.analyze_fraction or check that the training split is not empty."
        )
    labels, counts = _vocabulary(classes)
    pixel_mean = image / count
    mean = pixel_mean.mean((0, 1))
    pixels = count * pixel_mean.shape[0] * pixel_mean.shape[1]
    measured = Constants(
        pixel_mean=pixel_mean.astype(np.float32),
        channel_mean=mean.astype(np.float32),
        covariance=(outer / pixels - np.outer(mean, mean)).astype(np.float32),
        labels=tuple(labels),
        class_counts=tuple(counts),
    )
    tf.io.gfile.makedirs(os.path.dirname(path))
    augmentation.write_constants(path, measured, settings)
    return np.array(path.encode())


def _text(name: bytes) -> str:
    """The name, of which bytes that are no UTF-8 become backslash escapes."""
    return name.decode(errors="backslashreplace")


def _vocabulary(classes: Mapping[tuple[int, bytes], int]) -> tuple[list[str], list[int]]:
    """Names and counts in label order, from (label, synset) -> examples."""
    entries = sorted(classes.items())
    for number, ((label, synset), _) in enumerate(entries):
        if label != number or (number and synset <= entries[number - 1][0][1]):
            raise ValueError(
                f"The training split has label {label} for class {_text(synset)}, where label"
                f" {number} and the next class name in sorted order were expected; labels must be"
                " the 0-based index of the sorted class names, with one class a label and no class"
                " missing."
            )
    return [_text(synset) for (_, synset), _ in entries], [count for _, count in entries]


def rescale(columns: Mapping[str, tf.Tensor], settings: Transform) -> dict[str, tf.Tensor]:
    """The [batch] tensors of `preprocessing_fn`, with large images stored as small ones."""
    keys = ("image/encoded", "image/height", "image/width")

    def smaller(encoded: tf.Tensor) -> tuple[tf.Tensor, ...]:
        pixels = decoding.load(encoded, settings)
        height, width = tf.unstack(tf.cast(tf.shape(pixels)[:2], tf.int64))
        # Higher levels take far longer and save little.
        return tf.io.encode_png(pixels, compression=1), height, width

    def row(values: tuple[tf.Tensor, ...]) -> tuple[tf.Tensor, ...]:
        encoded, height, width = values
        large = tf.minimum(height, width) > settings.shorter_side
        return tf.cond(large, lambda: smaller(encoded), lambda: (encoded, height, width))

    values, kinds = tuple(columns[key] for key in keys), (tf.string, tf.int64, tf.int64)
    # One decoded photograph in memory.
    rescaled = tf.map_fn(row, values, fn_output_signature=kinds, parallel_iterations=1)
    return {**columns, **dict(zip(keys, rescaled, strict=True))}
