"""The same bytes more than once: in train and in eval, where they are no test, or in two classes.

While an image is written a key of it is kept, of its size and a sample of its bytes: all bytes
would take a twentieth of the ingestion's time. Of images with one key, one of each split and class
is read again and compared, and all where these differ. In memory are 20 bytes an image: 26 MB for
all of ImageNet.
"""

from __future__ import annotations

import collections
import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import google_crc32c
import numpy as np
import tensorflow as tf

from components import files

# A key, an image's place in its shard (bytes) and its label.
_KEYS = np.dtype([("key", "<u8"), ("offset", "<u8"), ("label", "<i4")])
# Bytes of an image's start, middle and end that are looked at.
_SAMPLE = 2048
_SHOWN = 3
# More pictures are counted and not listed.
_LISTED = 10_000
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


Picture = list[Image]  # The same bytes: an image of each split and class that has them.


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

    def read(places: np.ndarray) -> Iterator[tuple[bytes, Image]]:
        return (_read(shards[shard_of[row]], int(rows["offset"][row])) for row in order[places])

    for start, end in zip(starts[several], ends[several], strict=True):
        _, first = np.unique(group[start:end], return_index=True)
        of_each = list(read(start + first))
        if all(encoded == of_each[0][0] for encoded, _ in of_each):
            yield [image for _, image in of_each]
        else:
            yield from _apart(read(np.arange(start, end)))


def _apart(images: Iterable[tuple[bytes, Image]]) -> Iterator[Picture]:
    """The pictures of more than one split or class among images of one key that are not all the
    same.
    """
    pictures: dict[bytes, dict[tuple[str, str], Image]] = collections.defaultdict(dict)
    for encoded, image in images:
        pictures[hashlib.sha256(encoded).digest()].setdefault((image.split, image.synset), image)
    yield from (list(found.values()) for found in pictures.values() if len(found) > 1)


def _read(shard: Shard, offset: int) -> tuple[bytes, Image]:
    with files.open_read(shard.records) as stream:
        stream.seek(offset)
        size = int.from_bytes(stream.read(_HEAD)[:8], "little")
        feature = tf.train.Example.FromString(stream.read(size)).features.feature
    encoded, synset, name = (
        feature[f"image/{key}"].bytes_list.value[0]
        for key in ("encoded", "class/synset", "filename")
    )
    return encoded, Image(shard.split, synset.decode(), name.decode())


def write(folder: str, found: Iterator[Picture]) -> dict[str, Any]:
    """Lists pictures in `duplicates.jsonl` (a line a picture: split, class and name of images that
    have it).

    Returns:
      `train_and_eval` and `two_classes`: `count`, the number of pictures, and `names`, of the first
      three.
    """
    told: dict[str, Any] = {
        kind: {"count": 0, "names": []} for kind in ("train_and_eval", "two_classes")
    }
    lines: list[str] = []
    for picture in found:
        if len(lines) < _LISTED:
            images = [{"split": i.split, "class": i.synset, "name": i.name} for i in picture]
            lines.append(json.dumps(images) + "\n")
        for kind, field in (("train_and_eval", "split"), ("two_classes", "synset")):
            one_of_each = {getattr(image, field): image for image in reversed(picture)}
            if len(one_of_each) > 1:
                told[kind]["count"] += 1
                if told[kind]["count"] <= _SHOWN:
                    names = sorted(
                        files.one_line(f"{i.split}: {i.name}") for i in one_of_each.values()
                    )
                    told[kind]["names"].append(names)
    files.write(os.path.join(folder, LIST), "".join(lines).encode())
    return told
