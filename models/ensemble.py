"""Ensembles: `run_fn` exports the average of pushed models (paper, Table 5)."""

from __future__ import annotations

import json
import os
import time
from typing import Any

import tensorflow as tf

from models.export import export, protocols
from models.export.protocols import Network
from models.settings import Model
from models.training.arguments import label_names, measured, read_settings
from models.weights import pretrained

SUMMARY = "summary.json"


def run_fn(fn_args: Any) -> None:
    """Exports an ensemble; the entry point of TFX's Trainer where "model" has an "ensemble".

    Reads from `fn_args`: `transform_graph_path` and `custom_config`: "model" (fields of
    models.settings; its "ensemble" names folders of pushed models, of which the newest version is
    meant, or single versions), "protocols" (names of models.export.protocols) and "names" (class
    name -> name for people; optional). Every member is tested with the crops and the means that it
    was trained with.

    Writes the SavedModel to `serving_model_dir` and summary.json (members, parameters, seconds) to
    `model_run_dir`.

    Raises:
      ValueError: a folder that holds no single network, or one with other classes than the data.
    """
    start = time.monotonic()
    config = fn_args.custom_config or {}
    folders = [pretrained.resolve(path) for path in read_settings(Model, config, "model").ensemble]
    labels = measured(fn_args.transform_graph_path).labels
    networks = [load(folder, labels) for folder in folders]
    export.export(
        networks,
        fn_args.serving_model_dir,
        label_names(config, labels),
        config.get("protocols") or ["center"],
        members=folders,
    )
    summary = {
        "members": folders,
        "parameters": sum(network.model.count_params() for network in networks),
        "seconds": time.monotonic() - start,
    }
    tf.io.gfile.makedirs(fn_args.model_run_dir)
    with tf.io.gfile.GFile(os.path.join(fn_args.model_run_dir, SUMMARY), "w") as file:
        file.write(json.dumps(summary, indent=2))


def load(folder: str, labels: tuple[str, ...]) -> Network:
    """The network of a pushed version, which must have the classes `labels` in this order.

    Raises:
      ValueError: the folder holds no single network, or one with other classes.
    """
    if not tf.io.gfile.isdir(folder):
        raise ValueError(
            f"{folder} is no pushed model; make one of it with python -m models.import_weights."
        )
    found = pretrained.load(folder)
    if found.constants is None or found.transform is None:
        raise ValueError(
            f"{folder} does not say with which means and classes it was trained; model.ensemble"
            " needs folders of models that this version has pushed."
        )
    if found.constants.labels != labels:
        raise ValueError(
            f"{folder} has {_difference(found.constants.labels, labels)}; the members of"
            " model.ensemble must have the classes of the data in the same order."
        )
    return protocols.network(found.model, found.transform, found.constants)


def _difference(theirs: tuple[str, ...], ours: tuple[str, ...]) -> str:
    if len(theirs) != len(ours):
        return f"{len(theirs)} classes where the data has {len(ours)}"
    label = next(i for i, (a, b) in enumerate(zip(theirs, ours, strict=True)) if a != b)
    return f"class {theirs[label]} as label {label} where the data has {ours[label]}"
