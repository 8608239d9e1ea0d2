"""Models that the Evaluator loads by our hook."""

import json
import os
import shutil

import pytest
import tensorflow as tf
from tensorflow.python.framework import ops
from tfx.types import artifact_utils, standard_artifacts
from tfx.utils import json_utils, proto_utils

from components.evaluator import component as evaluator
from components.evaluator import evaluation
from components.pusher import component as pusher
from pipeline.config import beam_arguments
from pipeline.config.settings import Beam
from tests.components.evaluator import test_evaluation as known


@pytest.fixture
def artifacts(tmp_path):
    """Examples and the model of known scores, as the Evaluator's inputs, and its outputs."""
    values = {"center": known.scores(1, 0.6), "ten_crop": known.scores(2, 0.8)}
    examples, model = standard_artifacts.Examples(), standard_artifacts.Model()
    examples.uri, examples.split_names = str(tmp_path), artifact_utils.encode_split_names(["eval"])
    model.uri = str(tmp_path / "model")
    known.saved(os.path.join(model.uri, "Format-Serving"), values)
    os.makedirs(tmp_path / "Split-eval")
    known.write(str(tmp_path / "Split-eval" / "data-00000-of-00001"))
    (tmp_path / "summary.json").write_text(
        json.dumps({"splits": {"eval": {"examples": known.EXAMPLES}}})
    )
    metrics, blessing = standard_artifacts.ModelEvaluation(), standard_artifacts.ModelBlessing()
    metrics.uri, blessing.uri = str(tmp_path / "evaluation"), str(tmp_path / "blessing")
    inputs = {"examples": [examples], "model": [model]}
    return values, inputs, {"evaluation": [metrics], "blessing": [blessing]}


def evaluate(inputs, outputs, values):
    config = evaluation.eval_config(list(values), "center", known.CLASSES, 0.9, 0.9, 1.0)
    context = evaluator.Executor.Context(beam_pipeline_args=beam_arguments.arguments(Beam()))
    properties = {
        "eval_config": proto_utils.proto_to_json(config),
        "example_splits": json_utils.dumps(["eval"]),
    }
    evaluator.Executor(context).Do(inputs, outputs, properties)


def test_the_evaluator_counts_right_and_writes_out_no_images(artifacts, monkeypatch):
    values, inputs, outputs = artifacts

    def written(tensor):
        raise AssertionError("TensorFlow writes all bytes of a batch of images into a message.")

    monkeypatch.setattr(ops._EagerTensorBase, "__repr__", written)
    evaluate(inputs, outputs, values)
    found = evaluation.errors(outputs["evaluation"][0].uri)
    for name, table in values.items():
        assert found[name]["top1"] == pytest.approx(known.counted(table, 1))
        assert found[name]["top5"] == pytest.approx(known.counted(table, 5))
    assert tf.io.gfile.exists(os.path.join(outputs["blessing"][0].uri, "BLESSED"))


@pytest.mark.parametrize("change", ["emptied", "cut", "lost", "twice"])
def test_a_verdict_stands_on_every_image_of_ingestion(artifacts, tmp_path, change):
    values, inputs, outputs = artifacts
    shard = tmp_path / "Split-eval" / "data-00000-of-00001"
    records = list(tf.data.TFRecordDataset(str(shard)).as_numpy_iterator())
    kept = {
        "emptied": [],
        "cut": records[:-1],
        "lost": records[: len(records) // 2],
        "twice": records * 2,
    }[change]
    with tf.io.TFRecordWriter(str(shard)) as writer:
        for record in kept:
            writer.write(record)
    with pytest.raises(
        ValueError, match=rf"^{len(kept)} images were judged and ingestion wrote 57 into "
    ):
        evaluate(inputs, outputs, values)
    assert not tf.io.gfile.exists(os.path.join(outputs["blessing"][0].uri, evaluator.JUDGED))


@pytest.mark.parametrize("which", ["model", "baseline_model"])
@pytest.mark.parametrize("file", ["saved_model.pb", "variables/variables.index", "variables"])
def test_a_damaged_model_is_named_with_the_way_out(artifacts, tmp_path, which, file):
    values, inputs, outputs = artifacts
    known.saved(str(tmp_path / "old" / "Format-Serving"), values)
    baseline_model = standard_artifacts.Model()
    baseline_model.uri = str(tmp_path / "old")
    inputs["baseline_model"] = [baseline_model]
    path = tmp_path / {"model": "model", "baseline_model": "old"}[which] / "Format-Serving" / file
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.write_bytes(path.read_bytes()[:-7])
    node = {"model": "Trainer", "baseline_model": "Baseline"}[which]
    with pytest.raises(
        ValueError, match=rf"Format-Serving is damaged \(.*\): --no-cache {node} writes it anew\.$"
    ):
        evaluate(inputs, outputs, values)


def test_the_blessing_says_which_model_was_judged(artifacts, tmp_path):
    values, inputs, outputs = artifacts
    evaluate(inputs, outputs, values)
    judged = outputs["blessing"][0].get_string_custom_property(evaluator.JUDGED)
    model = str(tmp_path / "model" / "Format-Serving")
    pusher.check_judged(model, judged)
    labels = os.path.join(model, "assets", "labels.txt")
    with open(labels, "w") as file:
        file.write("other")
    with pytest.raises(
        ValueError, match=r"the model that was judged, assets/labels.txt is no part of it"
    ):
        pusher.check_judged(model, judged)
    os.remove(labels)
    with open(os.path.join(model, "saved_model.pb"), "ab") as file:
        file.write(b"\0")
    with pytest.raises(
        ValueError, match=r"the model that was judged, saved_model.pb has changed: --no-cache"
    ):
        pusher.check_judged(model, judged)


def test_a_verdict_is_on_a_model_that_has_seen_every_training_image(tmp_path):
    (tmp_path / "summary.json").write_text(json.dumps({"splits": {"train": {"examples": 65}}}))
    evaluator.check_count("trained on", 65, str(tmp_path), ["train"])
    with pytest.raises(
        ValueError, match=r"^64 images were trained on and ingestion wrote 65 into .*train"
    ):
        evaluator.check_count("trained on", 64, str(tmp_path), ["train"])
