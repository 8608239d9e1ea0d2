"""Several replicas: two logical CPU devices stand in for two GPUs.

TensorFlow splits a CPU only before its first use, so each case is a process of its own; run as a
script this file is one: `python test_strategy.py step REPLICAS OUT.npz`.
"""

import dataclasses
import json
import os
import signal
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

from models import train
from models.settings import Train
from models.training import finish, metrics, strategy
from models.training.arguments import read_task
from tests.helpers import tiny_task, warm
from tests.helpers.tiny_task import history, summary

TWO = {"train__strategy": "mirrored", "train__cpu_devices": 2}


def spawn(*arguments):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [*warm.python(), *map(str, arguments)],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return tiny_task.make_data(str(tmp_path_factory.mktemp("data") / "data"))


@pytest.fixture
def on_two(data, tmp_path):
    """Trains on two replicas, in a process of its own; returns status, arguments and output."""

    def on_two(name, *options, **changes):
        values = tiny_task.arguments(str(tmp_path), name, data, **changes, **TWO)
        file = tmp_path / f"{name}.json"
        file.write_text(json.dumps(values))
        status, output = spawn(tiny_task.__file__, file, *options)
        return status, values, output

    return on_two


@pytest.fixture
def on_one(data, tmp_path):
    """Trains on one device, in this process; returns the arguments."""

    def on_one(name, **changes):
        values = tiny_task.arguments(str(tmp_path), name, data, **changes)
        train.run_fn(tiny_task.fn_args(values))
        return values

    return on_one


def curve(values, name):
    return np.array([float(row[name]) for row in history(values)])


def test_two_replicas_follow_one(on_one, on_two):
    """With batches of 16 the statistics of BN are over 8 images on each of two replicas, so the
    curves agree roughly only: within 0.15 of the first epoch's loss.
    """
    changes = {"train__epochs": 4, "train__learning_rate": 0.02, "train__label_smoothing": 0.1}
    one = on_one("one", **changes)
    status, two, output = on_two("two", **changes)
    assert status == 0, output
    assert (summary(one)["replicas"], summary(two)["replicas"]) == (1, 2)
    assert np.isfinite(curve(two, "val_cross_entropy")).all()
    curves = {"one": curve(one, "cross_entropy"), "two": curve(two, "cross_entropy")}
    print("training cross-entropy by epoch:", curves)
    np.testing.assert_allclose(curves["two"], curves["one"], atol=0.15 * curves["one"][0])
    assert curves["two"][-1] < 0.7 * curves["two"][0]
    # 22 images in batches of 16 on two replicas: each counted once.
    wrong = curve(two, "val_top1_error") * tiny_task.EVAL
    np.testing.assert_allclose(wrong, np.round(wrong), atol=1e-4)
    assert 0 < wrong[0] < tiny_task.EVAL
    exported = f"{two['serving_model_dir']}/assets.extra/model.keras"
    task = read_task(tiny_task.fn_args(two))
    found = finish.evaluate(keras.saving.load_model(exported), task, tiny_task.EVAL)
    for name in ("val_top1_error", "val_top5_error", "val_cross_entropy"):
        np.testing.assert_allclose(summary(two)[name], found[name], rtol=1e-3)


def test_a_step_of_two_replicas_is_that_of_one(tmp_path):
    """With fixed BN statistics nothing but the order of sums differs: within 1e-5 of the update's
    size.
    """
    one_step(1, str(tmp_path / "1.npz"))
    status, output = spawn(__file__, "step", 2, tmp_path / "2.npz")
    assert status == 0, output
    updates = []
    for replicas in (1, 2):
        with np.load(tmp_path / f"{replicas}.npz") as file:
            updates.append([file[name] for name in file.files])
    assert len(updates[0]) == len(updates[1]) > 8
    relative = max(
        np.abs(one - two).max() / np.abs(one).max() for one, two in zip(*updates, strict=True)
    )
    print(f"largest difference of an update over its largest entry: {relative:.1e}")
    assert relative < 1e-5


def test_a_training_killed_on_two_replicas_continues_on_one(on_one, on_two, tmp_path):
    changes = {"checkpoint_dir": str(tmp_path / "checkpoints"), "train__checkpoint_seconds": 1e-9}
    status, _, output = on_two("killed", 7, **changes)
    assert status == -signal.SIGKILL, output
    values = on_one("continued", **changes)
    assert summary(values)["resumed_from"] == "epoch 2 step 2"
    assert summary(values)["steps"] == 12


def test_one_device_is_no_distribution():
    for name in ("auto", "one_device"):
        assert strategy.make_strategy(Train(strategy=name)).num_replicas_in_sync == 1


def test_a_batch_that_the_replicas_cannot_share_is_refused(on_two):
    status, _, output = on_two("odd", train__batch_size=15)
    assert status == 1
    assert (
        "train.batch_size=15: is over all replicas and must be a multiple of their number, 2."
        in output
    )


def test_splitting_the_cpu_too_late_is_said_so():
    tf.config.list_logical_devices()
    with pytest.raises(RuntimeError, match="already started"):
        strategy.make_strategy(Train(cpu_devices=7))


def test_a_tpu_that_is_not_there_is_said_so():
    with pytest.raises(RuntimeError, match=r"train.tpu='grpc://127.0.0.1:1'|train.tpu=''"):
        strategy.make_strategy(Train(strategy="tpu"))


def one_step(replicas, out):
    """Updates of all weights in one step on a fixed batch, BN in inference mode."""
    values = tiny_task.arguments(
        os.path.dirname(out), f"step{replicas}", data=tiny_task.make_data(out + ".data")
    )
    task = read_task(tiny_task.fn_args(values))
    name = "mirrored" if replicas > 1 else "one_device"
    devices = replicas if replicas > 1 else 0
    task = dataclasses.replace(
        task, train=dataclasses.replace(task.train, strategy=name, cpu_devices=devices)
    )
    where = strategy.make_strategy(task.train)
    assert where.num_replicas_in_sync == replicas
    model = train.compiled_model(task, where)
    for layer in model.layers:
        if "bn" in layer.name:
            layer.trainable = False
    with where.scope():
        model.compile(
            optimizer="sgd", loss=metrics.loss(task.train, 4), weighted_metrics=metrics.metrics(4)
        )
    before = [np.array(weight) for weight in model.trainable_weights]
    rng = np.random.default_rng(0)
    images = rng.normal(0, 50, [16, 16, 16, 3]).astype(np.float32)
    labels = rng.integers(0, 4, 16)
    model.fit(tf.data.Dataset.from_tensors((images, labels)), verbose=0)
    after = [np.array(weight) for weight in model.trainable_weights]
    np.savez(out, *[new - old for new, old in zip(after, before, strict=True)])


if __name__ == "__main__":
    one_step(int(sys.argv[2]), sys.argv[3])
