"""Images of tf.Examples, in memory or where they lie in a TFRecord file.

Of a file that is local and not compressed only places are shuffled; an image is read when its view
is taken. TensorFlow's reader and its call into Python would each copy it into fresh memory.
"""

from __future__ import annotations

import functools
import io
import os
from collections.abc import Sequence

import google_crc32c
import numpy as np
from google.protobuf.message import DecodeError
from tensorflow.core.example import example_pb2

from models.pixels.compiled import under_way

IMAGE_KEY = "image/encoded"
LABEL_KEY = "image/class/label"
# Records of a file that are read ahead of their turn, into the system's cache.
_AHEAD = 256
# Bytes before a record, its length and the length's checksum, and behind it, its checksum.
_HEAD, _TAIL = 12, 4
# Files open at once. TensorFlow keeps the functions of a stream, and so its files, to the end of
# the session.
_MOST_OPEN = 64


def seekable(file: str) -> bool:
    """Whether records of the file can be read where they lie: it is local and not compressed."""
    return "://" not in file and not file.endswith(".gz")


class Files:
    """Seekable TFRecord files of tf.Examples; a place is int64 [3]: file, first byte, bytes."""

    def __init__(self, names: Sequence[str]) -> None:
        self._names = tuple(names)
        self._open = functools.lru_cache(_MOST_OPEN)(_Open)

    def places(self, number: int, begin: int) -> tuple[np.ndarray, np.int64]:
        """The next records of a file, from `begin` on, which the system is asked to read ahead.

        Returns:
          Places [n, 3], at most 256 and none at the end; and where the record after them begins.

        Raises:
          ValueError: the file is damaged or cut off.
        """
        found: list[tuple[int, int, int]] = []
        at = int(begin)
        with under_way:
            file = self._open(self._names[number])
            size = os.fstat(file.fileno()).st_size
            while at < size and len(found) < _AHEAD:
                head = file.part(at, _HEAD)
                length = int.from_bytes(head[:8], "little")
                end = at + _HEAD + length + _TAIL
                if checksum(head[:8]) != head[8:] or end > size:
                    raise _damaged(self._names[number], at)
                os.posix_fadvise(file.fileno(), at, end - at, os.POSIX_FADV_WILLNEED)
                found.append((number, at + _HEAD, length))
                at = end
        return np.array(found, np.int64).reshape(-1, 3), np.int64(at)

    def read(self, place: np.ndarray) -> tuple[bytes, int]:
        """Image and label at a place, as `parse`; raises ValueError for a damaged record, too."""
        number, begin, size = (int(value) for value in place)
        record = self._open(self._names[number]).part(begin, size + _TAIL)
        serialized = record[:size]
        if checksum(serialized) != record[size:]:
            raise _damaged(self._names[number], begin - _HEAD)
        try:
            return parse(serialized)
        except ValueError as error:
            raise ValueError(f"{self._names[number]}, byte {begin - _HEAD:,}: {error}") from None


def parse(serialized: bytes) -> tuple[bytes, int]:
    """The encoded image and the label of a tf.Example; raises ValueError where it lacks one."""
    try:
        feature = example_pb2.Example.FromString(serialized).features.feature
    except DecodeError as error:
        raise ValueError("A record has no whole tf.Example: run ingestion again.") from error
    images, labels = feature[IMAGE_KEY].bytes_list.value, feature[LABEL_KEY].int64_list.value
    for key, values, kind in ((IMAGE_KEY, images, "bytes"), (LABEL_KEY, labels, "a whole number")):
        if len(values) != 1:
            raise ValueError(
                f"A record has no {key} that is one value, {kind}: run ingestion again."
            )
    return images[0], labels[0]


class _Open(io.FileIO):
    """A file that is open as long as this object is held."""

    def __del__(self) -> None:
        self.close()

    def part(self, at: int, size: int) -> bytes:
        """The bytes from a place on, fewer at the end of the file."""
        data = more = os.pread(self.fileno(), size, at)
        while more and len(data) < size:  # network file systems may give a part
            more = os.pread(self.fileno(), size - len(data), at + len(data))
            data += more
        return data


def _damaged(name: str, at: int) -> ValueError:
    return ValueError(f"{name} is damaged or cut off at byte {at:,}: run ingestion again.")


def masked(checksum: int) -> bytes:
    """A CRC32C as TFRecords hold it: rotated and shifted."""
    return ((checksum >> 15 | checksum << 17) + 0xA282EAD8 & 0xFFFFFFFF).to_bytes(4, "little")


def checksum(data: bytes) -> bytes:
    """The CRC32C of a part of a TFRecord, as it stands behind it."""
    return masked(google_crc32c.value(data))
