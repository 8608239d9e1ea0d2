"""TFRecords of Examples in parts: the bytes that protobuf and TensorFlow's writer give."""

import os

import numpy as np
import pytest
import tensorflow as tf

from components.example_gen.writing import record_writer

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
    return example.SerializeToString(deterministic=True)


# Around the lengths at which a varint, here or in one of the messages around the value, grows by a
# byte.
@pytest.mark.parametrize(
    "size", [0, 1, 90, *range(95, 130), 16_000, *range(16_250, 16_390, 3), 2**21, 3_000_000]
)
@pytest.mark.parametrize("others", [{}, OTHERS])
def test_parts_are_what_protobuf_writes(size, others):
    value = os.urandom(size)
    parts = record_writer.example("image/encoded", value, others)
    assert parts[1] is value
    assert b"".join(parts) == _by_protobuf("image/encoded", value, others)


@pytest.mark.parametrize("size", [0, 10, 300_000])
def test_the_file_is_what_tensorflow_writes(size, tmp_path):
    rng = np.random.default_rng(0)
    values = [rng.bytes(int(rng.integers(0, size + 1))) for _ in range(1200 if size < 100 else 12)]
    with tf.io.TFRecordWriter(str(tmp_path / "theirs")) as writer:
        for value in values:
            writer.write(_by_protobuf("v", value, OTHERS))
    with record_writer.Writer(str(tmp_path / "ours")) as ours:
        lengths = [ours.write(record_writer.example("v", value, OTHERS)) for value in values]
    assert (tmp_path / "ours").read_bytes() == (tmp_path / "theirs").read_bytes()
    read = [len(record.numpy()) for record in tf.data.TFRecordDataset(str(tmp_path / "ours"))]
    assert read == lengths


def test_a_remote_file_is_written_and_an_empty_one_is_there(tmp_path):
    folder = f"ram://{tmp_path.name}"
    tf.io.gfile.makedirs(folder)
    with record_writer.Writer(f"{folder}/some") as writer:
        writer.write((b"<", b"value", b">"))
    with record_writer.Writer(f"{folder}/none"):
        pass
    assert [r.numpy() for r in tf.data.TFRecordDataset([f"{folder}/some", f"{folder}/none"])] == [
        b"<value>"
    ]


def test_a_full_disk_is_an_error():
    with pytest.raises(OSError), record_writer.Writer("/dev/full") as writer:
        writer.write((b"<", b"value", b">"))
