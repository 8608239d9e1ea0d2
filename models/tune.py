"""Tuner: `tuner_fn` searches rate, weight decay and augmentation strength on a cheap proxy.

The proxy is the task's own network on the first `tune.examples` training examples (ingestion has
shuffled them), for `tune.epochs` epochs under a cosine schedule, judged by the top-1 error on at
most as many evaluation examples. The first trial is the configuration as it is, which wins ties;
the others are drawn at random with `tune.seed`: rate and decay log-uniform from a tenth to ten
times what is configured, the strength (see `models.pixels.augmentation.strengthen`) from 0 to 1.5.
"""

from __future__ import annotations

import dataclasses
import functools
import gc
from collections.abc import Mapping
from typing import Any, NamedTuple

import keras
import keras_tuner

from models.data import input as batches
from models.settings import Tune
from models.train import compiled_model, fit
from models.training import strategy
from models.training.arguments import (
    LEARNING_RATE,
    STRENGTH,
    WEIGHT_DECAY,
    Task,
    read_settings,
    read_task,
)
from models.training.callbacks import VALIDATION_ERROR, DivergedError, Follow, Guard, Run
from models.training.checkpoint import Checkpoints
from models.training.progress import Progress

SPAN = 10.0
STRENGTHS = (0.0, 1.5)


class TunerFnResult(NamedTuple):
    """What TFX's Tuner takes: it calls `tuner.search(**fit_kwargs)`."""

    tuner: keras_tuner.Tuner
    fit_kwargs: dict[str, Any]


def tuner_fn(fn_args: Any) -> TunerFnResult:
    """The search; the entry point of TFX's Tuner.

    Reads from `fn_args` what `models.train.run_fn` reads, custom_config["tune"] (fields of
    models.settings.Tune) as well, and `working_dir`, where the trials are noted.

    Raises:
      ValueError: settings or data that cannot be trained on.
    """
    task = read_task(fn_args)
    tune = read_settings(Tune, fn_args.custom_config or {}, "tune")
    return TunerFnResult(Search(task, tune, fn_args.working_dir), {"verbose": 0})


def space(task: Task) -> keras_tuner.HyperParameters:
    """What is searched, and the configured values as defaults."""
    found = keras_tuner.HyperParameters()
    for name, value in (
        (LEARNING_RATE, task.train.learning_rate),
        (WEIGHT_DECAY, task.train.weight_decay),
    ):
        if value:
            found.Float(name, value / SPAN, value * SPAN, sampling="log", default=value)
        else:
            found.Fixed(name, value)
    found.Float(STRENGTH, *STRENGTHS, step=0.25, default=1.0)
    return found


def proxy(task: Task, tune: Tune, values: Mapping[str, float]) -> Task:
    """The task that one trial trains."""
    train = dataclasses.replace(
        task.train,
        learning_rate=values[LEARNING_RATE],
        weight_decay=values[WEIGHT_DECAY],
        epochs=tune.epochs,
        schedule="cosine",
        # A quarter at most: the warm-up is meant for a training of full length.
        warmup_epochs=min(task.train.warmup_epochs, tune.epochs / 4),
        # It may not end within so few steps.
        warmup_error=0.0,
        # Its memory is longer than the proxy's training.
        ema=0.0,
        seed=tune.seed,
    )
    return dataclasses.replace(task, train=train, strength=values[STRENGTH])


class Search(keras_tuner.Tuner):
    """Random search over `space`; keras_tuner notes the trials in `directory`.

    A trial that diverges has failed and the search goes on; any other error ends it.
    """

    def __init__(self, task: Task, tune: Tune, directory: str) -> None:
        self._task = task
        self._tune = tune
        super().__init__(
            oracle=_Oracle(
                objective=keras_tuner.Objective(VALIDATION_ERROR, "min"),
                max_trials=tune.trials,
                max_consecutive_failed_trials=tune.trials,
                seed=tune.seed,
                hyperparameters=space(task),
                allow_new_entries=False,
                tune_new_entries=False,
            ),
            directory=directory,
            project_name="tune",
            overwrite=True,
        )

    def search(self, *fit_args: Any, **fit_kwargs: Any) -> None:
        """Runs all trials.

        Raises:
          RuntimeError: none has ended well; the message has the last one's reason.
        """
        try:
            super().search(*fit_args, **fit_kwargs)
        except keras_tuner.errors.FatalError:
            raise
        except RuntimeError as error:  # keras_tuner's own, when all have failed
            raise RuntimeError(
                f"All {self._tune.trials} trials of the search failed; the last one:"
                f" {str(error).strip().splitlines()[-1]}"
            ) from error

    def run_trial(self, trial: Any, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Trains the proxy with a trial's values; returns its figures after the last epoch."""
        try:
            return self._run(trial.hyperparameters.values)
        except DivergedError as error:
            raise keras_tuner.errors.FailedTrialError(str(error)) from error
        except Exception as error:
            values = ", ".join(f"{k}={v:g}" for k, v in trial.hyperparameters.values.items())
            raise keras_tuner.errors.FatalRuntimeError(
                f"The search stopped in a trial with {values}: {error}"
            ) from error
        finally:
            # The graphs of this trial would stay in memory with their variables.
            keras.backend.clear_session()
            gc.collect()

    @functools.cached_property
    def _eval_total(self) -> int:
        return min(batches.count(self._task.eval_files), self._tune.examples)

    def _run(self, values: Mapping[str, float]) -> dict[str, float]:
        tune, task = self._tune, proxy(self._task, self._tune, values)
        totals = min(sum(task.constants.class_counts), tune.examples), self._eval_total
        model = compiled_model(task, strategy.make_strategy(task.train))
        run = Run(task.train, batches.steps_per_epoch(totals[0], task.train.batch_size))
        progress = Progress(run, prefix=f"trial {len(self.oracle.trials)}/{tune.trials}  ")
        guard = Guard(run, Checkpoints("", "", model))
        callbacks = [Follow(run), guard, progress]
        fit(model, task, run, callbacks, totals, progress.say, examples=tune.examples)
        return {name: value for name, value in run.history[-1].items() if name.startswith("val_")}


class _Oracle(keras_tuner.oracles.RandomSearchOracle):
    """Random search that tries the defaults first."""

    def populate_space(self, trial_id: str) -> dict[str, Any]:
        if not self.start_order:
            return {"status": "RUNNING", "values": self.hyperparameters.values}
        return super().populate_space(trial_id)
