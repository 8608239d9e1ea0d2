"""The command line: TensorFlow Serving's flags, read as its parser reads them, and this server's
own.
"""

from __future__ import annotations

import argparse
import dataclasses
import logging
from collections.abc import Callable, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from serving.server import textproto
from serving.server.server_config import ModelSettings, ServerSettings, SettingsError

_log = logging.getLogger("serving.server")

# Fields of ServerSettings: TensorFlow Serving's flags first, then ours.
_SETTINGS = {
    "port": "port of the gRPC API; 0 starts none",
    "grpc_socket_path": "UNIX socket on which the gRPC API is answered as well",
    "rest_api_port": "port of the REST API",
    "rest_api_num_threads": "threads that parse requests and run the model",
    "tensorflow_session_parallelism": "runs of a version at the same time; 0 is one a core",
    "tensorflow_intra_op_parallelism": "threads of an operation; 0 is one a core",
    "tensorflow_inter_op_parallelism": "operations of a run at the same time; 0 is one a core",
    "tensorflow_session_config_file": "TensorFlow's ConfigProto as text; the two above win over it",
    "per_process_gpu_memory_fraction": (
        "part of a GPU's memory that is taken; 0 is what TensorFlow chooses"
    ),
    "saved_model_tags": "tags of the graph to load, with commas between them",
    "rest_api_timeout_in_ms": "longest run of the model before 504; 0 is no limit",
    "rest_api_enable_cors_support": "let pages of other origins read answers",
    "grpc_channel_arguments": "options of the gRPC server: NAME=VALUE, with commas between them",
    "ssl_config_file": "SSLConfig as text: the gRPC API is encrypted with its key and certificate",
    "use_alts_credentials": "encrypt the gRPC API with Google's ALTS, on its machines",
    "enable_grpc_healthcheck_service": "answer grpc.health.v1 on --port",
    "enable_serialization_as_tensor_content": "pack the numbers of gRPC's answers",
    "file_system_poll_wait_seconds": "seconds between looks for new versions; 0 looks once",
    "model_config_file_poll_wait_seconds": (
        "seconds between looks at --model_config_file; 0 looks once"
    ),
    "allow_version_labels_for_unavailable_models": (
        "let a new label name a version that does not serve yet"
    ),
    "max_num_load_retries": "how often a version that fails to load is tried again",
    "enable_model_warmup": "replay the version's warm-up requests before it takes traffic",
    "num_request_iterations_for_warmup": "how often each of them is replayed; 0 is once",
    "enable_per_model_batching_parameters": (
        "batch the models with a batching_params.pbtxt, as it says"
    ),
    "load_retries_interval_seconds": "seconds between loads of a version that failed",
    "partial_version_seconds": (
        "seconds without a change until a version that is not whole is reported"
    ),
    "host": "address to listen on; 0.0.0.0 lets other machines in",
    "rest_api_max_body_bytes": "longest request before 413",
    "max_waiting_requests": "requests that may wait for a thread before 503",
    "max_image_bytes": "largest encoded image",
    "max_image_pixels": "largest image, by its header",
    "allow_reload_from_any_path": "let gRPC's reload name folders that are not served yet",
    "enable_page": "a page for people at /",
}
# Flags that are taken and change nothing: their kind, and why.
_IGNORED: dict[str, tuple[type, str]] = {
    "num_load_threads": (int, "each model has a thread for loading"),
    "num_unload_threads": (int, "each model has a thread for unloading"),
    "flush_filesystem_caches": (bool, "the system's file cache is left alone"),
    "platform_config_file": (str, "TensorFlow is the only platform"),
    "grpc_max_threads": (
        int,
        "one thread answers gRPC; --rest_api_num_threads run the models of both APIs",
    ),
    "remove_unused_fields_from_bundle_metagraph": (bool, "signatures are all that is kept"),
    "prefer_tflite_model": (bool, "SavedModels are run"),
    "num_tflite_pools": (int, "SavedModels are run"),
    "num_tflite_interpreters_per_pool": (int, "SavedModels are run"),
    "enable_signature_method_name_check": (bool, "method names are not looked at"),
    "xla_cpu_compilation_enabled": (bool, "a model is compiled where its export says so"),
    "xla_gpu_compilation_enabled": (bool, "a model is compiled where its export says so"),
    "enable_profiler": (bool, "there is no ProfilerService"),
    "thread_pool_factory_config_file": (str, "TensorFlow's own threads are used"),
    "mixed_precision": (str, "a model runs in the types that it was exported in"),
    "skip_initialize_tpu": (bool, "there is no TPU"),
}


