"""Training views: the same pixels as those of TensorFlow's decoder and resampling."""

import dataclasses
import io
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from models import fast_views, views
from models.settings import Transform
from tests import data

SIZE = 56
BLACK = np.zeros([SIZE, SIZE, 3], np.float32)
PLAIN = {"mirror": [False], "shift": np.zeros([1, 3], np.float32), "mean": BLACK}
SETTINGS = Transform(size=SIZE, scale_min=64, scale_max=120, test_shorter_side=64)


def jpeg(height, width, **options):
    out = io.BytesIO()
    Image.fromarray(data.pixels(height + width, height, width)).save(
        out, "JPEG", **{"quality": 90, **options}
    )
    return out.getvalue()


def drawn(encoded, crop, seed):
    settings = dataclasses.replace(SETTINGS, crop=crop)
    return views.DRAWS[crop](views.shape(encoded), settings, tf.constant([seed, 1]))


def look(encoded, view, **changes):
    scale, offset = (np.asarray(part)[np.newaxis] for part in view)
    return fast_views.look(np.array([encoded], object), scale, offset, **{**PLAIN, **changes})[0]


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
            view = drawn(encoded, crop, seed)
            if view.scale.numpy().max() <= 0.5:
                continue  # the decoder reduces, see below
            expected = views.look(encoded, lambda _, view=view: view, SIZE)
            np.testing.assert_allclose(look(encoded, view), expected, atol=0.02)


@pytest.mark.parametrize("make", [data.grey, data.cmyk, data.cmyk_without_adobe, data.ycck, data.png])
def test_other_images_equal_those_of_tensorflow(make):
    encoded = make(3)
    view = drawn(encoded, "scale", 5)
    np.testing.assert_allclose(look(encoded, view), views.look(encoded, lambda _: view, SIZE), atol=0.02)


def test_a_window_at_the_top_costs_no_rows_below_and_gives_the_same_pixels():
    """Bytes behind the rows that are needed may be anything."""
    encoded = jpeg(375, 500)
    view = views.View(tf.constant([0.8, 0.8], tf.float64), tf.constant([3.0, 7.0], tf.float64))
    spoiled = encoded[: len(encoded) // 2] + bytes(len(encoded) // 2) + encoded[-2:]
    expected = views.look(encoded, lambda _: view, SIZE)
    np.testing.assert_allclose(look(spoiled, view), expected, atol=0.02)


@pytest.mark.parametrize("ratio", [2, 4, 8])
def test_large_photographs_are_reduced_by_the_decoder(ratio):
    encoded = jpeg(901, 1203)
    scale = np.float64(0.99 / ratio)
    view = views.View(tf.fill([2], scale), tf.constant([20.0, 9.0], tf.float64))
    whole = Image.open(io.BytesIO(encoded))
    whole.draft("RGB", [side // ratio for side in whole.size])  # PIL reduces in the same way
    box = [9 / scale / ratio, 20 / scale / ratio, (9 + SIZE) / scale / ratio, (20 + SIZE) / scale / ratio]
    expected = whole.resize([SIZE, SIZE], Image.Resampling.BILINEAR, box)
    difference = np.abs(look(encoded, view) - np.asarray(expected, float))
    assert difference.max() <= 1.01 and difference.mean() < 0.4


def test_mean_is_subtracted_before_the_mirror_and_the_shift_is_added():
    encoded = jpeg(90, 120)
    view = drawn(encoded, "scale", 2)
    mean = np.random.default_rng(0).uniform(0, 255, [SIZE, SIZE, 3]).astype(np.float32)
    shift = np.array([[1.0, -2.0, 30.0]], np.float32)
    found = look(encoded, view, mirror=[True], mean=mean, shift=shift)
    np.testing.assert_allclose(found, (look(encoded, view) - mean + shift[0])[:, ::-1], atol=1e-3)


def test_a_batch_keeps_its_order():
    encoded = [jpeg(64 + number, 80) for number in range(9)]
    one = [drawn(image, "scale", number) for number, image in enumerate(encoded)]
    scale, offset = (np.stack([np.asarray(view[part]) for view in one]) for part in (0, 1))
    found = fast_views.look(
        np.array(encoded, object), scale, offset, [False] * 9, np.zeros([9, 3], np.float32), BLACK
    )
    for number, view in enumerate(one):
        np.testing.assert_array_equal(found[number], look(encoded[number], view))


@pytest.mark.parametrize("spoil", ["empty", "text", "cut", "header"])
def test_damaged_images_are_refused(spoil):
    encoded = jpeg(100, 100)
    damaged = {
        "empty": b"",
        "text": b"no image",
        "cut": encoded[: len(encoded) // 2],
        "header": encoded[:2] + encoded[30:],
    }[spoil]
    view = views.View(tf.constant([0.7, 0.7], tf.float64), tf.zeros([2], tf.float64))
    with pytest.raises(tf.errors.InvalidArgumentError):
        look(damaged, view)


def test_memory_is_used_again_only_when_nobody_looks_at_it():
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
read = lambda number: (encoded, tf.stack([number, number]), number)
numbers = tf.data.Dataset.range(10**9)
views = augmentation.train_images(numbers, read, 256, settings.Transform(size=64, mean="channel"), constants)
alive = iter(views.prefetch(tf.data.AUTOTUNE))
for _ in range(3):
    next(alive)
print("ends")
"""
    for _ in range(3):
        ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)
        assert ended.returncode == 0 and ended.stdout == "ends\n", ended.stderr[-2000:]
