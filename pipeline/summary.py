"""The closing summary of a run."""

from __future__ import annotations

import math
import os
import shlex
from collections.abc import Mapping

from rich.markup import escape
from rich.table import Table

from components import evaluation
from components.example_gen.summary import read_summary
from pipeline import figures
from pipeline.config import Config, Serve
from pipeline.local_dag import Outputs
from pipeline.paths import Paths
from pipeline.progress import View


def show(view: View, config: Config, paths: Paths, nodes: Mapping[str, Outputs]) -> None:
    """Verdict and why, errors a protocol, where the model went, what to type next."""
    folder = figures.uri(nodes["Evaluator"], "evaluation")
    new, old = evaluation.errors(folder), evaluation.errors(folder, "baseline")
    table = Table(
        title=f"{evaluation.example_count(folder):,} evaluation images", title_justify="left", box=None
    )
    table.add_column("protocol")
    for title in ("top-1 error", "top-5 error", *(["blessed before: top-1"] if old else [])):
        table.add_column(title, justify="right")
    for name in config.evaluate.protocols:
        row = [_percent(new[name].top1), _percent(new[name].top5)]
        table.add_row(name, *row, *([_percent(old[name].top1)] if old else []))
    view.line()
    view.console.print(table)
    _hardest(view, config, nodes, folder)
    view.line()
    _verdict(view, config, folder)
    version = figures.pushed_version(nodes["Pusher"])
    if version:
        view.line(f"Model    {escape(short(version))}")
        view.line(f"Serve    {escape(serve_command(config.serve, paths.serving))}")
        view.line(f"Predict  {escape(predict_command(config.serve))}")


def serve_command(serve: Serve, directory: str) -> str:
    """The command line that serves the pushed versions."""
    defaults = Serve()
    flags = [f"--model_name={serve.model_name}", f"--model_base_path={short(directory)}"]
    flags += [f"--rest_api_port={serve.rest_port}"]
    flags += [f"--host={serve.host}"] if serve.host != defaults.host else []
    return shlex.join(["python", "-m", "serving.server", *flags])


def predict_command(serve: Serve) -> str:
    """The command line that asks the server of `serve_command`."""
    defaults = Serve()
    flags = [f"--model_name={serve.model_name}"] if serve.model_name != defaults.model_name else []
    if (serve.host, serve.rest_port) != (defaults.host, defaults.rest_port):
        flags.append(f"--url=http://{serve.host}:{serve.rest_port}")
    return shlex.join(["python", "-m", "serving.client", "IMAGE.jpg", *flags])


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
        # ImageNet's names are lists of synonyms: the first is enough.
        text = ", ".join(f"{names[label].split(',')[0]} {errors[label]:.1%}" for label in worst)
        view.line(f" hardest classes ({config.evaluate.protocol}, top-1 error): {escape(text)}")


def _verdict(view: View, config: Config, folder: str) -> None:
    blessed, reasons = evaluation.verdict(folder)
    bounds = f"{config.evaluate.protocol} top-1 error at most {config.evaluate.max_top1_error:.2%}"
    if evaluation.errors(folder, "baseline"):
        bounds += f", and at most {config.evaluate.max_top1_increase * 100:.2f} points over the blessed model"
    if blessed:
        view.line(f"[green]Blessed[/]: {bounds}.")
    else:
        view.line("[yellow]Not blessed[/], nothing pushed: " + "; ".join(reasons) + ".")


def _percent(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.2%}"