def parse(arguments: Sequence[str] | None) -> ServerSettings:
    """The settings of a command line; says of flags that have no effect here that they have none.

    Raises:
      SettingsError: flags or files that do not fit.
      SystemExit: --help or --version, and flags that cannot be read.
    """
    options = vars(_parser().parse_args(arguments))
    for name, (_, reason) in _IGNORED.items():
        if options.pop(name, None) is not None:
            _log.warning("--%s has no effect here: %s.", name, reason)
    name, base = options.pop("model_name"), options.pop("model_base_path", None)
    number = options.pop("num_versions")
    file = options.get("model_config_file")
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
    micros = options.pop("load_retry_interval_micros", None)
    if micros is not None:
        options["load_retries_interval_seconds"] = max(micros, 0) / 1e6
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
    add(
        "--version",
        nargs="?",
        const=True,
        type=boolean,
        action=_Version,
        default=none,
        help="show the version and end",
    )
    add("--model_name", default="resnet", help="name in the URL")
    add("--model_base_path", type=_path, help="folder of numbered versions", default=none)
    add("--num_versions", type=int, default=1, help="newest versions that serve together")
    add(
        "--model_config_file",
        type=_path,
        default=none,
        help="several models, in place of the three above",
    )
    _add(parser, "enable_batching", bool, False, "put requests together")
    add("--batching_parameters_file", type=_path, default=none, help="when to put them together")
    add("--monitoring_config_file", type=_path, default=none, help="where Prometheus finds metrics")
    add(
        "--load_retry_interval_micros",
        type=int,
        default=none,
        help="--load_retries_interval_seconds in millionths; negative is 0",
    )
    defaults = {field.name: field.default for field in dataclasses.fields(ServerSettings)}
    for name, text in _SETTINGS.items():
        default = defaults[name]
        _add(parser, name, _path if default is None else type(default), default, text)
    for name, (kind, _) in _IGNORED.items():
        _add(parser, name, kind, none, "no effect here")
    return parser


def _add(
    parser: argparse.ArgumentParser,
    name: str,
    kind: Callable[[str], Any],
    default: object,
    text: str,
) -> None:
    if kind is bool:
        # Nothing behind it is true, as in TensorFlow Serving.
        parser.add_argument(
            f"--{name}", nargs="?", const=True, type=boolean, default=default, help=text
        )
    else:
        parser.add_argument(f"--{name}", type=kind, default=default, help=text)


def _path(text: str) -> Path | None:
    return Path(text) if text else None


def boolean(text: str) -> bool:
    """A boolean as TensorFlow's parser of flags reads it, and t and f."""
    values = {"true": True, "t": True, "1": True, "false": False, "f": False, "0": False}
    if text.lower() not in values:
        raise argparse.ArgumentTypeError("must be true or false")
    return values[text.lower()]


class _Version(argparse.Action):
    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: object,
        values: object,
        option: str | None = None,
    ) -> None:
        if values:
            print(
                f"TensorFlow ModelServer: serving.server of ResNet-TFX {_installed('resnet-tfx')}"
            )
            print(f"TensorFlow Library: {_installed('tensorflow')}")
            parser.exit()


def _installed(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "(not installed)"
