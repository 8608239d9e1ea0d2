"""The closing summary of a run."""

from __future__ import annotations

import dataclasses
import os
import shlex
import shutil
import sys
from collections.abc import Mapping, Sequence

from rich.markup import escape
from rich.table import Table
from tfx.utils import path_utils

from components.evaluator import evaluation
from components.evaluator.metric_table import METRICS
from components.example_gen.ingest_summary import read_summary
from components.report import rendering
from components.report.counting import first_synonyms
from components.serving_validator import component as serving_validator
from pipeline import serving_files
from pipeline.config import commands
from pipeline.config.paths import Paths
from pipeline.config.settings import Config, Serve
from pipeline.local import figures
from pipeline.local.dag import Outputs
from pipeline.local.terminal_view import View
from serving.deploy import tensorflow_serving


def show(view: View, config: Config, paths: Paths, nodes: Mapping[str, Outputs]) -> None:
    """Verdict and why, errors a protocol, where the model went, what to type next."""
    folder = figures.uri(nodes["Evaluator"], "evaluation")
    view.line()
    view.console.print(table(folder, config.evaluate.protocols))
    _hardest(view, config, nodes, folder)
    view.line()
    _verdict(view, config, folder)
    if "ServingValidator" in nodes and evaluation.verdict(folder)[0]:
        served = serving_validator.read(figures.uri(nodes["ServingValidator"], "blessing"))
        if served.reasons:
            reasons = escape("; ".join(served.reasons))
            view.line(f"[yellow]Not served[/], nothing pushed: {reasons}.")
    version = figures.pushed_version(nodes["Pusher"])
    if version:
        # As `python -m pipeline.serving_files` does.
        stored, place = (
            short(f"{view.log.removesuffix('.log')}.config.json"),
            short(paths.deployment),
        )
        made = serving_files.produce(config, place, ["--config", stored, "--out", place])
        view.line(f"Model    {escape(short(version))}")
        view.line(f"Serve    {escape(serve_command(made, place))}")
        view.line(f"Predict  {escape(predict_command(config.serve))}")
        view.line(f"Deploy   {escape(place)} (TensorFlow Serving, Compose, Kubernetes)")
    page = os.path.join(figures.uri(nodes["Report"], "report"), rendering.PAGE)
    view.line(f"Report   {escape(short(page))}")


def show_refused(view: View, nodes: Mapping[str, Outputs]) -> None:
    """Where a candidate lies that was not pushed, and what to do next."""
    model = path_utils.serving_model_path(figures.uri(nodes["Trainer"], "model"))
    view.line(f"Candidate {escape(short(model))}")
    if evaluation.verdict(figures.uri(nodes["Evaluator"], "evaluation"))[0]:
        step = "change what the server did not bear (serve.max_latency_ms, serve.max_memory_mb)"
    else:
        step = (
            "train longer or otherwise (train.epochs, train.learning_rate, data), or change the"
            " bound"
        )
    view.line(f"Next      {step}, and run the command again: a new bound needs no new training.")


def table(folder: str, protocols: Sequence[str]) -> Table:
    """The metrics of a ModelEvaluation artifact's folder, a row a protocol."""
    new, old = evaluation.errors(folder), evaluation.errors(folder, "baseline")
    shown = Table(
        title=f"{evaluation.example_count(folder):,} evaluation images",
        title_justify="left",
        box=None,
    )
    shown.add_column("protocol")
    titles = [metric.title for metric in METRICS.values()]
    for title in (*titles, *(["blessed before: top-1"] if old else [])):
        shown.add_column(title, justify="right")
    for name in protocols:
        row = [metric.text(new[name][key]) for key, metric in METRICS.items()]
        shown.add_row(name, *row, *([METRICS["top1"].text(old[name]["top1"])] if old else []))
    return shown


def serve_command(made: tensorflow_serving.Deployment, folder: str) -> str:
    """The command line that serves the pushed versions, with the production files in `folder`."""
    file = short(made.model_config) if made.model_config else ""
    made = dataclasses.replace(made, directory=short(made.directory), model_config=file)
    configuration = os.path.join(folder, "tensorflow_serving")
    _, *arguments = tensorflow_serving.embedded_command(made, configuration)
    return shlex.join([python(), *arguments])


def predict_command(serve: Serve) -> str:
    """The command line that asks the server of `serve_command`."""
    return commands.predict(serve, python())


def python() -> str:
    """How a person calls the Python that runs this."""
    found = shutil.which("python")
    if found and os.path.samefile(found, sys.executable):
        return "python"
    here = os.path.relpath(sys.executable)
    return sys.executable if here.startswith("..") else here


def short(path: str) -> str:
    """A local path as seen from here."""
    return path if "://" in path else os.path.relpath(path)


def _hardest(view: View, config: Config, nodes: Mapping[str, Outputs], folder: str) -> None:
    """The three classes with the highest top-1 error, less those without any."""
    errors = evaluation.per_class(folder, config.evaluate.protocol)
    names = read_summary(figures.uri(nodes["ExampleGen"], "examples"))["labels"]
    wrong = [label for label, error in errors.items() if error > 0]
    worst = sorted(wrong, key=lambda label: errors[label], reverse=True)[:3]
    if worst:
        short = first_synonyms(names)
        text = ", ".join(f"{short[label]} {errors[label]:.1%}" for label in worst)
        view.line(f" hardest classes ({config.evaluate.protocol}, top-1 error): {escape(text)}")


def _verdict(view: View, config: Config, folder: str) -> None:
    blessed, reasons = evaluation.verdict(folder)
    bounds = f"{config.evaluate.protocol} top-1 error at most {config.evaluate.max_top1_error:.2%}"
    if evaluation.errors(folder, "baseline"):
        bounds += (
            f", and at most {config.evaluate.max_top1_increase * 100:.2f} points over the blessed"
            " model"
        )
    if blessed:
        view.line(f"[green]Blessed[/]: {bounds}.")
    else:
        view.line("[yellow]Not blessed[/], nothing pushed: " + escape("; ".join(reasons)) + ".")
