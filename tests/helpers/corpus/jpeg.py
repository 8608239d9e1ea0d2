"""JPEGs that are whole: every coding, sampling, colour and note that writers leave in them."""

from __future__ import annotations

import base64
import functools

import numpy as np
import simplejpeg
from PIL import Image, ImageCms

from tests.helpers.corpus import jpeg_bits
from tests.helpers.corpus.recipes import ALL, CAMERA, SMALL, Make, Recipe, grey, save, writer

QUALITY = 90
# jpegtran -arithmetic wrote them: Pillow's libjpeg reads arithmetic coding and writes none.
_ARITHMETIC = """
/9j/4AAQSkZJRgABAQAAAQABAAD/2wBDABQODxIPDRQSEBIXFRQYHjIhHhwcHj0sLiQySUBMS0dARkVQWnNiUFVtVkVGZIhlbXd7
gYKBTmCNl4x9lnN+gXz/2wBDARUXFx4aHjshITt8U0ZTfHx8fHx8fHx8fHx8fHx8fHx8fHx8fHx8fHx8fHx8fHx8fHx8fHx8fHx8
fHx8fHx8fHz/yQARCAAYACQDASIAAhEBAxEB/8wACgAQEAUBEBEF/9oADAMBAAIRAxEAPwDR1NgR767PhPzHN4FOQmTwi0lDbOww
SCf949ddasNdG2XCzGiFWyS3haLlpHOXmYUZSDEK5eUEI+VWqOJGpHX8ZHr0X7bpt21jQJ1j1RsyML2FYz0OaNaSwsV0LCXQKoNV
8DlEk8RwEP/Z
"""
_ARITHMETIC_PROGRESSIVE = """
/9j/4AAQSkZJRgABAQAAAQABAAD/2wBDABQODxIPDRQSEBIXFRQYHjIhHhwcHj0sLiQySUBMS0dARkVQWnNiUFVtVkVGZIhlbXd7
gYKBTmCNl4x9lnN+gXz/2wBDARUXFx4aHjshITt8U0ZTfHx8fHx8fHx8fHx8fHx8fHx8fHx8fHx8fHx8fHx8fHx8fHx8fHx8fHx8
fHx8fHx8fHz/ygARCAAYACQDASIAAhEBAxEB/8wABgAQARD/2gAMAwEAAhADEAAAAdC9D/1O5ND5TZ5gbX1GNVOL4LvDPwlJDcD/
zAAEEAX/2gAIAQEAAQUCKB6eILCJ85Ey2P/MAAQRBf/aAAgBAwEBPwEXFT3RqSf/AO0g/8wABBEF/9oACAECAQE/ARpVF9kO4Uo1
/8wABBAF/9oACAEBAAY/ArD/zAAEEAX/2gAIAQEAAT8hVjCSez2+dMrRgP/aAAwDAQACAAMAAAAQhYA+xYD/zAAEEQX/2gAIAQMB
AT8Q1a6C6Vph2wT/zAAEEQX/2gAIAQIBAT8Qhfl8AK7/zAAEEAX/2gAIAQEAAT8Q0twZyOlfw+AB9eof6rr+V4b/2Q==
"""
_ORIENTATION = 0x0112


def plain(picture: np.ndarray, **options: object) -> bytes:
    """A baseline JPEG of PIL, 4:2:0."""
    return save(Image.fromarray(picture), "JPEG", **{"quality": QUALITY, **options})


def with_options(**options: object) -> Make:
    """A maker of `plain` with further options of PIL."""
    return lambda picture: plain(picture, **options)


def sampled(subsampling: str) -> Make:
    """A maker with a subsampling that PIL does not write."""
    return lambda picture: simplejpeg.encode_jpeg(picture, QUALITY, "RGB", subsampling, False)


def segment(marker: int, payload: bytes) -> bytes:
    """A marker with its length and payload."""
    return bytes([0xFF, marker]) + (len(payload) + 2).to_bytes(2, "big") + payload


def segments(data: bytes) -> list[tuple[int, int, int]]:
    """Marker, begin and end of the segments up to the first scan's header, which is the last."""
    found, at = [], 2
    while not found or found[-1][0] != 0xDA:
        end = at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")
        found.append((data[at + 1], at, end))
        at = end
    return found


