"""One run of a study in a process of its own: `python -m pipeline.study.member REQUEST.json`."""

from __future__ import annotations

import contextlib
import csv
import json
import math
import os
import sys
from collections.abc import Iterator, Mapping
from typing import Any

from components import code_version, files
from pipeline import local_runner
from pipeline.config.options import from_dict
from pipeline.config.settings import to_dict
from pipeline.study.definitions import Result

RESULT = "result.json"
REQUEST = "request.json"
# What is noted relative to the member's folder, so that a study can be moved.
_PATHS = ("model", "transform_graph", "train_files")


def main() -> int:
    """Runs the pipeline of the request and notes what came out; returns the exit status."""
    with open(sys.argv[1]) as file:
        request = json.load(file)
    config = from_dict(request["config"])
    status, nodes = local_runner.run(config)
    if status in (0, local_runner.NOT_PUSHED):
        folder = os.path.dirname(os.path.abspath(sys.argv[1]))
        outcome = _outcome(nodes, folder)
        if not outcome:
            print(
                "Nothing was pushed, so there is nothing to study: a bound of evaluate.* was not"
                " met."
            )
            return 1
        files.write(os.path.join(folder, RESULT), json.dumps({**request, **outcome}, indent=1))
    return status


def read(folder: str) -> Result | None:
    """The result in a member's folder, None before its run has ended well.

    Raises:
      ValueError: its file cannot be read; the message names it.
    """
    path = os.path.join(folder, RESULT)
    if not os.path.exists(path):
        return None
    with _named(path), open(path) as file:
        found = json.load(file)
        paths = {key: os.path.normpath(os.path.join(folder, found[key])) for key in _PATHS}
        config = from_dict(found["config"])
        return Result(**{**found, **paths, "folder": folder, "config": config})


@contextlib.contextmanager
def _named(path: str) -> Iterator[None]:
    """Says which file it is that cannot be read."""
    try:
        yield
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{path} is damaged or of another version ({error}): remove it, and the run is made"
            " again."
        ) from error


def write_request(folder: str, member: str, config: Any) -> str:
    """Writes what `main` reads; returns its path."""
    os.makedirs(folder, exist_ok=True)
    path = os.path.join(folder, REQUEST)
    tree = {
        "member": member,
        "seed": config.train.seed,
        "commit": code_version.name(),
        "config": to_dict(config),
    }
    files.write(path, json.dumps(tree, indent=1))
    return path


def begun(folder: str) -> str:
    """Name of the pipeline that has begun a member's run; "" when none has."""
    path = os.path.join(folder, REQUEST)
    if not os.path.exists(path):
        return ""
    with _named(path), open(path) as file:
        return json.load(file)["config"]["name"]


def _outcome(nodes: Mapping[str, Any], folder: str) -> dict[str, Any]:
    """What is noted of a run; {} when nothing was pushed."""
    from components.evaluator import evaluation
    from pipeline.local import figures

    if not figures.pushed_version(nodes["Pusher"]):
        return {}
    run = figures.uri(nodes["Trainer"], "model_run")
    with open(os.path.join(run, "summary.json")) as file:
        summary = json.load(file)
    with open(os.path.join(run, "history.csv")) as file:
        history = [
            {key: float(value) for key, value in row.items()} for row in csv.DictReader(file)
        ]
    examples = nodes["Transform"].get("transformed_examples") or nodes["ExampleGen"]["examples"]
    paths = {
        "model": figures.pushed_version(nodes["Pusher"]),
        "transform_graph": figures.uri(nodes["Transform"], "transform_graph"),
        "train_files": os.path.join(examples[0].uri, "Split-train", "*"),
    }
    return {
        "history": history,
        "steps_per_epoch": summary["steps"] // summary["epochs"],
        "errors": evaluation.errors(figures.uri(nodes["Evaluator"], "evaluation")),
        "parameters": summary["parameters"],
        # After an interruption the summary has the time of the last part only.
        "seconds": math.nan if summary["resumed_from"] else summary["seconds"],
        **{key: os.path.relpath(path, folder) for key, path in paths.items()},
    }


if __name__ == "__main__":
    sys.exit(main())
