"""Trainings that start from a trained network."""

import dataclasses
import os
import shutil

import numpy as np
import pytest
import tensorflow as tf

from models import train
from models.data import input as batches
from models.training import finish, strategy
from models.training.arguments import read_task
from models.weights import finetune
from tests.helpers import tiny_task
from tests.helpers.tiny_task import history, network, summary, weights


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return tiny_task.make_data(str(tmp_path_factory.mktemp("data") / "data"))


@pytest.fixture(scope="module")
def source(data, tmp_path_factory):
    """A trained network."""
    values = tiny_task.arguments(str(tmp_path_factory.mktemp("source")), "source", data)
    train.run_fn(tiny_task.fn_args(values))
    return values


@pytest.fixture
def arguments(data, source, tmp_path):
    """Arguments of a training that starts from `source`."""

    def arguments(name="run", data=data, **changes):
        changes = {"train__init_from": source["serving_model_dir"], "train__epochs": 1, **changes}
        return tiny_task.arguments(str(tmp_path), name, data, **changes)

    return arguments


def task_of(values):
    return read_task(tiny_task.fn_args(values))


def learn(values):
    """Trains in this process, without an export; returns the network and its summary."""
    done = train.learn(
        task_of(values), values["custom_config"].get("checkpoint_dir", ""), values["model_run_dir"]
    )
    return done.network, done.summary


def start(values):
    """The network before the first step, and the task."""
    task = task_of(values)
    model = train.compiled_model(task, strategy.make_strategy(task.train))
    return finish.inference_copy(model, task), task


def by_layer(model):
    return {layer.name: layer.get_weights() for layer in model.layers if layer.weights}


def equal(ours, theirs):
    return all((a == b).all() for a, b in zip(ours, theirs, strict=True))


def probabilities(values):
    """Of the exported model, for all evaluation images."""
    model = tf.saved_model.load(values["serving_model_dir"])
    records = [
        record.numpy() for record in tf.data.TFRecordDataset(batches.resolve(values["eval_files"]))
    ]
    return model.signatures["evaluate"](tf.constant(records))["center"].numpy()


def relabelled(data, folder, mean=100, labels=("eins", "zwei", "zzdrei", "zzvier")):
    """The same images, as other classes with another mean."""
    graph = tiny_task.write_transform_graph(str(folder), mean=mean, labels=labels)
    return {**data, "transform_graph_path": graph}


def test_the_training_starts_at_the_error_of_its_source(source, arguments):
    model, task = start(arguments())
    assert equal(model.get_weights(), weights(source))
    found = finish.evaluate(model, task, tiny_task.EVAL)
    for name in ("val_top1_error", "val_cross_entropy"):
        assert found[name] == pytest.approx(summary(source)[name], rel=1e-4)


def test_the_network_keeps_its_mean_and_the_data_the_rest(data, arguments, tmp_path):
    other = relabelled(data, tmp_path / "other")
    constants, own = task_of(arguments(data=other)).constants, task_of(arguments()).constants
    assert (constants.pixel_mean == 128).all() and (constants.channel_mean == 128).all()
    assert constants.labels == ("eins", "zwei", "zzdrei", "zzvier")
    assert (
        constants.covariance == own.covariance
    ).all() and constants.class_counts == own.class_counts
    # A mean image of another size is of no use: its mean colour then.
    task = task_of(arguments(data=other, transform__size=12))
    assert (
        task.constants.pixel_mean.shape == (12, 12, 3) and (task.constants.pixel_mean == 128).all()
    )


def test_other_classes_get_a_new_head(data, source, arguments, tmp_path, capsys):
    other = relabelled(data, tmp_path / "other")
    theirs, ours = by_layer(network(source)), by_layer(start(arguments(data=other))[0])
    kernel, bias = ours.pop(finetune.HEAD)
    assert (bias == 0).all() and np.abs(kernel - theirs.pop(finetune.HEAD)[0]).max() > 0.1
    assert ours.keys() == theirs.keys()
    assert all(equal(ours[name], theirs[name]) for name in ours)
    capsys.readouterr()
    _, figures = learn(arguments(data=other))
    said = (
        "starting from "
        + source["serving_model_dir"]
        + ", with a new head, because its classes are not"
    )
    assert said in capsys.readouterr().out
    assert figures["started_from"] == source["serving_model_dir"]


def test_the_same_classes_in_another_order_are_others(data, arguments, tmp_path):
    """Their head would answer, every class for another."""
    other = relabelled(data, tmp_path / "other", labels=tiny_task.LABELS[::-1])
    assert not task_of(arguments(data=other)).start.head
    same = relabelled(data, tmp_path / "same", labels=tiny_task.LABELS)
    assert task_of(arguments(data=same)).start.head


def test_frozen_stages_stay_bit_for_bit(source, arguments):
    net, _ = learn(arguments(train__frozen_stages=2, train__bn_examples=32, train__ema=0.5))
    before, after = by_layer(network(source)), by_layer(net)
    for name, found in after.items():
        frozen = name.startswith(("conv1_", "conv2_"))
        assert equal(found, before[name]) == frozen, name
    assert sum(name.startswith("conv2_") for name in after) == 4
    assert all(layer.trainable for layer in net.layers)


