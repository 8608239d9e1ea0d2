"""What a request may ask of the decoder, checked before anything is decoded."""

from __future__ import annotations

import contextlib
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
    if not value.startswith(b"\x89PNG\r\n\x1a\n"):
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


def pixels_of(value: bytes) -> int:
    """Pixels of an encoded image, all frames together; 0 for what is none."""
    return announced(value)[0]


def announced(value: bytes) -> tuple[int, int]:
    """Pixels of an encoded image, all frames together, and how often the decoder goes over them.

    Headers are read as TensorFlow's decoders read them: what another library refuses, they may
    decode.

    Returns:
      (0, 1) for what is no image, which the model will say.
    """
    with contextlib.suppress(struct.error):  # cut off
        if value.startswith(b"\xff\xd8\xff"):
            return _jpeg(value)
        if value.startswith(b"\x89PNG\r\n\x1a\n"):
            width, height = struct.unpack_from(">II", value, 16)
            return width * height, 1
        if value.startswith(b"BM"):
            return _bmp_pixels(value), 1
        if value.startswith(b"GIF8"):
            return _gif_pixels(value), 1
        if value.startswith(b"RIFF") and value[8:12] == b"WEBP":
            return _webp_pixels(value), 1
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


def _bmp_pixels(value: bytes) -> int:
    width, height = struct.unpack_from("<ii", value, 18)
    pixels = abs(width * height)
    # OS/2's header has sides of 16 bits. TensorFlow knows none of it, and decodes nothing that is
    # not whole.
    if pixels > len(value) and struct.unpack_from("<I", value, 14)[0] == 12:
        width, height = struct.unpack_from("<HH", value, 18)
        return width * height
    return pixels


def _gif_pixels(value: bytes) -> int:
    """A frame takes its own pixels, and those of the whole picture when it is shown."""
    *sides, flags = struct.unpack_from("<HHB", value, 6)
    screen, pixels, at = sides[0] * sides[1], 0, 13 + _table(flags)
    while at < len(value) and value[at] in b"!,":
        if value[at] == ord(","):
            if len(value) < at + 10:
                break
            *sides, flags = struct.unpack_from("<HHB", value, at + 5)
            pixels += max(sides[0] * sides[1], screen)
            at += 11 + _table(flags)
        else:
            at += 2
        while at < len(value) and value[at]:
            at += value[at] + 1
        at += 1
    return max(pixels, screen)


def _table(flags: int) -> int:
    """Bytes of a GIF's table of colours."""
    return 3 << ((flags & 7) + 1) if flags & 0x80 else 0


def _webp_pixels(value: bytes) -> int:
    kind = value[12:16]
    if kind == b"VP8L":
        bits = struct.unpack_from("<I", value, 21)[0]
        return ((bits & 0x3FFF) + 1) * ((bits >> 14 & 0x3FFF) + 1)
    if kind == b"VP8 ":
        width, height = struct.unpack_from("<HH", value, 26)
        return (width & 0x3FFF) * (height & 0x3FFF)
    if kind == b"VP8X":
        width, height = (int.from_bytes(value[at : at + 3], "little") + 1 for at in (24, 27))
        return width * height * max(value.count(b"ANMF"), 1)
    return 0
