"""The part of train that becomes eval when the source has no evaluation split."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import tensorflow as tf
from tfx.proto import example_gen_pb2

from components.example_gen.errors import SourceError

_BUCKETS = 10_000
_FILENAME = "image/filename"


def output(part: float) -> example_gen_pb2.Output:
    """TFX's output configuration that gives `part` (0..1, exclusive) of train to eval by the file
    name.
    """
    buckets = round(part * _BUCKETS)
    if not 0 < buckets < _BUCKETS:
        raise SourceError(f"data.holdout must lie between 0 and 1. Received: {part}.")
    split = example_gen_pb2.SplitConfig.Split
    return example_gen_pb2.Output(
        split_config=example_gen_pb2.SplitConfig(
            splits=[
                split(name="train", hash_buckets=_BUCKETS - buckets),
                split(name="eval", hash_buckets=buckets),
            ],
            partition_feature_name=_FILENAME,
        )
    )


def assign(
    names: Sequence[str], labels: np.ndarray, config: example_gen_pb2.SplitConfig
) -> np.ndarray:
    """Which images are held out.

    An image goes where TFX's partition by `partition_feature_name` puts it, whatever else the data
    holds, so it never changes sides as the data grows. With few images a class that leaves some
    classes without an evaluation image, or without a training image: such a class gives the other
    side its image with the smallest hash, until it has grown images of its own there. A class of a
    single image keeps it in train.

    Args:
      names: file names of the images.
      labels: int [images]; below 0 where the class is not known: there the hash alone decides.
      config: of `output`.

    Returns:
      bool [images], True for eval.
    """
    hashes = [_hash(name) for name in names]
    total, train = sum(split.hash_buckets for split in config.splits), config.splits[0].hash_buckets
    held = np.array([number % total >= train for number in hashes], bool)
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
