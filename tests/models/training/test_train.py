"""Training from TFRecords to a SavedModel: resume, replicas, precision, refusals."""

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

from models import train
from models.data import input as batches
from models.settings import Train
from models.training import metrics
from models.training.arguments import measured, read_settings, read_task
from models.training.callbacks import DivergedError
from tests.helpers import tiny_task, warm
from tests.helpers.tiny_task import history, summary, weights


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return tiny_task.make_data(str(tmp_path_factory.mktemp("data") / "data"))


@pytest.fixture
def run(data, tmp_path):
    """Trains in this process; returns the arguments."""

    def run(name="run", **changes):
        values = tiny_task.arguments(str(tmp_path), name, data, **changes)
        train.run_fn(tiny_task.fn_args(values))
        return values

    return run


@pytest.fixture(scope="module")
def uninterrupted(data, tmp_path_factory):
    names = {
        "across": "horizontal",
        "down": "vertical",
        "gone": "a class that is in the data no more",
    }
    values = tiny_task.arguments(str(tmp_path_factory.mktemp("whole")), "whole", data, names=names)
    train.run_fn(tiny_task.fn_args(values))
    return values


def test_a_training_learns_and_leaves_its_figures(uninterrupted):
    rows, figures = history(uninterrupted), summary(uninterrupted)
    assert [row["epoch"] for row in rows] == ["1", "2", "3"]
    assert float(rows[-1]["cross_entropy"]) < 0.5 * float(rows[0]["cross_entropy"])
    assert figures["val_top1_error"] == float(rows[-1]["val_top1_error"])
    assert figures["steps"] == 12 and figures["replicas"] == 1 and figures["resumed_from"] is None
    assert figures["images_per_second"] > 0
    assert 0 < figures["fit_seconds"] < figures["seconds"]
    logs = uninterrupted["model_run_dir"]
    assert all(tf.io.gfile.glob(f"{logs}/{part}/events.*") for part in ("train", "validation"))


def test_a_class_that_came_later_is_called_as_in_the_data(uninterrupted):
    with open(os.path.join(uninterrupted["serving_model_dir"], "assets", "labels.txt")) as file:
        assert file.read().splitlines() == ["horizontal", "vertical", "falling", "rising"]


def test_validation_figures_are_those_of_the_exported_model_over_all_examples(uninterrupted):
    model = tf.saved_model.load(uninterrupted["serving_model_dir"])
    files = batches.resolve(uninterrupted["eval_files"])
    labels, probabilities = [], []
    for record in tf.data.TFRecordDataset(files):
        example = tf.train.Example.FromString(record.numpy())
        labels += example.features.feature["image/class/label"].int64_list.value
        images = example.features.feature["image/encoded"].bytes_list.value
        probabilities.append(
            model.signatures["serving_default"](tf.constant(images))["probabilities"][0]
        )
    labels, probabilities = np.array(labels), np.array(probabilities)
    assert len(labels) == tiny_task.EVAL
    figures = summary(uninterrupted)
    error = np.mean(probabilities.argmax(1) != labels)
    entropy = -np.log(probabilities[np.arange(len(labels)), labels]).mean()
    np.testing.assert_allclose(figures["val_top1_error"], error, rtol=1e-5)
    np.testing.assert_allclose(figures["val_cross_entropy"], entropy, rtol=1e-3)


def test_the_same_seed_gives_the_same_network(run, uninterrupted):
    again = run("again")
    for weight, other in zip(weights(uninterrupted), weights(again), strict=True):
        np.testing.assert_allclose(weight, other, atol=1e-5)


