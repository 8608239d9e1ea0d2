"""The markers of a JPEG: which there are, and the file without its scans."""

from __future__ import annotations

import numpy as np

_SOS, _EOI = 0xDA, 0xD9
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
# Markers without a length behind them: none of them belongs between segments.
_BARE = frozenset((0x00, 0x01, 0xFF, *range(0xD0, 0xD9)))
# The longest side that libjpeg takes.
_MAX_SIDE = 65_500
# Two blocks of 8 pixels, so that every sampling factor up to 2 has its samples.
_SMALL = (16).to_bytes(2, "big")


def frame_marker(data: bytes) -> int:
    """The JPEG's start-of-frame marker (0xC0 baseline, 0xC2 progressive, ...)."""
    at = 2
    while at + 4 <= len(data):
        if data[at] != 0xFF:  # garbage between segments is skipped, as libjpeg does
            at += 1
            continue
        marker = data[at + 1]
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            return marker
        if marker == 0xFF or marker == 0x00 or marker == 0x01 or 0xD0 <= marker <= 0xD8:
            at += 1 if marker == 0xFF else 2
            continue
        at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    return 0


def without_scans(data: bytes) -> bytes | None:
    """A JPEG of 16 x 16 pixels with all headers of `data` and none of its entropy-coded bytes.

    Returns:
      None where something else than a header follows a scan or a header, or the image does not end.
    """
    kept, at = [data[:2]], 2
    markers = _markers(data)
    while at + 4 <= len(data) and data[at] == 0xFF:
        marker = data[at + 1]
        if marker in _BARE or marker == _EOI:
            return None
        end = at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")
        segment = data[at:end]
        if marker in _FRAMES:
            if len(segment) < 9 or max(_sides(segment)) > _MAX_SIDE:
                return None
            segment = segment[:5] + 2 * _SMALL + segment[9:]
        kept.append(segment)
        if marker == _SOS:
            following = np.searchsorted(markers, end)
            if following == len(markers):
                return None
            end = int(markers[following])
            if data[end + 1] == _EOI:
                return b"".join([*kept, data[end : end + 2]])
        at = end
    return None


def _sides(frame: bytes) -> tuple[int, int]:
    return int.from_bytes(frame[5:7], "big"), int.from_bytes(frame[7:9], "big")


def _markers(data: bytes) -> np.ndarray:
    """Where a marker begins that would end a scan: neither a stuffed byte nor a restart marker."""
    values = np.frombuffer(data, np.uint8)
    at = np.flatnonzero(values[:-1] == 0xFF)
    following = values[at + 1]
    return at[(following != 0) & (following != 0xFF) & ((following < 0xD0) | (following > 0xD7))]
