"""The key figure of each component, for its line in the progress view."""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Callable, Mapping
from typing import Any

import tensorflow as tf
from tfx.types import artifact_utils

from components.data_validation import drift
from components.evaluator import evaluation
from components.evaluator.metric_table import METRICS
from components.example_gen import ingest_summary
from components.report import component as report
from components.serving_validator import component as serving_validator
from models.training import arguments


def of(name: str, nodes: Mapping[str, Any]) -> str:
    """The figure of a component that has run, or ""."""
    figure = _FIGURES.get(name)
    return figure(nodes[name]) if figure else ""


def uri(outputs: Mapping[str, Any], key: str) -> str:
    """Folder of the one artifact under an output name."""
    return artifact_utils.get_single_uri(outputs[key])


def _example_gen(outputs: Mapping[str, Any]) -> str:
    folder = uri(outputs, "examples")
    summary = ingest_summary.read_summary(folder)
    bad = [name for name, figures in summary["splits"].items() if figures["quarantined"]]
    files = [ingest_summary.quarantine_path(folder, name) for name in bad]
    paths = [path if "://" in path else os.path.relpath(path) for path in files]
    return "; bad images: ".join([ingest_summary.describe(summary), *paths])


def _validator(outputs: Mapping[str, Any]) -> str:
    return "; ".join(filter(None, ("no anomalies", drift.describe(uri(outputs, "anomalies")))))


def _transform(outputs: Mapping[str, Any]) -> str:
    constants = arguments.measured(uri(outputs, "transform_graph"))
    mean = ", ".join(f"{c:.0f}" for c in constants.channel_mean)
    return f"{len(constants.labels):,} classes, mean colour ({mean})"


def _trainer(outputs: Mapping[str, Any]) -> str:
    with tf.io.gfile.GFile(os.path.join(uri(outputs, "model_run"), "summary.json")) as file:
        done = json.load(file)
    if "members" in done:
        return f"ensemble of {len(done['members'])} models, {done['parameters']:,} parameters"
    # One step alone is not timed.
    speed = f", {done['images_per_second']:,.0f} images/s" if done["images_per_second"] else ""
    return f"validation top-1 error {done['val_top1_error']:.2%}{speed}"


def _evaluator(outputs: Mapping[str, Any]) -> str:
    folder = uri(outputs, "evaluation")
    blessed, _ = evaluation.verdict(folder)
    found = sorted(evaluation.errors(folder).items())
    tops = ", ".join(f"{name} {METRICS['top1'].text(values['top1'])}" for name, values in found)
    return f"top-1 error {tops}: {'blessed' if blessed else 'not blessed'}"


def pushed_version(outputs: Mapping[str, Any]) -> str:
    """Folder of the pushed version, or "" when nothing was pushed."""
    [artifact] = outputs["pushed_model"]
    if artifact.get_int_custom_property("pushed") != 1:
        return ""
    return artifact.get_string_custom_property("pushed_destination")


def _pusher(outputs: Mapping[str, Any]) -> str:
    version = os.path.basename(pushed_version(outputs))
    return f"version {version}" if version else "nothing pushed: the model is not blessed"


def _version(found: str, none: str, outputs: Mapping[str, Any]) -> str:
    """Which pushed version was found, or none, and which were passed over."""
    [artifact] = outputs["model"]
    version = os.path.basename(artifact.get_string_custom_property("version"))
    note = artifact.get_string_custom_property("note")
    return "; ".join(filter(None, (f"{found} {version}" if version else none, note)))


_FIGURES: dict[str, Callable[[Mapping[str, Any]], str]] = {
    "ExampleGen": _example_gen,
    "ExampleValidator": _validator,
    "Transform": _transform,
    "WarmStart": functools.partial(
        _version, "from pushed version", "no pushed model of this network yet"
    ),
    "Trainer": _trainer,
    "Baseline": functools.partial(
        _version, "compared with pushed version", "compared with no pushed model"
    ),
    "Evaluator": _evaluator,
    "ServingValidator": lambda outputs: serving_validator.describe(uri(outputs, "blessing")),
    "Pusher": _pusher,
    "Report": lambda outputs: report.describe(uri(outputs, "report")),
}
