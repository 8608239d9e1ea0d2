"""What a request may ask of the decoders of JPEG and PNG, checked before anything is decoded.

The models of this project take no other formats.
"""

from __future__ import annotations

import dataclasses
import re
import struct
from collections.abc import Mapping
from typing import TypeVar

import numpy as np
import tensorflow as tf
from google.protobuf.message import DecodeError

from serving.server.rpc_errors import invalid

# A decoder goes over all pixels for each scan of a JPEG. An image of 100 million pixels may have 50
# scans, encoders write 10 or so.
MAX_PIXEL_SCANS = 5_000_000_000
# Parts of a JPEG. 50 MB of colour profiles and notes are 800; each takes time to look at.
MAX_SEGMENTS = 20_000
# A JPEG's next marker that has a length behind it, or ends the image: fill bytes, stuffed bytes and
# restarts are passed over as libjpeg does.
_MARKER = re.compile(rb"\xff([^\x00\x01\xd0-\xd7\xff])", re.DOTALL)
# What a part of a PNG may announce beyond the end, in bytes: the decoder says what is wrong then.
_CUT = 2**20
_JPEG, _PNG = b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n"
_EOI, _SOS = 0xD9, 0xDA
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}


_Message = TypeVar("_Message", tf.train.Example, tf.train.SequenceExample)


@dataclasses.dataclass(frozen=True)
class Limits:
    """Most bytes of a string, and most pixels that the header of an encoded image may announce."""

    max_bytes: int
    max_pixels: int

    def check(self, inputs: Mapping[str, np.ndarray]) -> None:
        """Raises ServingError (INVALID_ARGUMENT) for the first value that is too large."""
        for name, array in inputs.items():
            if array.dtype == object:
                for row, value in enumerate(array.flat):
                    self._check(f"Input {name}, row {row}", value)

    def _check(self, where: str, value: bytes) -> None:
        if len(value) > self.max_bytes:
            raise invalid(
                f"{where}: {len(value)} bytes are more than {self.max_bytes} (--max_image_bytes)"
            )
        # The bytes of an example may begin as an image does: which of them it is, the model
        # decides.
        for image in (value, *_inner_images(value)):
            if _grows(image):
                raise invalid(
                    f"{where}: a part of the PNG announces more bytes than there are: send the"
                    " whole file, or save it anew"
                )
            pixels, scans = announced(image)
            if pixels > self.max_pixels:
                raise invalid(
                    f"{where}: an image of {pixels} pixels is larger than {self.max_pixels} "
                    "(--max_image_pixels)"
                )
            if pixels * scans > MAX_PIXEL_SCANS or scans > MAX_SEGMENTS:
                raise invalid(
                    f"{where}: a JPEG of {pixels} pixels in {scans} scans is too much work: save it"
                    " with fewer scans, or as a baseline JPEG"
                )


def _grows(value: bytes) -> bool:
    """Whether a part of a PNG announces more bytes than there are: libpng allocates all of them."""
    if not value.startswith(_PNG):
        return False
    at = 8
    while at + 8 <= len(value) and value[at + 4 : at + 8] != b"IEND":
        length = int.from_bytes(value[at : at + 4], "big")
        # Pixels it reads piece by piece.
        if at + length > len(value) + _CUT and value[at + 4 : at + 8] != b"IDAT":
            return True
        at += 12 + length
    return False


def _inner_images(value: bytes) -> list[bytes]:
    """The byte strings in a tf.Example or tf.SequenceExample; none where it is neither."""
    example = _parsed(tf.train.Example, value)
    if example is None:
        return []
    features = [*example.features.feature.values()]
    sequence = _parsed(tf.train.SequenceExample, value)
    for steps in sequence.feature_lists.feature_list.values() if sequence else ():
        features.extend(steps.feature)
    return [part for feature in features for part in feature.bytes_list.value]


def _parsed(kind: type[_Message], value: bytes) -> _Message | None:
    try:
        return kind.FromString(value)
    except DecodeError:
        return None


def announced(value: bytes) -> tuple[int, int]:
    """Pixels of a JPEG or PNG, and how often the decoder goes over them.

    Headers are read as TensorFlow's decoders read them: what another library refuses, they may
    decode.

    Returns:
      (0, 1) for anything else, which the model will say.
    """
    if value.startswith(_JPEG):
        return _jpeg(value)
    if value.startswith(_PNG) and len(value) >= 24:
        width, height = struct.unpack_from(">II", value, 16)
        return width * height, 1
    return 0, 1


def _jpeg(value: bytes) -> tuple[int, int]:
    """Pixels and scans of a JPEG; more than MAX_SEGMENTS scans where it has more segments."""
    pixels, scans, at = 0, 0, 2
    for _ in range(MAX_SEGMENTS):
        found = _MARKER.search(value, at)
        if not found or found[1][0] == _EOI:
            return pixels, max(scans, 1)
        at = found.end()
        if found[1][0] == _SOS:
            scans += 1
        elif found[1][0] in _FRAMES:
            height, width = _number(value, at + 3), _number(value, at + 5)
            pixels = max(pixels, height * width)
        at += _number(value, at)
    return pixels, MAX_SEGMENTS + 1


def _number(value: bytes, at: int) -> int:
    """16 bits of a JPEG; less where it is cut off, which must not hide what came before."""
    return int.from_bytes(value[at : at + 2], "big")
