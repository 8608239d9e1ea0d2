"""Trainer: `run_fn` trains the network and exports the SavedModel."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import keras
import tensorflow as tf

from models.data import input as batches
from models.export import export, protocols
from models.network import architecture
from models.training import average, finish, schedules, strategy
from models.training.arguments import Task, ingested, label_names, read_task
from models.training.callbacks import Checkpoint, Curves, Follow, Guard, Run
from models.training.checkpoint import Checkpoints
from models.training.metrics import loss, metrics
from models.training.progress import Progress
from models.weights import finetune

SUMMARY = "summary.json"


def run_fn(fn_args: Any) -> None:
    """Trains and exports; the entry point of TFX's Trainer.

    Reads from `fn_args`: `train_files` and `eval_files` (glob patterns of tf.Examples),
    `transform_graph_path`, `hyperparameters` (keras_tuner's config, or None) and `custom_config`:
    "transform", "model", "train" (fields of models.settings), "protocols" (names of
    models.export.protocols), "names" (class name -> name for people; optional), "checkpoint_dir" (a
    folder that outlives the training; others may use it as well; "" for none).

    Writes the SavedModel to `serving_model_dir`, and history.csv, TensorBoard curves and
    summary.json to `model_run_dir`. A killed training goes on at its last checkpoint when it is run
    again with the same settings and data; the checkpoints are removed at the end.
    models.weights.finetune says where the weights begin.

    Raises:
      ValueError: settings or data that cannot be trained on.
      DivergedError: the loss is not finite any more.
    """
    start = time.monotonic()
    config = fn_args.custom_config or {}
    task = read_task(fn_args)
    done = learn(task, config.get("checkpoint_dir", ""), fn_args.model_run_dir)
    export.export(
        protocols.network(done.network, task.transform, task.constants),
        fn_args.serving_model_dir,
        label_names(config, task.constants.labels),
        config.get("protocols") or ["center"],
    )
    with tf.io.gfile.GFile(os.path.join(fn_args.model_run_dir, SUMMARY), "w") as file:
        file.write(json.dumps({**done.summary, "seconds": time.monotonic() - start}, indent=2))
    done.checkpoints.remove()


class Learned(NamedTuple):
    """What a training ends with.

    Attributes:
      network: float32, on one device.
      summary: figures of `network` ("val_...") and of the last epoch, and what they were reached
        with. "images_per_second" is of the training steps, or of the evaluation where there were
        none; "fit_seconds" is what `fit` took, validation included.
      checkpoints: to be removed when the network is stored.
    """

    network: keras.Model
    summary: dict[str, Any]
    checkpoints: Checkpoints


def learn(task: Task, checkpoint_dir: str, log_dir: str) -> Learned:
    """Trains from the last checkpoint, from `task.start` or from scratch (models.weights.finetune).

    Writes history.csv and the TensorBoard curves to `log_dir`. Raises what `run_fn` raises.
    """
    where = strategy.make_strategy(task.train)
    # Transform has counted the training split: ImageNet's is too long to read for its length alone.
    totals = sum(task.constants.class_counts), batches.count(task.eval_files)
    _check_counts(task, totals)
    if not all(totals):
        raise ValueError(
            f"There are {totals[0]} training and {totals[1]} evaluation examples, and both need"
            " some; look at what ingestion reported."
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
    if task.start and not resumed:
        progress.say(str(task.start))
    if totals[0] < task.train.batch_size:
        progress.say(
            f"train.batch_size={task.train.batch_size} is more than the {totals[0]:,} training"
            " images: every step has some of them twice or more"
        )
    guard, curves = Guard(run, checkpoints), Curves(run, log_dir)
    callbacks = [Follow(run), guard, progress, curves, Checkpoint(run, checkpoints, guard)]
    if task.train.ema:
        callbacks.append(average.Average())
    start = time.monotonic()
    fit(model, task, run, callbacks, totals, progress.say)
    fitted = time.monotonic() - start
    if task.train.ema and run.steps_done:
        average.take(model)
    network = finish.inference_copy(model, task)
    replicas = where.num_replicas_in_sync
    figures = dict(run.history[-1]) if run.history else {}
    # The last epoch has the network's figures, unless there was none or the network changes now: it
    # is exported in float32, with the mean of the replicas' statistics.
    changes = task.train.bn_examples or task.train.precision != "float32" or replicas > 1
    if changes or not run.history:
        figures |= finish.finish(network, task, replicas, totals[1], progress.say)
    summary = {
        **_summary(task, run, figures),
        "replicas": replicas,
        "resumed_from": resumed,
        "fit_seconds": fitted,
        "parameters": network.count_params(),
    }
    return Learned(network, summary, checkpoints)


def _check_counts(task: Task, totals: tuple[int, int]) -> None:
    """Raises ValueError when there are more or fewer examples than ingestion has written."""
    written = ingested(task.eval_files)
    for split, found, node in zip(("train", "eval"), totals, ("Transform", "Trainer"), strict=True):
        if written is not None and found != written[split]:
            raise ValueError(
                f"{node} saw {found:,} examples of the {split} split and ingestion wrote"
                f" {written[split]:,}: files in"
                f" {os.path.dirname(os.path.dirname(task.eval_files[0]))} are cut off, missing or"
                " not its own; --no-cache ExampleGen writes them anew."
            )


def _summary(task: Task, run: Run, figures: dict[str, float]) -> dict[str, Any]:
    return {
        **{name: value for name, value in figures.items() if name != "epoch"},
        # The rate of the evaluation if nothing was trained; 0 if an earlier process took all steps.
        "images_per_second": run.images_per_second if run.epoch else figures["images_per_second"],
        "epochs": run.epoch,
        "steps": run.steps_done,
        "started_from": task.train.init_from or None,
        "warmup_steps": run.warm_after,
        "train_examples": sum(task.constants.class_counts),
        "peak_learning_rate": schedules.peak(task.train),
        "weight_decay": task.train.weight_decay,
        "augmentation_strength": task.strength,
    }


def compiled_model(task: Task, where: tf.distribute.Strategy) -> keras.Model:
    """The network with the paper's optimizer (section 3.4), ready for `fit`, on `where`'s devices.

    Raises:
      ValueError: the weights of `task.start` do not fit.
    """
    train, classes = task.train, len(task.constants.labels)
    keras.utils.set_random_seed(train.seed + 1)
    with strategy.precision(train.precision), where.scope():
        model = architecture.build(task.model, classes, train.weight_decay)
        if task.start:
            finetune.copy(task.start, model)
        finetune.freeze(model, train.frozen_stages)
        optimizer = average.SGD(
            schedules.peak(train),
            momentum=train.momentum,
            use_ema=train.ema > 0,
            ema_momentum=train.ema,
        )
        # weighted_metrics are those that leave out the filling of the last validation batch. Under
        # several replicas Keras 3.15 fails with jit_compile=True, steps_per_execution above 1 and
        # gradient accumulation: none is used.
        model.compile(optimizer, loss(train, classes), weighted_metrics=metrics(classes))
        model.optimizer.build(model.trainable_variables)
    return model


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

    Raises:
      ValueError: training files that are damaged or not all there.
    """
    train = task.train
    validation = batches.eval_dataset(
        task.eval_files,
        task.transform,
        task.constants,
        train.batch_size,
        total=totals[1],
        examples=examples,
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
        with batches.named(task.train_files):
            steps(model, stream, run, callbacks, last, validation)


def steps(
    model: keras.Model,
    stream: tf.data.Dataset,
    run: Run,
    callbacks: list[keras.callbacks.Callback],
    last: int,
    validation: tf.data.Dataset | None = None,
) -> None:
    """As `fit`, to the end of the epoch `last` (from 1).

    Args:
      stream: batches of images [B, H, W, 3] and labels [B], from the next step on.
      validation: batches of images, labels and weights [B], seen after each epoch; None for none.
    """
    with strategy.precision(run.train.precision):
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
