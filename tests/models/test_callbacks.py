"""The progress line and the book-keeping of a training that is continued."""

import os
import pty

import keras
import numpy as np
import pytest

from models.callbacks import Follow, Run
from models.progress import PROGRESS_FD, Progress
from models.settings import Train


@pytest.fixture
def fit():
    """Fits a model of one weight for two epochs of five steps."""

    def fit(prefix=""):
        run = Run(Train(batch_size=4, epochs=2, learning_rate=0.5, boundaries=()), steps_per_epoch=5)
        model = keras.Sequential([keras.Input([1]), keras.layers.Dense(1)])
        model.compile("sgd", "mse")
        images, labels = np.ones([20, 1]), np.zeros([20, 1])
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
    assert all(word in lines[1] for word in ("epoch 2/2", "images/s", "ETA 0:00:00", "lr 0.5", "loss"))
    assert "\r" not in "".join(lines)


def test_on_a_terminal_the_line_is_rewritten(fit, monkeypatch):
    monkeypatch.setattr("models.progress._REFRESH_SECONDS", 0.0)
    terminal, end = pty.openpty()
    monkeypatch.setenv(PROGRESS_FD, str(end))
    fit()
    text = os.read(terminal, 100_000).decode()
    os.close(terminal)
    os.close(end)
    assert text.count("\n") == 2
    assert text.count("\r    epoch") >= 10
    assert "epoch 2/2  step 3/5" in text


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
    run.resume({"epoch": 1, "step": 4, "metrics": {"loss": 2.0}, "history": [{"epoch": 1.0}]})
    run.enter(6)
    assert run.steps_done == 20
    assert run.merged({"loss": 1.0}) == {"loss": pytest.approx((4 * 2.0 + 6 * 1.0) / 10)}
    run.leave({"loss": 1.4})
    assert run.finished
    assert run.merged({"loss": 1.0}) == {"loss": 1.0}
