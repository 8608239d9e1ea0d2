"""Models that the Evaluator loads by our hook."""

import os

import pytest
import tensorflow as tf
from tensorflow.python.framework import ops
from tfx.types import artifact_utils, standard_artifacts
from tfx.utils import json_utils, proto_utils

from components import baseline, evaluation
from pipeline import beam, beam_operator
from pipeline.config import Beam
from tests.components import test_evaluation as known


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
    metrics, blessing = standard_artifacts.ModelEvaluation(), standard_artifacts.ModelBlessing()
    metrics.uri, blessing.uri = str(tmp_path / "evaluation"), str(tmp_path / "blessing")
    inputs = {"examples": [examples], "model": [model]}
    return values, inputs, {"evaluation": [metrics], "blessing": [blessing]}


def test_the_evaluator_counts_right_and_writes_out_no_images(artifacts, monkeypatch):
    values, inputs, outputs = artifacts

    def written(tensor):
        raise AssertionError("TensorFlow writes all bytes of a batch of images into a message.")

    monkeypatch.setattr(ops._EagerTensorBase, "__repr__", written)
    config = evaluation.eval_config(list(values), "center", known.CLASSES, 0.9, 0.9, 1.0)
    arguments = beam.arguments(Beam())
    context = baseline.EvaluatorExecutor.Context(
        make_beam_pipeline_fn=lambda: beam_operator.pipeline(arguments)
    )
    properties = {
        "eval_config": proto_utils.proto_to_json(config),
        "example_splits": json_utils.dumps(["eval"]),
    }
    baseline.EvaluatorExecutor(context).Do(inputs, outputs, properties)
    found = evaluation.errors(outputs["evaluation"][0].uri)
    for name, table in values.items():
        assert found[name].top1 == pytest.approx(known.counted(table, 1))
        assert found[name].top5 == pytest.approx(known.counted(table, 5))
    assert tf.io.gfile.exists(os.path.join(outputs["blessing"][0].uri, "BLESSED"))
