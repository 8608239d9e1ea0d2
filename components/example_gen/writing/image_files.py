"""Makes every image a JPEG or PNG that TensorFlow decodes, or says why it cannot be used.

All by content, never by name. What is a JPEG or PNG passes byte for byte where TensorFlow decodes
it, of whatever colours: so the SavedModel, which takes the same two formats, sees the same pixels.
BMP, GIF, WebP, AVIF and HEIC become PNGs without loss: the first frame, upright, its transparency
dropped. docs/pixels.md has the rules.
"""

from __future__ import annotations

import functools
import io
import re
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import pillow_heif
from PIL import AvifImagePlugin, ImageOps, WebPImagePlugin
from PIL import Image as Pil

from components.example_gen.errors import BadImage
from components.example_gen.writing import jpeg_headers

# PIL opens a plugin's format by name only once its module is imported.
assert WebPImagePlugin and AvifImagePlugin
# What is converted: no format whose decoder starts other programs (EPS) or has no bound (TIFF).
_CONVERTED = ("GIF", "BMP", "WEBP", "AVIF", "HEIF")
pillow_heif.register_heif_opener()
_GREY = ("1", "L", "LA", "La")
# The model refuses more (models.pixels.decoding), whatever `data.max_pixels` is.
_PIXELS = 100_000_000
# Bytes times pixels: below it no JPEG has too many scans (models.pixels.decoding), and none are
# counted.
_LIGHT = 50_000_000_000
# Bytes of headers that are worth remembering.
_SHORT = 4096


class Image(NamedTuple):
    """`encoded` is a JPEG or PNG of `height` x `width` pixels and 1 (grey) or 3 (RGB) `channels`.

    `source_format`: what it was, such as GIF. `original`: the file as it came, b"" where that is
    `encoded`. `deepest`: of 16 bits a channel, the largest value; 0 for 8 bits.
    """

    encoded: bytes
    format: str
    height: int
    width: int
    channels: int
    source_format: str
    original: bytes = b""
    deepest: int = 0


def normalize(data: bytes, max_pixels: int) -> Image:
    """The image as a JPEG or PNG that TensorFlow decodes.

    Args:
      data: the file as it came.
      max_pixels: images with more are refused from their header, before any is decoded.

    Raises:
      BadImage: truncated, empty, not an image or too large.
    """
    if not data:
        raise BadImage("the file is empty")
    max_pixels = min(max_pixels, _PIXELS)
    if data.startswith(b"\xff\xd8\xff"):
        return _jpeg(data, max_pixels)
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return _png(data, max_pixels)
    try:
        with warnings.catch_warnings():
            # About broken EXIF, and sizes that PIL finds large: ours is checked right after the
            # header.
            warnings.simplefilter("ignore")
            return _converted(data, max_pixels)
    except BadImage:
        raise
    except Pil.UnidentifiedImageError:
        raise BadImage(_decoding().NO_IMAGE) from None
    except Pil.DecompressionBombError:
        raise BadImage(f"more pixels than data.max_pixels={max_pixels}") from None
    except MemoryError:
        raise  # the machine's trouble, not the image's
    except (
        Exception
    ) as error:  # decoders raise anything on damaged input; it is reported, not hidden
        raise BadImage(f"does not decode: {error}".replace("\n", " ")) from error


def _decoding() -> Any:
    # Slow to import, and most sources have none but plain JPEGs.
    from models.pixels import decoding

    return decoding


def _jpeg(data: bytes, max_pixels: int) -> Image:
    headers = jpeg_headers.read(data)
    if headers is not None and headers.plain:
        _check_size(headers.height, headers.width, max_pixels)
        if len(data) * headers.height * headers.width < _LIGHT and _decode(headers):
            return Image(data, "JPEG", headers.height, headers.width, headers.channels, "JPEG")
    import tensorflow as tf

    height, width, channels = _asked(lambda: tf.io.extract_jpeg_shape(data).numpy().tolist())
    _check_size(height, width, max_pixels)
    _decodes(data)
    return Image(data, "JPEG", height, width, 1 if channels == 1 else 3, "JPEG")


