"""Recipes beyond a plain schedule: warm-up by error, average of the weights, statistics at the end."""

import os
import sys

import keras
import numpy as np
import pytest
import test_strategy

from models import train
from models.data import input as batches
from models.training import average, bn_statistics, callbacks, finish, strategy
from models.training.arguments import read_task
from tests.helpers import tiny_task
from tests.helpers.tiny_task import history

DECAY = 0.6


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return tiny_task.make_data(str(tmp_path_factory.mktemp("data") / "data"))


@pytest.fixture
def learn(data, tmp_path):
    """Trains in this process, without an export; returns the task, the outcome and the learning
    rates.
    """

    def learn(name="run", checkpoint_dir="", **changes):
        values = tiny_task.arguments(str(tmp_path), name, data, **changes)
        task = read_task(tiny_task.fn_args(values))
        done = train.learn(task, checkpoint_dir, values["model_run_dir"])
        return task, done, [float(row["learning_rate"]) for row in history(values)]

    return learn


@pytest.fixture
def interrupted(learn, tmp_path, monkeypatch):
    """Stops a training at a step and runs it again; returns what the second process does."""

    def interrupted(step, **changes):
        changes.update(
            checkpoint_dir=str(tmp_path / f"checkpoints{step}"), train__checkpoint_seconds=1e-9
        )
        with monkeypatch.context() as patch, pytest.raises(tiny_task.Stopped):
            tiny_task.stop_at(patch, step)
            learn("first", **changes)
        return learn("second", **changes)

    return interrupted


def same(whole, resumed):
    """Whether two trainings have ended alike, but for the order of sums."""
    assert resumed[1].summary["resumed_from"] and not whole[1].summary["resumed_from"]
    for weight, other in zip(
        *(done.network.get_weights() for _, done, _ in (whole, resumed)), strict=True
    ):
        np.testing.assert_allclose(weight, other, atol=1e-4)
    np.testing.assert_allclose(whole[2], resumed[2])


def test_a_warm_up_by_error_survives_a_kill(learn, interrupted, monkeypatch):
    monkeypatch.setattr(callbacks, "WINDOW", 5)
    changes = {"train__warmup_error": 0.7, "train__schedule": "step", "train__boundaries": []}
    whole = learn("whole", **changes)
    after = whole[1].summary["warmup_steps"]
    assert after in (5, 10)
    assert whole[2][0] == pytest.approx(0.005) and whole[2][-1] == pytest.approx(0.05)
    # The window under way, of another epoch, is taken along.
    again = interrupted(after - 1, **changes)
    assert again[1].summary["warmup_steps"] == after
    same(whole, again)


def test_the_average_is_validated_and_exported_and_the_weights_go_on(learn, monkeypatch):
    """The recorded weights give the average in closed form, and are those of a training without
    one.
    """
    recorded = {}

    def record(name):
        steps = recorded.setdefault(name, [])

        def begin(self, batch, logs=None):
            follow(self, batch, logs)
            if self.run.steps_done:
                steps.append([np.array(v) for v in self.model.trainable_variables])

        follow = callbacks.Follow.on_train_batch_begin
        return begin

    kept = []

    class Keep(average.Average):
        def on_test_begin(self, logs=None):
            recorded["ema"].append([np.array(v) for v in self.model.trainable_variables])
            super().on_test_begin(logs)
            kept.append([np.array(v) for v in self.model.trainable_variables])

    changes = {"train__epochs": 2}
    with monkeypatch.context() as patch:
        patch.setattr(callbacks.Follow, "on_train_batch_begin", record("ema"))
        patch.setattr(average, "Average", Keep)
        task, done, _ = learn("ema", train__ema=DECAY, **changes)
    with monkeypatch.context() as patch:
        patch.setattr(callbacks.Follow, "on_train_batch_begin", record("plain"))
        plain = learn("plain", **changes)[1].network
    # Before validation of an epoch, and at the first step of the next one, the weights are the
    # same.
    first, second = recorded["ema"][3], recorded["ema"].pop(4)
    assert all((a == b).all() for a, b in zip(first, second, strict=True))
    assert len(recorded["ema"]) == 8 and len(recorded["plain"]) == 7
    for step, other in zip(recorded["ema"], recorded["plain"], strict=False):
        for weight, own in zip(step, other, strict=True):
            np.testing.assert_allclose(weight, own, atol=1e-4)
    for steps, found in ((4, kept[0]), (8, kept[1])):
        powers = [
            DECAY ** (steps - 1),
            *((1 - DECAY) * DECAY ** (steps - 1 - k) for k in range(1, steps)),
        ]
        assert sum(powers) == pytest.approx(1)
        for index, weight in enumerate(found):
            closed = sum(
                p * step[index] for p, step in zip(powers, recorded["ema"][:steps], strict=True)
            )
            np.testing.assert_allclose(weight, closed, atol=1e-5)
    exported = [np.array(v) for v in done.network.trainable_variables]
    assert all((a == b).all() for a, b in zip(exported, kept[-1], strict=True))
    raw = [np.array(v) for v in plain.trainable_variables]
    assert any(np.abs(a - b).max() > 1e-3 for a, b in zip(exported, raw, strict=True))
    error = finish.evaluate(done.network, task, tiny_task.EVAL)["val_cross_entropy"]
    assert done.summary["val_cross_entropy"] == pytest.approx(error, rel=1e-4)


