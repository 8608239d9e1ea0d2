"""JPEGs that are damaged, cut off, odd or dangerous."""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable

import numpy as np

from tests.helpers.corpus.jpeg import plain, segments, without
from tests.helpers.corpus.recipes import SMALL, Make, Recipe

_EOI = b"\xff\xd9"
# (component, Ss, Se, Ah/Al) of a refinement that finds nothing to refine.
_EMPTY_SCAN = b"\xff\xda\0\x08\x01\x01\0\x01\x05\0"


def scan(data: bytes) -> int:
    """Where the entropy-coded bytes begin."""
    return segments(data)[-1][2]


def cut(share: float, closed: bool = False, **options: object) -> Make:
    """A maker that keeps a share of the bytes of the scans; `closed` writes an end behind them."""

    def make(picture: np.ndarray) -> bytes:
        data = plain(picture, **options)
        begin = scan(data)
        return data[: begin + int(share * (len(data) - begin))] + (_EOI if closed else b"")

    return make


def flipped(seed: int, header: bool = False, **options: object) -> Make:
    """A maker that turns single bits: in the first scan, whose markers stay, or before it."""

    def make(picture: np.ndarray) -> bytes:
        data = bytearray(plain(picture, **options))
        begin = scan(bytes(data))
        end = re.compile(rb"\xff[^\0\xd0-\xd7]").search(data, begin)
        low, high = (2, begin) if header else (begin, end.start())
        rng = np.random.default_rng([seed, zlib.crc32(data)])
        for at in rng.integers(low, high, 1 if header else 3):
            changed = data[at] ^ 1 << int(rng.integers(8))
            if header or 0xFF not in (data[at - 1], data[at], changed):
                data[at] = changed
        return bytes(data)

    return make


def _emptied(picture: np.ndarray) -> bytes:
    """A lost block of a disk: zeros in the middle of the scan."""
    data = bytearray(plain(picture))
    middle = (scan(bytes(data)) + len(data)) // 2
    length = (len(data) - middle) // 2
    data[middle : middle + length] = bytes(length)
    return bytes(data)


def _restarts(change: Callable[[list[bytes]], list[bytes]]) -> Make:
    """A maker that changes the pieces of the scan, each but the first with its restart marker."""

    def make(picture: np.ndarray) -> bytes:
        data = plain(picture, restart_marker_blocks=3)
        begin = scan(data)
        pieces = re.split(rb"(?=\xff[\xd0-\xd7])", data[begin:-2])
        return data[:begin] + b"".join(change(pieces)) + _EOI

    return make


def _unfitting(picture: np.ndarray) -> bytes:
    """A frame that says twice the height."""
    return _frame_sides(plain(picture), 2 * len(picture), picture.shape[1])


def _frame_sides(data: bytes, height: int, width: int) -> bytes:
    at = next(begin for marker, begin, _ in segments(data) if marker in (0xC0, 0xC2))
    return data[: at + 5] + height.to_bytes(2, "big") + width.to_bytes(2, "big") + data[at + 9 :]


def _announcing(side: int, **options: object) -> Make:
    """A maker of a frame that says side x side pixels."""
    return lambda picture: _frame_sides(plain(picture, **options), side, side)


def _dnl(picture: np.ndarray) -> bytes:
    """The height is said behind the first scan."""
    data = _frame_sides(plain(picture), 0, picture.shape[1])
    return data[:-2] + b"\xff\xdc\0\x04" + len(picture).to_bytes(2, "big") + _EOI


def _empty_scans(number: int) -> Make:
    """Each costs a pass over all coefficients, and ten bytes."""

    def make(picture: np.ndarray) -> bytes:
        return plain(picture, progressive=True)[:-2] + number * _EMPTY_SCAN + _EOI

    return make


def _many_scans_of_many_pixels(picture: np.ndarray) -> bytes:
    """44 kB that take a decoder half a minute."""
    return _frame_sides(_empty_scans(4000)(picture), 9900, 9900)


def _changed(change: Callable[[bytes], bytes], **options: object) -> Make:
    return lambda picture: change(plain(picture, **options))


