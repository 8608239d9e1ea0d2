"""Thumbnails of single images, from the records that the Evaluator saw."""

from __future__ import annotations

import base64
import io
import os
from collections.abc import Iterator, Sequence

import tensorflow as tf
from PIL import Image

from models.pixels import decoding
from models.settings import Transform

NAME, LABEL, ENCODED = "image/filename", "image/class/label", "image/encoded"
# Longer side, in pixels.
SIDE = 160
_BATCH = 64
# Names and labels are looked for in batches, and only those of records that have both are decoded.
_KEYS = {
    NAME: tf.io.FixedLenFeature([], tf.string),
    LABEL: tf.io.FixedLenFeature([], tf.int64),
}

# File and label.
Key = tuple[str, int]


def thumbnails(examples: str, wanted: Sequence[Key], transform: Transform) -> dict[Key, str]:
    """The wanted images as addresses that hold the picture itself, `data:image/...`.

    The evaluation split is read once, up to the last of them.

    Args:
      examples: folder of ImageExampleGen's artifact.
      wanted: some may be missing, and are in the result then, too.
      transform: `upright` is used.
    """
    missing, found = set(wanted), {}
    for serialized in _records(examples, wanted):
        example = tf.train.Example.FromString(serialized)
        feature = example.features.feature
        key = feature[NAME].bytes_list.value[0].decode(), feature[LABEL].int64_list.value[0]
        if key in missing:
            missing.remove(key)
            found[key] = thumbnail(feature[ENCODED].bytes_list.value[0], transform)
            if not missing:
                break
    return found


def _records(examples: str, wanted: Sequence[Key]) -> Iterator[bytes]:
    """Records that may be wanted: those with one of the names."""
    names = tf.constant(sorted({name for name, _ in wanted}), tf.string)
    paths = sorted(tf.io.gfile.glob(os.path.join(examples, "Split-eval", "*")))

    def chosen(serialized: tf.Tensor) -> tf.data.Dataset:
        parsed = tf.io.parse_example(serialized, _KEYS)
        hit = tf.reduce_any(parsed[NAME][:, None] == names[None], axis=1)
        return tf.data.Dataset.from_tensor_slices(tf.boolean_mask(serialized, hit))

    records = tf.data.TFRecordDataset(paths).batch(_BATCH).flat_map(chosen)
    yield from records.as_numpy_iterator()


def thumbnail(encoded: bytes, transform: Transform) -> str:
    """A JPEG or PNG as a small one that a page can hold.

    Small images stay as they are, without loss; larger ones are shrunk to SIDE.
    """
    pixels = decoding.decode(tf.constant(encoded))
    if transform.upright:
        pixels = decoding.upright(pixels, decoding.orientation(tf.constant(encoded)))
    picture = Image.fromarray(pixels.numpy())
    small = max(picture.size) <= SIDE // 2
    picture.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    out = io.BytesIO()
    picture.save(out, "PNG" if small else "JPEG", **({} if small else {"quality": 80}))
    kind = "png" if small else "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(out.getvalue()).decode()}"
