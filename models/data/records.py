"""Images of tf.Examples, in memory or where they lie in a TFRecord file.

Of a file that is local and not compressed only places are shuffled; an image is read when its view
is taken. TensorFlow's reader, parser and call into Python would each copy it into fresh memory.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Sequence

import google_crc32c
import numpy as np

from models.pixels.compiled import compiled, under_way

IMAGE_KEY = "image/encoded"
LABEL_KEY = "image/class/label"
# Records of a file that are read ahead of their turn, into the system's cache.
_AHEAD = 256
# Bytes before a record, its length and the length's checksum, and behind it, its checksum.
_HEAD, _TAIL = 12, 4
# Files open at once. TensorFlow keeps the functions of a stream, and so its files, to the end of
# the session.
_MOST_OPEN = 64
# Fields of a Feature.
_BYTES_LIST, _INT64_LIST = 1, 3
_IMAGE, _LABEL = (np.frombuffer(key.encode(), np.uint8) for key in (IMAGE_KEY, LABEL_KEY))


def seekable(file: str) -> bool:
    """Whether records of the file can be read where they lie: it is local and not compressed."""
    return "://" not in file and not file.endswith(".gz")


class Files:
    """Seekable TFRecord files of tf.Examples; a place in them is int64 [3]: file, first byte,
    bytes.
    """

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
            file = self._open(self._names[number])
            size = os.fstat(file.descriptor).st_size
            while at < size and len(found) < _AHEAD:
                head = file.read(at, _HEAD)
                length = int.from_bytes(head[:8], "little")
                end = at + _HEAD + length + _TAIL
                if checksum(head[:8]) != head[8:] or end > size:
                    raise _damaged(self._names[number], at)
                os.posix_fadvise(file.descriptor, at, end - at, os.POSIX_FADV_WILLNEED)
                found.append((number, at + _HEAD, length))
                at = end
        return np.array(found, np.int64).reshape(-1, 3), np.int64(at)

    def read(self, place: np.ndarray) -> tuple[memoryview, int]:
        """The encoded image and the label at a place.

        Raises:
          ValueError: the record is damaged, or lacks one of both.
        """
        number, begin, size = (int(value) for value in place)
        record = self._open(self._names[number]).read(begin, size + _TAIL)
        serialized = record[:size]
        if checksum(serialized) != record[size:]:
            raise _damaged(self._names[number], begin - _HEAD)
        try:
            return parse(serialized)
        except ValueError as error:
            raise ValueError(f"{self._names[number]}, byte {begin - _HEAD:,}: {error}") from None


def parse(serialized: bytes) -> tuple[memoryview, int]:
    """The encoded image and the label of a tf.Example.

    Raises:
      ValueError: it lacks one of both.
    """
    data = np.frombuffer(serialized, np.uint8)
    begin, end = _feature(data, _IMAGE, _BYTES_LIST)
    if begin == end:
        raise _without(IMAGE_KEY, "bytes")
    at, label_end = _feature(data, _LABEL, _INT64_LIST)
    label, at = _varint(data, at)
    if at != label_end:
        raise _without(LABEL_KEY, "a whole number")
    return memoryview(serialized)[begin:end], label


class _Open:
    """A file that is open as long as this object is held."""

    descriptor = -1

    def __init__(self, name: str) -> None:
        self.descriptor = os.open(name, os.O_RDONLY)  # no process inherits what Python opens

    def __del__(self) -> None:
        if self.descriptor >= 0:
            os.close(self.descriptor)

    def read(self, at: int, size: int) -> bytes:
        """The bytes from a place on, fewer at the end of the file."""
        data = os.pread(self.descriptor, size, at)
        # Network file systems may give a part.
        while len(data) < size and (
            more := os.pread(self.descriptor, size - len(data), at + len(data))
        ):
            data += more
        return data


def _without(key: str, value: str) -> ValueError:
    return ValueError(f"A record has no {key} that is one value, {value}: run ingestion again.")


def _damaged(name: str, at: int) -> ValueError:
    return ValueError(f"{name} is damaged or cut off at byte {at:,}: run ingestion again.")


def masked(checksum: int) -> bytes:
    """A CRC32C as TFRecords hold it: rotated and shifted."""
    return ((checksum >> 15 | checksum << 17) + 0xA282EAD8 & 0xFFFFFFFF).to_bytes(4, "little")


def checksum(data: bytes) -> bytes:
    """The CRC32C of a part of a TFRecord, as it stands behind it."""
    return masked(google_crc32c.value(data))


@compiled
def _varint(data, at):
    """A protocol buffer's integer and where it ends: behind the data where it is cut off."""
    value, shift = np.int64(0), np.int64(0)
    while at < len(data):
        byte = np.int64(data[at])
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
        shift += 7
    return value, len(data) + 1


@compiled
def _field(data, at):
    """Number of the field that begins there, and the range of its bytes or integer; 0 if it is cut
    off.
    """
    key, begin = _varint(data, at)
    kind, length = key & 7, np.int64(0)
    if kind == 0:
        length = _varint(data, begin)[1] - begin
    elif kind == 2:
        length, begin = _varint(data, begin)
    elif kind == 1 or kind == 5:
        length = np.int64(8 if kind == 1 else 4)
    else:  # groups, which no Example has
        length = np.int64(-1)
    if length < 0 or length > len(data) - begin:
        return np.int64(0), len(data), len(data)
    return key >> 3, begin, begin + length


@compiled
def _only(data, begin, end, number):
    """Range of the field of that number which is all of a message; an empty one for any other
    message.
    """
    if begin < end:
        found, inner, at = _field(data, begin)
        if found == number and at == end:
            return inner, end
    return end, end


@compiled
def _feature(data, name, kind):
    """Range of the one value of an Example's feature; an empty one for none, several, or another
    kind.
    """
    value = np.int64(0), np.int64(0)
    at = 0
    while at < len(data):
        number, entry, at = _field(data, at)
        while number == 1 and entry < at:
            _, begin, entry = _field(data, entry)
            key = key_end = feature = feature_end = begin
            while begin < entry:
                number_inside, inner, begin = _field(data, begin)
                if number_inside == 1:
                    key, key_end = inner, begin
                elif number_inside == 2:
                    feature, feature_end = inner, begin
            if key_end - key == len(name) and (data[key:key_end] == name).all():
                values, values_end = _only(data, feature, feature_end, kind)
                value = _only(data, values, values_end, 1)  # a later one replaces it
    return value
