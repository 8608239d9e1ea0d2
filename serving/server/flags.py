"""The command line: TensorFlow Serving's flags, read as its parser reads them, and this server's
own.
"""

from __future__ import annotations

import argparse
import dataclasses
import logging
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

from serving.server import textproto
from serving.server.server_config import ModelSettings, ServerSettings, SettingsError

_log = logging.getLogger("serving.server")

# Flags that are taken and change nothing.
_IGNORED = (
    "num_load_threads",
    "num_unload_threads",
    "flush_filesystem_caches",
    "platform_config_file",
    "grpc_max_threads",
    "remove_unused_fields_from_bundle_metagraph",
    "prefer_tflite_model",
    "num_tflite_pools",
    "num_tflite_interpreters_per_pool",
    "enable_signature_method_name_check",
    "xla_cpu_compilation_enabled",
    "xla_gpu_compilation_enabled",
    "enable_profiler",
    "thread_pool_factory_config_file",
    "mixed_precision",
    "skip_initialize_tpu",
)


def parse(arguments: Sequence[str] | None) -> ServerSettings:
    """The settings of a command line; says of flags that have no effect here that they have none.

    Raises:
      SettingsError: flags or files that do not fit.
      SystemExit: --help or --version, and flags that cannot be read.
    """
    options = vars(_parser().parse_args(arguments))
    if options.pop("version"):
        print(f"TensorFlow ModelServer: ResNet-TFX {metadata.version('resnet-tfx')}")
        print(f"TensorFlow Library: {metadata.version('tensorflow')}")
        raise SystemExit(0)
    for name in _IGNORED:
        if options.pop(name, None) is not None:
            _log.warning("--%s has no effect here.", name)
    name, base = options.pop("model_name"), options.pop("model_base_path", None)
    number = options.pop("num_versions")
    file = options["model_config_file"]
    if bool(file) == bool(base):
        raise SettingsError(
            "Name what to serve: either --model_base_path FOLDER or --model_config_file FILE."
        )
    parameters = options.pop("batching_parameters_file", None)
    batching = options.pop("enable_batching")
    if parameters and not batching:
        raise SettingsError(
            "--batching_parameters_file has no effect without --enable_batching=true."
        )
    if options["ssl_config_file"]:
        textproto.read_ssl(options["ssl_config_file"])  # what is wrong with it shows at once
    return ServerSettings(
        textproto.read_models(file) if file else (ModelSettings(name, base.absolute(), number),),
        batching=textproto.read_batching(parameters) if batching else None,
        metrics_path=textproto.read_metrics_path(options.pop("monitoring_config_file", None)),
        **options,
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m serving.server",
        description="Serves models over TensorFlow Serving's REST and gRPC APIs, with its flags.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        allow_abbrev=False,
    )
    none = argparse.SUPPRESS
    add = parser.add_argument
    _add(parser, "version", False, "show the version and end")
    add("--model_name", default="resnet", help="name in the URL")
    add("--model_base_path", type=_path, help="folder of numbered versions", default=none)
    add("--num_versions", type=int, default=1, help="newest versions that serve together")
    _add(parser, "enable_batching", False, "put requests together")
    add("--batching_parameters_file", type=_path, default=none, help="when to put them together")
    add("--monitoring_config_file", type=_path, default=none, help="where Prometheus finds metrics")
    for field in dataclasses.fields(ServerSettings):
        if "help" in field.metadata:
            _add(parser, field.name, field.default, field.metadata["help"])
    for name in _IGNORED:
        add(f"--{name}", nargs="?", const="", default=none, help="no effect here")
    return parser


def _add(parser: argparse.ArgumentParser, name: str, default: object, text: str) -> None:
    if isinstance(default, bool):
        # Nothing behind it is true, as in TensorFlow Serving.
        parser.add_argument(
            f"--{name}", nargs="?", const=True, type=boolean, default=default, help=text
        )
    else:
        kind = _path if default is None else type(default)
        parser.add_argument(f"--{name}", type=kind, default=default, help=text)


def _path(text: str) -> Path | None:
    return Path(text) if text else None


def boolean(text: str) -> bool:
    """A boolean as TensorFlow's parser of flags reads it, and t and f."""
    values = {"true": True, "t": True, "1": True, "false": False, "f": False, "0": False}
    if text.lower() not in values:
        raise argparse.ArgumentTypeError("must be true or false")
    return values[text.lower()]