def without(data: bytes, *markers: int) -> bytes:
    """The file without the segments of these markers."""
    for marker, begin, end in reversed(segments(data)):
        if marker in markers:
            data = data[:begin] + data[end:]
    return data


def noted(*notes: bytes) -> Make:
    """A maker that puts segments behind the start of the image, before JFIF's."""
    return lambda picture: plain(picture)[:2] + b"".join(notes) + plain(picture)[2:]


def exif(orientation: int, little: bool = True, type: int = 3, count: int = 1) -> bytes:
    """An EXIF segment that has an orientation only."""
    order = "little" if little else "big"

    def number(value: int, size: int) -> bytes:
        return value.to_bytes(size, order)

    value = number(orientation, 2) + bytes(2) if type == 3 else number(orientation, 4)
    entry = number(_ORIENTATION, 2) + number(type, 2) + number(count, 4) + value
    head = (b"II" if little else b"MM") + number(42, 2) + number(8, 4)
    return segment(0xE1, b"Exif\0\0" + head + number(1, 2) + entry + number(0, 4))


def _xmp(orientation: int) -> bytes:
    text = (
        "<x:xmpmeta xmlns:x='adobe:ns:meta/'><rdf:RDF"
        " xmlns:rdf='http://www.w3.org/1999/02/22-rdf-syntax-ns#'><rdf:Description"
        " xmlns:tiff='http://ns.adobe.com/tiff/1.0/'"
        f" tiff:Orientation='{orientation}'/></rdf:RDF></x:xmpmeta>"
    )
    return segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0" + text.encode())


@functools.cache
def srgb() -> bytes:
    """An ICC profile."""
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


@functools.cache
def swapped_profile() -> bytes:
    """A profile under which red and blue change places: who applies it shows another picture."""
    return srgb().replace(b"rXYZ", b"?XYZ").replace(b"bXYZ", b"rXYZ").replace(b"?XYZ", b"bXYZ")


