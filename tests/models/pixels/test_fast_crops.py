"""Training views: the same pixels as those of TensorFlow's decoder and resampling."""

import dataclasses
import io
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from models.pixels import augmentation, crops, decoding, fast_crops, views
from models.settings import Transform
from tests.helpers import data, warm

SIZE = 56
BLACK = np.zeros([SIZE, SIZE, 3], np.float32)
SETTINGS = Transform(
    size=SIZE, scale_min=64, scale_max=120, test_shorter_side=64, colour=0.0, flip=False
)


def jpeg(height, width, **options):
    out = io.BytesIO()
    Image.fromarray(data.pixels(height + width, height, width)).save(
        out, "JPEG", **{"quality": 90, **options}
    )
    return out.getvalue()


def drawn(shape, crop, seed):
    settings = dataclasses.replace(SETTINGS, crop=crop)
    return crops.draw(shape, settings, np.eye(3), np.random.default_rng(seed))


def given(scale, top, left):
    return crops.Drawn(np.full(2, scale), np.array([top, left], float))


def look(encoded, view, mean=BLACK, settings=SETTINGS):
    return fast_crops.look(lambda place: encoded, 1, lambda place, shape: view, mean, settings)[0]


def exact(encoded, view, settings=SETTINGS):
    """TensorFlow's pixels."""
    pixels = decoding.load(tf.constant(encoded), settings)
    return views.look_at(pixels, views.View(view.scale, view.offset), len(BLACK))


ENCODINGS = {
    "4:2:0": {},
    "4:2:2": {"subsampling": 1},
    "4:4:4": {"subsampling": 0},
    "progressive": {"progressive": True},
    "restart markers": {"restart_marker_blocks": 7},
    "restart rows": {"restart_marker_rows": 1},
}


@pytest.mark.parametrize("crop", ["scale", "inception", "none"])
@pytest.mark.parametrize("encoding", ENCODINGS)
def test_views_equal_those_of_tensorflow(encoding, crop):
    for shape in [(120, 97), (101, 134), (64, 64), (57, 171)]:
        encoded = jpeg(*shape, **ENCODINGS[encoding])
        for seed in range(4):
            view = drawn(shape, crop, seed)
            np.testing.assert_allclose(look(encoded, view), exact(encoded, view), atol=0.02)


@pytest.mark.parametrize(
    "make", [data.grey, data.cmyk, data.cmyk_without_adobe, data.ycck, data.png]
)
def test_other_images_equal_those_of_tensorflow(make):
    encoded = make(3)
    view = drawn((48, 64), "scale", 5)
    np.testing.assert_allclose(look(encoded, view), exact(encoded, view), atol=0.02)


