"""tf.Examples as TFRecords, of which the one large value is neither copied nor looked at twice.

protobuf and TensorFlow's writer would copy an image several times.
"""

from __future__ import annotations

import functools
import struct
from collections.abc import Mapping
from types import TracebackType

import google_crc32c
import tensorflow as tf

from components import files
from models.data.records import checksum, masked

# Tags of length-delimited fields 1 and 2: Example.features, Features.feature, its entries' key and
# value, Feature.bytes_list and BytesList.value.
_FIELD_1, _FIELD_2 = b"\x0a", b"\x12"

# Longer values are not remembered.
_SHORT = 4096
# A serialized tf.Example: what comes before its large value, that, and the rest.
Parts = tuple[bytes, bytes, bytes]


def example(key: str, value: bytes, others: Mapping[str, bytes | int]) -> Parts:
    """A serialized tf.Example of a large feature and other ones.

    Returns:
      Three parts, the second of which is `value` itself; together they are what
      `SerializeToString(deterministic=True)` gives, with the features in the order of their keys.
    """
    names = sorted(others)
    before = b"".join([_feature(name, others[name]) for name in names if name < key])
    after = b"".join([_feature(name, others[name]) for name in names if name > key])
    head, size = b"", len(value)
    for start in (_FIELD_1, _FIELD_1, _field(_FIELD_1, key.encode()) + _FIELD_2, _FIELD_1):
        start += _varint(size)
        head, size = start + head, size + len(start)
    return (
        b"".join((_FIELD_1, _varint(size + len(before) + len(after)), before, head)),
        value,
        after,
    )


def _feature(key: str, value: bytes | int) -> bytes:
    # Labels and sides come again and again; whole files do not.
    large = isinstance(value, bytes) and len(value) > _SHORT
    return _serialized(key, value) if large else _known(key, value)


def _serialized(key: str, value: bytes | int) -> bytes:
    features = tf.train.Features()
    if isinstance(value, bytes):
        features.feature[key].bytes_list.value.append(value)
    else:
        features.feature[key].int64_list.value.append(value)
    return features.SerializeToString()


_known = functools.lru_cache(maxsize=4096)(_serialized)


def _field(tag: bytes, content: bytes) -> bytes:
    return tag + _varint(len(content)) + content


def _varint(number: int) -> bytes:
    groups = bytearray()
    while number > 0x7F:
        groups.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes((*groups, number))


class Writer:
    """Writes TFRecords to a file; a context manager."""

    def __init__(self, path: str) -> None:
        self._stream = files.open_write(path)
        self._stream.write(b"")  # a remote file that is never written to is not there

    def __enter__(self) -> Writer:
        return self

    def __exit__(
        self, kind: type | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stream.close()

    def write(self, parts: Parts) -> int:
        """Appends a record of the joined parts; returns its length."""
        crc = 0
        for part in parts:
            crc = google_crc32c.extend(crc, part)
        before, value, after = parts
        size = len(before) + len(value) + len(after)
        length = struct.pack("<Q", size)
        # Several at once are no gain: Linux takes new memory for large writes, which costs more
        # than calls.
        self._stream.write(length + checksum(length) + before)
        self._stream.write(value)
        self._stream.write(after + masked(crc))
        return size