def test_an_average_survives_kills(learn, interrupted):
    """Inside an epoch too: the rest of it is a `fit` of its own, after which the training goes on."""
    whole = learn("whole", train__ema=DECAY)
    for step in (6, 8):
        same(whole, interrupted(step, train__ema=DECAY))


def test_an_average_on_two_replicas_and_in_float16(tmp_path):
    """In closed form, and the weights are back after two validations and two calls of `fit`."""
    status, output = test_strategy.spawn(__file__, tmp_path / "two.npz")
    assert status == 0, output
    with np.load(tmp_path / "two.npz") as file:
        names = file["names"]
        for name in names:
            steps, found = file[f"steps/{name}"], file[f"average/{name}"]
            expected = steps[1]
            for step in steps[2:]:
                expected = DECAY * expected + (1 - DECAY) * step
            np.testing.assert_allclose(found, expected, atol=1e-5)
            assert (file[f"end/{name}"] == steps[-1]).all()
    assert len(names) == 23 and len(steps) > 4


def average_on_two(out):
    """Weights before the first step and after each, at the end of `fit`, and their average."""
    changes = {"train__ema": DECAY, "train__precision": "mixed_float16", **test_strategy.TWO}
    values = tiny_task.arguments(os.path.dirname(out), "two", **changes)
    task = read_task(tiny_task.fn_args(values))
    where = strategy.make_strategy(task.train)
    assert where.num_replicas_in_sync == 2
    model = train.compiled_model(task, where)
    names = [variable.path for variable in model.trainable_variables]

    def now():
        return [np.array(variable) for variable in model.trainable_variables]

    steps = [now()]

    class Record(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            # A step whose gradients overflow in float16 is left out.
            if any((a != b).any() for a, b in zip(steps[-1], now(), strict=True)):
                steps.append(now())

    run = callbacks.Run(task.train, steps_per_epoch=4)
    run.resume(
        {"epoch": 1, "step": 2, "metrics": {}, "history": [], "warm_after": None, "looked": [0, 0]}
    )
    totals = (tiny_task.TRAIN, tiny_task.EVAL)
    train.fit(model, task, run, [callbacks.Follow(run), average.Average(), Record()], totals, print)
    end = now()
    average.take(model)
    arrays = {"names": names}
    for name, *values in zip(names, zip(*steps, strict=True), end, now(), strict=True):
        arrays.update(zip((f"steps/{name}", f"end/{name}", f"average/{name}"), values, strict=True))
    np.savez(out, **arrays)


def test_statistics_over_training_examples_replace_the_moving_averages(learn, capsys):
    _, plain, _ = learn("plain", train__epochs=1)
    task, done, _ = learn("bn", train__epochs=1, train__bn_examples=40)
    net = plain.network
    for weight, other in zip(
        net.trainable_variables, done.network.trainable_variables, strict=True
    ):
        np.testing.assert_allclose(weight, other, atol=1e-5)
    before = finish.evaluate(net, task, tiny_task.EVAL)
    keras.utils.set_random_seed(task.train.seed + 1)
    stream = batches.train_dataset(
        task.train_files, task.augmentation, task.constants, task.train, total=tiny_task.TRAIN
    )
    # 40 examples are three batches of 16, the last one filled up.
    bn_statistics.re_estimate(net, [images for images, _ in stream.take(3)])
    for weight, other in zip(net.get_weights(), done.network.get_weights(), strict=True):
        np.testing.assert_allclose(weight, other, rtol=1e-3, atol=1e-4)
    figures, after = done.summary, finish.evaluate(done.network, task, tiny_task.EVAL)
    for name in ("val_cross_entropy", "val_top1_error", "val_top5_error"):
        assert figures[name] == pytest.approx(after[name], rel=1e-4)
    assert figures["val_top1_error_before_bn"] == pytest.approx(before["val_top1_error"])
    assert figures["val_cross_entropy"] != pytest.approx(before["val_cross_entropy"], rel=1e-3)
    assert "batch normalisation over 40 examples: top-1 error" in capsys.readouterr().out
    assert all(layer.trainable for layer in done.network.layers)


if __name__ == "__main__":
    average_on_two(sys.argv[1])
