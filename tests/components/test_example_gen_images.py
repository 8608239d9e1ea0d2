"""Images by content: what passes, what is converted, what is refused; TensorFlow decodes all that passes."""

import io
import re
import struct

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from components.example_gen import images, jpeg_headers
from tests import data
from tests.models import memory

LIMIT = 1_000_000
DITHERED = ("png_1", "png_P", "gif")


def _decode(encoded: bytes) -> np.ndarray:
    return tf.image.decode_jpeg(encoded, channels=3).numpy().astype(int)


@pytest.mark.parametrize("name", data.plain())
def test_plain_jpegs_pass_byte_for_byte(name):
    original = data.plain()[name]
    image = images.normalize(original, LIMIT)
    assert image.encoded == original and not image.converted
    decoded = tf.image.decode_jpeg(image.encoded).numpy()
    assert decoded.shape == (image.height, image.width, image.channels)


@pytest.mark.parametrize("name", data.convertible())
def test_the_rest_becomes_a_jpeg_of_the_same_picture(name):
    original = data.convertible()[name]
    image = images.normalize(original, LIMIT)
    assert image.converted and image.format == "JPEG"
    assert tf.io.extract_jpeg_shape(image.encoded).numpy().tolist() == [48, 64, image.channels]
    window = tf.image.decode_and_crop_jpeg(image.encoded, [1, 2, 8, 9], channels=3)
    assert window.shape == (8, 9, 3)
    # Independent: TensorFlow's own decoders of the original.
    reference = tf.io.decode_image(original, channels=3, expand_animations=False).numpy().astype(int)
    if name.startswith(("cmyk", "ycck")):
        reference = tf.image.decode_jpeg(original, channels=3).numpy().astype(int)
    assert np.abs(_decode(image.encoded) - reference).mean() < (6 if name in DITHERED else 3)


def test_grey_stays_grey():
    for name in ("png_L", "png_LA", "png_1", "png_I;16"):
        assert images.normalize(data.convertible()[name], LIMIT).channels == 1, name


def test_cmyk_kinds_agree_with_the_ink_formula():
    ink = data.pixels(7, channels=4).astype(float)
    expected = (255 - ink[..., :3]) * (255 - ink[..., 3:]) / 255
    for original in (data.cmyk(7), data.ycck(7)):
        decoded = _decode(images.normalize(original, LIMIT).encoded)
        assert np.abs(decoded - expected).mean() < 3


def test_sixteen_bits_are_scaled_not_clipped():
    decoded = _decode(images.normalize(data.png(7, "I;16"), LIMIT).encoded)
    assert np.abs(decoded[..., 0] - data.pixels(7, channels=1)[..., 0]).mean() < 3


def test_sixteen_bits_take_no_more_memory_than_colours():
    out = io.BytesIO()
    Image.fromarray(np.full((4000, 4000), 4097, np.uint16)).save(out, "PNG")
    # 15 MiB for each byte of a pixel: three arrays of two bytes at most, and the picture of one.
    assert memory.peak_rise(lambda: images.normalize(out.getvalue(), 10**8)) < 130


def test_a_side_that_no_jpeg_has_is_refused():
    out = io.BytesIO()
    Image.new("L", (2, 65_501)).save(out, "PNG")
    with pytest.raises(images.BadImage, match=r"2 x 65501 pixels: no JPEG has a side of more than 65500"):
        images.normalize(out.getvalue(), LIMIT)


def test_rotation_in_exif_is_not_applied():
    image = images.normalize(data.rotated_exif(3), LIMIT)
    assert (image.height, image.width) == (48, 64)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("truncated", "truncated"),
        ("truncated_progressive", "truncated"),
        ("truncated_png", "does not decode"),
        ("empty", "empty"),
        ("text", "not an image"),
        ("header", "does not decode"),
        ("bomb", "data.max_pixels"),
    ],
)
def test_bad_files_are_refused_with_the_reason(name, reason):
    with pytest.raises(images.BadImage, match=reason):
        images.normalize(data.bad()[name], LIMIT)


