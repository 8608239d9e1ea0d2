"""TFRecords of Examples in parts: what protobuf, TensorFlow and the training read of them."""

import os

import numpy as np
import pytest
import tensorflow as tf

from components import files
from components.example_gen.writing import record_writer
from models.data import records

OTHERS = {
    "a/first": 0,
    "image/class/label": 999,
    "image/filename": "ä.jpg".encode(),
    "z": b"",
    "image/a": 2**40,
}


def _by_protobuf(key, value, others):
    example = tf.train.Example()
    for name, content in {key: value, **others}.items():
        feature = example.features.feature[name]
        (feature.bytes_list if isinstance(content, bytes) else feature.int64_list).value.append(
            content
        )
    return example


# Around the lengths at which a varint, here or in one of the messages around the value, grows by a
# byte.
@pytest.mark.parametrize(
    "size", [0, 1, 90, *range(95, 130), 16_000, *range(16_250, 16_390, 3), 2**21, 3_000_000]
)
@pytest.mark.parametrize("others", [{}, OTHERS])
def test_parts_are_an_example_with_all_features(size, others):
    value = os.urandom(size)
    parts = record_writer.example("image/encoded", value, others)
    assert parts[1] is value
    whole = b"".join(parts)
    assert tf.train.Example.FromString(whole) == _by_protobuf("image/encoded", value, others)
    # TensorFlow's parser is another program.
    columns = {name: tf.io.FixedLenFeature([], tf.string) for name in ("image/encoded", "z")}
    if others:
        parsed = tf.io.parse_single_example(whole, columns)
        assert parsed["image/encoded"].numpy() == value and parsed["z"].numpy() == b""
    if others and size:
        encoded, label = records.parse(whole)
        assert bytes(encoded) == value and label == 999


@pytest.mark.parametrize("size", [0, 10, 300_000])
def test_the_file_is_what_tensorflow_writes(size, tmp_path):
    rng = np.random.default_rng(0)
    values = [rng.bytes(int(rng.integers(0, size + 1))) for _ in range(1200 if size < 100 else 12)]
    examples = [record_writer.example("v", value, OTHERS) for value in values]
    with tf.io.TFRecordWriter(str(tmp_path / "theirs")) as writer:
        for parts in examples:
            writer.write(b"".join(parts))
    with files.open_write(str(tmp_path / "ours")) as ours:
        lengths = [record_writer.write(ours, parts) for parts in examples]
    assert (tmp_path / "ours").read_bytes() == (tmp_path / "theirs").read_bytes()
    read = [len(record.numpy()) for record in tf.data.TFRecordDataset(str(tmp_path / "ours"))]
    assert read == lengths


def test_a_remote_file_is_written(tmp_path):
    folder = f"ram://{tmp_path.name}"
    tf.io.gfile.makedirs(folder)
    with files.open_write(f"{folder}/some") as stream:
        record_writer.write(stream, (b"<", b"value>"))
    assert [r.numpy() for r in tf.data.TFRecordDataset(f"{folder}/some")] == [b"<value>"]


def test_a_full_disk_is_an_error():
    with pytest.raises(OSError), files.open_write("/dev/full") as stream:
        record_writer.write(stream, (b"<", b"value>"))