def test_without_epochs_the_network_is_evaluated_and_exported_as_it_is(source, arguments):
    values = arguments(train__epochs=0)
    train.run_fn(tiny_task.fn_args(values))
    np.testing.assert_allclose(probabilities(values), probabilities(source), atol=1e-6)
    figures, theirs = summary(values), summary(source)
    assert figures["val_top1_error"] == pytest.approx(theirs["val_top1_error"])
    assert figures["steps"] == 0 and figures["images_per_second"] > 0
    assert os.path.exists(os.path.join(values["serving_model_dir"], "assets.extra", "model.keras"))


def test_without_epochs_statistics_can_be_measured_again(source, arguments):
    ours, figures = learn(arguments(train__epochs=0, train__bn_examples=64))
    theirs = network(source)
    assert equal(map(np.array, ours.trainable_variables), map(np.array, theirs.trainable_variables))
    assert not equal(
        map(np.array, ours.non_trainable_variables), map(np.array, theirs.non_trainable_variables)
    )
    assert figures["val_top1_error_before_bn"] == pytest.approx(summary(source)["val_top1_error"])


def test_without_epochs_the_classes_must_be_the_same(data, arguments, tmp_path):
    other = relabelled(data, tmp_path / "other")
    with pytest.raises(
        ValueError, match=r"^train.epochs=0: the classes of .* set train.epochs to 1 or more.$"
    ):
        task_of(arguments(data=other, train__epochs=0))


def test_a_killed_fine_tuning_goes_on_at_its_own_checkpoint(
    arguments, tmp_path, monkeypatch, capsys
):
    changes = {"train__epochs": 2, "train__checkpoint_seconds": 1e-9}
    whole, _ = learn(arguments("whole", **changes))
    changes["checkpoint_dir"] = str(tmp_path / "checkpoints")
    with monkeypatch.context() as patch, pytest.raises(tiny_task.Stopped):
        tiny_task.stop_at(patch, 6)
        learn(arguments("first", **changes))
    capsys.readouterr()
    values = arguments("second", **changes)
    resumed, _ = learn(values)
    said = capsys.readouterr().out
    assert "continuing at epoch 2 step 1" in said and "starting from" not in said
    for weight, other in zip(whole.get_weights(), resumed.get_weights(), strict=True):
        np.testing.assert_allclose(weight, other, atol=1e-4)
    assert [row["epoch"] for row in history(values)] == ["1", "2"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model__depth": 14}, "model.depth=8, and the configuration has 14; set model.depth=8"),
        (
            {"model__shortcut": "B"},
            "model.shortcut=A, and the configuration has B; set model.shortcut=A",
        ),
        ({"model__residual": False}, "model.residual=true, and the configuration has false"),
        ({"model__family": "imagenet", "model__depth": 18}, r"model\.family=cifar|conv1_conv"),
        ({"transform__mean": "channel"}, r"the mean image subtracted; set transform\.mean=pixel"),
    ],
)
def test_a_network_that_does_not_fit_is_refused(arguments, changes, message):
    with pytest.raises(ValueError, match=message) as error:
        start(arguments(**changes))
    assert str(error.value).count("train.init_from=") == 1 and "\n" not in str(error.value)


def test_layers_that_are_left_over_or_of_other_shapes_are_refused(source):
    model = network(source)
    found = finetune.Start("there", by_layer(model), head=True, digest="")
    for name, values, message in (
        (
            "conv5_block1_1_conv",
            [np.zeros(3)],
            r"its layer conv5_block1_1_conv has weights of \[\(3,\)\], and None are needed",
        ),
        (
            "conv1_conv",
            [np.zeros([3, 3, 3, 8])],
            r"its layer conv1_conv has weights of \[\(3, 3, 3, 8\)\]",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            finetune.copy(
                dataclasses.replace(found, weights={**found.weights, name: values}), model
            )


def test_a_file_without_labels_fits_by_its_number_of_classes(source, arguments):
    path = os.path.join(source["serving_model_dir"], "assets.extra", "model.keras")
    copy = os.path.join(os.path.dirname(source["model_run_dir"]), "alone.keras")
    shutil.copy(path, copy)
    task = task_of(arguments(train__init_from=copy))
    assert task.start.head and (task.constants.pixel_mean == 128).all()


def test_the_fingerprint_has_the_weights_and_not_their_place(source, arguments, tmp_path):
    moved = str(tmp_path / "moved")
    shutil.copytree(source["serving_model_dir"], moved)
    task = task_of(arguments())
    assert task_of(arguments(train__init_from=moved)).fingerprint() == task.fingerprint()
    path = os.path.join(moved, "assets.extra", "model.keras")
    net = network(source)
    net.get_layer("logits").bias.assign_add([1e-3, 0, 0, 0])
    net.save(path)
    others = [
        task_of(arguments(train__init_from=moved)),
        task_of(arguments(train__init_from="")),
        dataclasses.replace(task, start=dataclasses.replace(task.start, head=False)),
    ]
    assert len({other.fingerprint() for other in (task, *others)}) == 4
