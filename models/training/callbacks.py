"""What happens around the steps of a training: rate, curves, checkpoints, blow-up guard.

They and models.training.progress act at the beginning of a step and seldom read the metrics: Keras
waits for the device after each step as soon as one callback wants the end of a step.
"""

from __future__ import annotations

import csv
import dataclasses
import io
import math
import os
import time
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from models.settings import Train
from models.training import schedules
from models.training.checkpoint import Checkpoints

# The metric that plateaus are counted on.
VALIDATION_ERROR = "val_top1_error"
# Steps over which the training error is taken that ends a warm-up (train.warmup_error).
WINDOW = 50
_TRAINING_ERROR = "top1_error"
_GUARD_SECONDS = 5.0


class DivergedError(RuntimeError):
    """The loss is not finite any more."""


@dataclasses.dataclass
class Run:
    """Where a training stands; all callbacks share one.

    Attributes:
      train: its settings.
      steps_per_epoch: 1 or more.
      epoch: epochs done.
      step: steps done in the epoch under way.
      history: one row of figures for each epoch done.
      images_per_second: of the training steps since the start of this process, without validation
        and without the first step, which compiles; 0 until two steps are done.
      warm_after: steps that the warm-up of `train.warmup_error` took; None until it is over.
    """

    train: Train
    steps_per_epoch: int
    epoch: int = 0
    step: int = 0
    history: list[dict[str, float]] = dataclasses.field(default_factory=list)
    images_per_second: float = 0.0
    warm_after: int | None = None
    # Steps done, and wrong answers in them, when the training error was last looked at.
    _looked: tuple[int, int] = (0, 0)
    # Steps of this epoch that an earlier process did, and the mean metrics over them.
    _inherited: int = 0
    _means: dict[str, float] = dataclasses.field(default_factory=dict)

    @property
    def steps_done(self) -> int:
        """Steps since the beginning of the training."""
        return self.epoch * self.steps_per_epoch + self.step

    @property
    def finished(self) -> bool:
        """Whether all epochs are done."""
        return self.epoch >= self.train.epochs

    @property
    def learning_rate(self) -> float:
        """The learning rate of the next step."""
        plateau = self.train.schedule == "plateau"
        errors = [row[VALIDATION_ERROR] for row in self.history] if plateau else []
        warm = self.warm_after is not None
        return schedules.learning_rate(
            self.train, self.steps_done, self.steps_per_epoch, errors, warm
        )

    def enter(self, batch: int) -> None:
        """Notes that `batch` steps of the present `fit` epoch are done."""
        self.step = self._inherited + batch

    def leave(self, row: dict[str, float]) -> None:
        """Notes the end of an epoch and its figures."""
        self.epoch, self.step, self._inherited, self._means = self.epoch + 1, 0, 0, {}
        self.history.append({"epoch": float(self.epoch), **row})

    def look(self, model: keras.Model) -> None:
        """Ends a warm-up when the training error of the last `WINDOW` steps is low enough.

        Waits for the device every `WINDOW` steps until then.
        """
        steps = self.steps_done - self._looked[0]
        if not self.train.warmup_error or self.warm_after is not None or steps < WINDOW:
            return
        wrong = self._wrong(model)
        if (wrong - self._looked[1]) / (steps * self.train.batch_size) < self.train.warmup_error:
            self.warm_after = self.steps_done
        self._looked = (self.steps_done, wrong)

    def _wrong(self, model: keras.Model) -> int:
        """Training examples answered wrongly so far: means become counts, which add up exactly."""
        means = [(row[_TRAINING_ERROR], self.steps_per_epoch) for row in self.history]
        means.append((self.metrics(model).get(_TRAINING_ERROR, 0.0), self.step))
        return sum(round(mean * steps * self.train.batch_size) for mean, steps in means)

    def merged(self, means: dict[str, float]) -> dict[str, float]:
        """Means over this epoch's steps, those of an earlier process included."""
        if not self._inherited:
            return means
        here = self.step - self._inherited
        before = self._means
        return {
            name: (before[name] * self._inherited + mean * here) / self.step
            for name, mean in means.items()
            if name in before
        }

    def metrics(self, model: keras.Model) -> dict[str, float]:
        """Running means of this epoch; waits for the device. {} before the first step."""
        if self.step == self._inherited:
            return dict(self._means)
        means = model.get_metrics_result()
        return self.merged({name: float(value) for name, value in means.items()})

    def position(self, model: keras.Model) -> dict[str, Any]:
        """What a checkpoint keeps besides variables; JSON."""
        return {
            "epoch": self.epoch,
            "step": self.step,
            "metrics": self.metrics(model),
            "history": self.history,
            "warm_after": self.warm_after,
            "looked": self._looked,
        }

    def resume(self, position: dict[str, Any]) -> None:
        """Continues at a position."""
        self.epoch, self.step = position["epoch"], position["step"]
        self.history = position["history"]
        self._inherited, self._means = position["step"], position["metrics"]
        self.warm_after, self._looked = position["warm_after"], tuple(position["looked"])


