"""Windows' and OS/2's BMPs, written by hand: PIL writes few of them."""

from __future__ import annotations

import struct

import numpy as np

from tests.helpers.corpus.recipes import Make, grey

_RGB, _RLE8, _RLE4, _FIELDS = 0, 1, 2, 3


def indexed(depth: int, os2: bool = False, top_down: bool = False) -> Make:
    """A maker of 2 ** depth colours that are no greys."""
    colours = np.random.default_rng(depth).integers(0, 256, [2**depth, 3]).astype(np.uint8)

    def make(picture: np.ndarray) -> bytes:
        indices = grey(picture) >> (8 - depth)
        bits = indices[..., None] >> np.arange(depth - 1, -1, -1) & 1
        rows = np.packbits(bits.reshape(len(picture), -1).astype(np.uint8), axis=1)
        palette = colours[:, ::-1] if os2 else np.pad(colours[:, ::-1], [(0, 0), (0, 1)])
        return _file(picture, rows, depth, palette.tobytes(), os2=os2, top_down=top_down)

    return make


def direct(
    depth: int, fields: tuple[int, ...] = (), os2: bool = False, top_down: bool = False
) -> Make:
    """A maker of 16, 24 or 32 bits a pixel; `fields` are the masks of red, green, blue and alpha."""

    def make(picture: np.ndarray) -> bytes:
        if depth == 16:
            green = 6 if fields and fields[1] == 0x7E0 else 5
            red, mid, blue = (picture[..., i].astype(np.uint16) for i in range(3))
            words = (red >> 3) << (5 + green) | (mid >> (8 - green)) << 5 | blue >> 3
            rows = words.astype("<u2").view(np.uint8).reshape(len(picture), -1)
        else:
            filled = (
                np.full_like(picture[..., :1], 128)
                if len(fields) == 4
                else np.zeros_like(picture[..., :1])
            )
            pixels = np.dstack([picture[..., ::-1], filled]) if depth == 32 else picture[..., ::-1]
            rows = np.ascontiguousarray(pixels).reshape(len(picture), -1)
        return _file(picture, rows, depth, b"", fields, os2, top_down)

    return make


def run_lengths(depth: int) -> Make:
    """A maker of RLE8 or RLE4: runs of one pixel each (of two for RLE4), an end behind each row."""
    colours = np.random.default_rng(depth + 50).integers(0, 256, [2**depth, 4]).astype(np.uint8)

    def make(picture: np.ndarray) -> bytes:
        rows = []
        for row in grey(picture)[::-1] >> (8 - depth):
            values = row if depth == 8 else row << 4 | row
            rows.append(b"".join(bytes([1, value]) for value in values) + b"\0\0")
        data = b"".join(rows) + b"\0\1"
        head = _info(picture, depth, _RLE8 if depth == 8 else _RLE4, len(data), 2**depth)
        return _whole(head + colours.tobytes(), data)

    return make


def _file(
    picture: np.ndarray, rows: np.ndarray, depth: int, palette: bytes, fields: tuple[int, ...] = (),
    os2: bool = False, top_down: bool = False,
) -> bytes:  # fmt: skip
    rows = np.pad(rows, [(0, 0), (0, -rows.shape[1] % 4)])
    data = (rows if top_down else rows[::-1]).tobytes()
    height, width, _ = picture.shape
    if os2:
        return _whole(struct.pack("<IHHHH", 12, width, height, 1, depth) + palette, data)
    kind = _FIELDS if fields else _RGB
    head = _info(
        picture,
        depth,
        kind,
        len(data),
        len(palette) // 4,
        top_down,
        108 if len(fields) == 4 else 40,
    )
    masks = b"".join(struct.pack("<I", mask) for mask in fields)
    if len(fields) == 4:  # inside of the header, with the colour space behind them
        masks += b"BGRs" + bytes(48)
    return _whole(head + masks + palette, data)


def _info(
    picture: np.ndarray, depth: int, kind: int, length: int, colours: int,
    top_down: bool = False, size: int = 40,
) -> bytes:  # fmt: skip
    height, width, _ = picture.shape
    sides = (width, -height if top_down else height)
    return struct.pack("<IiiHHIIiiII", size, *sides, 1, depth, kind, length, 2835, 2835, colours, 0)


def _whole(head: bytes, data: bytes) -> bytes:
    start = 14 + len(head)
    return b"BM" + struct.pack("<IHHI", start + len(data), 0, 0, start) + head + data
