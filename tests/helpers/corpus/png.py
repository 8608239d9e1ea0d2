"""PNGs of every colour type and depth, chunk by chunk; whole, odd and damaged."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Iterable

import numpy as np
from PIL import Image

from tests.helpers.corpus.jpeg import exif, srgb, swapped_profile
from tests.helpers.corpus.recipes import ALL, SMALL, Make, Recipe, alpha, grey, rgba, save, writer

SIGNATURE = b"\x89PNG\r\n\x1a\n"
GREY, RGB, PALETTE, LA, RGBA = 0, 2, 3, 4, 6
# Adam7: first row, first column, step of rows, step of columns.
_PASSES = (
    (0, 0, 8, 8),
    (0, 4, 8, 8),
    (4, 0, 8, 4),
    (0, 2, 4, 4),
    (2, 0, 4, 2),
    (0, 1, 2, 2),
    (1, 0, 2, 1),
)
_SIXTEEN = np.uint16(257)


def chunk(name: bytes, body: bytes = b"") -> bytes:
    """Length, name, body and checksum."""
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def encode(
    samples: np.ndarray,
    depth: int,
    colour: int,
    interlaced: bool = False,
    before: Iterable[bytes] = (),
) -> bytes:
    """A PNG of integers [height, width, channels]; `before` are chunks that stand before the data."""
    height, width, _ = samples.shape
    passes = [samples[r::dr, c::dc] for r, c, dr, dc in _PASSES] if interlaced else [samples]
    data = b"".join(_rows(part, depth) for part in passes if part.size)
    return assemble(
        header(height, width, depth, colour, interlaced), before, zlib.compress(data, 1)
    )


def header(height: int, width: int, depth: int, colour: int, interlaced: bool = False) -> bytes:
    """IHDR."""
    return chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, interlaced))


def assemble(head: bytes, before: Iterable[bytes], compressed: bytes) -> bytes:
    """The file of its parts."""
    return SIGNATURE + head + b"".join(before) + chunk(b"IDAT", compressed) + chunk(b"IEND")


def _rows(samples: np.ndarray, depth: int) -> bytes:
    """Rows without a filter, each begun by a byte 0."""
    height = len(samples)
    flat = samples.reshape(height, -1)
    if depth == 16:
        packed = flat.astype(">u2").view(np.uint8).reshape(height, -1)
    else:
        bits = flat[..., None] >> np.arange(depth - 1, -1, -1) & 1
        packed = np.packbits(bits.reshape(height, -1).astype(np.uint8), axis=1)
    return np.pad(packed, [(0, 0), (1, 0)]).tobytes()


def _grey(depth: int, **options: object) -> Make:
    scaled = {16: lambda x: x * _SIXTEEN + np.uint16(7)}.get(depth, lambda x: x >> (8 - depth))
    return lambda picture: encode(scaled(grey(picture))[..., None], depth, GREY, **options)


def _palette(depth: int, *after: bytes, **options: object) -> Make:
    """Colours that are no greys; `after` are chunks behind PLTE."""
    colours = np.random.default_rng(depth).integers(0, 256, [2**depth, 3]).astype(np.uint8)
    chunks = [chunk(b"PLTE", colours.tobytes()), *after]

    def make(picture: np.ndarray) -> bytes:
        indices = grey(picture)[..., None] >> (8 - depth)
        return encode(indices, depth, PALETTE, before=chunks, **options)

    return make


def _rgb(*before: bytes, interlaced: bool = False) -> Make:
    return lambda picture: encode(picture, 8, RGB, interlaced, before)


def _deep(colour: int, interlaced: bool = False) -> Make:
    """16 bits, whose low bytes are no copies of the high ones."""

    def make(picture: np.ndarray) -> bytes:
        channels = {
            RGB: picture,
            RGBA: np.dstack([picture, alpha(picture)]),
            LA: np.dstack([grey(picture), alpha(picture)]),
        }[colour]
        return encode(channels * _SIXTEEN ^ np.uint16(0x5A), 16, colour, interlaced)

    return make


def _twelve_bits(picture: np.ndarray) -> bytes:
    """A camera's or a scanner's 0..4095 in 16 bits."""
    return encode(grey(picture).astype(np.uint16)[..., None] * 16 + 7, 16, GREY)


def _animated(picture: np.ndarray) -> bytes:
    frames = [Image.fromarray(picture), Image.fromarray(255 - picture)]
    return save(frames[0], "PNG", save_all=True, append_images=frames[1:], duration=100)


def _hidden_first(picture: np.ndarray) -> bytes:
    """An animation whose default picture is none of its frames."""
    frames = [
        Image.fromarray(picture),
        Image.fromarray(255 - picture),
        Image.fromarray(picture[::-1].copy()),
    ]
    return save(frames[0], "PNG", save_all=True, append_images=frames[1:], default_image=True)


def _many_chunks(picture: np.ndarray) -> bytes:
    """The data in pieces, empty ones among them."""
    data = zlib.compress(_rows(picture, 8))
    pieces = [chunk(b"IDAT", data[at : at + 997]) for at in range(0, len(data), 997)]
    body = chunk(b"IDAT").join([b"", *pieces])
    height, width, _ = picture.shape
    return SIGNATURE + header(height, width, 8, RGB) + body + chunk(b"IEND")


def _announcing(picture: np.ndarray) -> bytes:
    """A note of 64 MB, of which 100 bytes are there."""
    head = encode(picture, 8, RGB)[:33]
    return head + struct.pack(">I", 2**26) + b"tEXt" + bytes(100)


def _rows_changed(change: Callable[[bytes], bytes]) -> Make:
    """A maker whose rows are changed before they are compressed: more or less than the header says."""

    def make(picture: np.ndarray) -> bytes:
        height, width, _ = picture.shape
        return assemble(header(height, width, 8, RGB), (), zlib.compress(change(_rows(picture, 8))))

    return make


def _data_changed(change: Callable[[bytes], bytes]) -> Make:
    """A maker whose compressed data are changed, with a checksum that fits them."""

    def make(picture: np.ndarray) -> bytes:
        height, width, _ = picture.shape
        return assemble(header(height, width, 8, RGB), (), change(zlib.compress(_rows(picture, 8))))

    return make


def _changed(change: Callable[[bytes], bytes]) -> Make:
    return lambda picture: change(
        encode(picture, 8, RGB, before=[chunk(b"tEXt", b"Title\0A picture")])
    )


def _checksum(name: bytes) -> Make:
    """A maker of a wrong checksum."""

    def change(data: bytes) -> bytes:
        at = data.index(name)
        end = at + 4 + int.from_bytes(data[at - 4 : at], "big")
        return data[:end] + bytes([data[end] ^ 1]) + data[end + 1 :]

    return _changed(change)


def _cut(share: float) -> Make:
    return _changed(lambda data: data[: int(share * len(data))])


def _with_background(picture: np.ndarray) -> bytes:
    """A colour that viewers may show where the picture is transparent."""
    return encode(np.dstack([picture, alpha(picture)]), 8, RGBA, before=[chunk(b"bKGD", bytes(6))])


def _short_palette(picture: np.ndarray) -> bytes:
    """32 colours for 256 indices."""
    return encode(grey(picture)[..., None], 8, PALETTE, before=[chunk(b"PLTE", bytes(range(96)))])


def _middle(data: bytes) -> bytes:
    """A turned bit in the middle."""
    at = len(data) // 2
    return data[:at] + bytes([data[at] ^ 16]) + data[at + 1 :]


def _header_only(height: int, width: int, depth: int = 8, colour: int = RGB) -> Make:
    return lambda _: assemble(header(height, width, depth, colour), (), zlib.compress(bytes(1000)))


_EXIF = chunk(b"eXIf", exif(6)[10:])
_ICC = chunk(b"iCCP", b"sRGB\0\0" + zlib.compress(srgb()))
_SWAPPED = chunk(b"iCCP", b"swapped\0\0" + zlib.compress(swapped_profile()))
_TEXT = chunk(b"zTXt", b"Comment\0\0" + zlib.compress(b"words " * 1000))
_GAMMA = chunk(b"gAMA", struct.pack(">I", 100_000))
_PRIMARIES = chunk(
    b"cHRM", struct.pack(">8I", 31270, 32900, 64000, 33000, 30000, 60000, 15000, 6000)
)
_SRGB, _ASPECT = chunk(b"sRGB", b"\0"), chunk(b"pHYs", struct.pack(">IIB", 1, 3, 0))
_BT2100 = chunk(b"cICP", bytes([9, 16, 0, 1]))
_ODD = (
    chunk(b"sRGB", b"\x09"),
    chunk(b"pHYs", b"abc"),
    chunk(b"cICP", bytes(9)),
    chunk(b"gAMA", b"ab"),
)
_HALF = struct.pack(">HHH", 0, 0, 0)

RECIPES: tuple[Recipe, ...] = (
    Recipe("PNG RGB", ".png", writer("PNG"), (*ALL, (70_000, 1))),
    Recipe("PNG RGB", ".PNG", _rgb()),
    *(Recipe(f"PNG grey {depth} bit", ".png", _grey(depth)) for depth in (1, 2, 4, 8)),
    Recipe("PNG grey 16 bit", ".png", _grey(16)),
    Recipe("PNG grey 12 bit in 16", ".png", _twelve_bits),
    *(Recipe(f"PNG palette {depth} bit", ".png", _palette(depth)) for depth in (1, 2, 4, 8)),
    Recipe("PNG palette with tRNS", ".png", _palette(4, chunk(b"tRNS", bytes([0, 128, 255])))),
    Recipe("PNG palette with tRNS", ".png", _palette(8, chunk(b"tRNS", bytes(range(256))))),
    Recipe("PNG grey with tRNS", ".png", _grey(8, before=[chunk(b"tRNS", b"\0\x80")])),
    Recipe("PNG RGB with tRNS", ".png", _rgb(chunk(b"tRNS", _HALF))),
    Recipe("PNG grey with alpha", ".png", lambda p: save(rgba(p).convert("LA"), "PNG")),
    Recipe("PNG RGBA", ".png", lambda p: save(rgba(p), "PNG"), ALL[:11]),
    Recipe("PNG RGBA with bKGD", ".png", _with_background),
    Recipe("PNG RGB 16 bit", ".png", _deep(RGB)),
    Recipe("PNG RGBA 16 bit", ".png", _deep(RGBA)),
    Recipe("PNG grey with alpha 16 bit", ".png", _deep(LA)),
    Recipe("PNG interlaced", ".png", _rgb(interlaced=True), (*ALL[:11],)),
    Recipe("PNG interlaced", ".png", _grey(1, interlaced=True)),
    Recipe("PNG interlaced", ".png", _palette(4, interlaced=True)),
    Recipe("PNG interlaced", ".png", _deep(RGBA, interlaced=True)),
    Recipe("PNG gAMA and cHRM", ".png", _rgb(_GAMMA, _PRIMARIES), [SMALL]),
    Recipe("PNG sRGB, pHYs and cICP", ".png", _rgb(_SRGB, _ASPECT, _BT2100), [SMALL]),
    Recipe("PNG sBIT", ".png", _rgb(chunk(b"sBIT", bytes([5, 6, 5]))), [SMALL]),
    Recipe("PNG ICC profile", ".png", _rgb(_ICC), [SMALL]),
    Recipe("PNG ICC profile", ".png", _rgb(_SWAPPED), [SMALL]),
    Recipe("PNG damaged ICC profile", ".png", _rgb(chunk(b"iCCP", b"x\0\0no zlib")), [SMALL]),
    Recipe("PNG eXIf rotated", ".png", _rgb(_EXIF), [SMALL]),
    *(Recipe("PNG odd chunks", ".png", _rgb(odd), [SMALL]) for odd in _ODD),
    Recipe("PNG unknown chunks", ".png", _rgb(chunk(b"prVt", b"abc"), chunk(b"tEXt", b"\xff\xfe")), [SMALL]),
    Recipe("PNG unknown critical chunk", ".png", _rgb(chunk(b"CgBI", bytes(4))), [SMALL]),
    Recipe("PNG animated", ".png", _animated),
    Recipe("PNG animated", ".apng", _hidden_first, [SMALL]),
    Recipe("PNG of many chunks", ".png", _many_chunks),
    Recipe("PNG with bytes behind its end", ".png", _changed(lambda data: data + b"garbage" * 40), [SMALL]),
    Recipe("PNG damaged checksum of data", ".png", _checksum(b"IDAT"), [SMALL]),
    Recipe("PNG damaged checksum of the header", ".png", _checksum(b"IHDR"), [SMALL]),
    Recipe("PNG damaged checksum of a note", ".png", _checksum(b"tEXt"), [SMALL]),
    Recipe("PNG damaged checksum of its end", ".png", _checksum(b"IEND"), [SMALL]),
    Recipe("PNG damaged zlib tail", ".png", _data_changed(lambda data: data[:-4] + b"\0\0\0\0")),
    Recipe("PNG damaged zlib tail", ".png", _data_changed(lambda data: data[:-4])),
    Recipe("PNG damaged data", ".png", _data_changed(_middle)),
    Recipe("PNG damaged data", ".png", _changed(_middle)),
    *(Recipe("PNG truncated", ".png", _cut(share)) for share in (0.3, 0.7, 0.95)),
    Recipe("PNG truncated", ".png", lambda picture: encode(picture, 8, RGB)[:29], [SMALL]),
    Recipe("PNG truncated", ".png", lambda _: SIGNATURE, [SMALL]),
    Recipe("PNG without its end", ".png", _changed(lambda data: data[:-12])),
    Recipe("PNG of fewer rows than its height", ".png", _rows_changed(lambda rows: rows[: len(rows) // 2])),
    Recipe("PNG of more rows than its height", ".png", _rows_changed(lambda rows: rows + rows)),
    Recipe("PNG unknown filter", ".png", _rows_changed(lambda rows: b"\x07" + rows[1:]), [SMALL]),
    Recipe("PNG without its palette", ".png", lambda p: encode(grey(p)[..., None], 8, PALETTE), [SMALL]),
    Recipe("PNG indices beyond its palette", ".png", _short_palette, [SMALL]),
    Recipe("PNG of too many pixels", ".png", _header_only(20_000, 20_000), [SMALL]),
    Recipe("PNG of too many pixels", ".png", _header_only(2**31 - 1, 1, 1, GREY), [SMALL]),
    Recipe("PNG of no pixels", ".png", _header_only(0, 10), [SMALL]),
    Recipe("PNG of too many compressed notes", ".png", _rgb(*[_TEXT] * 21), [SMALL]),
    Recipe("PNG compressed notes", ".png", _rgb(*[_TEXT] * 20), [SMALL]),
    Recipe("PNG part that announces more than the file", ".png", _announcing, [SMALL]),
    Recipe("PNG of no such depth", ".png", _header_only(10, 10, 3), [SMALL]),
)  # fmt: skip
