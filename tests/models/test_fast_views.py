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

from models import draws, fast_views, views
from models.settings import Transform
from tests import data

SIZE = 56
BLACK = np.zeros([SIZE, SIZE, 3], np.float32)
SETTINGS = Transform(size=SIZE, scale_min=64, scale_max=120, test_shorter_side=64, colour=0.0, flip=False)


def jpeg(height, width, **options):
    out = io.BytesIO()
    Image.fromarray(data.pixels(height + width, height, width)).save(
        out, "JPEG", **{"quality": 90, **options}
    )
    return out.getvalue()


def drawn(shape, crop, seed):
    settings = dataclasses.replace(SETTINGS, crop=crop)
    return draws.draw(shape, settings, np.eye(3), np.random.default_rng(seed))


def given(scale, top, left):
    return draws.Drawn(np.full(2, scale), np.array([top, left], float), False, np.zeros(3, np.float32))


def look(encoded, view, mean=BLACK):
    return fast_views.look(lambda place: encoded, 1, lambda place, shape: view, mean)[0]


def exact(encoded, view):
    """TensorFlow's pixels."""
    return views.look(encoded, lambda _: views.View(view.scale, view.offset), SIZE)


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
            if view.scale.max() <= 0.5:
                continue  # the decoder reduces, see below
            np.testing.assert_allclose(look(encoded, view), exact(encoded, view), atol=0.02)


@pytest.mark.parametrize("make", [data.grey, data.cmyk, data.cmyk_without_adobe, data.ycck, data.png])
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


@pytest.mark.parametrize("ratio", [2, 4, 8])
def test_large_photographs_are_reduced_by_the_decoder(ratio):
    encoded = jpeg(901, 1203)
    scale = 0.99 / ratio
    view = given(scale, 20, 9)
    whole = Image.open(io.BytesIO(encoded))
    whole.draft("RGB", [side // ratio for side in whole.size])  # PIL reduces in the same way
    box = [9 / scale / ratio, 20 / scale / ratio, (9 + SIZE) / scale / ratio, (20 + SIZE) / scale / ratio]
    expected = whole.resize([SIZE, SIZE], Image.Resampling.BILINEAR, box)
    difference = np.abs(look(encoded, view) - np.asarray(expected, float))
    assert difference.max() <= 1.01 and difference.mean() < 0.4


def test_mean_is_subtracted_before_the_mirror_and_the_shift_is_added():
    encoded = jpeg(90, 120)
    view = drawn((90, 120), "scale", 2)
    mean = np.random.default_rng(0).uniform(0, 255, [SIZE, SIZE, 3]).astype(np.float32)
    shift = np.array([1.0, -2.0, 30.0], np.float32)
    found = look(encoded, view._replace(mirror=True, shift=shift), mean)
    np.testing.assert_allclose(found, (look(encoded, view) - mean + shift)[:, ::-1], atol=1e-3)


def test_a_batch_keeps_its_order_and_views_are_drawn_for_the_shape():
    shapes = [(64 + number, 80) for number in range(9)]
    encoded = [jpeg(*shape) for shape in shapes]
    view = lambda place, shape: drawn(shape, "scale", place)  # noqa: E731
    found = fast_views.look(encoded.__getitem__, len(encoded), view, BLACK)
    for number, shape in enumerate(shapes):
        np.testing.assert_array_equal(found[number], look(encoded[number], drawn(shape, "scale", number)))


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
    monkeypatch.setattr(fast_views._Memory, "_free", [])
    first = fast_views._empty([2, 3])
    part = first[1:]
    first[:] = 7
    address = first.ctypes.data
    del first
    other = fast_views._empty([2, 3])
    other[:] = 0
    assert other.ctypes.data != address and (part == 7).all()
    del part
    assert fast_views._empty([2, 3]).ctypes.data == address


def test_memory_of_two_sizes_is_taken_by_several_threads_and_not_hoarded(monkeypatch):
    monkeypatch.setattr(fast_views._Memory, "_free", [])
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(4) as threads:
            lengths = threads.map(lambda number: len(fast_views._empty([1 + number % 2])), range(4000))
            assert sum(lengths) == 6000
    finally:
        sys.setswitchinterval(interval)
    held = [fast_views._empty([5]) for _ in range(20)]
    held.clear()
    assert 0 < len(fast_views._Memory._free) <= 5


def test_tensors_keep_their_batch():
    """TensorFlow takes the memory over without a copy; no later batch may write into it."""
    numbers = tf.data.Dataset.range(20).map(
        lambda number: tf.numpy_function(_filled, [number], tf.float32), num_parallel_calls=2
    )
    kept = list(numbers)
    assert [float(batch[0, 0]) for batch in kept] == list(range(20))


def _filled(number):
    array = fast_views._empty([64, 64])
    array[:] = number
    return array


def test_a_process_ends_while_batches_are_made(tmp_path):
    """The interpreter must not wait for an iterator that waits for the interpreter."""
    path = tmp_path / "image.jpg"
    path.write_bytes(jpeg(375, 500))
    script = f"""
import numpy as np, tensorflow as tf
from models import augmentation, settings
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
    for _ in range(3):
        ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)
        assert ended.returncode == 0 and ended.stdout == "ends\n", ended.stderr[-2000:]
