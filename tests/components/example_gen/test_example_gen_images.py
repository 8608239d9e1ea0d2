"""Images by content: what passes, what is converted, what is refused; TensorFlow decodes all that
passes.
"""

import io
import re
import struct

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from components.example_gen.errors import BadImage
from components.example_gen.writing import image_files, jpeg_headers
from models.pixels import decoding
from tests.helpers import data, memory

LIMIT = 1_000_000


def _decode(encoded: bytes) -> np.ndarray:
    return decoding.decode(tf.constant(encoded)).numpy().astype(int)


def _taken(encoded: bytes) -> tuple[int, ...] | None:
    """Sides of what TensorFlow decodes, which is what the SavedModel does; None where it refuses."""
    try:
        return _decode(encoded).shape[:2]
    except tf.errors.InvalidArgumentError:
        return None


def _normalized(encoded: bytes) -> tuple[int, ...] | None:
    try:
        image = image_files.normalize(encoded, 10**8)
    except BadImage:
        return None
    assert image.encoded == encoded
    return image.height, image.width


@pytest.mark.parametrize("name", {**data.plain(), **data.convertible()})
def test_jpeg_and_png_pass_byte_for_byte(name):
    original = {**data.plain(), **data.convertible()}[name]
    image = image_files.normalize(original, LIMIT)
    if name == "gif":
        assert image.original == original
        return
    assert image.encoded == original and not image.original
    assert (image.height, image.width) == _decode(original).shape[:2]
    assert image.format == image.source_format == ("PNG" if name.startswith("png") else "JPEG")


def test_grey_stays_grey():
    for name in ("png_L", "png_LA", "png_1", "png_I;16"):
        assert image_files.normalize(data.convertible()[name], LIMIT).channels == 1, name
    assert image_files.normalize(data.grey(), LIMIT).channels == 1
    for name in ("png_RGB", "png_P", "cmyk"):
        assert image_files.normalize(data.convertible()[name], LIMIT).channels == 3, name


def _saved(picture: Image.Image, format: str, **options) -> bytes:
    out = io.BytesIO()
    picture.save(out, format, **options)
    return out.getvalue()


