"""What was run here, how two runs differ, and what a pushed version was made from.

python -m pipeline.runs list [PIPELINE]
python -m pipeline.runs show RUN
python -m pipeline.runs diff RUN RUN
python -m pipeline.runs lineage [VERSION]
python -m pipeline.runs prune [--keep N] [--yes]

A run is named by its name in `list`, the beginning of it, or `last`. The options of a run say where
the metadata are (--preset, --config, --set root=FOLDER); without any they are those below runs/.
"""

from __future__ import annotations

import argparse
import dataclasses
import glob
import json
import os
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from rich.console import Console
from rich.table import Table

from components import files
from pipeline import local_runner
from pipeline.config import options
from pipeline.config.paths import Paths
from pipeline.config.settings import Config, ConfigError
from serving.compat import quiet

if TYPE_CHECKING:
    import ml_metadata

    from pipeline.local.history import Run

# Of an artifact `Report`: components.report.rendering, which takes seconds to import.
_RESULTS, _PAGE = "results.json", "report.html"
# Columns of a line of `list`.
_WIDTH = 140


class Known(NamedTuple):
    """A run and the store that knows it."""

    store: ml_metadata.MetadataStore
    run: Run


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit status: 2 where there is no such run or version."""
    parser = argparse.ArgumentParser(
        prog="runs", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add(parser)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    asks = {"list": _list, "show": _show, "diff": _diff, "lineage": _lineage, "prune": _prune}
    for name, ask in asks.items():
        command = commands.add_parser(name)
        command.set_defaults(ask=ask)
        for argument in {_show: ("run",), _diff: ("first", "second")}.get(ask, ()):
            command.add_argument(argument, metavar="RUN")
        if ask in (_list, _lineage):
            what = "pipeline" if ask is _list else "version"
            command.add_argument(what, nargs="?", default="", metavar=what.upper())
        if ask is _prune:
            more = "number of the newest runs whose artifacts stay"
            command.add_argument("--keep", type=int, default=5, metavar="N", help=more)
            command.add_argument(
                "--yes", action="store_true", help="remove, and do not only say so"
            )
    args = parser.parse_args(argv)
    local_runner.environment()
    console = Console(highlight=False, soft_wrap=True)
    # What is read by a program, or scrolls, is not cut.
    console.width = max(console.width, _WIDTH)
    # TensorFlow talks while it is imported, and what follows needs it.
    with quiet.stderr():
        import pipeline.config.metadata
        import pipeline.local.history  # noqa: F401
    try:
        args.ask(args, console)
    except ConfigError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


def _list(args: argparse.Namespace, console: Console) -> None:
    table = Table(box=None)
    for title in ("run", "pipeline", "began", "time", "outcome", "error", "code"):
        table.add_column(title, justify="right" if title in ("time", "error") else "left")
    for store, run in _known(args, args.pipeline):
        found = _results(store, run)
        began = run.started.strftime("%Y-%m-%d %H:%M")
        time = f"{run.seconds:,.0f} s"
        table.add_row(
            run.id, run.pipeline, began, time, _outcome(store, run), _error(found), run.code
        )
    console.print(table)


def _show(args: argparse.Namespace, console: Console) -> None:
    store, run = _find(args, args.run)
    found = _results(store, run)
    console.print(f"Run       {run.id} of {run.pipeline}, begun {run.started:%Y-%m-%d %H:%M:%S}")
    console.print(f"Outcome   {_outcome(store, run)}")
    console.print(f"Code      {run.code or 'not known'}")
    if run.settings:
        console.print(_changed(run.settings), markup=False)
    table = Table(box=None)
    for title in ("component", "state", "time"):
        table.add_column(title, justify="right" if title == "time" else "left")
    for name, node in run.nodes.items():
        table.add_row(name, node.state, f"{node.seconds:,.1f} s")
    console.print(table)
    for line in _errors(found):
        console.print(line)
    if found:
        console.print(f"Report    {_report(store, run, _PAGE)}", markup=False)


def _diff(args: argparse.Namespace, console: Console) -> None:
    old, new = _find(args, args.first), _find(args, args.second)
    console.print(f"A {old.run.id}\nB {new.run.id}\n")
    settings = _differences(options.flat(old.run.settings), options.flat(new.run.settings))
    rows = [(name, *map(options.text, values)) for name, values in settings.items()]
    if old.run.code != new.run.code:
        rows.append(("code", old.run.code or "not known", new.run.code or "not known"))
    for name, one, other in zip(("data", "images"), _data(*old), _data(*new), strict=True):
        if one != other:
            rows.append((name, one, other))
    _rows(console, ("what differs", "A", "B"), rows or [("nothing", "", "")])
    first, second = _results(*old), _results(*new)
    if first and second:
        console.print()
        _rows(console, ("error", "A", "B"), _compared(first, second))
        console.print(_paired(old, new, second["verdict"]["protocol"]))


def _lineage(args: argparse.Namespace, console: Console) -> None:
    from pipeline.local import history

    config = options.resolve(args)
    folder = Paths(config).serving
    versions = sorted((v for v in _listed(folder) if v.isdigit()), key=int)
    version = args.version or (versions[-1] if versions else "")
    if not version:
        raise ConfigError(f"No version was pushed into {folder}.")
    store = _store(config)
    record = history.pushed(store, version, folder)
    if record is None:
        raise ConfigError(
            f"Version {version} of {folder} is not known to this metadata; in that folder lie"
            f" {', '.join(versions) or 'no versions'}. --config=FILE or --set name=NAME name the"
            " pipeline that pushed it."
        )
    for line in _told(version, folder, history.lineage(store, record.id)):
        console.print(line, markup=False)


def _told(version: str, folder: str, found: dict[str, Any]) -> list[str]:
    data, trained = found["data"], found["nodes"]["Trainer"]
    lines = [f"Version   {version} of {folder}"]
    spans = f", spans {', '.join(map(str, data['spans']))}" if data["spans"] else ""
    lines.append(f"Data      {data['images']}{spans}, fingerprint {data['fingerprint']}")
    code = trained["code"] or "not known"
    lines.append(f"Trained   {trained['began']} in run {trained['run']}, code {code}")
    if found["settings"]:
        lines.append(_changed(found["settings"]))
    lines += [f"Parent    {name} version {one}" for name, one in found["parents"].items()]
    others = {name: node for name, node in found["nodes"].items() if node != trained}
    lines += [
        f"          {name} of run {node['run']}, code {node['code'] or 'not known'}"
        for name, node in others.items()
        if node["run"] != trained["run"]
    ]
    return lines


def _prune(args: argparse.Namespace, console: Console) -> None:
    from pipeline.local import history

    config = options.resolve(args)
    paths = Paths(config)
    if args.keep < 1:
        raise ConfigError(f"--keep {args.keep}: must be at least 1.")
    store = _store(config)
    with local_runner.locked(paths.lock):
        found = history.unused(store, config.name, args.keep, paths.serving)
        # What lies elsewhere was not written here.
        inside = [one for one in found if one.uri.startswith(paths.artifacts + "/")]
        sizes = {one.uri: sum(map(files.size, files.walk(one.uri))) for one in inside}
        for artifact in inside:
            if size := sizes[artifact.uri]:
                console.print(f"{size / 1e6:10,.1f} MB  {artifact.uri}", markup=False)
            if args.yes:
                history.forget(store, artifact)
    done = "were removed" if args.yes else "can go: --yes removes them"
    console.print(
        f"{sum(sizes.values()) / 1e6:,.1f} MB {done}. The {args.keep} newest runs of {config.name},"
        f" and what the versions in {paths.serving} were made from, stay.",
        markup=False,
    )


# The stores, and the runs in them.


def _stores(args: argparse.Namespace) -> list[ml_metadata.MetadataStore]:
    """The store of the configuration, and of every other pipeline below its root."""
    config = options.resolve(args)
    if config.metadata.kind != "sqlite":
        return [_store(config)]
    paths = glob.glob(os.path.join(os.path.dirname(Paths(config).home), "*", "metadata.sqlite"))
    names = sorted(os.path.basename(os.path.dirname(path)) for path in paths)
    return [_store(dataclasses.replace(config, name=name)) for name in names]


def _store(config: Config) -> ml_metadata.MetadataStore:
    import ml_metadata

    from pipeline.config import metadata

    if config.metadata.kind == "sqlite" and not os.path.exists(Paths(config).metadata):
        raise ConfigError(f"{Paths(config).metadata}: there is no such file; nothing was run here.")
    metadata.check(config)
    return ml_metadata.MetadataStore(metadata.connection(config))


def _known(args: argparse.Namespace, pipeline: str = "") -> list[Known]:
    """The runs of a pipeline, or of all, the newest first.

    Raises:
      ConfigError: there is none.
    """
    from pipeline.local import history

    found = [Known(store, run) for store in _stores(args) for run in history.runs(store, pipeline)]
    if not found:
        root = os.path.dirname(Paths(options.resolve(args)).home)
        raise ConfigError(
            f"No run{f' of {pipeline}' if pipeline else ''} is known below {root}; name another"
            " folder with --set root=FOLDER."
        )
    return sorted(found, key=lambda known: known.run.started, reverse=True)


def _find(args: argparse.Namespace, name: str) -> Known:
    known = _known(args)
    if name == "last":
        return known[0]
    fitting = [one for one in known if one.run.id.startswith(name)]
    exact = [one for one in fitting if one.run.id == name]
    if len(exact or fitting) != 1:
        shown = ", ".join(one.run.id for one in (fitting or known)[:5])
        found = "several runs begin so" if fitting else "there is no such run"
        raise ConfigError(f"{name}: {found}: {shown}.")
    return (exact or fitting)[0]


def _listed(folder: str) -> list[str]:
    return [os.path.basename(path.rstrip("/")) for path in files.glob(os.path.join(folder, "*"))]


# What the artifacts of a run say.


def _artifact(store: ml_metadata.MetadataStore, run: Run, node: str, key: str) -> Any:
    """An output of a node that has run; None where it has not."""
    from pipeline.local import history

    if node not in run.nodes:
        return None
    return history.outputs(store, run.nodes[node].execution).get(key)


def _report(store: ml_metadata.MetadataStore, run: Run, name: str) -> str:
    """Path of a file of the run's report; "" where there is none."""
    found = _artifact(store, run, "Report", "report")
    path = os.path.join(found.uri, name) if found else ""
    return path if path and files.is_file(path) else ""


