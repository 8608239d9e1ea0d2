"""What starts from pushed models: fine-tuning, evaluation alone, ensembles.

The runs are of one pipeline, which ingests once, and push into a folder of their own each.
"""

import csv
import os
import re
from typing import NamedTuple

import numpy as np
import pytest
import tensorflow as tf

from components.evaluator import evaluation
from tests.helpers import data
from tests.helpers.runs import artifact, run, state

QUICK = ["train.epochs=3", "evaluate.max_top1_error=0.5", "evaluate.max_top5_error=0.3"]
UNSERVED = "serve.validator=none"
ALL = "evaluate.protocols=center,ten_crop"
pytestmark = pytest.mark.e2e


class Home(NamedTuple):
    """`folder` has the pushed models; `errors` are those of the first one."""

    folder: str
    errors: dict

    def run(self, name, *settings):
        """One run that pushes into the folder `name`; returns (exit status, what it said)."""
        return run(self.folder, *settings, f"serve.directory={self.pushes(name)}")

    def pushes(self, name):
        return os.path.join(self.folder, name)

    def pushed(self, name):
        """Folder of the one version."""
        [version] = filter(str.isdigit, os.listdir(self.pushes(name)))
        return os.path.join(self.pushes(name), version)

    def newest(self, node, key):
        return artifact(self.folder, node, key)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A pushed ResNet-8 of the digits, and a plain net of them."""
    found = Home(str(tmp_path_factory.mktemp("home")), {})
    status, output = found.run("residual", *QUICK, ALL, UNSERVED)
    assert status == 0, output
    found.errors.update(evaluation.errors(found.newest("Evaluator", "evaluation")))
    plain = ["model.residual=false", "transform.mean=channel"]
    status, output = found.run("plain", *QUICK, *plain, ALL, UNSERVED)
    assert status == 0, output
    return found


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


def test_fine_tuning_starts_where_the_pushed_model_ended(home):
    quick = [*QUICK, "train.epochs=1", "train.warmup_epochs=0", "train.learning_rate=0.01"]
    start = f"train.init_from={home.pushes('residual')}"
    status, output = home.run("tuned", *quick, UNSERVED, start, "train.frozen_stages=2")
    assert status == 0, output
    with open(os.path.join(home.newest("Trainer", "model_run"), "history.csv")) as file:
        [row] = csv.DictReader(file)
    # From scratch, the first epoch errs on more than half.
    assert float(row["top1_error"]) < 0.2
    assert os.path.isdir(home.pushed("tuned"))


def test_no_epochs_only_evaluate_what_is_there(home):
    start = f"train.init_from={home.pushes('residual')}"
    status, output = home.run("again", *QUICK, ALL, UNSERVED, start, "train.epochs=0")
    assert status == 0, output
    assert re.search(r"✓ Report .* report\.html$", output, re.M), "No part is missing."
    images = [data.jpeg(seed) for seed in range(5)]
    before, after = (evaluated(home.pushed(name), images) for name in ("residual", "again"))
    for protocol, probabilities in before.items():
        np.testing.assert_allclose(after[protocol], probabilities, atol=1e-6)
    errors = evaluation.errors(home.newest("Evaluator", "evaluation"))
    assert {name: errors[name]["top1"] for name in home.errors} == pytest.approx(
        {name: old["top1"] for name, old in home.errors.items()}
    )


def test_an_ensemble_averages_its_members_under_every_protocol(home):
    members = f"model.ensemble={home.pushes('residual')},{home.pushed('plain')}"
    status, output = home.run("both", *QUICK, ALL, members)
    assert status == 0, output
    assert re.search(r"✓ Report .* report\.html$", output, re.M), "No part is missing."
    images = [data.jpeg(seed) for seed in range(5)] + [data.png(9), data.grey(10)]
    alone = [evaluated(home.pushed(name), images) for name in ("residual", "plain")]
    together = evaluated(home.pushed("both"), images)
    assert sorted(together) == ["center", "ten_crop"]
    for protocol, probabilities in together.items():
        np.testing.assert_allclose(
            probabilities, (alone[0][protocol] + alone[1][protocol]) / 2, atol=1e-6
        )
    assert evaluation.example_count(home.newest("Evaluator", "evaluation")) == 360
    status, output = home.run("both", *QUICK, ALL, members)
    assert state(output, "Trainer") == "·"


def test_a_missing_starting_point_is_named_before_anything_runs(home):
    for setting in ("train.init_from=nowhere", "model.ensemble=nowhere"):
        status, output = home.run("missing", *QUICK, setting)
        assert status == 2
        assert "nowhere" in output and "Traceback" not in output
