"""The report of a study: a page with figure, table and settings; the same as CSV and Markdown."""

from __future__ import annotations

import math
import os
import statistics
from collections.abc import Callable, Sequence
from typing import NamedTuple

import pandas as pd

from components import files
from components.evaluator.metric_table import METRICS
from components.report import drawing
from models.training import schedules
from pipeline.config import presets
from pipeline.config.options import assign
from pipeline.config.settings import Config, to_dict
from pipeline.study import contents
from pipeline.study.contents import Net, Shown, mean
from pipeline.study.definitions import Result, Study

# What a recipe is; the rest of a configuration says where and on what it runs.
_RECIPE = ("data", "transform", "model", "train")
_NO_RECIPE = {
    "data": {
        "source",
        "train_shards",
        "eval_shards",
        "seed",
        "max_bad_fraction",
        "max_pixels",
        "schema",
    },
    "train": {"seed", "strategy", "cpu_devices", "tpu", "checkpoint_seconds", "checkpoint_dir"},
}


class Table(NamedTuple):
    header: list[str]
    rows: list[list[str]]


def write(study: Study, results: Sequence[Result], folder: str, command: str) -> str:
    """Writes report.html, results.csv, results.md, and where there are any figure.svg, layers.csv.

    `results` come in any order; missing ones are named. `command` is what gives this report.

    Returns:
      Path of report.html, which needs no other file and no network.
    """
    nets = contents.group(study, results)
    shown = contents.of(study, nets) if nets else Shown("", "")
    page = {
        "study": study,
        "missing": contents.missing(study, nets),
        "shown": shown,
        "figure": drawing.inline(shown.figure, "figure", shown.caption) if shown.figure else "",
        "tables": [_results(study, nets, shown), *_other_protocols(study, nets)] if nets else [],
        "note": _note(study, nets),
        "facts": _facts(nets) if nets else [],
        "differences": differences(study, nets),
        "command": command,
    }
    os.makedirs(folder, exist_ok=True)
    written = {
        "results.csv": _csv(_runs(nets)),
        "layers.csv": _csv(shown.layers) if shown.layers else "",
        "figure.svg": shown.figure,
        "results.md": drawing.template("pipeline.study", "results.md").render(page),
        "report.html": drawing.template("pipeline.study", "report.html").render(page),
    }
    for name, text in written.items():
        if text:
            files.write(os.path.join(folder, name), text.encode())
    return os.path.join(folder, "report.html")


def differences(study: Study, nets: Sequence[Net]) -> list[str]:
    """Settings of the recipe in which runs differ from the study's own, and of which nets."""
    found: dict[str, list[str]] = {}
    for net in nets:
        own = to_dict(assign(presets.get(study.preset), [*study.settings, *net.member.settings]))
        used = to_dict(net.results[0].config)
        for section in _RECIPE:
            for name, value in used[section].items():
                if name in _NO_RECIPE.get(section, ()) or value == own[section][name]:
                    continue
                text = f"{section}.{name}={_plain(value)} instead of {_plain(own[section][name])}"
                found.setdefault(text, []).append(net.label)
    return [
        text if len(labels) == len(nets) else f"{text} ({', '.join(labels)})"
        for text, labels in found.items()
    ]


def _plain(value: object) -> str:
    return str(value) if value not in ("", []) else "(none)"


# The tables, a row for each net.


def _results(study: Study, nets: Sequence[Net], shown: Shown) -> Table:
    """Errors under the protocol of the paper's numbers, and what the kind of study adds."""
    columns = _names(nets)
    columns.append(("parameters", [f"{net.results[0].parameters:,}" for net in nets]))
    columns.append(("seeds", [str(len(net.results)) for net in nets]))
    for place, title in enumerate(shown.header):
        columns.append((title, [shown.cells[net.label][place] for net in nets]))
    for key in contents.shown_errors(study):
        columns += _errors(study, nets, study.protocol, key)
    seconds = [statistics.fmean(result.seconds for result in net.results) for net in nets]
    columns.append(("time for one", [_duration(one) for one in seconds]))
    return _table(columns)


def _other_protocols(study: Study, nets: Sequence[Net]) -> list[Table]:
    """Errors under the other test protocols, where some were measured."""
    measured = dict.fromkeys(
        name for net in nets for result in net.results for name in result.errors
    )
    others = [name for name in measured if name != study.protocol]
    columns = [
        column
        for name in others
        for key in contents.shown_errors(study)
        for column in _errors(study, nets, name, key)
    ]
    return [_table(_names(nets) + columns)] if columns else []


def _names(nets: Sequence[Net]) -> list[tuple[str, list[str]]]:
    return [("net", [net.label for net in nets])]