def test_a_window_at_the_top_costs_no_rows_below_and_gives_the_same_pixels():
    """Bytes behind the rows that are needed may be anything."""
    encoded = jpeg(375, 500)
    view = given(0.8, 3, 7)
    spoiled = encoded[: len(encoded) // 2] + bytes(len(encoded) // 2) + encoded[-2:]
    np.testing.assert_allclose(look(spoiled, view), exact(encoded, view), atol=0.02)


@pytest.mark.parametrize(
    "scale", [0.06, 0.125, 0.24, 0.25, 0.3, 0.4999, 0.5, 0.51, 0.99, 1.0, 1.7, 3.0]
)
@pytest.mark.parametrize("encoding", ["4:2:0", "4:4:4", "progressive"])
def test_every_scale_shows_the_pixels_of_tensorflow(encoding, scale):
    encoded = jpeg(1003, 1203, **ENCODINGS[encoding])
    for top, left in [(0, 0), (scale * 1003 - SIZE, scale * 1203 - SIZE), (3.25, 1.5)]:
        view = given(scale, max(top, 0), max(left, 0))
        np.testing.assert_allclose(look(encoded, view), exact(encoded, view), atol=0.02)


@pytest.mark.parametrize("side", [512, 1024])
def test_grain_is_antialiased_in_training_as_in_evaluation(side):
    grain = np.random.default_rng(0).normal(128, 40, [side, side]).clip(0, 255).astype(np.uint8)
    out = io.BytesIO()
    Image.fromarray(grain).save(out, "JPEG", quality=95)
    settings = Transform(crop="none", colour=0.0, flip=False)
    constants = augmentation.Constants(
        np.zeros([224, 224, 3]), np.zeros(3), np.eye(3), ("a",), (1,)
    )
    records = tf.data.Dataset.from_tensors((tf.constant(0, tf.int64), out.getvalue()))
    read = lambda record: (record, 0)  # noqa: E731
    [(trained, _)] = augmentation.train_images(records, read, 1, 0, settings, constants)
    tested = augmentation.center(tf.constant(out.getvalue()), settings, constants)
    np.testing.assert_allclose(trained[0], tested, atol=0.02)
    # The triangle filter averages independent values: in each dimension it leaves this part of the
    # variance.
    weights = np.maximum(1 - np.abs(np.arange(-side, side) + 0.5) * 256 / side, 0)
    left = np.square(weights / weights.sum()).sum()
    assert np.std(trained[0, ..., 0]) == pytest.approx(np.std(grain) * left, rel=0.05)


def test_what_lies_or_is_large_is_turned_and_shrunk_first():
    exif = Image.Exif()
    settings = dataclasses.replace(SETTINGS, upright=True, shorter_side=80)
    for orientation in range(1, 9):
        exif[0x0112] = orientation
        for shape in [(70, 90), (150, 200)]:
            encoded = jpeg(*shape, exif=exif)
            sides = decoding.load(tf.constant(encoded), settings).shape[:2]
            assert min(sides) == min(70 if shape[0] == 70 else 80, 80)
            view = drawn(tuple(sides), "scale", 1)
            np.testing.assert_allclose(
                look(encoded, view, settings=settings), exact(encoded, view, settings), atol=0.02
            )


def test_mean_is_subtracted_before_the_mirror_and_the_shift_is_added():
    encoded = jpeg(90, 120)
    view = drawn((90, 120), "scale", 2)
    mean = np.random.default_rng(0).uniform(0, 255, [SIZE, SIZE, 3]).astype(np.float32)
    shift = np.array([1.0, -2.0, 30.0], np.float32)
    found = look(encoded, view._replace(mirror=True, shift=shift), mean)
    np.testing.assert_allclose(found, (look(encoded, view) - mean + shift)[:, ::-1], atol=1e-3)


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
@pytest.mark.parametrize("mirror", [False, True])
def test_a_moved_window_shows_zeros_beside_the_image(mirror, kind):
    """Pixel by pixel: mean, then the window of the padded image, then the mirror."""
    side, shift = 12, np.array([1.0, -2.0, 30.0], np.float32)
    rng = np.random.default_rng(0)
    out = io.BytesIO()
    Image.fromarray(data.pixels(4, side, side + 6)).save(out, kind, quality=100, subsampling=0)
    whole = tf.io.decode_image(out.getvalue(), expand_animations=False).numpy()
    if kind == "JPEG":
        whole = tf.io.decode_jpeg(out.getvalue(), dct_method="INTEGER_ACCURATE").numpy()
    settings = Transform(size=side, crop="pad", test_shorter_side=side)
    for mean in (
        rng.uniform(0, 255, [side, side, 3]),
        np.broadcast_to([9.0, 99, 199], [side] * 2 + [3]),
    ):
        mean = mean.astype(np.float32)
        for down, right in [
            *np.ndindex(5, 5),
            (-4, 0),
            (0, -3),
            (-2, 4),
            (3, -1),
            (12, 0),
            (-40, 2),
        ]:
            expected = np.zeros([side, side, 3])
            for y, x in np.ndindex(side, side):
                if 0 <= y + down < side and 0 <= x + right < side:
                    pixel = whole[y + down, 3 + x + right] + shift - mean[y + down, x + right]
                    expected[y, side - 1 - x if mirror else x] = pixel
            view = crops.Drawn(np.ones(2), np.array([0.0, 3]), (down, right), mirror, shift)
            found = look(out.getvalue(), view, mean, settings)
            np.testing.assert_allclose(found, expected, atol=1e-3)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "P", "I;16"])
def test_small_and_large_pngs_equal_those_of_tensorflow(mode):
    for side in (64, 90):
        out = io.BytesIO()
        if mode == "I;16":
            image = Image.fromarray(data.pixels(5, side, side)[..., 0].astype(np.uint16) * 257)
        else:
            image = Image.fromarray(data.pixels(5, side, side)).convert(mode)
        image.save(out, "PNG")
        settings = dataclasses.replace(SETTINGS, shorter_side=80, upright=True)
        view = given(0.9, 1, 2)
        np.testing.assert_allclose(
            look(out.getvalue(), view, settings=settings),
            exact(out.getvalue(), view, settings),
            atol=0.02,
        )


