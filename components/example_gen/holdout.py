"""The part of train that becomes eval when the source has no evaluation split."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import tensorflow as tf

_BUCKETS = 10_000


def assign(names: Sequence[str], labels: np.ndarray, part: float) -> np.ndarray:
    """Which images are held out.

    An image goes where TFX's partition by its feature `image/filename` puts it, whatever else the
    data holds, so it never changes sides as the data grows. With few images a class that leaves
    some classes without an evaluation image, or without a training image: such a class gives the
    other side its image with the smallest hash, until it has grown images of its own there. A class
    of a single image keeps it in train.

    Args:
      names: file names of the images.
      labels: int [images]; below 0 where the class is not known: there the hash alone decides.
      part: to hold out, 0..1, exclusive.

    Returns:
      bool [images], True for eval.
    """
    hashes = [_hash(name) for name in names]
    train = _BUCKETS - round(part * _BUCKETS)
    held = np.array([number % _BUCKETS >= train for number in hashes], bool)
    order = np.argsort(labels, kind="stable")
    for members in np.split(order, np.flatnonzero(np.diff(labels[order])) + 1):
        if not len(members) or labels[members[0]] < 0:
            continue
        smallest = min(members, key=hashes.__getitem__)
        if held[members].all():
            held[smallest] = False
        elif len(members) > 1 and not held[members].any():
            held[smallest] = True
    return held


def _hash(name: str) -> int:
    """The hash of a file name as TFX's partition takes it: of the feature, serialized."""
    feature = tf.train.Feature(bytes_list=tf.train.BytesList(value=[name.encode()]))
    return int(hashlib.sha256(feature.SerializeToString(deterministic=True)).hexdigest(), 16)