def _results(store: ml_metadata.MetadataStore, run: Run) -> dict[str, Any]:
    """What the report found; {} where there is none."""
    path = _report(store, run, _RESULTS)
    return json.loads(files.read(path)) if path else {}


def _outcome(store: ml_metadata.MetadataStore, run: Run) -> str:
    broken = [name for name, node in run.nodes.items() if node.state in ("failed", "running")]
    if broken:
        return f"{broken[0]} {'failed' if run.nodes[broken[0]].state == 'failed' else 'not ended'}"
    record = _artifact(store, run, "Pusher", "pushed_model")
    if record is None:
        return "not ended"
    version = record.custom_properties["pushed_version"].string_value
    pushed = record.custom_properties["pushed"].int_value == 1
    return f"version {version}" if pushed else "nothing pushed"


def _error(found: dict[str, Any]) -> str:
    """Top-1 error under the protocol that decides."""
    for one in found.get("errors") or []:
        if one["protocol"] == found["verdict"]["protocol"] and one["metric"] == "top1":
            return "-" if one["value"] is None else f"{one['value']:.2%}"
    return "-"


def _errors(found: dict[str, Any]) -> list[str]:
    return [
        f"{one['protocol']:<12}{one['title']:<14}{_value(one)}" for one in found.get("errors") or []
    ]