def _cmyk(picture: np.ndarray, **options: object) -> bytes:
    ink = np.dstack([255 - picture, grey(picture) // 4])
    return save(Image.fromarray(ink, "CMYK"), "JPEG", **{"quality": QUALITY, **options})


def _ycck(picture: np.ndarray) -> bytes:
    """Adobe's: C, M and Y go through the transform to luminance and colour, K does not."""
    ycc = np.asarray(Image.fromarray(picture).convert("YCbCr"))
    stored = np.dstack([ycc, 255 - grey(picture) // 4])
    data = bytearray(save(Image.fromarray(255 - stored, "CMYK"), "JPEG", quality=95, subsampling=0))
    data[data.index(b"Adobe") + 11] = 2
    return bytes(data)


def _adobe_rgb(picture: np.ndarray) -> bytes:
    """RGB as it is, which the components' names alone say."""
    return plain(picture, keep_rgb=True)


def _adobe_transform(transform: int) -> Make:
    """Components 1, 2, 3 with Adobe's note: 0 says RGB, 1 YCbCr."""
    note = segment(0xEE, b"Adobe\0\x64\0\0\0\0" + bytes([transform]))
    return lambda picture: without(plain(picture)[:2] + note + plain(picture)[2:], 0xE0)


def _factors(*factors: int) -> Make:
    """A maker of a frame with other sampling factors than its data were written with: another
    picture.
    """

    def make(picture: np.ndarray) -> bytes:
        data = bytearray(plain(picture, subsampling=0))
        at = next(begin for marker, begin, _ in segments(bytes(data)) if marker == 0xC0)
        data[at + 11 : at + 20 : 3] = bytes(factors)
        return bytes(data)

    return make


def _mpo(picture: np.ndarray) -> bytes:
    second = Image.fromarray(255 - picture)
    return save(
        Image.fromarray(picture), "MPO", save_all=True, append_images=[second], quality=QUALITY
    )


def _thumbnail(picture: np.ndarray) -> bytes:
    """EXIF with a thumbnail of another picture behind its directory."""
    note = exif(1)[4:] + plain(255 - picture[:16, :16])
    return noted(segment(0xE1, note))(picture)


def _fill_bytes(picture: np.ndarray) -> bytes:
    """Any number of 0xFF may stand before a marker."""
    data = plain(picture)
    for _, begin, _ in reversed(segments(data)):
        data = data[:begin] + b"\xff\xff\xff" + data[begin:]
    return data


_ODD_FACTORS = (
    (0x22, 0x22, 0x22), (0x22, 0x12, 0x11), (0x22, 0x21, 0x11), (0x31, 0x11, 0x11), (0x42, 0x11, 0x11),
    (0x11, 0x21, 0x21), (0x12, 0x12, 0x12), (0x14, 0x11, 0x11), (0x44, 0x11, 0x11), (0x32, 0x21, 0x21),
)  # fmt: skip
# Segments of 60 kB of somebody's own.
_BULK = segment(0xEB, b"bulk\0" + bytes(60_000))
_NONSENSE = b"Exif\0\0MM\0*" + bytes(range(200, 256))
_NOTES = (
    segment(0xFE, b"A comment that is no UTF-8: \xe9\xff"),
    segment(0xED, b"Photoshop 3.0\x008BIM\x04\x04\0\0\0\0\0\0"),
    segment(0xE2, b"FPXR\0" + bytes(20)),
)
# A profile of more than one segment, as a scanner's is.
_SPLIT_PROFILE = (
    segment(0xE2, b"ICC_PROFILE\0\x01\x02" + srgb()[:200]),
    segment(0xE2, b"ICC_PROFILE\0\x02\x02" + srgb()[200:]),
)

RECIPES: tuple[Recipe, ...] = (
    Recipe("JPEG baseline", ".jpg", plain, (*ALL, (1, 65_500), CAMERA)),
    Recipe("JPEG baseline", ".jpeg", with_options(quality=5)),
    Recipe("JPEG baseline", ".JPG", with_options(quality=100, optimize=True)),
    Recipe("JPEG progressive", ".jpg", with_options(progressive=True), ALL),
    Recipe("JPEG grey", ".jpg", writer("JPEG", "L", quality=QUALITY), ALL),
    Recipe("JPEG grey", ".jpg", writer("JPEG", "L", quality=QUALITY, progressive=True)),
    Recipe("JPEG 4:4:4", ".jpg", with_options(subsampling=0), ALL),
    Recipe("JPEG 4:2:2", ".jpg", with_options(subsampling=1), ALL),
    Recipe("JPEG 4:1:1", ".jpg", sampled("411"), ALL),
    Recipe("JPEG 4:4:0", ".jpg", sampled("440"), ALL),
    *(Recipe("JPEG odd sampling factors", ".jpg", _factors(*factors)) for factors in _ODD_FACTORS),
    Recipe("JPEG of a scan for each component", ".jpg", jpeg_bits.scan_a_component),
    Recipe("JPEG 16-bit quantisation", ".jpg", with_options(qtables=[[300] * 64] * 2)),
    Recipe("JPEG restart markers", ".jpg", with_options(restart_marker_blocks=2)),
    Recipe("JPEG restart markers", ".jpg", with_options(restart_marker_rows=1)),
    Recipe("JPEG RGB without transform", ".jpg", _adobe_rgb),
    Recipe("JPEG RGB without transform", ".jpg", _adobe_transform(0)),
    Recipe("JPEG Adobe YCbCr", ".jpg", _adobe_transform(1)),
    Recipe("JPEG CMYK, Adobe", ".jpg", _cmyk),
    Recipe("JPEG CMYK, Adobe", ".jpg", lambda picture: _cmyk(picture, progressive=True)),
    Recipe("JPEG CMYK, Adobe", ".jpg", lambda picture: _cmyk(picture, subsampling=2)),
    Recipe("JPEG CMYK without Adobe's marker", ".jpg", lambda picture: without(_cmyk(picture), 0xEE)),
    Recipe("JPEG YCCK", ".jpg", _ycck),
    Recipe("JPEG of two components", ".jpg", jpeg_bits.two_components, [SMALL]),
    Recipe("JPEG arithmetic", ".jpg", lambda _: base64.b64decode(_ARITHMETIC), [(24, 36)]),
    Recipe("JPEG arithmetic", ".jpg", lambda _: base64.b64decode(_ARITHMETIC_PROGRESSIVE), [(24, 36)]),
    Recipe("JPEG lossless", ".jpg", jpeg_bits.lossless, [SMALL]),
    Recipe("JPEG lossless", ".jpg", lambda picture: jpeg_bits.lossless(grey(picture)[..., None]), [SMALL]),
    Recipe("JPEG 12 bit", ".jpg", jpeg_bits.twelve_bits, [SMALL]),
    Recipe("JPEG hierarchical", ".jpg", lambda p: plain(p).replace(b"\xff\xc0", b"\xff\xc5"), [SMALL]),
    *(Recipe("JPEG EXIF rotated", ".jpg", noted(exif(number))) for number in range(1, 9)),
    *(Recipe("JPEG EXIF rotated", ".jpg", noted(exif(number, little=False))) for number in (3, 6, 8)),
    Recipe("JPEG EXIF rotated", ".jpg", lambda p: plain(p, exif=_pil_exif(6), progressive=True)),
    *(Recipe("JPEG EXIF with no such rotation", ".jpg", noted(exif(n)), [SMALL]) for n in (0, 9, 600)),
    Recipe("JPEG EXIF of odd types", ".jpg", noted(exif(6, type=4)), [SMALL]),
    Recipe("JPEG EXIF of odd types", ".jpg", noted(exif(6, count=2)), [SMALL]),
    Recipe("JPEG EXIF of odd types", ".jpg", noted(exif(6, type=1)), [SMALL]),
    Recipe("JPEG two EXIF segments", ".jpg", noted(exif(6), exif(3)), [SMALL]),
    Recipe("JPEG damaged EXIF", ".jpg", noted(segment(0xE1, _NONSENSE)), [SMALL]),
    Recipe("JPEG damaged EXIF", ".jpg", noted(segment(0xE1, exif(6)[4:20])), [SMALL]),
    Recipe("JPEG damaged EXIF", ".jpg", noted(segment(0xE1, b"Exif\0\0")), [SMALL]),
    Recipe("JPEG EXIF behind other notes", ".jpg", noted(*_NOTES, _BULK, exif(6)), [SMALL]),
    Recipe("JPEG EXIF behind fill bytes", ".jpg", noted(b"\xff\xff" + exif(6)), [SMALL]),
    Recipe("JPEG EXIF behind fill bytes", ".jpg", noted(b"\xff" * 200_000 + exif(6)), [SMALL]),
    Recipe("JPEG EXIF behind many segments", ".jpg", noted(*[segment(0xFE, b"")] * 1000, exif(6)), [SMALL]),
    Recipe("JPEG EXIF behind too many segments", ".jpg", noted(*[segment(0xFE, b"")] * 1001, exif(6)), [SMALL]),
    Recipe("JPEG EXIF beyond 256 kB", ".jpg", noted(*[_BULK] * 5, exif(6)), [SMALL]),
    Recipe("JPEG XMP rotated", ".jpg", noted(_xmp(6)), [SMALL]),
    Recipe("JPEG EXIF thumbnail", ".jpg", _thumbnail),
    Recipe("JPEG ICC profile", ".jpg", with_options(icc_profile=srgb())),
    Recipe("JPEG ICC profile", ".jpg", with_options(icc_profile=swapped_profile())),
    Recipe("JPEG ICC profile", ".jpg", noted(*_SPLIT_PROFILE), [SMALL]),
    Recipe("JPEG damaged ICC profile", ".jpg", with_options(icc_profile=b"no profile"), [SMALL]),
    Recipe("JPEG other notes", ".jpg", noted(*_NOTES), [SMALL]),
    Recipe("JPEG other notes", ".jpg", lambda picture: without(plain(picture), 0xE0), [SMALL]),
    Recipe("JPEG other notes", ".jpg", _fill_bytes, [SMALL]),
    Recipe("MPO", ".jpg", _mpo),
    Recipe("MPO", ".mpo", _mpo, [SMALL]),
)  # fmt: skip


def _pil_exif(orientation: int) -> Image.Exif:
    found = Image.Exif()
    found[_ORIENTATION] = orientation
    return found
