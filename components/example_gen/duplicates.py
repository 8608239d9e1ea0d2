"""The same bytes more than once: in train and in eval, where they are no test, or in two classes.

While an image is written a key of it is kept, of its size and a sample of its bytes: all bytes would take
a twentieth of the ingestion's time. Images of one key are read again and compared. In memory are 20 bytes
an image: 26 MB for all of ImageNet.
"""

from __future__ import annotations

import collections
import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import google_crc32c
import numpy as np
import tensorflow as tf

from components.example_gen import files

# A key, an image's place in its shard (bytes) and its label.
_KEYS = np.dtype([("key", "<u8"), ("offset", "<u8"), ("label", "<i4")])
# Bytes of an image's start, middle and end that are looked at.
_SAMPLE = 2048
_SHOWN = 3
# More pictures, and more images of one, are counted and not listed.
_LISTED, _IMAGES = 10_000, 100
LIST = "duplicates.jsonl"
# Bytes before a record and behind it.
_HEAD, _TAIL = 12, 4


class Keys:
    """The keys of a shard's images, in the order of its records."""

    def __init__(self) -> None:
        self._rows: list[tuple[int, int, int]] = []
        self._offset = 0

    def add(self, image: bytes, label: int, size: int) -> None:
        """Adds the next image; `size` is its record's, in bytes."""
        self._rows.append((_key(image), self._offset, label))
        self._offset += _HEAD + size + _TAIL

    def to_bytes(self) -> bytes:
        """All keys, as `find` reads them."""
        return np.array(self._rows, _KEYS).tobytes()


def _key(image: bytes) -> int:
    size = len(image)
    if size > 3 * _SAMPLE:
        image = image[:_SAMPLE] + image[size // 2 : size // 2 + _SAMPLE] + image[-_SAMPLE:]
    return google_crc32c.extend(0, image) << 32 | size & 0xFFFFFFFF


class Shard(NamedTuple):
    """Records of a split, and the file of their keys."""

    split: str
    records: str
    keys: str


class Image(NamedTuple):
    """Where a picture is."""

    split: str
    synset: str
    name: str


class Picture:
    """All images with the same bytes."""

    def __init__(self) -> None:
        self.images: list[Image] = []
        self.splits: set[str] = set()
        self.classes: set[str] = set()

    def add(self, image: Image) -> None:
        """Adds an image; of very many only the splits and classes are kept."""
        if len(self.images) < _IMAGES or image.split not in self.splits or image.synset not in self.classes:
            self.images.append(image)
        self.splits.add(image.split)
        self.classes.add(image.synset)


def find(shards: Sequence[Shard]) -> Iterator[Picture]:
    """The pictures that are in more than one split or class, compared byte for byte."""
    tables = [np.frombuffer(files.read(shard.keys), _KEYS) for shard in shards]
    rows = np.concatenate(tables)
    shard_of = np.repeat(np.arange(len(shards), dtype=np.int32), [len(table) for table in tables])
    splits = sorted({shard.split for shard in shards})
    split_of = np.array([splits.index(shard.split) for shard in shards])
    order = np.argsort(rows["key"], kind="stable")
    keys = rows["key"][order]
    # A number for each split of each class.
    group = (rows["label"].astype(np.int64) * len(splits) + split_of[shard_of])[order]
    starts = np.flatnonzero(np.concatenate([[True], keys[1:] != keys[:-1]]))
    several = np.minimum.reduceat(group, starts) != np.maximum.reduceat(group, starts)
    ends = np.append(starts[1:], len(keys))
    for start, end in zip(starts[several], ends[several], strict=True):
        pictures: dict[bytes, Picture] = collections.defaultdict(Picture)
        for row in order[start:end]:
            digest, image = _read(shards[shard_of[row]], int(rows["offset"][row]))
            pictures[digest].add(image)
        yield from (p for p in pictures.values() if len(p.splits) > 1 or len(p.classes) > 1)


def _read(shard: Shard, offset: int) -> tuple[bytes, Image]:
    with files.open_read(shard.records) as stream:
        stream.seek(offset)
        size = int.from_bytes(stream.read(_HEAD)[:8], "little")
        feature = tf.train.Example.FromString(stream.read(size)).features.feature
    encoded, synset, name = (
        feature[f"image/{key}"].bytes_list.value[0] for key in ("encoded", "class/synset", "filename")
    )
    return hashlib.sha256(encoded).digest(), Image(shard.split, synset.decode(), name.decode())


def write(folder: str, found: Iterator[Picture]) -> dict[str, Any]:
    """Lists pictures in `duplicates.jsonl` (a line a picture: its images, as split, class and name).

    Returns:
      `train_and_eval` and `two_classes`: `count`, the number of pictures, and `names`, of the first three.
    """
    told: dict[str, Any] = {kind: {"count": 0, "names": []} for kind in ("train_and_eval", "two_classes")}
    lines: list[str] = []
    for picture in found:
        if len(lines) < _LISTED:
            images = [{"split": i.split, "class": i.synset, "name": i.name} for i in picture.images]
            lines.append(json.dumps(images) + "\n")
        for kind, parts in (("train_and_eval", picture.splits), ("two_classes", picture.classes)):
            if len(parts) < 2:
                continue
            told[kind]["count"] += 1
            if told[kind]["count"] <= _SHOWN:
                at = 0 if kind == "train_and_eval" else 1
                pair = {image[at]: image for image in reversed(picture.images)}
                told[kind]["names"].append([f"{i.split}: {i.name}" for i in sorted(pair.values())])
    files.write(os.path.join(folder, LIST), "".join(lines).encode())
    return told
