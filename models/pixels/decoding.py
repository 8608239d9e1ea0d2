"""Encoded images -> pixels (uint8, RGB): the one chain of all components and of the server.

docs/pixels.md has the rules. TensorFlow's decoder is the judge of what an image is and shows.
"""

from __future__ import annotations

from collections.abc import Sequence

import tensorflow as tf

from models.pixels import views
from models.settings import Transform

# A decoded image of so many pixels has 300 MB.
MAX_PIXELS = 100_000_000
# Every scan of a JPEG goes over all pixels, however few bytes it has: this much work takes about a
# second.
MAX_SCANNED = 5_000_000_000
# Bytes of the smallest scan: its header and marker.
SCAN_BYTES = 10
# Compressed notes of a PNG: libpng unpacks each to up to 8 MB and throws it away.
MAX_NOTES = 20
NOTES = ("zTXt", "iTXt", "iCCP")
JPEG, PNG, SCAN = b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"\xff\xda"
# Why an image is refused, in the same words by every door.
NO_IMAGE = "The bytes are no JPEG or PNG; convert the image to PNG, which loses nothing."
TOO_LARGE = f"The image has more than {MAX_PIXELS:,} pixels; make it smaller."
TOO_MANY_NOTES = (
    f"The PNG has more than {MAX_NOTES} compressed notes; save it anew without its text."
)
TOO_MANY_SCANS = f"The JPEG has more than {MAX_SCANNED:,} pixels in all of its scans; save it anew."
# As PIL's and libjpeg's default; TensorFlow's own differs by up to 5 levels.
_DCT = "INTEGER_ACCURATE"
EXIF = b"Exif\0\0"
# It is looked for in so many first bytes: it stands before the pixels.
EXIF_WITHIN = 2**18
# Among so many segments, of which a camera writes a dozen.
_MOST_SEGMENTS = 1000


def load(encoded: tf.Tensor, settings: Transform) -> tf.Tensor:
    """The pixels that every view of an image (JPEG or PNG, string scalar) is taken from.

    Turned upright and shrunk as `settings` say: uint8 [height, width, 3]. Loading what was loaded
    and stored as PNG gives the same pixels. Raises what `decode` raises.
    """
    pixels = decode(encoded)
    if settings.upright:
        pixels = upright(pixels, orientation(encoded))
    if settings.shorter_side:
        large = tf.reduce_min(tf.shape(pixels)[:2]) > settings.shorter_side
        pixels = tf.cond(large, lambda: views.shrink(pixels, settings.shorter_side), lambda: pixels)
    return tf.ensure_shape(pixels, [None, None, 3])


def decode(encoded: tf.Tensor) -> tf.Tensor:
    """The whole image as it is stored: uint8 [height, width, 3] from a string scalar.

    Raises:
      tf.errors.InvalidArgumentError: neither JPEG nor PNG, damaged, of more than MAX_PIXELS pixels,
        or a JPEG whose scans have more than MAX_SCANNED in all.
    """
    is_jpeg = tf.strings.substr(encoded, 0, len(JPEG)) == JPEG
    is_png = tf.strings.substr(encoded, 0, len(PNG)) == PNG

    def jpeg() -> tf.Tensor:
        # Its third value is wrong for CMYK.
        pixels = tf.reduce_prod(tf.io.extract_jpeg_shape(encoded, tf.int64)[:2])
        checked = _check(
            [(pixels <= MAX_PIXELS, TOO_LARGE), (_few_scans(encoded, pixels), TOO_MANY_SCANS)]
        )
        with tf.control_dependencies(checked):
            return tf.io.decode_jpeg(encoded, channels=3, dct_method=_DCT)

    def png() -> tf.Tensor:
        # Width and height begin the first chunk; a shorter file is left to the decoder, which
        # refuses it.
        sides = tf.io.decode_raw(tf.strings.substr(encoded, 16, 8), tf.int32, little_endian=False)
        few = tf.reduce_prod(tf.cast(sides, tf.int64)) <= MAX_PIXELS
        rules = [(few, TOO_LARGE), (_count(encoded, NOTES) <= MAX_NOTES, TOO_MANY_NOTES)]
        with tf.control_dependencies(_check(rules)):
            return tf.io.decode_png(encoded, channels=3)

    def short() -> tf.Tensor:
        return tf.io.decode_png(encoded, channels=3)

    with tf.control_dependencies(_check([(is_jpeg | is_png, NO_IMAGE)])):
        pixels = tf.case([(is_jpeg, jpeg), (tf.strings.length(encoded) < 24, short)], default=png)
    return tf.ensure_shape(pixels, [None, None, 3])


def _check(rules: list[tuple[tf.Tensor, str]]) -> list[tf.Operation]:
    checks = [tf.debugging.Assert(holds, [message]) for holds, message in rules]
    return [check for check in checks if check is not None]  # eager ones have raised


def _count(encoded: tf.Tensor, marks: Sequence[str]) -> tf.Tensor:
    """How often the marks occur in a string scalar, anywhere: pixels hold one by rare chance."""
    pieces = [tf.strings.split([encoded], mark).values for mark in marks]
    return tf.add_n([tf.size(found) - 1 for found in pieces])


