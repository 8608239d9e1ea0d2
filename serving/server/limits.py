"""What a request may ask of the decoder, checked before anything is decoded."""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Mapping

import numpy as np
from PIL import Image

from serving.server.errors import invalid

# First bytes of the formats that TensorFlow decodes.
_MAGIC = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF8", b"BM")
_FORMATS = ("JPEG", "PNG", "GIF", "BMP")


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
        pixels = _pixels(value)
        if pixels > self.max_pixels:
            raise invalid(
                f"{where}: an image of {pixels} pixels is larger than {self.max_pixels} (--max_image_pixels)"
            )


def _pixels(value: bytes) -> int:
    """Pixels of an encoded image, all frames together; 0 for what is none, which the model will say."""
    if not value.startswith(_MAGIC):
        return 0
    try:
        with Image.open(io.BytesIO(value), formats=_FORMATS) as image:
            frames = getattr(image, "n_frames", 1) if image.format == "GIF" else 1
            return image.width * image.height * frames
    except Image.DecompressionBombError:
        return 2 * (Image.MAX_IMAGE_PIXELS or 2**31) + 1
    except (OSError, ValueError, SyntaxError, EOFError):
        return 0
