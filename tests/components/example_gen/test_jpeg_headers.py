"""What the headers of a JPEG say, bit by bit; the files are Pillow's, changed where a test needs
it.
"""

import io
import re

import numpy as np
import pytest
from PIL import Image

from components.example_gen.writing import jpeg_headers
from tests.helpers import data

EOI = b"\xff\xd9"


def segment(marker, payload):
    return bytes([0xFF, marker]) + (len(payload) + 2).to_bytes(2, "big") + payload


def frame_of(encoded):
    """Where the frame's segment begins and ends."""
    at = next(
        at for at in range(2, len(encoded)) if encoded[at : at + 2] in (b"\xff\xc0", b"\xff\xc2")
    )
    return at, at + 2 + int.from_bytes(encoded[at + 2 : at + 4], "big")


def changed(encoded, at, value):
    """The frame's byte `at`, counted from its marker, set anew."""
    begin = frame_of(encoded)[0] + at
    return encoded[:begin] + bytes([value]) + encoded[begin + 1 :]


def large(encoded, height, width):
    begin = frame_of(encoded)[0] + 5
    return (
        encoded[:begin]
        + height.to_bytes(2, "big")
        + width.to_bytes(2, "big")
        + encoded[begin + 4 :]
    )


RGB, GREY, CMYK = data.jpeg(1), data.grey(1), data.cmyk(1)
PROGRESSIVE = data.jpeg(1, progressive=True)


@pytest.mark.parametrize(
    ("encoded", "channels", "plain"),
    [(RGB, 3, True), (GREY, 1, True), (PROGRESSIVE, 3, True), (CMYK, 4, False)],
)
def test_headers_of_whole_files(encoded, channels, plain):
    headers = jpeg_headers.read(encoded)
    assert headers[:3] == (48, 64, channels) and headers.plain is plain
    small = Image.open(io.BytesIO(headers.small))
    small.load()
    assert small.size == (16, 16) and small.layers == channels
    assert len(headers.small) < len(encoded)


def test_the_small_image_is_the_headers_and_nothing_of_the_scan():
    begin, end = frame_of(RGB)
    scan = RGB.index(b"\xff\xda")
    scan_end = scan + 2 + int.from_bytes(RGB[scan + 2 : scan + 4], "big")
    jfif = 4 + int.from_bytes(RGB[4:6], "big")
    note = segment(0xE5, b"a note")
    assert RGB[2:4] == b"\xff\xe0"
    expected = (
        RGB[:begin] + RGB[begin : begin + 5] + b"\0\x10\0\x10" + RGB[begin + 9 : scan_end] + EOI
    )
    assert jpeg_headers.read(RGB).small == expected
    for at in (2, jfif, begin, end, scan):
        assert jpeg_headers.read(RGB[:at] + note + RGB[at:]).small == expected
    for kept in (0xE0, 0xEE):
        with_note = RGB[:jfif] + segment(kept, b"a note") + RGB[jfif:]
        assert jpeg_headers.read(with_note).small == expected.replace(
            RGB[2:jfif], RGB[2:jfif] + segment(kept, b"a note")
        )


def test_every_scan_of_a_progressive_file_is_left_out():
    small = jpeg_headers.read(PROGRESSIVE).small
    assert small.count(b"\xff\xda") == PROGRESSIVE.count(b"\xff\xda") > 5
    assert small.count(b"\xff\xc4") == PROGRESSIVE.count(b"\xff\xc4")
    assert len(small) < 1000


@pytest.mark.parametrize("marker", [0xE0, 0xE7, 0xEF, 0xFE])
def test_notes_may_be_of_any_length(marker):
    for length in (0, 1, 255, 256, 65_533):
        at = frame_of(RGB)[0]
        headers = jpeg_headers.read(RGB[:at] + segment(marker, bytes(length)) + RGB[at:])
        assert headers[:3] == (48, 64, 3) and headers.plain


def test_tables_are_kept():
    at = frame_of(RGB)[0]
    restart = segment(0xDD, b"\0\0")
    assert restart in jpeg_headers.read(RGB[:at] + restart + RGB[at:]).small


@pytest.mark.parametrize(
    "marker", [0x00, 0x01, 0xFF, 0xD0, 0xD7, 0xD8, 0xD9, 0xC8, 0xDC, 0xDE, 0xDF, 0xF0, 0x40]
)
def test_markers_that_do_not_belong_there_make_no_jpeg(marker):
    for at in (2, *frame_of(RGB), RGB.index(b"\xff\xda")):
        assert jpeg_headers.read(RGB[:at] + segment(marker, b"....") + RGB[at:]) is None


@pytest.mark.parametrize("marker", [0xC3, 0xC5, 0xC9, 0xCF])
def test_frames_of_other_kinds_are_not_plain(marker):
    headers = jpeg_headers.read(changed(RGB, 1, marker))
    assert headers[:3] == (48, 64, 3) and not headers.plain


def test_an_extended_frame_is_plain():
    assert jpeg_headers.read(changed(RGB, 1, 0xC1)).plain


