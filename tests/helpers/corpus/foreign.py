"""Everything that is neither JPEG nor PNG: other formats, no images at all, and names that mislead."""

from __future__ import annotations

import gzip
import io
import time
import zipfile

import numpy as np
import pillow_heif
from PIL import Image

from tests.helpers.corpus import bitmaps, jpeg, png
from tests.helpers.corpus.recipes import SMALL, Make, Recipe, grey, rgba, save, writer

pillow_heif.register_heif_opener()  # PIL writes HEIC, too


def _frames(picture: np.ndarray) -> list[Image.Image]:
    turned = Image.fromarray(np.ascontiguousarray(picture[::-1]))
    return [Image.fromarray(picture), Image.fromarray(255 - picture), turned]


def _animated(format: str, **options: object) -> Make:
    def make(picture: np.ndarray) -> bytes:
        first, *rest = _frames(picture)
        return save(first, format, save_all=True, append_images=rest, duration=100, **options)

    return make


def _transparent_gif(picture: np.ndarray) -> bytes:
    return save(Image.fromarray(picture).quantize(64), "GIF", transparency=3)


def _partial_gif(picture: np.ndarray) -> bytes:
    """A screen twice as wide and tall as its first frame, which lies 3 and 2 pixels from the edge."""
    data = bytearray(save(Image.fromarray(picture).quantize(64), "GIF"))
    height, width, _ = picture.shape
    data[6:10] = (2 * width).to_bytes(2, "little") + (2 * height).to_bytes(2, "little")
    at = 13 + 3 * 64
    assert data[at] == ord(",")
    data[at + 1 : at + 5] = (3).to_bytes(2, "little") + (2).to_bytes(2, "little")
    return bytes(data)


def _tiff(**options: object) -> Make:
    return writer("TIFF", **options)


def _deep_tiff(picture: np.ndarray) -> bytes:
    return save(Image.fromarray(grey(picture).astype(np.uint16) * 257), "TIFF")


def _pages(picture: np.ndarray) -> bytes:
    first, *rest = _frames(picture)
    return save(first, "TIFF", save_all=True, append_images=rest)


def _heif(brand: bytes) -> bytes:
    """The head of a file, and nothing that decodes."""
    box = b"ftyp" + brand + bytes(4) + b"mif1" + brand
    return (len(box) + 4).to_bytes(4, "big") + box + b"\0\0\0\x08mdat"


def _zip(picture: np.ndarray) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr(zipfile.ZipInfo("a.jpg"), jpeg.plain(picture))
    return out.getvalue()


def _cut(make: Make, share: float = 0.5) -> Make:
    def cut(picture: np.ndarray) -> bytes:
        data = make(picture)
        return data[: int(share * len(data))]

    return cut


def _fixed(data: bytes) -> Make:
    return lambda _: data


def _noise(length: int) -> Make:
    return lambda picture: np.random.default_rng(int(picture.sum())).bytes(length)


_SVG = b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>'
_HTML = b"<!DOCTYPE html><html><body><h1>404 Not Found</h1></body></html>"
_JXL = b"\xff\x0a" + bytes(range(40))
_JXL_BOX = b"\0\0\0\x0cJXL \r\n\x87\n" + bytes(range(40))
_THUMBS = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(504)
_YEAR_2000 = time.gmtime(946_684_800)
_TURNED = jpeg.exif(6)[4:]
_GIF, _WEBP, _BMP = writer("GIF", "P"), writer("WEBP", quality=90), writer("BMP")
_LIES: tuple[tuple[str, str, Make], ...] = (
    ("JPEG with another name", ".png", jpeg.plain),
    ("JPEG with another name", ".bmp", jpeg.plain),
    ("JPEG with another name", "", jpeg.plain),
    ("PNG with another name", ".JPEG", writer("PNG")),
    ("GIF with another name", ".jpg", _GIF),
    ("WebP with another name", ".jpg", _WEBP),
    ("BMP with another name", ".png", _BMP),
    ("HTML with an image's name", ".jpg", _fixed(_HTML)),
)

