"""The progress line and the book-keeping of a training that is continued."""

import json
import os
import pty

import keras
import numpy as np
import pytest

from models.settings import Train
from models.training.callbacks import Follow, Run
from models.training.progress import PROGRESS_FD, Progress

COLD = {"warm_after": None, "looked": [0, 0]}


@pytest.fixture
def fit():
    """Fits a model of one weight for two epochs of five steps."""

    def fit(prefix="", steps=5):
        run = Run(
            Train(batch_size=4, epochs=2, learning_rate=0.5, boundaries=()), steps_per_epoch=steps
        )
        model = keras.Sequential([keras.Input([1]), keras.layers.Dense(1)])
        model.compile("sgd", "mse")
        images, labels = np.ones([4 * steps, 1]), np.zeros([4 * steps, 1])
        callbacks = [Follow(run), Progress(run, prefix)]
        model.fit(images, labels, batch_size=4, epochs=2, callbacks=callbacks, verbose=0)
        return run

    return fit


def test_without_a_terminal_there_is_one_line_an_epoch(fit, tmp_path, monkeypatch):
    with open(tmp_path / "lines", "w") as file:
        monkeypatch.setenv(PROGRESS_FD, str(file.fileno()))
        fit("trial 1/2  ")
    lines = (tmp_path / "lines").read_text().splitlines()
    assert len(lines) == 2
    assert lines[0].startswith("    trial 1/2  epoch 1/2  ")
    assert all(
        word in lines[1] for word in ("epoch 2/2", "images/s", "ETA 0:00:00", "lr 0.5", "loss")
    )
    assert "\r" not in "".join(lines)


def test_an_epoch_of_one_step_has_a_figure_or_nothing(fit, monkeypatch, capsys):
    monkeypatch.delenv(PROGRESS_FD, raising=False)
    assert fit(steps=1).images_per_second > 0
    first, second = capsys.readouterr().out.splitlines()
    # The first step compiles: it is not timed.
    assert "images/s" not in first and "ETA" not in first and "loss" in first
    assert " 0 images/s" not in second and "ETA 0:00:00" in second


def test_on_a_terminal_the_line_is_rewritten(fit, monkeypatch):
    monkeypatch.setattr("models.training.progress._REFRESH_SECONDS", 0.0)
    terminal, end = pty.openpty()
    monkeypatch.setenv(PROGRESS_FD, str(end))
    fit()
    text = os.read(terminal, 100_000).decode()
    os.close(terminal)
    os.close(end)
    assert text.count("\n") == 2
    assert text.count("\r    epoch") >= 10
    assert "epoch 2/2  ━━━━━━━━━╌╌╌╌╌╌╌ step 3/5" in text


def test_a_terminal_that_is_gone_ends_no_training(fit, monkeypatch):
    monkeypatch.setattr("models.training.progress._REFRESH_SECONDS", 0.0)
    terminal, end = pty.openpty()
    monkeypatch.setenv(PROGRESS_FD, str(end))
    enter, begun = Run.enter, []

    def enter_and_close(self, batch):
        enter(self, batch)
        begun.append(self.steps_done)
        if len(begun) == 3:
            os.close(terminal)

    monkeypatch.setattr(Run, "enter", enter_and_close)
    fit()
    assert begun == list(range(10))
    with pytest.raises(OSError, match="Input/output error"):
        os.write(end, b"x")
    os.close(end)


def test_without_a_descriptor_it_goes_to_standard_output(fit, monkeypatch, capsys):
    monkeypatch.delenv(PROGRESS_FD, raising=False)
    fit()
    assert len(capsys.readouterr().out.splitlines()) == 2


def test_the_rate_and_the_speed_are_measured(fit):
    run = fit()
    assert run.finished and run.steps_done == 10
    assert run.images_per_second > 0
    assert [row["learning_rate"] for row in run.history] == [0.5, 0.5]


def test_means_of_an_interrupted_epoch_count_all_its_steps():
    run = Run(Train(epochs=2), steps_per_epoch=10)
    run.resume(
        {"epoch": 1, "step": 4, "metrics": {"loss": 2.0}, "history": [{"epoch": 1.0}], **COLD}
    )
    run.enter(6)
    assert run.steps_done == 20
    assert run.merged({"loss": 1.0}) == {"loss": pytest.approx((4 * 2.0 + 6 * 1.0) / 10)}
    run.leave({"loss": 1.4})
    assert run.finished
    assert run.merged({"loss": 1.0}) == {"loss": 1.0}


class Errors:
    """Stands where Keras' model is read: the running error of an epoch's answers."""

    def __init__(self, run, wrong):
        self.run, self.wrong = run, wrong

    def get_metrics_result(self):
        """As Keras: the mean over the steps of this process' part of the epoch, a float32."""
        done = self.run.epoch * self.run.steps_per_epoch
        here = self.wrong[done + self.run._inherited : done + self.run.step]
        return {"top1_error": np.float32(np.sum(here) / (len(here) * self.run.train.batch_size))}


def follow(run, wrong, stop, positions=None):
    """Goes through the steps, looking before each of them as `Follow` does."""
    model = Errors(run, wrong)
    inherited = run._inherited
    while run.steps_done < stop:
        run.look(model)
        if positions is not None:
            positions.append((json.dumps(run.position(model)), run.learning_rate))
        run.enter(run.step - inherited + 1)
        if run.step == run.steps_per_epoch:
            run.leave(run.merged({k: float(v) for k, v in model.get_metrics_result().items()}))
            inherited = 0


def test_the_warm_up_ends_with_the_first_window_below_the_error():
    """Windows of 50 steps cross epochs of 30: the reference adds up the wrong answers of each."""
    train = Train(batch_size=7, epochs=20, learning_rate=0.1, warmup_error=0.8, boundaries=())
    rng = np.random.default_rng(3)
    wrong = [int(rng.binomial(7, max(0.5, 1 - step / 1500))) for step in range(600)]
    expected = next(end for end in range(50, 600, 50) if sum(wrong[end - 50 : end]) < 0.8 * 7 * 50)
    assert 100 < expected < 550
    run, positions = Run(train, steps_per_epoch=30), []
    follow(run, wrong, 600, positions)
    assert run.warm_after == expected
    rates = [rate for _, rate in positions]
    assert rates == pytest.approx([0.01] * expected + [0.1] * (600 - expected))

    for kill in (49, 50, 51, 59, 60, 99, expected - 1, expected, expected + 1):
        again, tail = Run(train, steps_per_epoch=30), []
        again.resume(json.loads(positions[kill][0]))
        follow(again, wrong, 600, tail)
        assert again.warm_after == expected
        assert [rate for _, rate in tail] == rates[kill:]
