"""Responses and gradients by layer, against closed forms and finite differences."""

import csv
import dataclasses
import os
import re
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

from models import train
from models.export.export import KERAS_FILE
from models.network import architecture
from models.settings import Model, Train, Transform
from models.training.arguments import read_task
from pipeline.config.settings import Config
from pipeline.study import analysis, contents, report
from pipeline.study.definitions import Member, Result, Study

sys.path.append(os.path.join(os.path.dirname(__file__), "..", "..", "models"))
from tests.helpers import tiny_task

CLASSES = tiny_task.CLASSES


def images(count, side=8):
    return np.random.default_rng(0).normal(0, 50, [count, side, side, 3]).astype(np.float32)


def randomize(model):
    """Random gamma and beta."""
    rng = np.random.default_rng(1)
    for layer in norms(model):
        layer.gamma.assign(rng.uniform(0.2, 2, layer.gamma.shape))
        layer.beta.assign(rng.normal(0, 1, layer.beta.shape))


def norms(model):
    return [layer for layer in model.layers if isinstance(layer, architecture.BatchNormalization)]


@pytest.mark.parametrize("residual", [True, False])
def test_responses_have_the_deviation_that_gamma_and_beta_give(residual):
    model = architecture.cifar_resnet(8, residual=residual, shortcut="B", classes=CLASSES)
    randomize(model)
    batch = images(1024)
    for layer in norms(model):  # moving averages that are the statistics of the batch
        layer.momentum = 0.0
    model(batch, training=True)
    # Parts of unequal size must not matter.
    found = analysis.layer_responses(model, [batch[:700], batch[700:]])
    blocks = [f"conv{stage}_block1_{part}" for stage in (2, 3, 4) for part in (1, 2)]
    assert list(found) == ["conv1", *blocks]
    for name, value in found.items():
        layer = model.get_layer(f"{name}_bn")
        # Each channel has mean beta and deviation gamma.
        expected = np.mean(np.square(layer.gamma)) + np.var(layer.beta)
        assert value == pytest.approx(np.sqrt(expected), rel=1e-3), name
    # Moving averages are what is used: four times the variance is half the deviation of each
    # channel.
    layer.moving_variance.assign(4 * layer.moving_variance)
    expected = np.mean(np.square(layer.gamma)) / 4 + np.var(layer.beta)
    assert analysis.layer_responses(model, [batch])[name] == pytest.approx(
        np.sqrt(expected), rel=1e-3
    )


@pytest.mark.parametrize(("depth", "shortcut", "layers"), [(18, "C", 16), (50, "B", 16)])
def test_responses_are_those_of_the_3x3_layers_in_order(depth, shortcut, layers):
    model = architecture.resnet(depth, shortcut=shortcut, classes=3)
    names = list(analysis.layer_responses(model, [images(2, 32)]))
    assert len(names) == layers  # of ResNet-50 the middle of each block; conv1 is 7x7
    assert names == sorted(
        names, key=lambda name: [int(digits) for digits in re.findall(r"\d+", name)]
    )


def test_kernel_gradients_agree_with_finite_differences():
    model = architecture.cifar_resnet(8, classes=CLASSES, weight_decay=0.1)
    batch, labels = images(8, 4), np.arange(8) % CLASSES
    parts = [(batch[:4], labels[:4]), (batch[4:], labels[4:])]
    found, _ = analysis.layer_gradients(model, parts)
    keras.config.set_dtype_policy("float64")
    try:
        double = architecture.cifar_resnet(8, classes=CLASSES)
    finally:
        keras.config.set_dtype_policy("float32")
    double.set_weights(model.get_weights())

    @tf.function
    def scores(part):
        return double(part, training=True)

    def loss():  # NumPy, batch by batch
        total = 0.0
        for part, truth in parts:
            logits = scores(part.astype(np.float64)).numpy()
            total += np.sum(np.log(np.exp(logits).sum(1)) - logits[np.arange(len(truth)), truth])
        return total / len(labels)

    kernel = double.get_layer("conv1_conv").kernel
    start, step = kernel.numpy(), 1e-7
    slopes = []
    for place in np.ndindex(start.shape):
        ends = []
        for sign in (1, -1):
            moved = start.copy()
            moved[place] += sign * step
            kernel.assign(moved)
            ends.append(loss())
        slopes.append((ends[0] - ends[1]) / (2 * step))
    assert found["conv1"] == pytest.approx(np.linalg.norm(slopes), rel=1e-3)


