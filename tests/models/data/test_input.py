"""Batches for training and evaluation: order, coverage, restarts and padding."""

import dataclasses
import io
import os

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from models.data import input as batches
from models.pixels.augmentation import Constants
from models.settings import Train, Transform
from pipeline.local.terminal_view import reason

SIZE = 8
# "none" without noise shows which example is which: all its pixels are its number.
PLAIN = Transform(
    size=SIZE, crop="none", flip=False, colour=0.0, mean="channel", test_shorter_side=SIZE
)
CONSTANTS = Constants(
    pixel_mean=np.zeros([SIZE, SIZE, 3], np.float32),
    channel_mean=np.zeros([3], np.float32),
    covariance=np.eye(3, dtype=np.float32),
    labels=tuple(f"n{i:08d}" for i in range(23)),
    class_counts=(1,) * 23,
)


def serialized(number, noise=False):
    """One example whose grey level and label are its number (or whose pixels are noise)."""
    pixels = np.full([SIZE, SIZE, 3], number, np.uint8)
    if noise:
        pixels = np.random.default_rng(number).integers(0, 255, [4 * SIZE, 4 * SIZE, 3], np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=95)
    features = {
        "image/encoded": tf.train.Feature(bytes_list=tf.train.BytesList(value=[buffer.getvalue()])),
        "image/class/label": tf.train.Feature(int64_list=tf.train.Int64List(value=[number])),
    }
    return tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString()


def write(folder, shards=3, total=23, compression="", noise=False):
    files = []
    for shard in range(shards):
        file = folder / f"data-{shard:05d}-of-{shards:05d}{'.gz' if compression else ''}"
        with tf.io.TFRecordWriter(str(file), compression) as writer:
            for number in range(shard, total, shards):
                writer.write(serialized(number, noise))
        files.append(str(file))
    return files


@pytest.fixture(scope="module", params=["", "GZIP"], ids=["seekable", "zipped"])
def files(tmp_path_factory, request):
    return write(tmp_path_factory.mktemp("records"), compression=request.param)


def labels(dataset, steps):
    return [tuple(y.numpy().tolist()) for _, y in dataset.take(steps)]


def test_compressed_and_plain_files_are_told_apart_by_name(tmp_path):
    (tmp_path / "zipped").mkdir()
    files, zipped = write(tmp_path), write(tmp_path / "zipped", compression="GZIP")
    assert batches.count(files) == batches.count(zipped) == 23
    assert batches.count([*files, *zipped]) == 46


def test_patterns_without_files_are_refused(tmp_path):
    with pytest.raises(ValueError, match="no TFRecord files"):
        batches.resolve([str(tmp_path / "*")])


def test_an_epoch_has_full_batches_of_different_examples_and_epochs_differ(files):
    train = Train(batch_size=5, seed=3, shuffle_buffer=50)
    stream = batches.train_dataset(files, PLAIN, CONSTANTS, train, total=23)
    epochs = np.concatenate(labels(stream, 4 * 12)).reshape(12, 20)
    assert all(len(set(epoch)) == 20 for epoch in epochs)
    assert list(epochs[0]) != list(epochs[1])
    assert list(epochs[0]) != sorted(epochs[0])
    assert set(epochs.ravel()) == set(range(23)), "those left over differ from epoch to epoch"


def test_an_epoch_without_a_remainder_has_every_example_once(files):
    train = Train(batch_size=23, shuffle_buffer=50)
    for epoch in labels(batches.train_dataset(files, PLAIN, CONSTANTS, train, total=23), 3):
        assert sorted(epoch) == list(range(23))


def test_a_buffer_of_more_than_all_is_one_of_all(files):
    order = [
        labels(
            batches.train_dataset(
                files, PLAIN, CONSTANTS, Train(batch_size=5, shuffle_buffer=buffer), total=23
            ),
            8,
        )
        for buffer in (23, 10**20)
    ]
    assert order[0] == order[1]


def test_fewer_examples_than_a_batch_come_more_than_once(files):
    train = Train(batch_size=30, shuffle_buffer=50)
    for epoch in labels(batches.train_dataset(files, PLAIN, CONSTANTS, train, total=23), 2):
        assert len(epoch) == 30 and set(epoch) == set(range(23))


def test_the_beginning_of_an_epoch_is_reached_without_reading():
    assert batches.place(8, 5, 23) == (2, 0)
    assert batches.place(11, 5, 23) == (2, 15)
    assert batches.place(3, 30, 23) == (3, 0)


def test_images_belong_to_their_labels(files):
    train = Train(batch_size=4, shuffle_buffer=50)
    images, numbers = next(iter(batches.train_dataset(files, PLAIN, CONSTANTS, train, total=23)))
    assert images.shape == (4, SIZE, SIZE, 3)
    np.testing.assert_allclose(images.numpy().mean((1, 2, 3)), numbers, atol=1.0)


def test_the_stream_is_a_function_of_the_seed(files):
    def stream(seed):
        train = Train(batch_size=5, seed=seed, shuffle_buffer=50)
        return labels(batches.train_dataset(files, PLAIN, CONSTANTS, train, total=23), 6)

    assert stream(1) == stream(1)
    assert stream(1) != stream(2)


@pytest.mark.parametrize("seed", [0, 5])
def test_the_global_seed_changes_nothing(files, seed):
    def stream():
        return labels(
            batches.train_dataset(files, PLAIN, CONSTANTS, Train(batch_size=5), total=23), 6
        )

    tf.random.set_seed(1)
    expected = stream()
    tf.random.set_seed(seed)
    assert stream() == expected


