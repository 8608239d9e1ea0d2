"""Runs the pipeline on this machine, node after node in one process.

python -m pipeline.local_runner [--preset=NAME] [--set section.field=value ...]
"""

from __future__ import annotations

import os
import sys

if __name__ == "__main__" and __package__ in (None, ""):
    # Run as a script, `import pipeline` would find pipeline/pipeline.py.
    sys.path[0] = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

import argparse
import contextlib
import datetime
import fcntl
import gc
import json
import logging
import signal
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.markup import escape

from components import files
from components.example_gen import source
from components.example_gen.errors import SourceError
from models.weights.named import catalogue, download
from pipeline.config import options, space
from pipeline.config.paths import Paths
from pipeline.config.settings import Config, ConfigError, to_dict
from pipeline.local import temporary
from pipeline.local.terminal_view import View, reason

# Exit status of a run that ended well, with a model that was not good enough to be pushed.
NOT_PUSHED = 3

# Output artifacts of a node by name; pipeline.local.dag, which imports TFX, has the exact type.
Outputs = dict[str, Any]


def parse(argv: Sequence[str] | None = None) -> Config:
    """The configuration that a command line names; ConfigError: unknown preset, name or value."""
    parser = argparse.ArgumentParser(description="Runs the pipeline on this machine.")
    options.add(parser)
    parser.add_argument(
        "--print-config", action="store_true", help="print the resolved configuration and stop"
    )
    parser.add_argument(
        "--explain",
        nargs="?",
        const="",
        metavar="SETTING",
        help="say what every setting is for, or one of them, or a section, and stop",
    )
    args = parser.parse_args(argv)
    config = options.resolve(args)
    if args.print_config:
        print(json.dumps(to_dict(config), indent=2))
        parser.exit()
    if args.explain is not None:
        print(options.explain(config, args.explain), end="")
        parser.exit()
    return config


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the pipeline; returns the exit status.

    0: a model was pushed, or is already. 1: a component failed. 2: the configuration is wrong. 3:
    the model is not good enough, nothing was pushed. 130: interrupted.
    """
    environment()
    signal.signal(signal.SIGINT, _stop)
    signal.signal(signal.SIGTERM, _terminated)
    try:
        config = parse(argv)
    except ConfigError as error:
        print(error, file=sys.stderr)
        return 2
    return run(config)[0]


# Whether somebody has stopped this process: Beam makes an error of its own of what is raised then.
_stopped = threading.Event()


def _stop(*_: Any) -> None:
    _stopped.set()
    raise KeyboardInterrupt


def _terminated(*_: Any) -> None:
    """SIGTERM acts like Ctrl-C: what the run has started and copied goes with it."""
    # Beam waits for ever for a worker process that was just starting.
    signal.alarm(30)
    _stop()


def run(config: Config) -> tuple[int, Mapping[str, Outputs]]:
    """Runs a checked configuration; returns `main`'s exit status and the outputs of every node."""
    environment()
    paths = Paths(config)
    stamp = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
    view = View(os.path.join(paths.logs, f"{stamp}-{os.getpid()}.log"))
    start = time.monotonic()
    nodes: dict[str, Outputs] = {}
    view.line(f"[bold]ResNet-TFX[/]  preset {escape(config.preset)}, pipeline {config.name}")
    try:
        with locked(paths.lock), temporary.folder(paths.home), view.redirected():
            stored = f"{view.log.removesuffix('.log')}.config.json"
            files.write(stored, json.dumps(to_dict(config), indent=2))
            status = _run(config, paths, view, nodes)
    except KeyboardInterrupt:
        view.line("\nInterrupted. Run the same command again to continue.")
        status = 130
    except ConfigError as error:
        view.line(f"[red]{escape(str(error))}[/]")
        return 2, nodes
    except OSError as error:
        where = f"{error}: {paths.home} must be a folder that can be written (root=)."
        view.line(f"[red]{escape(space.sentence(error, config) or where)}[/]")
        return 2, nodes
    view.line(
        f"Total {time.monotonic() - start:.0f} s. Full log: {escape(os.path.relpath(view.log))}"
    )
    return status, nodes


def _run(config: Config, paths: Paths, view: View, nodes: dict[str, Outputs]) -> int:
    try:
        source.check(config.data)
    except SourceError as error:
        view.line(f"[red]{escape(str(error))}[/]")
        return 2
    _fetch(config.train.init_from, view)
    # TFX takes seconds to import: only now, when configuration and source are known to be right.
    with uncollected():
        from pipeline.local import dag, figures, summary
        from pipeline.pipeline import create_pipeline

    runner = dag.Runner(config, view)
    try:
        dag.prepare(config)
        runner.run(create_pipeline(config))
        if runner.nodes:
            summary.show(view, config, paths, runner.nodes.outputs)
            nodes.update(runner.nodes.outputs)
            if not figures.pushed_version(nodes["Pusher"]):
                summary.show_refused(view, nodes)
                return NOT_PUSHED
    except (SourceError, ConfigError) as error:
        view.line(f"[red]{escape(reason(error))}[/]")
        return 2
    except Exception as error:
        if _stopped.is_set():
            raise KeyboardInterrupt from error
        logging.exception("The run stopped.")
        current = runner.nodes.current if runner.nodes else ""
        where = f"{current} failed" if current else "The run could not start"
        view.line(f"\n[red]{where}:[/] {escape(space.sentence(error, config) or reason(error))}")
        return 1
    return 0


def _fetch(start: str, view: View) -> None:
    """Downloads weights that have a name, in view; raises ConfigError when they do not come."""
    try:
        if catalogue.is_name(start):
            download.fetch(start, view.console)
    except ValueError as error:
        raise ConfigError(str(error)) from error


@contextlib.contextmanager
def locked(path: str) -> Iterator[None]:
    """One run at a time a pipeline; the lock goes with the process."""
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigError(
                f"{os.path.dirname(path)}: another run of this pipeline is active; "
                "wait for it, or give this one its own name with --set name=NAME."
            ) from None
        yield


@contextlib.contextmanager
def uncollected() -> Iterator[None]:
    """For imports: the garbage collector goes through nothing of what they make, now or later."""
    gc.disable()
    try:
        yield
    finally:
        if not gc.get_freeze_count():  # it would keep what an earlier run has left
            gc.freeze()
        gc.enable()


def environment() -> None:
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    # Beam's workers and the training share a GPU: none takes all of its memory at once.
    os.environ.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")


if __name__ == "__main__":
    sys.exit(main())