def _png(data: bytes, max_pixels: int) -> Image:
    header = data[16:26].ljust(10, b"\0")
    width, height = (int.from_bytes(header[at : at + 4], "big") for at in (0, 4))
    depth, kind = header[8:]
    _check_size(height, width, max_pixels)
    if _grows(data):
        raise BadImage(
            "is damaged or cut off: a part of the PNG announces more bytes than there are"
        )
    _decodes(data)
    channels, deepest = 1 if kind in (0, 4) else 3, 0
    if depth == 16:
        import tensorflow as tf

        deepest = int(tf.io.decode_png(data, dtype=tf.uint16).numpy()[..., :channels].max())
    return Image(data, "PNG", height, width, channels, "PNG", deepest=deepest)


def _grows(data: bytes) -> bool:
    """Whether a part of a PNG announces far more bytes than there are: libpng allocates all."""
    at = 8
    while at + 8 <= len(data) and data[at + 4 : at + 8] != b"IEND":
        length = int.from_bytes(data[at : at + 4], "big")
        if at + length > len(data) + 2**20 and data[at + 4 : at + 8] != b"IDAT":
            return True
        at += 12 + length
    return False


def _check_size(height: int, width: int, max_pixels: int) -> None:
    if height * width > max_pixels:
        raise BadImage(f"{width} x {height} pixels, more than data.max_pixels={max_pixels}")


def _decodes(data: bytes) -> None:
    """Lets TensorFlow decode a JPEG or PNG, as the SavedModel will."""
    decoding = _decoding()
    _asked(lambda: decoding.decode(data))


def _asked(decode: Callable[[], Any]) -> Any:
    import tensorflow as tf

    try:
        return decode()
    except tf.errors.ResourceExhaustedError:
        raise  # the machine's trouble, not the image's
    except tf.errors.OpError as error:
        # Of a failed rule the rule, of a decoder what it says, without the names of operations.
        rule = re.search(r"Summarized data: b'(.*?)'", error.message, re.DOTALL)
        said = re.sub(r"\{\{.*?\}\} ?| ?\[Op:.*", "", error.message, flags=re.DOTALL)
        raise BadImage(rule[1] if rule else f"is damaged or cut off: {said.strip()}") from None


def _decode(headers: jpeg_headers.Headers) -> bool:
    """Whether the headers decode of a JPEG whose every scan ends at a marker, the last at its end.

    No decoder refuses such a file: libjpeg (TensorFlow's and PIL's) takes any bits of a scan for a
    picture and only warns. Decoding every image to find damage found no more, in four fifths of the
    ingestion's time.
    """
    look = _known_tables if len(headers.small) <= _SHORT else _tables_decode
    return look(headers.small, "L" if headers.channels == 1 else "RGB")


def _tables_decode(small: bytes, mode: str) -> bool:
    # PIL's decoder alone: its `open` and `load` would read the headers once again.
    try:
        Pil.frombytes(mode, (jpeg_headers.SIDE, jpeg_headers.SIDE), small, "jpeg", mode, "")
    except ValueError:
        return False
    return True


# Many files have the same tables: all of one quality that were written without optimisation.
_known_tables = functools.lru_cache(maxsize=256)(_tables_decode)


def _converted(data: bytes, max_pixels: int) -> Image:
    picture: Pil.Image = Pil.open(io.BytesIO(data), formats=_CONVERTED)
    width, height = picture.size
    _check_size(height, width, max_pixels)
    source_format, grey = str(picture.format), picture.mode in _GREY
    picture = ImageOps.exif_transpose(picture).convert("L" if grey else "RGB")
    picture.info.clear()  # EXIF is done with; profiles and transparency are not applied
    out = io.BytesIO()
    picture.save(out, "PNG", compress_level=1)
    return Image(
        out.getvalue(), "PNG", picture.height, picture.width, 1 if grey else 3, source_format, data
    )