def _odd_marker(data: bytes) -> bytes:
    """A segment that no decoder knows, before the frame."""
    return data[:2] + b"\xff\xf3\0\x04ab" + data[2:]


def _between(data: bytes) -> bytes:
    """Bytes between two segments."""
    end = segments(data)[0][2]
    return data[:end] + b"garbage" + data[end:]


RECIPES: tuple[Recipe, ...] = (
    Recipe("JPEG with bytes behind its end", ".jpg", _changed(lambda data: data + b"garbage" * 40)),
    Recipe("JPEG with bytes behind its end", ".jpg", _changed(lambda data: data + bytes(4096)), [SMALL]),
    Recipe("JPEG with bytes behind its end", ".jpg", _changed(lambda data: data + data), [SMALL]),
    Recipe("JPEG with bytes before its start", ".jpg", _changed(lambda data: b"\n" + data), [SMALL]),
    Recipe("JPEG with bytes between segments", ".jpg", _changed(_between), [SMALL]),
    Recipe("JPEG with an unknown marker", ".jpg", _changed(_odd_marker), [SMALL]),
    *(Recipe("JPEG truncated", ".jpg", cut(share)) for share in (0.3, 0.7, 0.95)),
    *(Recipe("JPEG truncated", ".jpg", cut(share, progressive=True)) for share in (0.3, 0.95)),
    Recipe("JPEG truncated", ".jpg", lambda picture: plain(picture)[:300], [SMALL]),
    Recipe("JPEG truncated", ".jpg", lambda picture: plain(picture)[:4], [SMALL]),
    *(Recipe("JPEG truncated and closed", ".jpg", cut(share, closed=True)) for share in (0.3, 0.95)),
    Recipe("JPEG truncated and closed", ".jpg", cut(0.5, closed=True, progressive=True)),
    Recipe("JPEG without its end", ".jpg", _changed(lambda data: data[:-2])),
    Recipe("JPEG without its end", ".jpg", _changed(lambda data: data[:-1]), [SMALL]),
    Recipe("JPEG without its end", ".jpg", _changed(lambda data: data[:-2], progressive=True)),
    *(Recipe("JPEG bit flips in the scan", ".jpg", flipped(seed)) for seed in range(6)),
    *(Recipe("JPEG bit flips in the scan", ".jpg", flipped(seed, progressive=True)) for seed in range(4)),
    *(Recipe("JPEG bit flips in the headers", ".jpg", flipped(seed, True), [SMALL]) for seed in range(16)),
    Recipe("JPEG with a lost block", ".jpg", _emptied),
    Recipe("JPEG odd restart markers", ".jpg", _restarts(lambda pieces: [*pieces[:5], *pieces[6:]])),
    Recipe("JPEG odd restart markers", ".jpg", _restarts(lambda p: [*p[:5], p[6], p[5], *p[7:]])),
    Recipe("JPEG odd restart markers", ".jpg", _restarts(lambda p: [*p[:5], p[5][2:], *p[6:]])),
    Recipe("JPEG of less data than its height", ".jpg", _unfitting),
    Recipe("JPEG height behind the scan", ".jpg", _dnl, [SMALL]),
    Recipe("JPEG without Huffman tables", ".jpg", _changed(lambda data: without(data, 0xC4)), [SMALL]),
    Recipe("JPEG without quantisation tables", ".jpg", _changed(lambda data: without(data, 0xDB)), [SMALL]),
    Recipe("JPEG of few empty scans", ".jpg", _empty_scans(20)),
    Recipe("JPEG of many empty scans", ".jpg", _empty_scans(2000), [SMALL]),
    Recipe("JPEG of too many scans", ".jpg", _many_scans_of_many_pixels, [SMALL]),
    Recipe("JPEG of too many pixels", ".jpg", _announcing(65_000), [SMALL]),
    Recipe("JPEG of too many pixels", ".jpg", _announcing(20_000, progressive=True), [SMALL]),
    Recipe("JPEG of no pixels", ".jpg", lambda p: _frame_sides(plain(p), 51, 0), [SMALL]),
)  # fmt: skip