class Follow(keras.callbacks.Callback):
    """Keeps `run` up to date and sets the learning rate. Must be the first callback."""

    def __init__(self, run: Run) -> None:
        super().__init__()
        self.run = run
        self._rate = math.nan

    def on_train_batch_begin(self, batch: int, logs: dict | None = None) -> None:
        self.run.enter(batch)
        self.run.look(self.model)
        rate = self.run.learning_rate
        if rate != self._rate:
            self.model.optimizer.learning_rate = rate
            self._rate = rate

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        logs = logs if logs is not None else {}
        self.run.step = self.run.steps_per_epoch
        # Keras averages the validation loss over the empty images of the last batch too, and adds
        # the weight decay; val_cross_entropy is the exact one.
        logs.pop("val_loss", None)
        figures = {name: float(value) for name, value in logs.items()}
        means = {name: value for name, value in figures.items() if not name.startswith("val_")}
        figures.update(self.run.merged(means), learning_rate=self._rate)
        # The callbacks after this one read the same dictionary.
        logs.update(figures)
        self.run.leave(figures)


class Guard(keras.callbacks.Callback):
    """Stops with `DivergedError` soon after the loss has ceased to be finite."""

    def __init__(self, run: Run, checkpoints: Checkpoints) -> None:
        super().__init__()
        self.run = run
        self._checkpoints = checkpoints
        self._checked = run.steps_done
        self._next = 0.0

    def on_train_batch_begin(self, batch: int, logs: dict | None = None) -> None:
        if time.monotonic() >= self._next:
            self.check(self.run.metrics(self.model))
            self._next = time.monotonic() + _GUARD_SECONDS

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        self.check(logs or {})

    def check(self, metrics: dict[str, float]) -> None:
        """Raises DivergedError when the running mean of the loss is not finite."""
        if not math.isfinite(metrics.get("loss", 0.0)):
            raise DivergedError(self._message())
        self._checked = self.run.steps_done

    def check_weights(self) -> None:
        """Raises DivergedError when a weight is not finite; called before each checkpoint.

        The loss is that of the weights before the step, and a checkpoint has those after it.
        """
        values = (keras.ops.convert_to_numpy(weight) for weight in self.model.weights)
        if not all(np.isfinite(value).all() for value in values):
            # The loss was finite up to the step before this one.
            self._checked = max(0, self.run.steps_done - 1)
            raise DivergedError(self._message())

    def _message(self) -> str:
        first, last = (
            f"epoch {steps // self.run.steps_per_epoch + 1} step {steps % self.run.steps_per_epoch}"
            for steps in (self._checked, self.run.steps_done)
        )
        path = self._checkpoints.latest
        good = f"the last good checkpoint is {path}" if path else "there is no checkpoint yet"
        return (
            f"The loss ceased to be finite between {first} and {last}; {good}; lower"
            f" train.learning_rate (now {self.run.train.learning_rate:g}) or warm up for longer."
        )


class Checkpoint(keras.callbacks.Callback):
    """Saves at every end of an epoch, and every `train.checkpoint_seconds` in between."""

    def __init__(self, run: Run, checkpoints: Checkpoints, guard: Guard) -> None:
        super().__init__()
        self.run = run
        self._checkpoints = checkpoints
        self._guard = guard
        self._saved = time.monotonic()

    def on_train_batch_begin(self, batch: int, logs: dict | None = None) -> None:
        if batch and time.monotonic() - self._saved >= self.run.train.checkpoint_seconds:
            self._guard.check(self.run.metrics(self.model))
            self._save()

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        self._save()

    def _save(self) -> None:
        self._guard.check_weights()
        self._checkpoints.save(self.run.position(self.model))
        self._saved = time.monotonic()


class Curves(keras.callbacks.Callback):
    """history.csv and TensorBoard curves, one point an epoch, those of earlier processes too."""

    def __init__(self, run: Run, directory: str) -> None:
        super().__init__()
        self.run = run
        self._csv = os.path.join(directory, "history.csv")
        self._writers = {
            part: tf.summary.create_file_writer(os.path.join(directory, part))
            for part in ("train", "validation")
        }
        tf.io.gfile.makedirs(directory)
        for row in run.history:
            self._point(row)
        if run.history:
            self._write_table()

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        self._point(self.run.history[-1])
        self._write_table()

    def _write_table(self) -> None:
        text = io.StringIO()
        table = csv.DictWriter(text, list(self.run.history[-1]))
        table.writeheader()
        table.writerows({**row, "epoch": int(row["epoch"])} for row in self.run.history)
        with tf.io.gfile.GFile(self._csv, "w") as file:
            file.write(text.getvalue())

    def _point(self, row: dict[str, float]) -> None:
        for name, value in row.items():
            part = "validation" if name.startswith("val_") else "train"
            with self._writers[part].as_default(step=int(row["epoch"])):
                tf.summary.scalar(name.removeprefix("val_"), value)
        for writer in self._writers.values():
            writer.flush()