@pytest.mark.parametrize("step", [2, 7])
def test_a_killed_training_continues_where_it_was(data, tmp_path, run, uninterrupted, capsys, step):
    checkpoints = str(tmp_path / "checkpoints")
    changes = {"checkpoint_dir": checkpoints, "train__checkpoint_seconds": 1e-9}
    with open(tmp_path / "arguments.json", "w") as file:
        json.dump(tiny_task.arguments(str(tmp_path), "killed", data, **changes), file)
    script = [*warm.python(), tiny_task.__file__, str(tmp_path / "arguments.json"), str(step)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    killed = subprocess.run(script, env=environment, capture_output=True, check=False)
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
    assert not os.path.exists(tmp_path / "killed" / "serving")

    capsys.readouterr()
    values = run("continued", **changes)
    # Epochs have 64 records, which four batches of 16 use up.
    skipping = f"skipping {(step - 1) % 4 * 16} records that were already seen"
    assert skipping in capsys.readouterr().out
    # The process dies before the checkpoint of the step at which it dies.
    assert summary(values)["resumed_from"] == f"epoch {(step - 1) // 4 + 1} step {(step - 1) % 4}"
    largest = 0.0
    for weight, other in zip(weights(uninterrupted), weights(values), strict=True):
        largest = max(largest, np.abs(weight - other).max())
    print(f"killed at step {step}: largest difference of a weight {largest:.2e}")
    assert largest < 1e-4
    for row, other in zip(history(uninterrupted), history(values), strict=True):
        assert row["epoch"] == other["epoch"]
        np.testing.assert_allclose(
            float(row["cross_entropy"]), float(other["cross_entropy"]), rtol=1e-3
        )
        np.testing.assert_allclose(float(row["top1_error"]), float(other["top1_error"]), atol=1e-3)
    # The folder itself may be a mounted volume.
    assert os.listdir(checkpoints) == []


def stop_after(monkeypatch, epochs):
    """Lets trainings end as if they were killed between two epochs."""

    class Killed(BaseException):
        pass

    leave = train.Run.leave

    def count(self, row):
        leave(self, row)
        if self.epoch > epochs:
            raise Killed

    monkeypatch.setattr(train.Run, "leave", count)
    return Killed


def test_a_checkpoint_of_other_settings_is_kept_for_them(run, tmp_path, monkeypatch, capsys):
    checkpoints = tmp_path / "checkpoints"
    with monkeypatch.context() as patch, pytest.raises(stop_after(patch, 1)):
        run("first", checkpoint_dir=str(checkpoints))
    [first] = checkpoints.iterdir()
    values = run(
        "second", checkpoint_dir=str(checkpoints), train__learning_rate=0.04, train__epochs=1
    )
    assert summary(values)["resumed_from"] is None
    said = f"a checkpoint of other settings or data is kept in {first}; not used"
    assert said in capsys.readouterr().out
    assert list(checkpoints.iterdir()) == [first]

    values = run("third", checkpoint_dir=str(checkpoints))
    assert summary(values)["resumed_from"] == "epoch 2 step 0"
    assert list(checkpoints.iterdir()) == []


def test_the_fingerprint_covers_what_changes_the_result(data, tmp_path):
    task = read_task(tiny_task.fn_args(tiny_task.arguments(str(tmp_path), "run", data)))

    def changed(**changes):
        return dataclasses.replace(task, **changes).fingerprint()

    def with_train(**changes):
        return changed(train=dataclasses.replace(task.train, **changes))

    constants = task.constants
    prints = [
        task.fingerprint(),
        with_train(learning_rate=0.06),
        with_train(seed=2),
        with_train(precision="mixed_bfloat16"),
        changed(strength=0.5),
        changed(model=dataclasses.replace(task.model, depth=14)),
        changed(transform=dataclasses.replace(task.transform, pad=3)),
        changed(train_files=task.train_files[:1]),
        changed(eval_files=task.eval_files[:1]),
        changed(constants=dataclasses.replace(constants, covariance=2 * constants.covariance)),
        changed(constants=dataclasses.replace(constants, pixel_mean=2 * constants.pixel_mean)),
    ]
    assert len(set(prints)) == len(prints)
    hardware = with_train(strategy="one_device", cpu_devices=2, tpu="local", checkpoint_seconds=5.0)
    assert hardware == task.fingerprint()


def test_a_lost_file_of_training_images_ends_the_training(run, data, tmp_path):
    [first, _] = batches.resolve(data["train_files"])
    values = tiny_task.arguments(str(tmp_path), "lost", {**data, "train_files": [first]})
    with pytest.raises(ValueError, match="expected to contain 64 elements but contained only 32"):
        train.run_fn(tiny_task.fn_args(values))
    assert not os.path.exists(values["serving_model_dir"])


@pytest.mark.parametrize(
    ("written", "sentence"),
    [
        (
            {"train": 65, "eval": 22},
            "Transform saw 64 examples of the train split and ingestion wrote 65: ",
        ),
        (
            {"train": 64, "eval": 21},
            "Trainer saw 22 examples of the eval split and ingestion wrote 21: ",
        ),
    ],
)
def test_a_training_sees_every_example_of_ingestion(data, tmp_path, written, sentence):
    folder = tmp_path / "examples"
    for split in ("train", "eval"):
        shutil.copytree(os.path.dirname(data[f"{split}_files"][0]), folder / f"Split-{split}")
    summary = {"splits": {name: {"examples": number} for name, number in written.items()}}
    (folder / "summary.json").write_text(json.dumps(summary))
    files = {f"{split}_files": [f"{folder}/Split-{split}/*"] for split in ("train", "eval")}
    values = tiny_task.arguments(str(tmp_path), "run", {**data, **files})
    with pytest.raises(ValueError, match=f"^{sentence}files in {folder} .* --no-cache ExampleGen"):
        train.run_fn(tiny_task.fn_args(values))
    assert not os.path.exists(values["serving_model_dir"])


def test_damaged_constants_are_named_with_the_way_out(tmp_path):
    """Wherever the damage is: NumPy has another error for every part of its files."""
    folder = tiny_task.write_transform_graph(str(tmp_path / "graph"))
    path = os.path.join(folder, "transform_fn", "assets", "augmentation.npz")
    with open(path, "rb") as file:
        whole = file.read()
    noticed = 0
    for at in range(0, len(whole), 97):
        with open(path, "wb") as file:
            file.write(flipped(whole, at))
        try:
            measured(folder)
        except ValueError as error:
            noticed += 1
            assert str(error).startswith(f"The constants in {folder} are damaged (")
            assert str(error).endswith("): --no-cache Transform measures them anew.")
    assert noticed > 0.9 * len(whole) / 97  # the rest are dates and the like in the archive
    with open(path, "wb") as file:
        file.write(whole[:-30])
    with pytest.raises(ValueError, match="--no-cache Transform"):
        measured(folder)


def test_a_batch_that_is_larger_than_the_data_is_said(run, capsys):
    run(train__batch_size=65, train__epochs=1)
    said = (
        "train.batch_size=65 is more than the 64 training images: every step has some of them twice"
        " or more"
    )
    assert said in capsys.readouterr().out


@pytest.fixture
def checkpoint(run, tmp_path, monkeypatch):
    """The folder of a checkpoint after the first epoch."""
    with monkeypatch.context() as patch, pytest.raises(stop_after(patch, 1)):
        run("first", checkpoint_dir=str(tmp_path / "checkpoints"))
    [folder] = (tmp_path / "checkpoints").iterdir()
    return folder


def flipped(content, at=None):
    at = len(content) // 2 if at is None else at
    return content[:at] + bytes([content[at] ^ 255]) + content[at + 1 :]


@pytest.mark.parametrize(
    ("kind", "damage"),
    [
        ("data", flipped),
        ("data", lambda content: content[: len(content) // 2]),
        ("index", lambda content: b""),
        ("checkpoint", lambda content: b""),
        ("checkpoint", lambda content: b"\xff{"),
        ("checkpoint", lambda content: b"model_checkpoint_path{"),
    ],
    ids=["flipped", "shortened", "no index", "no name", "bytes for a name", "half a name"],
)
def test_a_damaged_checkpoint_is_named(run, checkpoint, kind, damage):
    [file] = [file for file in checkpoint.iterdir() if kind in file.name]
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(
        RuntimeError, match=f"The checkpoint in {checkpoint} cannot be read.*delete this folder"
    ):
        run("second", checkpoint_dir=str(checkpoint.parent))


def test_a_damaged_checkpoint_of_another_training_stops_none(run, checkpoint, capsys):
    (checkpoint / "checkpoint").write_bytes(b"")
    run("other", checkpoint_dir=str(checkpoint.parent), train__seed=2, train__epochs=1)
    assert f"is kept in {checkpoint}; not used" in capsys.readouterr().out


def test_a_folder_that_takes_no_checkpoints_is_named_before_the_first_step(
    run, tmp_path, monkeypatch
):
    (tmp_path / "file").touch()
    tiny_task.stop_at(monkeypatch, 0)
    with pytest.raises(
        RuntimeError, match=r"Checkpoints cannot be written to .*file .*set train.checkpoint_dir"
    ):
        run(checkpoint_dir=str(tmp_path / "file"))


def test_a_kill_while_the_checkpoint_is_removed_leaves_none(run, tmp_path, monkeypatch):
    def killed(folder):
        [data] = tf.io.gfile.glob(f"{folder}/*.data-*")
        os.remove(data)
        raise tiny_task.Stopped

    changes = {"checkpoint_dir": str(tmp_path / "checkpoints"), "train__epochs": 1}
    with monkeypatch.context() as patch:
        patch.setattr("models.training.checkpoint.tf.io.gfile.rmtree", killed)
        with pytest.raises(tiny_task.Stopped):
            run("first", **changes)
    assert summary(run("second", **changes))["resumed_from"] is None


def test_what_a_kill_leaves_half_written_is_not_taken_for_a_checkpoint(run, data, tmp_path):
    changes = {"checkpoint_dir": str(tmp_path / "checkpoints"), "train__epochs": 1}
    task = read_task(tiny_task.fn_args(tiny_task.arguments(str(tmp_path), "next", data, **changes)))
    folder = tmp_path / "checkpoints" / task.fingerprint()[:12]
    folder.mkdir(parents=True)
    # Killed while the first checkpoint was written: TensorFlow names it last, in `checkpoint`.
    (folder / "ckpt-1.data-00000-of-00001").write_bytes(b"half")
    (folder / "ckpt-1.index").write_bytes(b"half")
    values = run("next", **changes)
    assert summary(values)["resumed_from"] is None


def test_a_blown_up_training_stops_and_says_where(run, tmp_path, monkeypatch):
    rate = property(lambda self: 0.01 if self.epoch == 0 else 1e25)
    monkeypatch.setattr(train.Run, "learning_rate", rate)
    # Looked at after each epoch only, however slow the machine is.
    monkeypatch.setattr("models.training.callbacks._GUARD_SECONDS", 1e9)
    with pytest.raises(
        DivergedError, match=r"last good checkpoint is .*ckpt-1;.*train.learning_rate"
    ) as error:
        run(checkpoint_dir=str(tmp_path / "checkpoints"))
    assert "between epoch 2 step 0 and epoch 3 step 0" in str(error.value)


def test_weights_that_the_last_step_has_blown_up_are_no_checkpoint(run):
    with pytest.raises(
        DivergedError, match="between epoch 1 step 0 and epoch 2 step 0; there is no check"
    ):
        run(
            train__batch_size=64,
            train__epochs=1,
            train__learning_rate=1e25,
            train__weight_decay=1e20,
        )


def test_mixed_precision_trains_and_exports_float32(run):
    policy = keras.config.dtype_policy().name
    values = run(train__precision="mixed_bfloat16", train__epochs=1)
    assert keras.config.dtype_policy().name == policy
    model = keras.models.load_model(
        os.path.join(values["serving_model_dir"], "assets.extra", "model.keras"), compile=False
    )
    assert {layer.compute_dtype for layer in model.layers} == {"float32"}
    assert np.isfinite(summary(values)["val_cross_entropy"])


def test_hyperparameters_of_the_tuner_win(data, tmp_path):
    import keras_tuner

    found = keras_tuner.HyperParameters()
    found.Fixed("learning_rate", 0.25)
    found.Fixed("weight_decay", 3e-4)
    found.Fixed("augmentation_strength", 0.5)
    values = tiny_task.arguments(str(tmp_path), "run", data)
    values["hyperparameters"] = json.loads(json.dumps(found.get_config()))
    task = read_task(tiny_task.fn_args(values))
    assert (task.train.learning_rate, task.train.weight_decay) == (0.25, 3e-4)
    assert task.augmentation.pad == 1 and task.augmentation.colour == 0.025
    assert task.transform.pad == 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train__precision": "float64"}, "train.precision"),
        ({"train__momentum": 1.0}, "train.momentum"),
        ({"train__colour": 1}, "train.colour: there is no colour"),
        ({"model__depth": 9}, "model.depth=9"),
        ({"transform__crop": "middle"}, "transform.crop"),
    ],
)
def test_impossible_settings_are_refused(run, changes, message):
    with pytest.raises(ValueError, match=message):
        run(**changes)


def test_settings_survive_json():
    settings = Train(boundaries=(1.5, 3.0))
    config = json.loads(json.dumps({"train": dataclasses.asdict(settings)}))
    assert read_settings(Train, config, "train") == settings


def test_label_smoothing_is_the_textbook_one():
    logits, labels, smoothing = np.array([[2.0, -1.0, 0.5]], np.float32), np.array([0]), 0.1
    log_p = logits - np.log(np.exp(logits).sum())
    target = np.full(3, smoothing / 3)
    target[0] += 1 - smoothing
    loss = metrics.loss(Train(label_smoothing=smoothing), classes=3)
    np.testing.assert_allclose(np.mean(loss(labels, logits)), -(target * log_p).sum(), rtol=1e-6)
