"""What a request may ask of the decoder, checked before anything is decoded."""

from __future__ import annotations

import contextlib
import dataclasses
import struct
from collections.abc import Iterable, Mapping

import numpy as np
import simplejpeg
import tensorflow as tf
from google.protobuf.message import DecodeError

from serving.server.errors import invalid


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
            raise invalid(f"{where}: {len(value)} bytes are more than {self.max_bytes} (--max_image_bytes)")
        for image in _images(value):
            pixels = pixels_of(image)
            if pixels > self.max_pixels:
                raise invalid(
                    f"{where}: an image of {pixels} pixels is larger than {self.max_pixels} "
                    "(--max_image_pixels)"
                )


def _images(value: bytes) -> Iterable[bytes]:
    """What may be an image: the value, or the values in it where it is a tf.Example."""
    if pixels_of(value):
        return [value]
    try:
        features = tf.train.Example.FromString(value).features.feature
    except DecodeError:
        return []
    return [part for feature in features.values() for part in feature.bytes_list.value]


def pixels_of(value: bytes) -> int:
    """Pixels of an encoded image, all frames together; 0 for what is none, which the model will say.

    Headers are read as TensorFlow's decoders read them: what another library refuses, they may decode.
    """
    with contextlib.suppress(struct.error, ValueError, KeyError):  # cut off, or of no known colours
        if value.startswith(b"\xff\xd8\xff"):
            height, width, *_ = simplejpeg.decode_jpeg_header(value, strict=False)
            return height * width
        if value.startswith(b"\x89PNG\r\n\x1a\n"):
            width, height = struct.unpack_from(">II", value, 16)
            return width * height
        if value.startswith(b"BM"):
            width, height = struct.unpack_from("<ii", value, 18)
            return abs(width * height)
        if value.startswith(b"GIF8"):
            return _gif_pixels(value)
        if value.startswith(b"RIFF") and value[8:12] == b"WEBP":
            return _webp_pixels(value)
    return 0


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
