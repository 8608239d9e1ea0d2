"""One run in several processes: a scheduler compiles the graph once and then runs node after node.

python -m pipeline.node compile --config CONFIG.json --ir FILE --run-id ID
python -m pipeline.node run --ir FILE --node NAME

The exit status is that of `pipeline.local_runner`, but 0 where a model is not good enough to be
pushed: no scheduler must try that again. The last line of standard error is the reason for it.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import json
import logging
import os
import sys
from collections.abc import Iterator, Sequence

from rich.markup import escape

from components import files
from components.example_gen import source
from components.example_gen.errors import SourceError
from pipeline import local_runner
from pipeline.config import options, space, validity
from pipeline.config.paths import Paths
from pipeline.config.settings import Config, ConfigError, to_dict
from pipeline.local import temporary
from pipeline.local.terminal_view import View, reason


def main(argv: Sequence[str] | None = None) -> int:
    """Compiles a run or runs a node; returns 1 if that fails, 2 if settings or source are wrong."""
    parser = argparse.ArgumentParser(
        prog="node", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(required=True, dest="command")
    compiling = commands.add_parser("compile", help="write the graph of one run")
    compiling.add_argument("--config", required=True, metavar="FILE", help="of --print-config")
    compiling.add_argument(
        "--run-id", required=True, metavar="ID", help="names the run in ML Metadata"
    )
    running = commands.add_parser("run", help="run one node of a graph")
    running.add_argument("--node", required=True, metavar="NAME", help="such as Trainer")
    for command in (compiling, running):
        command.add_argument("--ir", required=True, metavar="FILE", help="the graph of the run")
    args = parser.parse_args(argv)
    local_runner.environment()
    config: Config | None = None
    try:
        if args.command == "compile":
            config = options.read(args.config)
            validity.check(config)
            with _log(config, "compile") as view:
                _compile(config, args.ir, args.run_id, view)
        else:
            config = options.read(_config_of(args.ir))
            with _log(config, args.node) as view:
                _run(config, args.ir, args.node, view)
    except (ConfigError, SourceError) as error:
        print(reason(error), file=sys.stderr)
        return 2
    except Exception as error:
        said = (config and space.sentence(error, config)) or reason(error)
        print(f"{getattr(args, 'node', 'The run')} failed: {said}", file=sys.stderr)
        return 1
    return 0


def _config_of(ir: str) -> str:
    return f"{ir}.config.json"


@contextlib.contextmanager
def _log(config: Config, name: str) -> Iterator[View]:
    """Sends everything that libraries print to a log file, which is named first."""
    paths = Paths(config)
    stamp = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
    view = View(os.path.join(paths.logs, f"{stamp}-{os.getpid()}-{name}.log"))
    view.line(f"Full log: {escape(view.log)}")
    with local_runner.locked(paths.lock), temporary.folder(paths.home), view.redirected():
        try:
            yield view
        except Exception:
            logging.exception("%s stopped.", name)
            raise


def _compile(config: Config, ir: str, run_id: str, view: View) -> None:
    source.check(config.data)
    from pipeline.config import metadata

    with local_runner.uncollected():
        from pipeline.local import dag

    # What no node could do without is missed now, not by the first one.
    dag.prepare(config)
    metadata.check(config)
    graph = dag.compiled(config, run_id)
    os.makedirs(os.path.dirname(os.path.abspath(ir)), exist_ok=True)
    # The graph comes last: its presence says that both are whole.
    files.write(_config_of(ir), json.dumps(to_dict(config), indent=2))
    files.write(ir, graph.SerializeToString(deterministic=True))
    view.line(f"{len(graph.nodes)} nodes for run {escape(run_id)}")


def _run(config: Config, path: str, name: str, view: View) -> None:
    if not os.path.isfile(path):
        raise ConfigError(f"{path} does not exist: compile the run first.")
    from tfx.proto.orchestration import pipeline_pb2

    with local_runner.uncollected():
        from pipeline.local import dag

    with open(path, "rb") as file:
        graph = pipeline_pb2.Pipeline.FromString(file.read())
    dag.prepare(config)
    if name not in dag.node_ids(graph):
        raise ConfigError(f"{path} has no node {name}: it has {', '.join(dag.node_ids(graph))}.")
    if dag.Nodes(graph, config, view).run(name) == "skipped":
        raise RuntimeError("the nodes before it have no results in this run; run them first")


if __name__ == "__main__":
    sys.exit(main())