@pytest.mark.parametrize("bits", [7, 9, 12])
def test_frames_of_other_depths_are_not_plain(bits):
    assert not jpeg_headers.read(changed(RGB, 4, bits)).plain


@pytest.mark.parametrize("sides", [(0, 64), (48, 0)])
def test_frames_without_a_side_are_not_plain(sides):
    headers = jpeg_headers.read(large(RGB, *sides))
    assert headers[:2] == sides and not headers.plain


@pytest.mark.parametrize("channels", [0, 1, 2, 4])
def test_frames_whose_length_does_not_fit_their_channels_are_not_plain(channels):
    assert not jpeg_headers.read(changed(RGB, 9, channels)).plain


def test_a_grey_frame_with_more_behind_its_channel_is_not_plain():
    begin, end = frame_of(GREY)
    assert end - begin == 13
    longer = segment(0xC0, GREY[begin + 4 : end] + b"\0")
    assert not jpeg_headers.read(GREY[:begin] + longer + GREY[end:]).plain


def test_two_frames_are_not_plain():
    begin, end = frame_of(RGB)
    twice = jpeg_headers.read(RGB[:end] + RGB[begin:])
    assert twice[:3] == (48, 64, 3) and not twice.plain
    first = changed(RGB, 4, 12)
    assert not jpeg_headers.read(first[:end] + RGB[begin:]).plain


def test_a_frame_must_have_its_fields():
    begin, end = frame_of(RGB)
    for length, whole in [(0, False), (5, False), (7, False), (8, True)]:
        short = (
            segment(0xC0, RGB[begin + 4 : begin + 4 + length - 2])
            if length > 1
            else segment(0xC0, b"")
        )
        assert (jpeg_headers.read(RGB[:begin] + short + RGB[end:]) is not None) == whole


@pytest.mark.parametrize("side", [65_500, 65_501])
def test_a_side_is_at_most_what_libjpeg_takes(side):
    for sides in [(8, side), (side, 8)]:
        assert (jpeg_headers.read(large(RGB, *sides)) is None) == (side > 65_500)


def test_what_is_cut_off_anywhere_makes_no_jpeg():
    for encoded in (RGB, PROGRESSIVE):
        for length in range(len(encoded)):
            assert jpeg_headers.read(encoded[:length]) is None
        assert jpeg_headers.read(encoded + b"more") == jpeg_headers.read(encoded)


def test_segments_that_reach_behind_the_end_or_have_no_length_make_no_jpeg():
    at = frame_of(RGB)[0]
    for length in (0, 1, len(RGB), 65_535):
        assert (
            jpeg_headers.read(RGB[:at] + b"\xff\xe5" + length.to_bytes(2, "big") + RGB[at:]) is None
        )
    scan = RGB.index(b"\xff\xda") + 2
    for length in (0, 1):  # the rest of the header would pass for a scan
        assert jpeg_headers.read(RGB[:scan] + length.to_bytes(2, "big") + RGB[scan + 2 :]) is None
    assert jpeg_headers.read(b"\xff\xd8" + segment(0xE5, b"")) is None


def test_bytes_between_segments_make_no_jpeg():
    for at in frame_of(RGB):
        assert jpeg_headers.read(RGB[:at] + b"x" + RGB[at:]) is None
    assert jpeg_headers.read(b"x" + RGB) is None and jpeg_headers.read(b"") is None


def test_a_file_without_a_frame_makes_no_jpeg():
    begin, end = frame_of(RGB)
    assert jpeg_headers.read(RGB[:begin] + RGB[end:]) is None


def test_a_scan_goes_on_over_stuffed_bytes_and_restarts():
    for inside in (b"\xff\x00", b"\xff\xd0", b"\xff\xd7", b"\xff\xff", b"\x00", b"\xff\xff\x00"):
        assert jpeg_headers.read(RGB[:-2] + inside + EOI) == jpeg_headers.read(RGB)
    for marker in (0x01, 0xCF, 0xD8, 0xE0):
        found = jpeg_headers._scan_end(
            np.frombuffer(b"ab\xff" + bytes([marker]) + EOI, np.uint8), 0
        )
        assert found == 2


@pytest.mark.parametrize("start", [0, 4097])
@pytest.mark.parametrize("length", [0, 4094, 4095, 4096, 4097, 8192])
def test_a_scan_may_end_anywhere_in_the_blocks_that_are_looked_at(start, length):
    """Zeros before it, which are no reason to look closer."""
    scan = b"\xff\xe0" * (start // 2) + b"\0" * (start % 2) + bytes(length)
    marker = re.compile(rb"\xff[^\0\xff\xd0-\xd7]")
    for end in (EOI, EOI + b"\0", b"\xff\xd0" + EOI):
        found = jpeg_headers._scan_end(np.frombuffer(scan + end, np.uint8), start)
        assert found == marker.search(scan + end, start).start() == len(scan) + end.index(EOI)
    for end in (b"", b"\xff", b"\xff\xd0"):
        assert jpeg_headers._scan_end(np.frombuffer(scan + end, np.uint8), start) == -1
