"""Makes every image a JPEG that TensorFlow decodes, or says why it cannot be used.

All by content, never by name. An RGB or grey Huffman-coded JPEG passes byte for
byte. Everything else that can be decoded becomes an RGB or grey JPEG of quality
95 without chroma subsampling: CMYK and YCCK JPEGs, PNGs, GIFs, BMPs and WebPs
(transparency is dropped, as TensorFlow's decoders do). EXIF, broken or not, is
left alone, and its rotation is not applied: ImageNet's images are used as stored.
"""

from __future__ import annotations

import functools
import io
import os
import warnings
from typing import NamedTuple

import numpy as np
from PIL import Image as Pil
from PIL import ImageChops, WebPImagePlugin

from components.example_gen import jpeg_headers

QUALITY = 95
FORMAT = "JPEG"
# PIL opens a plugin's format by name only once its module is imported.
assert WebPImagePlugin
# No format whose decoder starts other programs (EPS) or has no bound (TIFF).
_FORMATS = ("JPEG", "PNG", "GIF", "BMP", "WEBP")
_GREY = ("1", "L", "LA", "La", "I", "I;16", "I;16B", "I;16L", "I;16N")
# Twice as many are a bomb to PIL, whatever `data.max_pixels` is.
_PIXELS = 89_478_485
# Bytes of headers that are worth remembering.
_SHORT = 4096


class BadImage(ValueError):
    """An image that cannot be used; the message is the reason."""


class Image(NamedTuple):
    """`encoded` is a JPEG of `height` x `width` pixels and 1 (grey) or 3 (RGB) `channels`.

    `source_format`: what it was, such as PNG.
    """

    encoded: bytes
    format: str
    height: int
    width: int
    channels: int
    converted: bool
    source_format: str


def named_like_image(name: str) -> bool:
    """True when the suffix is one of the formats that are read; for files that lie where no image should."""
    return Pil.registered_extensions().get(os.path.splitext(name)[1].lower()) in _FORMATS


def normalize(data: bytes, max_pixels: int) -> Image:
    """The image as a JPEG that decodes.

    Args:
      data: the file as it came.
      max_pixels: images with more are refused from their header, before any is decoded.

    Raises:
      BadImage: truncated, empty, not an image or too large.
    """
    if not data:
        raise BadImage("the file is empty")
    headers = jpeg_headers.read(data)
    whole = headers is not None and _decode(headers)
    if headers is not None and whole and headers.plain:
        height, width = headers.height, headers.width
        if height * width <= min(max_pixels, _PIXELS):
            return Image(data, FORMAT, height, width, headers.channels, False, FORMAT)
    try:
        with warnings.catch_warnings():
            # About broken EXIF, and sizes that PIL finds large: ours is checked right after the header.
            warnings.simplefilter("ignore")
            return _look(data, max_pixels, whole)
    except BadImage:
        raise
    except Pil.UnidentifiedImageError:
        raise BadImage("not an image of a known format") from None
    except Pil.DecompressionBombError:
        raise BadImage(f"more pixels than data.max_pixels={max_pixels}") from None
    except MemoryError:
        raise  # the machine's trouble, not the image's
    except Exception as error:  # decoders raise anything on damaged input; it is reported, not hidden
        raise BadImage(f"does not decode: {error}".replace("\n", " ")) from error


def _decode(headers: jpeg_headers.Headers) -> bool:
    """Whether the headers of a JPEG decode whose every scan ends at a marker, the last at the image's end.

    No decoder refuses such a file: libjpeg (TensorFlow's and PIL's) takes any bits of a scan for a picture
    and only warns. Decoding every image to find damage found no more, in four fifths of the ingestion's time.
    """
    look = _known_tables if len(headers.small) <= _SHORT else _tables_decode
    return look(headers.small, "L" if headers.channels == 1 else "RGB")


def _tables_decode(small: bytes, mode: str) -> bool:
    # PIL's decoder alone: its `open` and `load` would take 20 us more to read the headers once again.
    try:
        Pil.frombytes(mode, (jpeg_headers.SIDE, jpeg_headers.SIDE), small, "jpeg", mode, "")
    except ValueError:
        return False
    return True


# Many files have the same tables: all of one quality that were written without optimisation.
_known_tables = functools.lru_cache(maxsize=256)(_tables_decode)


def _look(data: bytes, max_pixels: int, whole: bool) -> Image:
    """`normalize` for what PIL must look at; `whole`: a JPEG of which no decoder refuses a scan."""
    picture = Pil.open(io.BytesIO(data), formats=_FORMATS)
    width, height = picture.size
    if width * height > max_pixels:
        raise BadImage(f"{width} x {height} pixels, more than data.max_pixels={max_pixels}")
    if max(width, height) > jpeg_headers.MAX_SIDE:
        raise BadImage(f"{width} x {height} pixels: no JPEG has a side of more than {jpeg_headers.MAX_SIDE}")
    if _passes(picture, data):
        channels = 1 if picture.mode == "L" else 3
        if not whole:
            _check_decodes(picture, data)
        return Image(data, FORMAT, height, width, channels, False, FORMAT)
    channels = 1 if picture.mode in _GREY else 3
    # MPO: a JPEG with further pictures behind the first.
    source_format = FORMAT if picture.format == "MPO" else str(picture.format)
    return Image(_convert(picture), FORMAT, height, width, channels, True, source_format)


def _passes(picture: Pil.Image, data: bytes) -> bool:
    return (
        picture.format in ("JPEG", "MPO")
        and picture.mode in ("L", "RGB")
        and jpeg_headers.frame_marker(data) in jpeg_headers.HUFFMAN_FRAMES
    )


def _check_decodes(picture: Pil.Image, data: bytes) -> None:
    """Decodes at an eighth of the size: reads all of the stream, skips most of the arithmetic."""
    picture.draft(picture.mode, (max(picture.width // 8, 1), max(picture.height // 8, 1)))
    picture.load()
    # PIL is content when it has all pixels; TensorFlow wants the end of the stream as well.
    import tensorflow as tf  # rarely needed here, and slow to import

    try:
        tf.io.decode_jpeg(data, ratio=8)
    except tf.errors.InvalidArgumentError:
        raise BadImage("does not decode: what follows its last pixel is damaged") from None


def _convert(picture: Pil.Image) -> bytes:
    if picture.mode == "CMYK" and "adobe" not in picture.info:
        # PIL takes every CMYK JPEG for Adobe's inverted kind.
        picture = ImageChops.invert(picture)
    if picture.mode.startswith("I"):
        # 16 bit; PIL would clip at 255 instead of scaling.
        pixels = np.asarray(picture) >> 8
        picture = Pil.fromarray(pixels.clip(0, 255, out=pixels).astype(np.uint8))
    picture = picture.convert("L" if picture.mode in _GREY else "RGB")
    out = io.BytesIO()
    picture.save(out, FORMAT, quality=QUALITY, subsampling=0)
    return out.getvalue()