def _table(columns: Sequence[tuple[str, list[str]]]) -> Table:
    header, cells = zip(*columns, strict=True)
    return Table(list(header), [list(row) for row in zip(*cells, strict=True)])


def _errors(
    study: Study, nets: Sequence[Net], protocol: str, key: str
) -> list[tuple[str, list[str]]]:
    ours = [net.errors(protocol, key) for net in nets]
    title = METRICS[key].title.removesuffix(" error")
    columns = [(f"{title}, {protocol}", [mean(values) for values in ours])]
    paper = [(net.member.paper or {}).get(key) for net in nets]
    if protocol == study.protocol and any(value is not None for value in paper):
        columns.append(
            ("paper", [contents.NONE if value is None else f"{value:.2f}" for value in paper])
        )
        pairs = zip(ours, paper, strict=True)
        gaps = [
            contents.NONE if not a or b is None else f"{statistics.fmean(a) - b:+.2f}"
            for a, b in pairs
        ]
        columns.append(("difference", gaps))
    return columns


def _note(study: Study, nets: Sequence[Net]) -> str:
    seeds = {len(net.results) for net in nets}
    parts = ["Errors in percent; the difference is in points."]
    if max(seeds, default=0) > 1:
        parts.append("± is the standard deviation over the seeds (divisor n-1).")
    if 1 in seeds:
        parts.append(
            "One seed each: small differences may be chance (five runs of the paper's ResNet-110"
            " have ±0.16)."
            if seeds == {1}
            else "Where there is one seed no deviation is known."
        )
    if not any(net.errors(study.protocol, "top1") for net in nets):
        parts.append(f"{study.protocol}, the protocol of the paper's numbers, was not measured.")
    parts.append("Parameters count the moving statistics of batch normalisation.")
    return " ".join(parts)


def _facts(nets: Sequence[Net]) -> list[tuple[str, str]]:
    """What the runs have in common, and what they do not."""
    results = [result for net in nets for result in net.results]

    def each(value: Callable[[Result], object]) -> str:
        return "; ".join(dict.fromkeys(str(value(result)) for result in results))

    return [
        ("Preset", each(lambda r: r.config.preset)),
        ("Data", each(lambda r: _data(r.config))),
        ("Networks", ", ".join(net.label for net in nets)),
        ("Epochs", each(lambda r: r.config.train.epochs)),
        ("Iterations", each(lambda r: f"{r.config.train.epochs * r.steps_per_epoch:,}")),
        ("Batch", each(lambda r: r.config.train.batch_size)),
        ("Learning rate", each(_rate)),
        ("Precision", each(lambda r: r.config.train.precision)),
        ("Seeds", each(lambda r: r.seed)),
        ("Code", each(lambda r: r.commit or "unknown commit")),
        ("Training time", f"{_duration(sum(r.seconds for r in results))} for {len(results)} runs"),
    ]


def _data(config: Config) -> str:
    return config.data.tfds_name or config.data.kind


def _rate(result: Result) -> str:
    train = result.config.train
    after: str = train.schedule
    if after == "step":
        after += f", divided by 10 after epoch {', '.join(f'{e:g}' for e in train.boundaries)}"
    warmup = f"warmed up until epoch {train.warmup_epochs:g}, " if train.warmup_epochs else ""
    if train.warmup_error:
        warmup = f"a tenth until the training error is below {train.warmup_error:.0%}, "
    return f"{schedules.peak(train):g}, {warmup}{after}"


def _duration(seconds: float) -> str:
    if math.isnan(seconds):  # interrupted
        return contents.NONE
    minutes = round(seconds / 60)
    if seconds < 60:
        return f"{seconds:.0f} s"
    return f"{minutes // 60} h {minutes % 60:02d} min" if minutes >= 60 else f"{minutes} min"


# The files.


def _runs(nets: Sequence[Net]) -> list[list[object]]:
    """A row for each run and protocol, errors from 0 to 1."""
    names = [metric.name for metric in METRICS.values()]
    facts = ["training_top1_error", "parameters", "epochs", "iterations", "seconds", "commit"]
    rows: list[list[object]] = [["member", "seed", "protocol", *names, *facts]]
    for result in (result for net in nets for result in net.results):
        last = result.history[-1]["top1_error"] if result.history else math.nan
        epochs = result.config.train.epochs
        own = [last, result.parameters, epochs, epochs * result.steps_per_epoch, result.seconds]
        for protocol, values in result.errors.items():
            measured = [values.get(key, math.nan) for key in METRICS]
            rows.append([result.member, result.seed, protocol, *measured, *own, result.commit])
    return rows


def _csv(rows: Sequence[Sequence[object]]) -> str:
    """Rows as CSV; NaN is left empty."""
    return pd.DataFrame(rows).to_csv(index=False, header=False, lineterminator="\n")
