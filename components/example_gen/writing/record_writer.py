"""tf.Examples as TFRecords, of which the one large value is neither copied nor looked at twice.

protobuf and TensorFlow's writer would copy an image several times.
"""

from __future__ import annotations

import functools
import struct
from collections.abc import Mapping
from typing import BinaryIO

import google_crc32c
import tensorflow as tf

from models.data.records import checksum, masked

# Tags of length-delimited fields 1 and 2: Example.features, Features.feature, its entries' key and
# value, Feature.bytes_list and BytesList.value.
_FIELD_1, _FIELD_2 = b"\x0a", b"\x12"
# Bytes before a record, its length and the length's checksum, and behind it, its checksum.
HEAD, TAIL = 12, 4

# Longer values are not remembered.
_SHORT = 4096
# A serialized tf.Example: what comes before its large value, and that.
Parts = tuple[bytes, bytes]


def example(key: str, value: bytes, others: Mapping[str, bytes | int]) -> Parts:
    """A serialized tf.Example of a large feature and other ones.

    Args:
      key: of the large feature, in ASCII.
      value: its bytes; they are the second part.
      others: by key.
    """
    # Messages that follow each other are one: every feature has an Example of its own.
    head, size = b"", len(value)
    entry = _FIELD_1 + _varint(len(key)) + key.encode() + _FIELD_2
    for start in (_FIELD_1, _FIELD_1, entry, _FIELD_1, _FIELD_1):  # from the inside out
        start += _varint(size)
        head, size = start + head, size + len(start)
    return b"".join([*(_serialized(name, other) for name, other in others.items()), head]), value


def _serialized(key: str, value: bytes | int) -> bytes:
    # Labels and sides come again and again; whole files do not.
    large = isinstance(value, bytes) and len(value) > _SHORT
    return _small.__wrapped__(key, value) if large else _small(key, value)


@functools.lru_cache(maxsize=4096)
def _small(key: str, value: bytes | int) -> bytes:
    example = tf.train.Example()
    feature = example.features.feature[key]
    if isinstance(value, bytes):
        feature.bytes_list.value.append(value)
    else:
        feature.int64_list.value.append(value)
    return example.SerializeToString()


def _varint(number: int) -> bytes:
    groups = bytearray()
    while number > 0x7F:
        groups.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes((*groups, number))


def write(stream: BinaryIO, parts: Parts) -> int:
    """Appends a record of the joined parts to a TFRecord file; returns its length."""
    before, value = parts
    crc = google_crc32c.extend(google_crc32c.extend(0, before), value)
    size = len(before) + len(value)
    length = struct.pack("<Q", size)
    # Several at once are no gain: Linux takes new memory for large writes, which costs more
    # than calls.
    stream.write(length + checksum(length) + before)
    stream.write(value)
    stream.write(masked(crc))
    return size
