"""The gate: what stops a run, and what it says."""

import pathlib

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_data_validation as tfdv
from tensorflow_metadata.proto.v0 import anomalies_pb2
from tfx.components.example_validator import executor as example_validator
from tfx.types import artifact_utils, standard_artifacts

from components.data_validation import component as data_validation
from components.example_gen.writing.shards import ORIGINAL

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


@pytest.fixture
def artifacts(tmp_path):
    """Inputs and outputs of the component: good statistics, and the curated schema."""
    given = standard_artifacts.ExampleStatistics()
    given.uri, given.span = str(tmp_path / "statistics"), 3
    given.split_names = artifact_utils.encode_split_names(["train", "eval"])
    stats = statistics([0, 1, 2], CLASSES, tmp_path)
    for split in ("train", "eval"):
        folder = artifact_utils.get_split_uri([given], split)
        tf.io.gfile.makedirs(folder)
        with open(f"{folder}/FeatureStats.pb", "wb") as file:
            file.write(stats.SerializeToString())
    schema = standard_artifacts.Schema()
    schema.uri = str(tmp_path / "schema")
    tf.io.gfile.makedirs(schema.uri)
    tfdv.write_schema_text(data_validation.curated_schema(CLASSES), f"{schema.uri}/schema.pbtxt")

    def outputs(name):
        found = standard_artifacts.ExampleAnomalies()
        found.uri = str(tmp_path / name)
        return {"anomalies": [found]}

    return {"statistics": [given], "schema": [schema]}, outputs


def left(outputs):
    """What an executor has left: its artifact, and the anomalies of each split."""
    [artifact] = outputs["anomalies"]
    anomalies = {
        split: pathlib.Path(artifact_utils.get_split_uri([artifact], split), "SchemaDiff.pb")
        for split in ("train", "eval")
    }
    kept = artifact.mlmd_artifact
    files = {split: path.read_bytes() for split, path in anomalies.items()}
    return dict(kept.properties), dict(kept.custom_properties), files


def test_what_is_left_is_what_tfxs_validator_leaves(artifacts):
    inputs, outputs = artifacts
    ours, theirs = outputs("ours"), outputs("theirs")
    data_validation.ImageExampleValidator_Executor().Do(inputs, ours, {"code": ""})
    example_validator.Executor().Do(inputs, theirs, {})
    assert left(ours) == left(theirs)


def test_anomalies_stop_the_run_and_are_left(artifacts, tmp_path):
    inputs, outputs = artifacts
    found = outputs("ours")
    bad = statistics([0, 1, 2, 7], [*CLASSES, "n03"], tmp_path)
    folder = artifact_utils.get_split_uri(inputs["statistics"], "train")
    with open(f"{folder}/FeatureStats.pb", "wb") as file:
        file.write(bad.SerializeToString())
    with pytest.raises(data_validation.DataError, match=r"split 'train': image/class/label"):
        data_validation.ImageExampleValidator_Executor().Do(inputs, found, {"code": ""})
    kept = anomalies_pb2.Anomalies.FromString(left(found)[2]["train"])
    assert list(kept.anomaly_info) == ["image/class/label"]


def test_what_ingestion_adds_fits_every_schema(artifacts):
    """The original bytes of an image that was converted, in a schema that knows nothing of them."""
    inputs, outputs = artifacts
    folder = artifact_utils.get_split_uri(inputs["statistics"], "train")
    stats = tfdv.load_stats_binary(f"{folder}/FeatureStats.pb")
    feature = stats.datasets[0].features.add()
    [other] = [f for f in stats.datasets[0].features if f.path.step == ["image/encoded"]]
    feature.CopyFrom(other)
    feature.path.step[0] = ORIGINAL
    with open(f"{folder}/FeatureStats.pb", "wb") as file:
        file.write(stats.SerializeToString())
    schema = data_validation.curated_schema(CLASSES)
    del schema.feature[[f.name for f in schema.feature].index(ORIGINAL) :]
    assert ORIGINAL in tfdv.validate_statistics(stats, schema).anomaly_info
    tfdv.write_schema_text(schema, f"{inputs['schema'][0].uri}/schema.pbtxt")
    data_validation.ImageExampleValidator_Executor().Do(inputs, outputs("ours"), {"code": ""})