def _value(one: dict[str, Any]) -> str:
    if one["value"] is None:
        return "-"
    if not one["interval"]:
        return f"{one['value']:.4g}"
    low, high = one["interval"]
    return f"{one['value']:.2%} ({low:.2%} to {high:.2%})"


def _compared(first: dict[str, Any], second: dict[str, Any]) -> list[tuple[str, str, str]]:
    """Errors that both have, with their 95 % intervals."""
    old, new = (
        {(one["protocol"], one["title"]): _value(one) for one in found["errors"] or []}
        for found in (first, second)
    )
    return [(f"{key[0]} {key[1]}", old[key], new[key]) for key in old if key in new]


def _paired(old: Known, new: Known, protocol: str) -> str:
    """A comparison on the images that both have seen: who is right alone, and the exact test."""
    from components.report import counting

    found = []
    for store, run in (old, new):
        record = _artifact(store, run, "Evaluator", "evaluation")
        try:
            found.append(counting.right(record.uri, protocol))
        except (FileNotFoundError, ValueError) as error:
            return f"No comparison image by image: {error}"
    one, other, both, chance = counting.paired(*found)
    if not both:
        return "No comparison image by image: the two have no evaluation image in common."
    return (
        f"Of {both:,} images that both have seen ({protocol}), {one:,} are right with A alone and"
        f" {other:,} with B alone; equally good models differ as much or more with probability"
        f" {chance:.3f} (exact McNemar test)."
    )


def _data(store: ml_metadata.MetadataStore, run: Run) -> tuple[str, str]:
    """The fingerprint of a run's data, and how many images of each split there are."""
    record = _artifact(store, run, "ExampleGen", "examples")
    if record is None:
        return "-", "-"
    from pipeline.local import history

    return history.fingerprint(record), history.images(record)


# Settings, for people.


def _changed(settings: Mapping[str, Any]) -> str:
    changed = options.changes(settings)
    said = " ".join(f"{one['setting']}={options.text(one['value'])}" for one in changed)
    return f"Settings  preset {settings['preset']} {said}"


def _differences(old: dict[str, Any], new: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    return {
        name: (old.get(name), new.get(name))
        for name in dict.fromkeys([*old, *new])
        if old.get(name) != new.get(name)
    }


def _rows(console: Console, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    table = Table(*header, box=None)
    for row in rows:
        table.add_row(*row)
    console.print(table, markup=False)


if __name__ == "__main__":
    sys.exit(main())
