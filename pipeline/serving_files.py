"""Writes files for TensorFlow Serving, Compose, Kubernetes and KServe.

python -m pipeline.serving_files [--preset NAME] [--set ...] [--config FILE] --out FOLDER
"""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from collections.abc import Mapping, Sequence

from components import files
from pipeline.config import options, serve_check
from pipeline.config.paths import Paths
from pipeline.config.settings import Config, ConfigError
from serving.deploy import tensorflow_serving, texts
from serving.deploy.tensorflow_serving import Deployment
from serving.server.server_config import Batching


def main(argv: Sequence[str] | None = None) -> int:
    """Writes the files; returns 1 if that fails, 2 if the configuration is wrong."""
    parser = argparse.ArgumentParser(
        prog="serving_files",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    options.add(parser)
    parser.add_argument("--out", required=True, metavar="FOLDER", help="made where it is missing")
    given = list(sys.argv[1:] if argv is None else argv)
    args = parser.parse_args(given)
    try:
        made = produce(options.resolve(args), args.out, given)
    except ConfigError as error:
        print(error, file=sys.stderr)
        return 2
    except OSError as error:
        print(f"--out {args.out}: cannot be written ({error.strerror}).", file=sys.stderr)
        return 1
    print(f"{args.out}: tensorflow_serving/ and kubernetes/ for {made.directory}.")
    folder = os.path.join(args.out, "tensorflow_serving")
    print(f"Embedded server: {shlex.join(tensorflow_serving.embedded_command(made, folder))}")
    return 0


def produce(config: Config, folder: str, arguments: Sequence[str]) -> Deployment:
    """Writes the files of a checked configuration into a folder; each begins with `arguments`."""
    made = deployment(config)
    write(
        folder,
        texts.files(made, shlex.join(["python", "-m", "pipeline.serving_files", *arguments])),
    )
    return made


def deployment(config: Config) -> Deployment:
    """What a checked configuration says about serving."""
    serve = config.serve
    batching = None
    if serve.max_batch_size:
        batching = Batching(
            serve.max_batch_size,
            serve.batch_timeout_micros,
            num_batch_threads=serve.cpu,
            # A GPU chooses its kernels anew for every size of a batch.
            allowed_batch_sizes=_sizes(serve.max_batch_size) if serve.gpus else (),
        )
    return Deployment(
        model_name=serve.model_name,
        directory=Paths(config).serving,
        host=serve.host,
        rest_port=serve.rest_port,
        grpc_port=serve.grpc_port,
        num_versions=serve.num_versions,
        labels=serve_check.labels(serve),
        model_config=Paths(config).model_config if serve.canary_hours else "",
        batching=batching,
        metrics_path=Deployment().metrics_path if serve.metrics else "",
        image=serve.image,
        min_replicas=serve.min_replicas,
        max_replicas=serve.max_replicas,
        cpu=serve.cpu,
        memory=serve.memory,
        gpus=serve.gpus,
    )


def write(folder: str, texts: Mapping[str, str]) -> None:
    """Writes each text to its path below the folder; a file that is there is replaced."""
    for path, text in texts.items():
        full = os.path.join(folder, path)
        os.makedirs(os.path.dirname(full), exist_ok=True)
        files.write(full, text)


def _sizes(largest: int) -> tuple[int, ...]:
    """Powers of two below `largest`, and itself."""
    return (*(2**power for power in range((largest - 1).bit_length())), largest)


if __name__ == "__main__":
    sys.exit(main())