@pytest.mark.parametrize("crop", ["scale", "pad"])
def test_what_is_read_is_the_same_however_it_is_stored(tmp_path, crop):
    (tmp_path / "zipped").mkdir()
    settings = Transform(
        size=SIZE, crop=crop, scale_min=SIZE, scale_max=2 * SIZE, test_shorter_side=SIZE
    )
    train = Train(batch_size=5, shuffle_buffer=9)
    stored = write(tmp_path, noise=True), write(tmp_path / "zipped", noise=True, compression="GZIP")
    plain, zipped = (
        batches.train_dataset(files, settings, CONSTANTS, train, total=23) for files in stored
    )
    for (x, y), (other_x, other_y) in zip(plain.take(9), zipped.take(9), strict=True):
        np.testing.assert_array_equal(y, other_y)
        np.testing.assert_array_equal(x, other_x)


def test_damage_ends_the_stream_with_a_sentence(tmp_path):
    files = write(tmp_path)
    with open(files[1], "r+b") as file:
        file.truncate(100)
    stream = batches.train_dataset(files, PLAIN, CONSTANTS, Train(batch_size=23), total=23)
    sentence = f"{files[1]} is damaged or cut off at byte 0: run ingestion again."
    with pytest.raises(tf.errors.InvalidArgumentError) as error:
        next(iter(stream))
    assert reason(error.value) == sentence
    model = keras.Sequential([keras.layers.Flatten(), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    with pytest.raises(tf.errors.InvalidArgumentError) as error:
        model.fit(stream, steps_per_epoch=1, verbose=0)
    assert reason(error.value) == sentence


@pytest.mark.parametrize("crop", ["scale", "pad"])
@pytest.mark.parametrize(("left", "total"), [(1, 23), (2, 22)], ids=["lost", "more"])
def test_records_that_are_not_all_there_are_no_epoch(tmp_path, crop, left, total):
    files = write(tmp_path, shards=2)[:left]
    settings = dataclasses.replace(PLAIN, crop=crop)
    stream = batches.train_dataset(files, settings, CONSTANTS, Train(batch_size=5), total=total)
    sentence = (
        f"{tmp_path} are damaged or not all there .expected to contain {total}.*run ingestion again"
    )
    with pytest.raises(ValueError, match=sentence), batches.named(files):
        labels(stream, 10)


@pytest.mark.parametrize("damage", [lambda data: data[:-1], lambda data: data[:-1] + b"?"])
def test_damaged_files_are_named_when_they_are_counted(tmp_path, damage):
    files = write(tmp_path)
    with open(files[1], "r+b") as file:
        damaged = damage(file.read())
        file.seek(0)
        file.truncate()
        file.write(damaged)
    with pytest.raises(ValueError, match=f"{tmp_path} are damaged .*(truncated|corrupted) record"):
        batches.count(files)


def test_streams_that_are_gone_keep_few_files_open(tmp_path):
    files = write(tmp_path, shards=200, total=200)

    def use():
        stream = batches.train_dataset(files, PLAIN, CONSTANTS, Train(batch_size=200), total=200)
        assert sorted(next(iter(stream))[1].numpy()) == list(range(200))
        del stream
        return len(os.listdir("/proc/self/fd"))

    first, *others = [use() for _ in range(3)]
    assert max(others) - first <= 2 * 64


@pytest.mark.parametrize("step", [1, 4, 5, 11])
def test_a_restart_continues_the_stream_pixel_for_pixel(tmp_path, step):
    noisy = write(tmp_path, noise=True)
    settings = Transform(size=SIZE, scale_min=SIZE, scale_max=2 * SIZE, test_shorter_side=SIZE)
    train = Train(batch_size=5, seed=7, shuffle_buffer=9)
    whole = list(batches.train_dataset(noisy, settings, CONSTANTS, train, total=23).take(13))
    rest = batches.train_dataset(noisy, settings, CONSTANTS, train, total=23, start_step=step)
    for (x, y), (again_x, again_y) in zip(whole[step:], rest.take(13 - step), strict=True):
        np.testing.assert_array_equal(y, again_y)
        np.testing.assert_array_equal(x, again_x)


def test_augmentation_differs_between_epochs(tmp_path):
    noisy = write(tmp_path, shards=1, total=1, noise=True)
    settings = Transform(size=SIZE, scale_min=SIZE, scale_max=2 * SIZE, test_shorter_side=SIZE)
    stream = batches.train_dataset(noisy, settings, CONSTANTS, Train(batch_size=1), total=1)
    (first, _), (second, _) = stream.take(2)
    assert np.abs(first - second).max() > 1


def test_a_sample_is_the_same_examples_in_every_epoch(files):
    train = Train(batch_size=6, shuffle_buffer=50)
    stream = batches.train_dataset(files, PLAIN, CONSTANTS, train, total=6, examples=6)
    first, second = labels(stream, 2)
    assert set(first) == set(second) and len(set(first)) == 6


@pytest.mark.parametrize("batch", [1, 8, 23, 64])
def test_evaluation_counts_every_example_once_in_full_batches(files, batch):
    dataset = list(batches.eval_dataset(files, PLAIN, CONSTANTS, batch, total=23))
    assert len(dataset) == -(-23 // batch)
    assert all(x.shape[0] == y.shape[0] == w.shape[0] == batch for x, y, w in dataset)
    numbers = np.concatenate([y for _, y, _ in dataset])
    weights = np.concatenate([w for _, _, w in dataset])
    assert sorted(numbers[weights == 1]) == list(range(23))
    assert weights.sum() == 23


def test_evaluation_is_deterministic(files):
    first, second = (
        list(batches.eval_dataset(files, PLAIN, CONSTANTS, 8, total=23)) for _ in range(2)
    )
    for (x, y, _), (again_x, again_y, _) in zip(first, second, strict=True):
        np.testing.assert_array_equal(x, again_x)
        np.testing.assert_array_equal(y, again_y)
