"""What a training depends on, read from what TFX hands over."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
import tensorflow as tf

from models import fields, preprocessing
from models.data import input as batches
from models.pixels import augmentation
from models.pixels.augmentation import Constants
from models.settings import Model, Train, Transform, Tune, check
from models.training import strategy
from models.weights import finetune

# Names of the hyperparameters that models.tune searches.
LEARNING_RATE, WEIGHT_DECAY, STRENGTH = "learning_rate", "weight_decay", "augmentation_strength"
# A training may continue on other hardware, with other checkpoints, or after the network that it
# started from has moved: its weights count, not their place.
_PLACES = ("init_from", "strategy", "cpu_devices", "tpu", "checkpoint_seconds", "checkpoint_dir")
_T = TypeVar("_T")


@dataclasses.dataclass(frozen=True)
class Task:
    """All that a training depends on.

    Attributes:
      transform: what the network sees in tests.
      strength: factor on the random ranges of `transform` in training.
      constants: of the training split; the mean is that of `start` where there is one.
      train_files, eval_files: TFRecords.
      start: the network that the weights come from.
    """

    transform: Transform
    model: Model
    train: Train
    strength: float
    constants: Constants
    train_files: tuple[str, ...]
    eval_files: tuple[str, ...]
    start: finetune.Start | None = None

    @property
    def augmentation(self) -> Transform:
        """Settings of the training crops."""
        return augmentation.strengthen(self.transform, self.strength)

    def fingerprint(self) -> str:
        """Hexadecimal digest: equal for trainings that compute the same, on whatever hardware.

        Names and sizes of their files, and what Transform measured, tell the data apart.
        """
        train = {k: v for k, v in dataclasses.asdict(self.train).items() if k not in _PLACES}
        files = [
            (os.path.basename(file), tf.io.gfile.stat(file).length)
            for file in (*self.train_files, *self.eval_files)
        ]
        measured = {
            name: value.tolist() if isinstance(value, np.ndarray) else value
            for name, value in vars(self.constants).items()
        }
        settings = [dataclasses.asdict(self.transform), dataclasses.asdict(self.model), train]
        start = [self.start.digest, self.start.head] if self.start else None
        text = json.dumps([settings, self.strength, measured, files, start])
        return hashlib.sha256(text.encode()).hexdigest()


def read_task(fn_args: Any) -> Task:
    """The task that TFX's arguments describe.

    Raises:
      ValueError: unknown or impossible settings, no data, or nothing at `train.init_from`.
    """
    config = fn_args.custom_config or {}
    transform = read_settings(Transform, config, "transform")
    model = read_settings(Model, config, "model")
    train = read_settings(Train, config, "train")
    strength = 1.0
    if getattr(fn_args, "hyperparameters", None):
        import keras_tuner  # costs a second, and most trainings come without

        found = keras_tuner.HyperParameters.from_config(fn_args.hyperparameters).values
        train = dataclasses.replace(
            train,
            learning_rate=found.get(LEARNING_RATE, train.learning_rate),
            weight_decay=found.get(WEIGHT_DECAY, train.weight_decay),
        )
        strength = found.get(STRENGTH, strength)
    base = getattr(fn_args, "base_model", None)
    # Without a pushed model there is an empty folder.
    if train.warm_start and base and tf.io.gfile.exists(os.path.join(base, "saved_model.pb")):
        train = dataclasses.replace(train, init_from=base)
    check(transform, model, train, read_settings(Tune, config, "tune"))
    constants = measured(fn_args.transform_graph_path)
    start = None
    if train.init_from:
        if train.cpu_devices:
            # Before the first variable: later it is too late.
            strategy.split_cpu(train.cpu_devices)
        start, constants = finetune.load(train, model, transform, constants)
    return Task(
        transform=transform,
        model=model,
        train=train,
        strength=strength,
        constants=constants,
        train_files=tuple(batches.resolve(fn_args.train_files)),
        eval_files=tuple(batches.resolve(fn_args.eval_files)),
        start=start,
    )


def measured(transform_graph: str) -> Constants:
    """What Transform has measured; raises FileNotFoundError, or ValueError if it is damaged."""
    try:
        return preprocessing.load_constants(transform_graph)
    except FileNotFoundError:
        raise
    except Exception as error:  # NumPy and zipfile let through whatever damaged contents lead to
        raise ValueError(
            f"The constants in {transform_graph} are damaged ({error or type(error).__name__}):"
            " --no-cache Transform measures them anew."
        ) from error


def ingested(files: Sequence[str]) -> dict[str, int] | None:
    """Examples of each split by ingestion's summary, which may lie beside the folders of files."""
    path = os.path.join(os.path.dirname(os.path.dirname(files[0])), "summary.json")
    if not tf.io.gfile.exists(path):
        return None  # those that Transform has written
    with tf.io.gfile.GFile(path) as file:
        splits = json.loads(file.read())["splits"]
    return {name: split["examples"] for name, split in splits.items()}


def read_settings(kind: type[_T], config: Mapping[str, Any], section: str) -> _T:
    """A settings dataclass from its JSON fields in `config[section]`, as `fields.build`."""
    return fields.build(kind, dict(config.get(section, {})), f"{section}.")


def label_names(config: Mapping[str, Any], labels: Sequence[str]) -> list[str]:
    """Names of the labels for people: `config["names"]` has those of some, by class name."""
    # No list: a scheduled run may find other classes than there were when it was compiled.
    names = config.get("names") or {}
    return [names.get(label, label) for label in labels]
