"""The markers of a JPEG: which there are, what its headers say, and the file without its scans."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from models.pixels.compiled import compiled

_SOI, _SOS, _EOI = b"\xff\xd8", 0xDA, 0xD9
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
# Start-of-frame markers that TensorFlow's libjpeg decodes: baseline, extended, progressive.
HUFFMAN_FRAMES = frozenset((0xC0, 0xC1, 0xC2))
# Markers without a length behind them: none of them belongs between segments.
_BARE = frozenset((0x00, 0x01, 0xFF, *range(0xD0, 0xD9)))
_TABLES = frozenset((0xC4, 0xDB, 0xDD))
_NOTES = frozenset((*range(0xE0, 0xF0), 0xFE))
# The notes that decoders look at: JFIF's and Adobe's.
_COLOURS = (0xE0, 0xEE)
# The longest side that libjpeg takes.
MAX_SIDE = 65_500
# Two blocks of 8 pixels, so that every sampling factor up to 2 has its samples.
SIDE = 16
_SMALL = 2 * SIDE.to_bytes(2, "big")
# Bytes looked at together for a marker.
_BLOCK = 4096
_0, _D0, _F8, _FF = (np.uint8(number) for number in (0x00, 0xD0, 0xF8, 0xFF))


class Headers(NamedTuple):
    """What the headers of a JPEG say.

    Attributes:
      height, width, channels: of the frame.
      small: a JPEG of SIDE x SIDE pixels with all headers that matter to decoders and none of the
        entropy-coded bytes.
      plain: their frame is an RGB or grey Huffman-coded one of 8 bits, the only one.
    """

    height: int
    width: int
    channels: int
    small: bytes
    plain: bool


def read(data: bytes) -> Headers | None:
    """The headers of a JPEG that is whole: every scan and header is followed by a header or the
    image's end.

    Returns:
      None for anything else.
    """
    if not data.startswith(_SOI):
        return None
    # `start`: from where on the bytes before `at` belong to the small image, and are not in `kept`
    # yet.
    kept, start, at, plain, frame = [], 0, 2, False, b""
    while at + 4 <= len(data) and data[at] == 0xFF:
        marker, end = data[at + 1], at + 2 + (data[at + 2] << 8 | data[at + 3])
        if marker in _BARE or marker == _EOI or not at + 4 <= end <= len(data):
            return None
        if marker == _SOS:
            kept.append(data[start:end])
            start = end = _scan_end(np.frombuffer(data, np.uint8), end)
            if end < 0:
                return None
            if data[end + 1] == _EOI:
                kept.append(data[end : end + 2])
                return Headers(*_sides(frame), frame[9], b"".join(kept), plain) if frame else None
        elif marker in _FRAMES:
            first, frame = not frame, data[at:end]
            if len(frame) < 10 or max(_sides(frame)) > MAX_SIDE:
                return None
            plain = first and _plain_frame(frame)
            kept += data[start : at + 5], _SMALL
            start = at + 9
        elif marker in _NOTES:
            if marker not in _COLOURS:
                kept.append(data[start:at])
                start = end
        elif marker not in _TABLES:
            # Decoders skip it behind the empty scan of the small image, and refuse it behind a
            # whole one.
            return None
        at = end
    return None


def _sides(frame: bytes) -> tuple[int, int]:
    return int.from_bytes(frame[5:7], "big"), int.from_bytes(frame[7:9], "big")


def _plain_frame(frame: bytes) -> bool:
    shape_known = frame[1] in HUFFMAN_FRAMES and frame[4] == 8 and all(_sides(frame))
    return shape_known and frame[9] in (1, 3) and len(frame) == 10 + 3 * frame[9]


@compiled
def _scan_end(data, at):
    """Where the first marker from `at` on begins that is no stuffed byte and no restart; or -1.

    Compiled: NumPy would pass over all bytes several times.
    """
    while at < len(data) - 1:
        block = data[at : at + _BLOCK]
        following = data[at + 1 : at + _BLOCK + 1]
        ends = _0
        for i in range(len(following)):
            a, b = block[i], following[i]
            ends = max(ends, np.uint8((a == _FF) & (b != _0) & (b != _FF) & ((b & _F8) != _D0)))
        if ends:
            for i in range(len(following)):
                b = following[i]
                if block[i] == _FF and b != _0 and b != _FF and (b & _F8) != _D0:
                    return at + i
        at += _BLOCK
    return -1