def test_size_is_refused_before_decoding():
    with pytest.raises(images.BadImage, match=r"1100 x 1000 pixels, more than data.max_pixels=1000000"):
        images.normalize(data.jpeg(0, 1000, 1100)[:2000], LIMIT)


@pytest.mark.parametrize("cut", [0.2, 0.5, 0.9, 0.97])
@pytest.mark.parametrize("progressive", [False, True])
def test_every_truncation_is_found(cut, progressive):
    whole = data.jpeg(5, 200, 300, progressive=progressive)
    with pytest.raises(images.BadImage):
        images.normalize(whole[: int(len(whole) * cut)], LIMIT)


def test_an_arithmetic_coded_frame_does_not_pass_as_it_is():
    baseline = data.jpeg(0)
    assert jpeg_headers.frame_marker(baseline) == 0xC0
    assert jpeg_headers.frame_marker(data.jpeg(0, progressive=True)) == 0xC2
    assert jpeg_headers.frame_marker(baseline.replace(b"\xff\xc0", b"\xff\xc9", 1)) == 0xC9


def test_random_damage_never_yields_what_tensorflow_refuses():
    """Bytes anywhere may be wrong: either the image is refused or TensorFlow decodes it."""
    rng = np.random.default_rng(0)
    originals = [data.jpeg(1), data.jpeg(1, progressive=True), data.png(1), data.cmyk(1)]
    refused = 0
    for trial in range(400):
        damaged = bytearray(originals[trial % 4])
        for at in rng.integers(0, len(damaged), rng.integers(1, 8)):
            damaged[at] = rng.integers(0, 256)
        try:
            image = images.normalize(bytes(damaged), LIMIT)
        except images.BadImage:
            refused += 1
            continue
        assert _decode(image.encoded).shape == (image.height, image.width, 3)
        tf.image.decode_and_crop_jpeg(image.encoded, [0, 0, 1, 1])
    assert 0 < refused < 400


