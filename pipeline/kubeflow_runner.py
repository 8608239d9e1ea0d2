"""Compiles the pipeline for Kubeflow Pipelines v2, and keeps its recurring run there up to date.

python -m pipeline.kubeflow_runner [--preset NAME] [--set ...] compile --out pipeline.yaml
python -m pipeline.kubeflow_runner [--preset NAME] [--set ...] deploy
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from components import files
from components.example_gen.errors import SourceError
from pipeline import local_runner
from pipeline.config import options
from pipeline.config.settings import Config, ConfigError
from pipeline.kubeflow import check, pipeline_spec, upload
from pipeline.local.terminal_view import reason


def main(argv: Sequence[str] | None = None) -> int:
    """Compiles or deploys; returns 1 if Kubeflow fails, 2 if configuration or source are wrong."""
    parser = argparse.ArgumentParser(
        prog="kubeflow_runner",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    options.add(parser)
    commands = parser.add_subparsers(required=True, dest="command")
    compiling = commands.add_parser("compile", help="write the specification to a file")
    compiling.add_argument("--out", required=True, metavar="FILE", help="a .yaml file")
    commands.add_parser("deploy", help="upload what is new and create or update the recurring run")
    args = parser.parse_args(argv)
    local_runner.environment()
    try:
        config = options.resolve(args)
        if args.command == "compile":
            _check_out(args.out)
        for sentence in check.check(config):
            print(sentence, file=sys.stderr)
        if args.command == "compile":
            files.write(args.out, pipeline_spec.text(pipeline_spec.specification(config)))
            print(f"{args.out}: upload it, or let `deploy` do that.")
            return 0
        return _deploy(config)
    except (ConfigError, SourceError) as error:
        print(reason(error), file=sys.stderr)
        return 2


def _check_out(path: str) -> None:
    """Looked at first: compiling takes its time."""
    folder = os.path.dirname(os.path.abspath(path))
    if os.path.isdir(path) or not os.path.isdir(folder) or not os.access(folder, os.W_OK):
        raise ConfigError(
            f"--out {path}: must be a file in a folder that exists and can be written; make the"
            " folder or name another."
        )


def _deploy(config: Config) -> int:
    _, api = upload.sdk()
    import urllib3

    host = config.kubeflow.host
    try:
        # First: nothing is compiled for an address that does not answer.
        client = upload.connect(config)
        spec = pipeline_spec.text(pipeline_spec.specification(config))
        done = upload.deploy(client, config, spec)
    except api.ApiException as error:
        sentence = f"{host} refused: {error.status} {error.reason}: {error.body}"
    except api.OpenApiException as error:
        sentence = f"{host} gave an answer that the SDK does not take: {error}"
    except urllib3.exceptions.HTTPError as error:
        sentence = f"{host} (kubeflow.host) cannot be reached: {error}"
    else:
        print("\n".join(done) or "All is there already; nothing was changed.")
        return 0
    print(sentence, file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