RECIPES: tuple[Recipe, ...] = (
    *(Recipe(f"BMP {depth} bit", ".bmp", bitmaps.indexed(depth)) for depth in (1, 4, 8)),
    Recipe("BMP 16 bit", ".bmp", bitmaps.direct(16)),
    Recipe("BMP 16 bit", ".bmp", bitmaps.direct(16, (0xF800, 0x7E0, 0x1F))),
    Recipe("BMP 24 bit", ".bmp", _BMP, [SMALL, (1, 1), (301, 227), (1024, 768)]),
    Recipe("BMP 32 bit", ".bmp", bitmaps.direct(32)),
    Recipe("BMP 32 bit", ".bmp", bitmaps.direct(32, (0xFF0000, 0xFF00, 0xFF, 0xFF000000))),
    Recipe("BMP run lengths", ".bmp", bitmaps.run_lengths(8), [SMALL]),
    Recipe("BMP run lengths", ".bmp", bitmaps.run_lengths(4), [SMALL]),
    Recipe("BMP OS/2", ".bmp", bitmaps.indexed(8, os2=True)),
    Recipe("BMP OS/2", ".bmp", bitmaps.direct(24, os2=True)),
    Recipe("BMP top-down", ".bmp", bitmaps.direct(24, top_down=True)),
    Recipe("BMP top-down", ".bmp", bitmaps.indexed(8, top_down=True)),
    Recipe("BMP truncated", ".bmp", _cut(_BMP), [SMALL]),
    Recipe("GIF", ".gif", _GIF, [SMALL, (1, 1), (301, 227)]),
    Recipe("GIF", ".gif", writer("GIF", "L")),
    Recipe("GIF", ".gif", writer("GIF", "P", interlace=0)),
    Recipe("GIF transparent", ".gif", _transparent_gif),
    Recipe("GIF animated", ".gif", _animated("GIF")),
    Recipe("GIF animated", ".gif", _animated("GIF", disposal=2), [SMALL]),
    Recipe("GIF partial first frame", ".gif", _partial_gif),
    Recipe("GIF truncated", ".gif", _cut(_GIF), [SMALL]),
    Recipe("WebP lossy", ".webp", _WEBP, [SMALL, (1, 1), (301, 227), (1024, 768)]),
    Recipe("WebP lossless", ".webp", writer("WEBP", lossless=True, method=0)),
    Recipe("WebP RGBA", ".webp", lambda p: save(rgba(p), "WEBP", quality=90)),
    Recipe("WebP RGBA", ".webp", lambda p: save(rgba(p), "WEBP", lossless=True, method=0)),
    Recipe("WebP animated", ".webp", _animated("WEBP", method=0), [SMALL]),
    Recipe("WebP EXIF rotated", ".webp", writer("WEBP", quality=90, exif=_TURNED)),
    Recipe("WebP truncated", ".webp", _cut(_WEBP), [SMALL]),
    Recipe("TIFF", ".tif", _tiff(compression=None)),
    Recipe("TIFF", ".tiff", _tiff(compression="tiff_lzw")),
    Recipe("TIFF", ".tiff", _tiff(compression="tiff_adobe_deflate")),
    Recipe("TIFF", ".tiff", _tiff(compression="jpeg")),
    Recipe("TIFF", ".tiff", _tiff(mode="1", compression="group4")),
    Recipe("TIFF", ".tiff", _tiff(mode="CMYK")),
    Recipe("TIFF", ".tiff", lambda p: save(rgba(p), "TIFF")),
    Recipe("TIFF 16 bit", ".tiff", _deep_tiff),
    Recipe("TIFF of several pages", ".tiff", _pages),
    Recipe("AVIF", ".avif", writer("AVIF", quality=80, speed=10), [SMALL]),
    Recipe("AVIF", ".avif", lambda p: save(rgba(p), "AVIF", speed=10), [SMALL]),
    Recipe("JPEG 2000", ".jp2", writer("JPEG2000")),
    Recipe("JPEG 2000", ".j2k", writer("JPEG2000", no_jp2=True), [SMALL]),
    Recipe("ICO", ".ico", writer("ICO"), [SMALL]),
    Recipe("PPM, PGM, PBM", ".ppm", writer("PPM")),
    Recipe("PPM, PGM, PBM", ".pgm", writer("PPM", "L"), [SMALL]),
    Recipe("PPM, PGM, PBM", ".pbm", writer("PPM", "1"), [SMALL]),
    Recipe("TGA", ".tga", writer("TGA", compression="tga_rle"), [SMALL]),
    Recipe("PCX", ".pcx", writer("PCX"), [SMALL]),
    Recipe("SGI, QOI, DDS", ".sgi", writer("SGI"), [SMALL]),
    Recipe("SGI, QOI, DDS", ".qoi", writer("QOI"), [SMALL]),
    Recipe("SGI, QOI, DDS", ".dds", writer("DDS"), [SMALL]),
    Recipe("PDF, PostScript", ".pdf", writer("PDF", creationDate=_YEAR_2000, modDate=_YEAR_2000), [SMALL]),
    Recipe("PDF, PostScript", ".eps", writer("EPS"), [SMALL]),
    Recipe("HEIC", ".heic", writer("HEIF", quality=80)),
    Recipe("HEIC", ".heic", writer("HEIF", quality=80, exif=_TURNED), [SMALL]),
    Recipe("HEIC, cut off", ".heic", _fixed(_heif(b"heic")), [SMALL]),
    Recipe("AVIF, cut off", ".avif", _fixed(_heif(b"avif")), [SMALL]),
    Recipe("JPEG XL", ".jxl", _fixed(_JXL), [SMALL]),
    Recipe("JPEG XL", ".jxl", _fixed(_JXL_BOX), [SMALL]),
    Recipe("SVG", ".svg", _fixed(_SVG), [SMALL]),
    Recipe("HTML", ".html", _fixed(_HTML), [SMALL]),
    Recipe("Thumbs.db", ".db", _fixed(_THUMBS), [SMALL]),
    Recipe("empty file", ".jpg", _fixed(b""), [SMALL]),
    Recipe("random bytes", ".jpg", _noise(1), [SMALL]),
    Recipe("random bytes", ".bin", _noise(3000)),
    Recipe("random bytes behind a JPEG's start", ".jpg", lambda p: b"\xff\xd8\xff" + _noise(999)(p)),
    Recipe("random bytes behind a PNG's start", ".png", lambda p: png.SIGNATURE + _noise(999)(p)),
    Recipe("zeros", ".jpg", _fixed(bytes(2000)), [SMALL]),
    Recipe("compressed or archived JPEG", ".jpg", lambda p: gzip.compress(jpeg.plain(p), mtime=0), [SMALL]),
    Recipe("compressed or archived JPEG", ".zip", _zip, [SMALL]),
    *(Recipe(kind, suffix, make, [SMALL]) for kind, suffix, make in _LIES),
)  # fmt: skip
