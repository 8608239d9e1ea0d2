"""The search over learning rate, weight decay and augmentation strength."""

import dataclasses
import json
import math

import keras
import pytest

from models import train, tune
from models.settings import Tune
from models.training.arguments import read_task
from models.training.callbacks import DivergedError
from models.tune import tuner_fn
from tests.helpers import tiny_task


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return tiny_task.make_data(str(tmp_path_factory.mktemp("data") / "data"))


def arguments(data, folder, **tune):
    config = {"trials": 3, "epochs": 1, "examples": 32, "seed": 5, **tune}
    values = tiny_task.arguments(str(folder), "tune", data, tune=config)
    return tiny_task.fn_args({**values, "working_dir": str(folder / "working")})


def search(fn_args):
    tuner, fit_kwargs = tuner_fn(fn_args)
    tuner.search(**fit_kwargs)
    return tuner


def test_the_best_trial_reaches_the_trainer(data, tmp_path):
    fn_args = arguments(data, tmp_path)
    policy = keras.config.dtype_policy().name
    tuner = search(fn_args)
    assert keras.config.dtype_policy().name == policy
    trials = list(tuner.oracle.trials.values())
    assert len(trials) == 3 and {trial.status for trial in trials} == {"COMPLETED"}

    first = tuner.oracle.trials[tuner.oracle.start_order[0]].hyperparameters.values
    assert first == {"learning_rate": 0.05, "weight_decay": 1e-4, "augmentation_strength": 1.0}
    for trial in trials:
        values = trial.hyperparameters.values
        assert 0.005 <= values["learning_rate"] <= 0.5
        assert 1e-5 <= values["weight_decay"] <= 1e-3
        assert 0 <= values["augmentation_strength"] <= 1.5
    assert min(trial.score for trial in trials) == tuner.oracle.get_best_trials(1)[0].score

    best = tuner.get_best_hyperparameters()[0]
    # As TFX's Tuner writes it and its Trainer reads it.
    fn_args.hyperparameters = json.loads(json.dumps(best.get_config()))
    task = read_task(fn_args)
    assert task.train.learning_rate == best.values["learning_rate"]
    assert task.train.weight_decay == best.values["weight_decay"]
    assert task.strength == best.values["augmentation_strength"]

    again = search(arguments(data, tmp_path / "again"))
    draws = [
        [tuner.oracle.trials[i].hyperparameters.values for i in tuner.oracle.start_order]
        for tuner in (tuner, again)
    ]
    assert draws[0] == draws[1]


def test_a_search_in_which_all_trials_diverge_is_an_error(data, tmp_path, monkeypatch):
    monkeypatch.setattr(train.Run, "learning_rate", property(lambda self: 1e25))
    with pytest.raises(RuntimeError, match=r"All 2 trials of the search failed.*to be finite"):
        search(arguments(data, tmp_path, trials=2, epochs=2))


def test_one_diverging_trial_is_left_out(data, tmp_path, monkeypatch):
    whole = tune.fit
    calls = []

    def fit(*args, **kwargs):
        calls.append(1)
        if len(calls) == 1:
            raise DivergedError("The loss ceased to be finite.")
        whole(*args, **kwargs)

    monkeypatch.setattr(tune, "fit", fit)
    tuner = search(arguments(data, tmp_path, trials=2))
    assert sorted(trial.status for trial in tuner.oracle.trials.values()) == ["COMPLETED", "FAILED"]
    assert math.isfinite(tuner.oracle.get_best_trials(1)[0].score)


def test_any_other_error_ends_the_search_at_once(data, tmp_path, monkeypatch):
    def fit(*args, **kwargs):
        raise OSError("the disk is gone")

    monkeypatch.setattr(tune, "fit", fit)
    with pytest.raises(RuntimeError, match=r"learning_rate=0.05.*the disk is gone"):
        search(arguments(data, tmp_path))


def test_the_proxy_is_judged_by_its_weights(data, tmp_path):
    """An average of long memory would still be near the first steps' weights."""
    values = tiny_task.arguments(
        str(tmp_path), "tune", data, train__ema=0.9999, train__warmup_epochs=2.0
    )
    task = read_task(tiny_task.fn_args(values))
    # The other warm-up may not end within the proxy's steps.
    other = dataclasses.replace(task.train, warmup_epochs=0.0, warmup_error=0.8)
    found = {"learning_rate": 0.1, "weight_decay": 0.0, "augmentation_strength": 0.5}
    train = tune.proxy(task, Tune(epochs=2), found).train
    assert (train.ema, train.epochs, train.warmup_epochs, train.learning_rate) == (0.0, 2, 0.5, 0.1)
    assert (
        tune.proxy(dataclasses.replace(task, train=other), Tune(), found).train.warmup_error == 0.0
    )


@pytest.mark.parametrize("name", ["trials", "epochs", "examples"])
def test_an_empty_search_is_refused(data, tmp_path, name):
    with pytest.raises(ValueError, match=f"tune.{name}"):
        tuner_fn(arguments(data, tmp_path, **{name: 0}))
