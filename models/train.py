"""Trainer: `run_fn` trains the network and exports the SavedModel."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import keras
import tensorflow as tf

from models import export, resnet, schedules, strategy
from models import input as batches
from models.augmentation import Constants
from models.callbacks import Checkpoint, Curves, Follow, Guard, Run
from models.checkpoint import Checkpoints
from models.progress import Progress
from models.settings import Train
from models.task import Task, read_task

SUMMARY = "summary.json"


def run_fn(fn_args: Any) -> None:
    """Trains and exports; the entry point of TFX's Trainer.

    Reads from `fn_args`: `train_files` and `eval_files` (glob patterns of tf.Examples),
    `transform_graph_path`, `hyperparameters` (keras_tuner's config, or None) and `custom_config`:
    "transform", "model", "train" (fields of models.settings), "protocols" (names of models.protocols),
    "names" (of the labels, for people; optional),
    "checkpoint_dir" (a folder that outlives the training; others may use it as well; "" for none).

    Writes the SavedModel to `serving_model_dir`, and history.csv, TensorBoard curves and summary.json to
    `model_run_dir`. A killed training goes on at its last checkpoint when it is run again with the same
    settings and data; the checkpoints are removed at the end.

    Raises:
      ValueError: settings or data that cannot be trained on.
      DivergedError: the loss is not finite any more.
    """
    start = time.monotonic()
    config = fn_args.custom_config or {}
    task = read_task(fn_args)
    with precision(task.train.precision):
        done = _train(task, config.get("checkpoint_dir", ""), fn_args.model_run_dir)
    export.export(
        _inference_copy(done.model, task),
        fn_args.serving_model_dir,
        task.transform,
        _named(task.constants, config.get("names")),
        config.get("protocols") or ["center"],
    )
    summary = {**_summary(task, done), "seconds": time.monotonic() - start}
    with tf.io.gfile.GFile(os.path.join(fn_args.model_run_dir, SUMMARY), "w") as file:
        file.write(json.dumps(summary, indent=2))
    done.checkpoints.remove()


def _named(constants: Constants, names: Sequence[str] | None) -> Constants:
    """Constants whose labels are names for people, where there are some."""
    if not names:
        return constants
    if len(names) != len(constants.labels):
        raise ValueError(
            f"There are {len(names)} label names for {len(constants.labels)} classes; give one for each."
        )
    return dataclasses.replace(constants, labels=tuple(names))


@contextlib.contextmanager
def precision(policy: str) -> Iterator[None]:
    """Sets Keras' dtype policy until the block is left."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)


def compiled_model(task: Task, where: tf.distribute.Strategy) -> keras.Model:
    """The network with the paper's optimizer (section 3.4), ready for `fit`, on the devices of `where`."""
    train, classes = task.train, len(task.constants.labels)
    # Never 0: tf.data compares that seed with the epoch's, which is a tensor.
    keras.utils.set_random_seed(train.seed + 1)
    with where.scope():
        model = resnet.build(task.model, classes, train.weight_decay)
        optimizer = keras.optimizers.SGD(schedules.peak(train), momentum=train.momentum)
        # weighted_metrics are those that leave out the filling of the last validation batch.
        # Under several replicas Keras 3.15 fails with jit_compile=True, steps_per_execution above 1 and
        # gradient accumulation: none is used.
        model.compile(optimizer, loss(train, classes), weighted_metrics=metrics(classes))
        model.optimizer.build(model.trainable_variables)
    return model


def loss(train: Train, classes: int) -> keras.losses.Loss:
    """Cross-entropy of integer labels [B] and logits [B, classes], smoothed by `train.label_smoothing`."""
    if not train.label_smoothing:
        return keras.losses.SparseCategoricalCrossentropy(from_logits=True)

    def smoothed(labels, logits):
        return keras.losses.categorical_crossentropy(
            keras.ops.one_hot(_indices(labels), classes, dtype=logits.dtype),
            logits,
            from_logits=True,
            label_smoothing=train.label_smoothing,
        )

    return smoothed


def metrics(classes: int) -> list[keras.metrics.Metric]:
    """Means of cross-entropy (without smoothing and weight decay), top-1 and top-5 error.

    Ties count against the label, and logits that are not finite are errors: a collapsed network is no
    good one.
    """

    def error(labels, logits, k: int):
        ops = keras.ops
        own = ops.take_along_axis(logits, _indices(labels)[:, None], axis=1)
        rank = ops.sum(ops.cast(logits >= own, "int32"), axis=1)
        correct = ops.logical_and(rank <= k, ops.all(ops.isfinite(logits), axis=1))
        return 1.0 - ops.cast(correct, "float32")

    mean = keras.metrics.MeanMetricWrapper
    return [
        keras.metrics.SparseCategoricalCrossentropy(name="cross_entropy", from_logits=True),
        mean(error, name="top1_error", k=1),
        mean(error, name="top5_error", k=min(5, classes)),
    ]


def _indices(labels):
    # Keras tries loss and metrics on the mean of the replicas' labels, which is a float.
    return keras.ops.cast(keras.ops.reshape(labels, [-1]), "int32")


def fit(
    model: keras.Model,
    task: Task,
    run: Run,
    callbacks: list[keras.callbacks.Callback],
    totals: tuple[int, int],
    say: Callable[[str], None],
    examples: int | None = None,
) -> None:
    """Trains from where `run` stands to the last epoch.

    Args:
      model: of `compiled_model`.
      task: what to train.
      run: moved on by the callbacks.
      callbacks: `Follow` first.
      totals: examples of the training and evaluation files (at most `examples`).
      say: told about a long silence before it begins.
      examples: uses only this many of each; None is all.
    """
    train = task.train
    validation = batches.eval_dataset(
        task.eval_files, task.transform, task.constants, train.batch_size, total=totals[1], examples=examples
    )
    while not run.finished:
        # `fit` knows no beginning inside an epoch: the rest of one is a `fit` of its own.
        last = run.epoch + 1 if run.step else train.epochs
        skipped = batches.place(run.steps_done, train.batch_size, totals[0])[1]
        if skipped:
            say(f"skipping {skipped:,} records that were already seen")
        stream = batches.train_dataset(
            task.train_files,
            task.augmentation,
            task.constants,
            train,
            total=totals[0],
            start_step=run.steps_done,
            examples=examples,
        )
        model.fit(
            stream,
            initial_epoch=run.epoch,
            epochs=last,
            steps_per_epoch=run.steps_per_epoch - run.step,
            validation_data=validation,
            callbacks=callbacks,
            shuffle=False,
            verbose=0,
        )


class _Done(NamedTuple):
    model: keras.Model
    run: Run
    checkpoints: Checkpoints
    replicas: int
    resumed_from: str | None


def _train(task: Task, checkpoint_dir: str, log_dir: str) -> _Done:
    where = strategy.make_strategy(task.train)
    # Transform has counted the training split: ImageNet's is too long to read for its length alone.
    totals = sum(task.constants.class_counts), batches.count(task.eval_files)
    if not all(totals):
        raise ValueError(
            f"There are {totals[0]} training and {totals[1]} evaluation examples, and both need some; "
            "look at what ingestion reported."
        )
    model = compiled_model(task, where)
    run = Run(task.train, steps_per_epoch=batches.steps_per_epoch(totals[0], task.train.batch_size))
    checkpoints = Checkpoints(checkpoint_dir, task.fingerprint(), model)
    position = checkpoints.restore()
    resumed = None
    if position:
        run.resume(position)
        resumed = f"epoch {run.epoch + 1} step {run.step}"
    progress = Progress(run)
    if resumed or checkpoints.refused:
        progress.say(checkpoints.refused or f"continuing at {resumed}")
    guard = Guard(run, checkpoints)
    callbacks = [Follow(run), guard, progress, Curves(run, log_dir), Checkpoint(run, checkpoints, guard)]
    fit(model, task, run, callbacks, totals, progress.say)
    return _Done(model, run, checkpoints, where.num_replicas_in_sync, resumed)


def _summary(task: Task, done: _Done) -> dict[str, Any]:
    """Figures of the last epoch, and what they were reached with."""
    return {
        **{name: value for name, value in done.run.history[-1].items() if name != "epoch"},
        "epochs": done.run.epoch,
        "steps": done.run.steps_done,
        "images_per_second": done.run.images_per_second,
        "replicas": done.replicas,
        "resumed_from": done.resumed_from,
        "parameters": done.model.count_params(),
        "train_examples": sum(task.constants.class_counts),
        "peak_learning_rate": schedules.peak(task.train),
        "weight_decay": task.train.weight_decay,
        "augmentation_strength": task.strength,
    }


def _inference_copy(model: keras.Model, task: Task) -> keras.Model:
    """The trained network in float32 on one device, without what only training needs."""
    copy = resnet.build(task.model, len(task.constants.labels))
    copy.set_weights(model.get_weights())
    return copy
