"""The gate: what stops a run, and what it says."""

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_data_validation as tfdv

from components.data_validation import component as data_validation

CLASSES = ["n01", "n02", "n03"]


def statistics(labels, synsets, tmp_path, width=10):
    """TFDV statistics of examples in our format, over the schema with CLASSES."""

    def feature(value):
        if isinstance(value, bytes):
            return tf.train.Feature(bytes_list=tf.train.BytesList(value=[value]))
        return tf.train.Feature(int64_list=tf.train.Int64List(value=[value]))

    path = str(tmp_path / "data.tfrecord")
    with tf.io.TFRecordWriter(path) as writer:
        for i, (label, synset) in enumerate(zip(labels, synsets, strict=True)):
            values = {
                "image/encoded": bytes(np.random.default_rng(i).integers(128, 256, 50, dtype=np.uint8)),
                "image/format": b"JPEG", "image/filename": b"%d.jpg" % i, "image/height": 10,
                "image/width": width, "image/channels": 3, "image/class/label": label,
                "image/class/synset": synset.encode(),
            }  # fmt: skip
            example = tf.train.Example(
                features=tf.train.Features(feature={k: feature(v) for k, v in values.items()})
            )
            writer.write(example.SerializeToString())
    options = data_validation.stats_options(3, data_validation.curated_schema(CLASSES))
    return tfdv.generate_statistics_from_tfrecord(path, stats_options=options)


def anomalies(stats):
    schema = data_validation.curated_schema(CLASSES)
    return data_validation.describe(tfdv.validate_statistics(stats, schema), stats, schema)


def test_good_data_has_no_anomaly(tmp_path, caplog):
    assert anomalies(statistics([0, 1, 2], CLASSES, tmp_path)) == []
    assert "UTF-8" not in caplog.text


def test_label_out_of_range(tmp_path):
    [text] = anomalies(statistics([0, 1, 2, 7], [*CLASSES, "n03"], tmp_path))
    assert "image/class/label" in text
    assert "7" in text


def test_unknown_class(tmp_path):
    [text] = anomalies(statistics([0, 1, 2, 2], [*CLASSES, "n99"], tmp_path))
    assert "image/class/synset" in text
    assert "n99" in text


def test_vanished_class(tmp_path):
    assert anomalies(statistics([0, 2], ["n01", "n03"], tmp_path)) == ["no example of class n02"]


def test_a_vanished_class_is_told_with_what_to_do_or_allowed(tmp_path):
    stats = statistics([0, 2], ["n01", "n03"], tmp_path)
    schema = data_validation.curated_schema(CLASSES)
    found = tfdv.validate_statistics(stats, schema)
    assert data_validation.describe(found, stats, schema, "put one there") == [
        "no example of class n02: put one there"
    ]
    assert data_validation.describe(found, stats, schema, "put one there", allow_missing=True) == []


@pytest.mark.parametrize("width", [0, 100_000_001])
def test_impossible_size(width, tmp_path):
    [text] = anomalies(statistics([0, 1, 2], CLASSES, tmp_path, width=width))
    assert "image/width" in text


def test_image_bytes_get_no_string_statistics(tmp_path):
    stats = statistics([0, 1, 2], CLASSES, tmp_path)
    [encoded] = [f for f in stats.datasets[0].features if "encoded" in str(f.path)]
    assert encoded.WhichOneof("stats") == "bytes_stats"