def test_response_gradients_of_the_last_layer_have_a_closed_form():
    model = architecture.cifar_resnet(8, residual=False, classes=CLASSES)
    randomize(model)
    batch, labels = images(16), np.arange(16) % CLASSES
    inner = keras.Model(model.input, [model.get_layer("conv4_block1_2_bn").output, model.output])
    response, logits = (x.numpy() for x in inner(batch, training=True))
    probabilities = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    back = (probabilities - np.eye(CLASSES)[labels]) @ model.get_layer("logits").kernel.numpy().T
    places = response.shape[1] * response.shape[2]
    own = (response > 0) * back[:, None, None, :] / places  # ReLU, then the mean over places
    expected = np.sqrt(np.mean(np.sum(own**2, axis=(1, 2, 3))))
    _, found = analysis.layer_gradients(model, [(batch, labels)])
    assert found["conv4_block1_2"] == pytest.approx(expected, rel=1e-4)
    assert len(found) == 7


@pytest.fixture(scope="module")
def result(tmp_path_factory):
    """A member with its data, and its network where the export puts it."""
    root = str(tmp_path_factory.mktemp("member"))
    data = tiny_task.make_data(os.path.join(root, "data"))
    config = Config(
        transform=Transform(**tiny_task.CONFIG["transform"]),
        model=Model(**tiny_task.CONFIG["model"]),
        train=Train(batch_size=16, epochs=1, seed=3),
    )
    keras.utils.set_random_seed(7)
    model = architecture.build(config.model, CLASSES)
    randomize(model)
    os.makedirs(f"{root}/model/1/assets.extra")
    model.save(f"{root}/model/1/assets.extra/{KERAS_FILE}")
    graph = data["transform_graph_path"]
    [files] = data["train_files"]
    return Result(
        "ResNet-8", 3, root, config, [], 4, {}, 0, 0.0, f"{root}/model/1", graph, files, "abc"
    )


def test_a_member_is_analysed_on_the_images_that_are_asked_for(result):
    model = analysis.load(result)
    batches = list(analysis._batches(result, 50, full=False))
    assert [len(labels) for _, labels in batches] == [16, 16, 16, 2]
    expected = analysis.layer_responses(model, [part for part, _ in batches])
    assert analysis.responses(result, 50) == pytest.approx(expected)


def test_gradients_before_training_are_those_of_the_network_that_training_starts_with(result):
    sections = {
        name: dataclasses.asdict(getattr(result.config, name))
        for name in ("transform", "model", "train")
    }
    task = read_task(
        tiny_task.fn_args(
            {
                "custom_config": sections,
                "transform_graph_path": result.transform_graph,
                "train_files": [result.train_files],
                "eval_files": [result.train_files],
                "hyperparameters": None,
            }
        )
    )
    started = train.compiled_model(task, tf.distribute.get_strategy())
    expected = analysis.layer_gradients(started, analysis._batches(result, 40, full=True))
    first = analysis.gradients(result, 40, initial=True)
    last = analysis.gradients(result, 40)
    for ours, theirs, trained in zip(first, expected, last, strict=True):
        assert ours == pytest.approx(theirs, rel=1e-3)
        assert trained["conv1"] != pytest.approx(theirs["conv1"], rel=1e-2)


@pytest.mark.parametrize("kind", ["responses", "gradients"])
def test_the_report_has_the_figures_of_every_layer(result, kind, tmp_path):
    members = (Member("ResNet-8", ()), Member("plain-8", ("model.residual=false",)))
    study = Study("tiny", "Tiny", "Figure 7", "digits", members, kind, "center", "Found.")
    other = dataclasses.replace(result, seed=4, folder=str(tmp_path / "other"))
    os.makedirs(other.folder)
    report.write(study, [result, other], str(tmp_path / "report"), "command")
    with open(tmp_path / "report" / "layers.csv") as file:
        rows = list(csv.DictReader(file))
    if kind == "responses":
        expected = list(analysis.responses(result, contents.RESPONSE_IMAGES).items())
        found = [(row["layer"], float(row["std"])) for row in rows]
    else:
        parts = [
            analysis.gradients(result, contents.GRADIENT_IMAGES, initial)
            for initial in (True, False)
        ]
        expected = [item for pair in parts for layers in pair for item in layers.items()]
        found = [(row["layer"], float(row["value"])) for row in rows]
        assert [row["moment"] for row in rows] == ["at initialisation"] * 14 + [
            "after training"
        ] * 14
    # Both seeds have the same network here, so that their mean is that of one.
    assert [layer for layer, _ in found] == [layer for layer, _ in expected]
    assert [value for _, value in found] == pytest.approx(
        [value for _, value in expected], rel=1e-4
    )
    assert {row["member"] for row in rows} == {"ResNet-8"}
    page = (tmp_path / "report" / "report.html").read_text()
    assert "Not run yet: plain-8." in page and "<svg" in page


def test_a_member_without_a_model_is_named(result):
    gone = dataclasses.replace(result, model=os.path.join(result.folder, "none"))
    with pytest.raises(
        ValueError,
        match=(
            r"ResNet-8, seed 3: there is no .*model\.keras; delete .*result\.json and run the study"
            r" again"
        ),
    ):
        analysis.responses(gone, 16)
