"""The same bytes more than once: in train and in eval, where they are no test, or in two classes.

While an image is written a key of it is kept, of its size and a sample of its bytes: all bytes
would take a twentieth of the ingestion's time. Images with one key in more than one split or class
are read again and compared.
"""

from __future__ import annotations

import collections
import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import google_crc32c
import pandas as pd
import tensorflow as tf

from components import files
from components.example_gen.writing.record_writer import HEAD

# Bytes of an image's start, middle and end that are looked at.
_SAMPLE = 2048
_SHOWN = 3
# More pictures are counted and not listed.
_LISTED = 10_000
LIST = "duplicates.jsonl"


def key(image: bytes) -> int:
    """The same for equal images; below 2**63."""
    size = len(image)
    if size > 3 * _SAMPLE:
        image = image[:_SAMPLE] + image[size // 2 : size // 2 + _SAMPLE] + image[-_SAMPLE:]
    return google_crc32c.extend(0, image) << 31 | size & 0x7FFFFFFF


class Shard(NamedTuple):
    """Records of a split, and their report (`shards.write_shard`)."""

    split: str
    records: str
    report: str


class Image(NamedTuple):
    """Where a picture is."""

    split: str
    synset: str
    name: str


Picture = list[Image]  # The same bytes: an image of each split and class that has them.


def find(shards: Sequence[Shard]) -> Iterator[Picture]:
    """The pictures that are in more than one split or class, compared byte for byte."""
    rows = pd.concat([_rows(number, shard) for number, shard in enumerate(shards)])
    rows = rows[rows.duplicated("key", keep=False)]
    rows = rows[rows.groupby("key")["group"].transform("nunique") > 1]
    for _, alike in rows.groupby("key"):
        pictures: dict[bytes, dict[tuple[str, str], Image]] = collections.defaultdict(dict)
        for number, offset in zip(alike["shard"].tolist(), alike["offset"].tolist(), strict=True):
            encoded, image = _read(shards[number], offset)
            same = pictures[hashlib.sha256(encoded).digest()]
            same.setdefault((image.split, image.synset), image)
        yield from (list(found.values()) for found in pictures.values() if len(found) > 1)


def _rows(number: int, shard: Shard) -> pd.DataFrame:
    """Key and place of each image of a shard; `group` is a number for each split of each class."""
    keys = json.loads(files.read(shard.report))["keys"]
    rows = pd.DataFrame(keys, columns=["key", "offset", "label"], dtype="int64")
    return rows.assign(shard=number, group=rows.pop("label") * 2 + (shard.split == "eval"))


def _read(shard: Shard, offset: int) -> tuple[bytes, Image]:
    with files.open_read(shard.records) as stream:
        stream.seek(offset)
        size = int.from_bytes(stream.read(HEAD)[:8], "little")
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