def _others() -> dict[str, bytes]:
    """Files of formats that are converted."""
    picture = Image.fromarray(data.pixels(4))
    see_through = picture.copy()
    see_through.putalpha(Image.linear_gradient("L").resize(picture.size))
    second = Image.fromarray(data.pixels(9))
    found = {
        "bmp": _saved(picture, "BMP"),
        "bmp palette": _saved(picture.quantize(16), "BMP"),
        "bmp 1 bit": _saved(picture.convert("1"), "BMP"),
        "bmp grey": _saved(picture.convert("L"), "BMP"),
        "bmp alpha": _saved(see_through, "BMP"),
        "gif": _saved(picture.quantize(64), "GIF"),
        "gif transparent": _saved(picture.quantize(64), "GIF", transparency=3),
        "gif animated": _saved(
            picture.quantize(64), "GIF", save_all=True, append_images=[second.quantize(64)]
        ),
        "webp": _saved(picture, "WEBP", lossless=True),
        "webp alpha": _saved(see_through, "WEBP", lossless=True, exact=True),
        "webp animated": _saved(
            picture, "WEBP", lossless=True, save_all=True, append_images=[second]
        ),
        "avif": _saved(picture, "AVIF"),
        "heif": _saved(picture, "HEIF"),
    }
    pixels = np.asarray(picture.convert("RGB"))[:, :, ::-1]
    # OS/2: a header of 12 bytes, with sides of 16 bits.
    rows = b"".join(row.tobytes().ljust(-(-row.nbytes // 4) * 4, b"\0") for row in pixels[::-1])
    head = struct.pack("<IHHHH", 12, picture.width, picture.height, 1, 24)
    found["bmp os/2"] = b"BM" + struct.pack("<IHHI", 26 + len(rows), 0, 0, 26) + head + rows
    return found


@pytest.mark.parametrize("name", _others())
def test_other_formats_become_png_without_loss(name):
    original = _others()[name]
    image = image_files.normalize(original, LIMIT)
    assert image.format == "PNG" and image.original == original
    assert image.source_format == name.split()[0].upper()
    # Independent: the first frame in PIL's own colours; transparency hides nothing.
    picture = Image.open(io.BytesIO(original))
    expected = picture.convert("RGBA" if "alpha" in name else "RGB").convert("RGB")
    np.testing.assert_array_equal(_decode(image.encoded), expected)
    assert (image.height, image.width) == (picture.height, picture.width)
    assert image.channels == (1 if name in ("bmp grey", "bmp 1 bit") else 3)


def test_converted_images_are_upright():
    exif = Image.Exif()
    exif[0x0112] = 6
    image = image_files.normalize(_saved(Image.fromarray(data.pixels(4)), "WEBP", exif=exif), LIMIT)
    assert (image.height, image.width) == (64, 48)


@pytest.mark.parametrize("bits", [12, 16])
def test_the_range_of_sixteen_bits_is_told(bits):
    values = np.arange(64 * 64, dtype=np.uint16).reshape(64, 64) * (2 ** (bits - 12))
    image = image_files.normalize(_saved(Image.fromarray(values), "PNG"), LIMIT)
    assert image.deepest == values.max()
    np.testing.assert_array_equal(_decode(image.encoded)[..., 0], values >> 8)


def test_sixteen_bits_take_no_more_memory_than_colours():
    out = io.BytesIO()
    Image.fromarray(np.full((4000, 4000), 4097, np.uint16)).save(out, "PNG")
    # 15 MiB for each byte of a pixel: three arrays of two bytes at most, and the picture of one.
    assert memory.peak_rise(lambda: image_files.normalize(out.getvalue(), 10**8)) < 130


def test_rotation_in_exif_is_not_applied():
    image = image_files.normalize(data.rotated_exif(3), LIMIT)
    assert (image.height, image.width) == (48, 64)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("truncated", "cut off: jpeg"),
        ("truncated_progressive", "cut off: jpeg"),
        ("truncated_png", "cut off: Invalid PNG"),
        ("empty", "empty"),
        ("text", "no JPEG or PNG"),
        ("header", "cut off: Invalid JPEG"),
        ("bomb", "data.max_pixels"),
    ],
)
def test_bad_files_are_refused_with_the_reason(name, reason):
    with pytest.raises(BadImage, match=reason):
        image_files.normalize(data.bad()[name], LIMIT)


def test_size_is_refused_before_decoding():
    with pytest.raises(BadImage, match=r"1100 x 1000 pixels, more than data.max_pixels=1000000"):
        image_files.normalize(data.jpeg(0, 1000, 1100)[:2000], LIMIT)


def test_what_the_model_refuses_for_its_size_is_refused_whatever_the_setting():
    assert _taken(data.bomb(10_001)) is None
    with pytest.raises(BadImage, match="10001 x 10001 pixels"):
        image_files.normalize(data.bomb(10_001), 10**9)


@pytest.mark.parametrize("cut", [0.2, 0.5, 0.9, 0.97])
@pytest.mark.parametrize("progressive", [False, True])
def test_every_truncation_is_found(cut, progressive):
    whole = data.jpeg(5, 200, 300, progressive=progressive)
    with pytest.raises(BadImage):
        image_files.normalize(whole[: int(len(whole) * cut)], LIMIT)


def _damage(original: bytes, rng: np.random.Generator) -> bytes:
    start, stop = np.sort(rng.integers(2, len(original), 2))
    noise = rng.bytes(int(rng.integers(1, 30)))
    return (
        original[:start],
        original[:start] + original[stop:],
        original[:start] + noise + original[start:],
        original[:start] + noise + original[start + len(noise) :],
        original[:start] + bytes(stop - start) + original[stop:],
        original[:start] + b"\xff" + noise[:1] + original[start + 2 :],
        original[:stop] + original[start:],
        original + noise,
    )[rng.integers(0, 8)]


@given(st.integers(0, 2**32 - 1))
def test_what_tensorflow_decodes_passes_and_nothing_else(seed):
    """Damage of every kind, anywhere."""
    rng = np.random.default_rng(seed)
    original = _ORIGINALS[seed % len(_ORIGINALS)]
    damaged = _damage(original, rng)
    if damaged.startswith((decoding.JPEG, decoding.PNG)):
        assert _normalized(damaged) == _taken(damaged)


_ORIGINALS = [
    data.jpeg(1),
    data.jpeg(1, progressive=True),
    data.grey(1),
    data.jpeg(1, subsampling=0),
]
_ORIGINALS += [data.jpeg(1, restart_marker_blocks=3), data.jpeg(1, 200, 300, quality=60)]
_ORIGINALS += [data.cmyk(1), data.png(1), data.png(1, "P"), data.png(1, "I;16")]


def _segment(marker: int, payload: bytes) -> bytes:
    return bytes([0xFF, marker]) + (len(payload) + 2).to_bytes(2, "big") + payload


def _directory(*entries: tuple[int, int, int, int]) -> bytes:
    """A TIFF directory of (tag, type, count, value)."""
    packed = b"".join(struct.pack(">HHII", *entry) for entry in entries)
    return b"MM\0*\0\0\0\x08" + struct.pack(">H", len(entries)) + packed + bytes(4)


# What PIL reads of application segments, cut anywhere, under any marker.
_NOTES = (
    *(b"JFIF\0\1\2\1\0\x48\0\x48\0\0"[:end] for end in range(14)),
    *(b"Adobe\0\x64\0\0\0\0\1"[:end] for end in range(12)),
    *(b"ICC_PROFILE\0\1\1\0"[:end] for end in range(11, 15)),
    *(b"Photoshop 3.0\x008BIM\x03\xed\0\0\0\0\0\x04\0\0\0\0"[:end] for end in range(12, 30)),
    # Resolution without text; two pictures, and entries for none.
    b"Exif\0\0" + _directory((0x011A, 2, 1, 0), (0x0128, 3, 1, 2 << 16)),
    b"MPF\0" + _directory((0xB001, 4, 1, 2), (0xB002, 7, 4, 0)),
)


@pytest.mark.parametrize(
    "marker", [0xE0, 0xE1, 0xE2, 0xED, 0xEE, 0xFE, 0xC8, 0xDC, 0xDE, 0xF0, 0x40]
)
def test_segments_of_every_kind_pass_where_tensorflow_takes_them(marker):
    originals = [data.jpeg(1), data.grey(1), data.jpeg(1, progressive=True), data.cmyk(1)]
    for original in originals:
        frame = next(
            at for at in range(len(original)) if original[at : at + 2] in (b"\xff\xc0", b"\xff\xc2")
        )
        for at in (2, frame):
            for note in _NOTES:
                encoded = original[:at] + _segment(marker, note) + original[at:]
                assert _normalized(encoded) == _taken(encoded)


def test_damaged_frames_pass_where_tensorflow_takes_them():
    """Any byte of the frame's segment may be wrong."""
    passed = 0
    for original in (data.jpeg(1), data.grey(1)):
        at = original.index(b"\xff\xc0")
        for place in range(at + 1, at + 2 + int.from_bytes(original[at + 2 : at + 4], "big")):
            for value in (0, 1, 2, 3, 8, 12, 0x11, 0x22, 0xC1, 0xC3, 0xC9, 0xFF):
                encoded = original[:place] + bytes([value]) + original[place + 1 :]
                found = _normalized(encoded)
                assert found == _taken(encoded)
                passed += found is not None
    assert passed > 20


def test_the_end_of_a_scan_is_found_anywhere():
    rng = np.random.default_rng(0)
    for size in (0, 1, 2, 50, 4095, 4096, 4097, 4098, 9000):
        for share in (0, 0.001, 0.3):
            values = rng.integers(0, 255, size, np.uint8)
            values[rng.random(size) < share] = 0xFF
            ends = re.finditer(rb"(?=\xff[^\x00\xd0-\xd7\xff])", values.tobytes())
            expected = [match.start() for match in ends]
            for begin in (0, 1, size // 2, size):
                first = next((at for at in expected if at >= begin), -1)
                assert jpeg_headers._scan_end(values, begin) == first
    for at in (4094, 4095, 4096):  # a marker across the edge of a block
        assert jpeg_headers._scan_end(np.frombuffer(bytes(at) + b"\xff\xd9", np.uint8), 0) == at


def test_headers_are_remembered_by_their_tables_and_large_ones_not_at_all():
    image_files._known_tables.cache_clear()
    pictures = [data.jpeg(seed, comment=bytes([seed])) for seed in range(5)]
    for encoded in pictures:
        image_files.normalize(encoded, LIMIT)
    assert image_files._known_tables.cache_info().currsize == 1
    at = pictures[0].index(b"\xff\xc4") + 4
    damaged = pictures[0][:at] + b"\x77" + pictures[0][at + 1 :]
    with pytest.raises(BadImage, match="cut off: Invalid JPEG"):
        image_files.normalize(damaged, LIMIT)
    large = data.jpeg(0)[:2] + 100 * data.jpeg(0)[2:].partition(b"\xff\xc0")[0] + data.jpeg(0)[2:]
    before = image_files._known_tables.cache_info()
    assert image_files.normalize(large, LIMIT).encoded == large
    assert image_files._known_tables.cache_info() == before


@pytest.mark.parametrize("name", data.plain())
def test_an_undamaged_jpeg_is_not_decoded(name, monkeypatch):
    monkeypatch.delattr(image_files, "_decodes")
    image_files.normalize(data.plain()[name], LIMIT)


def test_a_marker_that_no_decoder_knows_is_refused():
    """Between scans with restart markers, which skip it once the scan is taken out."""
    whole = data.jpeg(3, 65, 17, progressive=True, restart_marker_blocks=1)
    for at in (match.start() + 1 for match in re.finditer(b"\xff\xc4", whole)):
        damaged = whole[:at] + b"\x60" + whole[at + 1 :]
        with pytest.raises(BadImage):
            image_files.normalize(damaged, LIMIT)