def test_a_png_of_too_many_pixels_is_refused_before_it_is_decoded():
    encoded = decoding.PNG + b"\0\0\0\rIHDR" + (2**20).to_bytes(4, "big") * 2 + bytes(50)
    with pytest.raises(tf.errors.InvalidArgumentError, match="more than 100,000,000 pixels"):
        look(encoded, given(1, 0, 0))


def test_a_batch_keeps_its_order_and_views_are_drawn_for_the_shape():
    shapes = [(64 + number, 80) for number in range(9)]
    encoded = [jpeg(*shape) for shape in shapes]
    view = lambda place, shape: drawn(shape, "scale", place)  # noqa: E731
    found = fast_crops.look(encoded.__getitem__, len(encoded), view, BLACK, SETTINGS)
    for number, shape in enumerate(shapes):
        np.testing.assert_array_equal(
            found[number], look(encoded[number], drawn(shape, "scale", number))
        )


@pytest.mark.parametrize("spoil", ["empty", "text", "cut", "header", "height"])
def test_damaged_images_are_refused(spoil):
    encoded = jpeg(100, 100)
    damaged = {
        "empty": b"",
        "text": b"no image",
        "cut": encoded[: len(encoded) // 2],
        "header": encoded[:2] + encoded[30:],
        "height": encoded.replace(b"\xff\xc0\x00\x11\x08\x00\x64", b"\xff\xc0\x00\x11\x08\x00\x00"),
    }[spoil]
    view = given(0.7, 0, 0)
    with pytest.raises(tf.errors.InvalidArgumentError):
        look(damaged, view)


def test_memory_is_used_again_only_when_nobody_looks_at_it(monkeypatch):
    monkeypatch.setattr(fast_crops._Memory, "_free", [])
    first = fast_crops._empty([2, 3])
    part = first[1:]
    first[:] = 7
    address = first.ctypes.data
    del first
    other = fast_crops._empty([2, 3])
    other[:] = 0
    assert other.ctypes.data != address and (part == 7).all()
    del part
    assert fast_crops._empty([2, 3]).ctypes.data == address


def test_memory_of_two_sizes_is_taken_by_several_threads_and_not_hoarded(monkeypatch):
    monkeypatch.setattr(fast_crops._Memory, "_free", [])
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(4) as threads:
            lengths = threads.map(
                lambda number: len(fast_crops._empty([1 + number % 2])), range(4000)
            )
            assert sum(lengths) == 6000
    finally:
        sys.setswitchinterval(interval)
    held = [fast_crops._empty([5]) for _ in range(20)]
    held.clear()
    assert 0 < len(fast_crops._Memory._free) <= 5


def test_tensors_keep_their_batch():
    """TensorFlow takes the memory over without a copy; no later batch may write into it."""
    numbers = tf.data.Dataset.range(20).map(
        lambda number: tf.numpy_function(_filled, [number], tf.float32), num_parallel_calls=2
    )
    kept = list(numbers)
    assert [float(batch[0, 0]) for batch in kept] == list(range(20))


def _filled(number):
    array = fast_crops._empty([64, 64])
    array[:] = number
    return array


def test_a_process_ends_while_batches_are_made(tmp_path):
    """The interpreter must not wait for an iterator that waits for the interpreter."""
    path = tmp_path / "image.jpg"
    path.write_bytes(jpeg(375, 500))
    script = f"""
import numpy as np, tensorflow as tf
from models import settings
from models.pixels import augmentation
encoded = open({str(path)!r}, "rb").read()
mean = np.zeros(3, np.float32)
constants = augmentation.Constants(np.zeros([64, 64, 3]), mean, np.eye(3), ("a",), (1,))
read = lambda record: (record, 0)
records = tf.data.Dataset.range(10**9).map(lambda number: (number, encoded))
transform = settings.Transform(size=64, mean="channel")
views = augmentation.train_images(records, read, 256, 0, transform, constants)
alive = iter(views.prefetch(tf.data.AUTOTUNE))
for _ in range(3):
    next(alive)
print("ends")
"""
    for python in ([sys.executable], warm.python(), warm.python()):
        ended = subprocess.run([*python, "-c", script], capture_output=True, text=True, timeout=120)
        assert ended.returncode == 0 and ended.stdout == "ends\n", ended.stderr[-2000:]