def _decodes_with_pil(encoded: bytes) -> bool:
    picture = Image.open(io.BytesIO(encoded))
    picture.draft(picture.mode, (max(picture.width // 8, 1), max(picture.height // 8, 1)))
    try:
        picture.load()
    except (OSError, SyntaxError):
        return False
    return True


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


def test_what_passes_undecoded_is_what_decoders_take():
    """Damage of every kind, anywhere: a file whose structure is whole is refused by no decoder."""
    rng = np.random.default_rng(0)
    originals = [data.jpeg(1), data.jpeg(1, progressive=True), data.grey(1), data.jpeg(1, subsampling=0)]
    originals += [data.jpeg(1, restart_marker_blocks=3), data.jpeg(1, 200, 300, quality=60)]
    whole = 0
    for trial in range(1500):
        damaged = _damage(originals[trial % len(originals)], rng)
        headers = jpeg_headers.read(damaged)
        if headers is None or not images._decode(headers):
            continue
        whole += 1
        assert _decodes_with_pil(damaged)
        _decode(damaged)
    assert 200 < whole < 1200


def _segment(marker: int, payload: bytes) -> bytes:
    return bytes([0xFF, marker]) + (len(payload) + 2).to_bytes(2, "big") + payload


def _seen_by_pil(encoded: bytes) -> tuple | None:
    """What PIL makes of a file; None where it refuses it or would have it converted."""
    try:
        picture = Image.open(io.BytesIO(encoded), formats=images._FORMATS)
    except Exception:
        return None
    passes = picture.mode in ("L", "RGB") and jpeg_headers.frame_marker(encoded) in (0xC0, 0xC1, 0xC2)
    return (picture.height, picture.width, len(picture.getbands())) if passes else None


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


@pytest.mark.parametrize("marker", [0xE0, 0xE1, 0xE2, 0xED, 0xEE, 0xFE, 0xC8, 0xDC, 0xDE, 0xF0, 0x40])
def test_what_pil_is_not_asked_about_is_what_pil_says(marker):
    """Segments that PIL reads, skips or refuses: what it would refuse or convert does not pass without it."""
    originals = [data.jpeg(1), data.grey(1), data.jpeg(1, progressive=True), data.cmyk(1)]
    spared = 0
    for original in originals:
        frame = next(at for at in range(len(original)) if original[at : at + 2] in (b"\xff\xc0", b"\xff\xc2"))
        for at in (2, frame):
            for note in _NOTES:
                encoded = original[:at] + _segment(marker, note) + original[at:]
                headers = jpeg_headers.read(encoded)
                if headers is None or not headers.plain or not images._decode(headers):
                    continue
                spared += 1
                assert _seen_by_pil(encoded) == (headers.height, headers.width, headers.channels)
    assert (spared > 0) == (marker in (0xE0, 0xE1, 0xE2, 0xED, 0xEE, 0xFE))


def test_damaged_frames_are_left_to_pil():
    """Any byte of the frame's segment may be wrong."""
    spared = 0
    for original in (data.jpeg(1), data.grey(1)):
        at = original.index(b"\xff\xc0")
        for place in range(at + 1, at + 2 + int.from_bytes(original[at + 2 : at + 4], "big")):
            for value in (0, 1, 2, 3, 8, 12, 0x11, 0x22, 0xC1, 0xC3, 0xC9, 0xFF):
                encoded = original[:place] + bytes([value]) + original[place + 1 :]
                headers = jpeg_headers.read(encoded)
                if headers is not None and headers.plain and images._decode(headers):
                    spared += 1
                    assert _seen_by_pil(encoded) == (headers.height, headers.width, headers.channels)
    assert spared > 20


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
    images._known_tables.cache_clear()
    pictures = [data.jpeg(seed, comment=bytes([seed])) for seed in range(5)]
    for encoded in pictures:
        images.normalize(encoded, LIMIT)
    assert images._known_tables.cache_info().currsize == 1
    at = pictures[0].index(b"\xff\xc4") + 4
    damaged = pictures[0][:at] + b"\x77" + pictures[0][at + 1 :]
    with pytest.raises(images.BadImage, match="does not decode"):
        images.normalize(damaged, LIMIT)
    large = data.jpeg(0)[:2] + 100 * data.jpeg(0)[2:].partition(b"\xff\xc0")[0] + data.jpeg(0)[2:]
    before = images._known_tables.cache_info()
    assert images.normalize(large, LIMIT).encoded == large
    assert images._known_tables.cache_info() == before


@pytest.mark.parametrize("name", data.plain())
def test_an_undamaged_jpeg_is_not_decoded(name, monkeypatch):
    monkeypatch.delattr(images, "_check_decodes")
    images.normalize(data.plain()[name], LIMIT)


def test_a_damaged_end_that_pil_does_not_see_is_refused():
    damaged = data.jpeg(1)[:-2] + b"\xff\xc4"
    assert _decodes_with_pil(damaged)
    with pytest.raises(images.BadImage, match="what follows its last pixel"):
        images.normalize(damaged, LIMIT)


def test_a_marker_that_no_decoder_knows_is_refused():
    """Between scans with restart markers, which skip it once the scan is taken out."""
    whole = data.jpeg(3, 65, 17, progressive=True, restart_marker_blocks=1)
    for at in (match.start() + 1 for match in re.finditer(b"\xff\xc4", whole)):
        damaged = whole[:at] + b"\x60" + whole[at + 1 :]
        with pytest.raises(images.BadImage):
            images.normalize(damaged, LIMIT)


def test_a_whole_scan_of_more_than_libjpeg_takes_is_refused():
    small = data.jpeg(1)
    at = small.index(b"\xff\xc0") + 5
    wide = small[:at] + (8).to_bytes(2, "big") + (65_501).to_bytes(2, "big") + small[at + 4 :]
    with pytest.raises(images.BadImage, match="no JPEG has a side of more than 65500"):
        images.normalize(wide, LIMIT)


def test_webp_is_read():
    out = io.BytesIO()
    Image.fromarray(data.pixels(2)).save(out, "WEBP", lossless=True)
    decoded = _decode(images.normalize(out.getvalue(), LIMIT).encoded)
    assert np.abs(decoded - data.pixels(2)).mean() < 3