def _few_scans(encoded: tf.Tensor, pixels: tf.Tensor) -> tf.Tensor:
    def counted() -> tf.Tensor:
        data = tf.io.decode_raw(encoded, tf.uint8)
        scans = tf.math.count_nonzero((data[:-1] == SCAN[0]) & (data[1:] == SCAN[1]))
        return pixels * scans <= MAX_SCANNED

    # Few files are so large that they could have too many.
    most = tf.cast(tf.strings.length(encoded), tf.int64) // SCAN_BYTES
    return tf.cond(pixels * most <= MAX_SCANNED, lambda: tf.constant(True), counted)


def orientation(encoded: tf.Tensor) -> tf.Tensor:
    """How a JPEG lies: the SHORT of tag 0x0112 in its first EXIF, int64 1..8; else 1, upright."""
    # Slices end where the data do, and what is cut off counts as 0.
    data = tf.cast(tf.io.decode_raw(tf.strings.substr(encoded, 0, EXIF_WITHIN), tf.uint8), tf.int64)

    def marker(at: tf.Tensor) -> tf.Tensor:
        return _number(data[at : at + 2], 2)

    def is_exif(at: tf.Tensor) -> tf.Tensor:
        mark = tf.strings.substr(encoded, tf.minimum(at + 4, _length(encoded)), len(EXIF))
        return (marker(at) == 0xFFE1) & (mark == EXIF)

    def goes_on(at: tf.Tensor) -> tf.Tensor:
        # Neither a scan nor the end.
        is_segment = (marker(at) > 0xFF00) & (marker(at) != 0xFFDA) & (marker(at) != 0xFFD9)
        return is_segment & ~is_exif(at)

    def following(at: tf.Tensor) -> list[tf.Tensor]:
        def filled() -> tf.Tensor:
            # Bytes may fill the space between segments: the last one belongs to the next marker.
            others = tf.concat([data[at:], [0]], axis=0) != 0xFF
            return at + tf.argmax(tf.cast(others, tf.uint8)) - 1

        # A length below 2 is damage: it must not lead back.
        after = at + 2 + tf.maximum(marker(at + 2), 2)
        return [tf.cond(marker(at) == 0xFFFF, filled, lambda: after)]

    begin = [tf.constant(2, tf.int64)]
    [at] = tf.while_loop(goes_on, following, begin, maximum_iterations=_MOST_SEGMENTS)
    segment = data[at + 4 + len(EXIF) : at + 2 + marker(at + 2)]
    is_jpeg = tf.strings.substr(encoded, 0, len(JPEG)) == JPEG
    return tf.where(is_jpeg & is_exif(at), _tiff_orientation(segment), 1)


def _length(encoded: tf.Tensor) -> tf.Tensor:
    return tf.cast(tf.strings.length(encoded), tf.int64)


def _tiff_orientation(data: tf.Tensor) -> tf.Tensor:
    little = _number(data[:2], 2) == 0x4949  # "II", else "MM"

    def number(part: tf.Tensor, size: int) -> tf.Tensor:
        return tf.where(little, _number(part[::-1], size), _number(part, size))

    begin = number(data[4:8], 4)
    entries = data[begin + 2 : begin + 2 + 12 * number(data[begin : begin + 2], 2)]
    rows = tf.reshape(entries[: tf.size(entries) // 12 * 12], [-1, 12])
    values = tf.where(
        little, rows[:, ::2] + 256 * rows[:, 1::2], 256 * rows[:, ::2] + rows[:, 1::2]
    )
    tag, kind, value = values[:, 0], values[:, 1], values[:, 4]
    found = value[(tag == 0x0112) & (kind == 3) & (value >= 1) & (value <= 8)]
    return tf.concat([found, [1]], axis=0)[0]


def _number(part: tf.Tensor, size: int) -> tf.Tensor:
    """Big-endian number of `size` bytes, int64 [size]; 0 where there are fewer."""
    whole = tf.size(part) == size
    weights = tf.constant([256**power for power in reversed(range(size))], tf.int64)
    return tf.cond(whole, lambda: tf.reduce_sum(part * weights), lambda: tf.constant(0, tf.int64))


def upright(pixels: tf.Tensor, orientation: tf.Tensor) -> tf.Tensor:
    """Pixels [height, width, 3] turned upright by their EXIF orientation."""

    def turned() -> tf.Tensor:
        # 5 to 8 lie on their side: rows are columns.
        image = tf.cond(orientation >= 5, lambda: tf.transpose(pixels, [1, 0, 2]), lambda: pixels)
        for axis, mirrored in ((1, (2, 3, 6, 7)), (0, (3, 4, 7, 8))):
            is_mirrored = tf.reduce_any(orientation == tf.constant(mirrored, tf.int64))
            image = tf.cond(
                is_mirrored, lambda i=image, a=axis: tf.reverse(i, [a]), lambda i=image: i
            )
        return image

    return tf.cond(orientation == 1, lambda: pixels, turned)
