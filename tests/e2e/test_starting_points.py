"""What starts from pushed models: fine-tuning, evaluation alone, ensembles."""

import csv
import json
import os

import numpy as np
import pytest
import tensorflow as tf

from components.evaluator import evaluation
from tests.helpers import data
from tests.helpers.runs import artifact, run, serving, state, versions

QUICK = ["train.epochs=3", "evaluate.max_top1_error=0.5", "evaluate.max_top5_error=0.3"]
UNSERVED = "serve.validator=none"
ALL = "evaluate.protocols=center,ten_crop,multi_scale"
pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A pushed ResNet-8 of the digits, and a plain net of them."""
    folder = str(tmp_path_factory.mktemp("home"))
    for settings in (
        QUICK,
        [*QUICK, "name=plain", "model.residual=false", "transform.mean=channel"],
    ):
        status, output = run(folder, *settings, ALL, UNSERVED)
        assert status == 0, output
    return folder


def pushed(home, name="resnet-digits"):
    return os.path.join(serving(home, name), versions(home, name)[-1])


def evaluated(path, images):
    """Protocol -> probabilities of JPEGs, by a pushed model."""
    examples = [
        tf.train.Example(
            features=tf.train.Features(
                feature={
                    "image/encoded": tf.train.Feature(bytes_list=tf.train.BytesList(value=[image]))
                }
            )
        ).SerializeToString()
        for image in images
    ]
    outputs = tf.saved_model.load(path).signatures["evaluate"](tf.constant(examples))
    return {name: value.numpy() for name, value in outputs.items()}


def training(home, name):
    folder = artifact(home, "Trainer", "model_run", name)
    with open(os.path.join(folder, "summary.json")) as file:
        return folder, json.load(file)


def test_fine_tuning_starts_where_the_pushed_model_ended(home):
    quick = [*QUICK, "train.epochs=1", "train.warmup_epochs=0", "train.learning_rate=0.01"]
    status, output = run(
        home,
        *quick,
        UNSERVED,
        "name=tuned",
        f"train.init_from={serving(home)}",
        "train.frozen_stages=2",
        "data.seed=0",
    )
    assert status == 0, output
    with open(os.path.join(training(home, "tuned")[0], "history.csv")) as file:
        [row] = csv.DictReader(file)
    # From scratch, the first epoch errs on more than half.
    assert float(row["top1_error"]) < 0.2
    assert len(versions(home, "tuned")) == 1


def test_no_epochs_only_evaluate_what_is_there(home):
    status, output = run(
        home,
        *QUICK,
        ALL,
        UNSERVED,
        "name=again",
        f"train.init_from={serving(home)}",
        "train.epochs=0",
    )
    assert status == 0, output
    images = [data.jpeg(seed) for seed in range(5)]
    before, after = evaluated(pushed(home), images), evaluated(pushed(home, "again"), images)
    for protocol, probabilities in before.items():
        np.testing.assert_allclose(after[protocol], probabilities, atol=1e-6)
    old, new = (
        evaluation.errors(artifact(home, "Evaluator", "evaluation", name))
        for name in ("resnet-digits", "again")
    )
    assert {name: new[name].top1 for name in old} == pytest.approx(
        {name: old[name].top1 for name in old}
    )


def test_an_ensemble_averages_its_members_under_every_protocol(home):
    members = [serving(home), pushed(home, "plain")]
    status, output = run(home, *QUICK, ALL, "name=both", f"model.ensemble={','.join(members)}")
    assert status == 0, output
    images = [data.jpeg(seed) for seed in range(5)] + [data.png(9), data.grey(10)]
    alone = [evaluated(pushed(home, name), images) for name in ("resnet-digits", "plain")]
    together = evaluated(pushed(home, "both"), images)
    assert sorted(together) == ["center", "multi_scale", "ten_crop"]
    for protocol, probabilities in together.items():
        np.testing.assert_allclose(
            probabilities, (alone[0][protocol] + alone[1][protocol]) / 2, atol=1e-6
        )
    assert evaluation.example_count(artifact(home, "Evaluator", "evaluation", "both")) == 360
    status, output = run(home, *QUICK, ALL, "name=both", f"model.ensemble={','.join(members)}")
    assert state(output, "Trainer") == "·"


def test_a_missing_starting_point_is_named_before_anything_runs(home):
    for setting in ("train.init_from=nowhere", "model.ensemble=nowhere"):
        status, output = run(home, *QUICK, setting)
        assert status == 2
        assert "nowhere" in output and "Traceback" not in output
