"""Settings of the server. Flags have TensorFlow Serving's names where it has them."""

from __future__ import annotations

import dataclasses
import math
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

# Seconds. The system cannot wait for very long times, and a thread that tries to ends.
_LONGEST_WAIT = 30 * 86_400
_PORTS = 65_535


class SettingsError(ValueError):
    """Settings that the server cannot start with; the message says how to mend them."""


@dataclasses.dataclass(frozen=True)
class ModelSettings:
    """One served model: a name, a folder of numbered versions, and which of them serve."""

    name: str
    base_path: Path
    # Policy `latest`: the newest versions that answer at the same time.
    num_versions: int = 1
    # Policy `specific`: exactly these.
    versions: tuple[int, ...] = ()
    # Policy `all`.
    all_versions: bool = False
    # Version by label, such as stable or canary.
    labels: Mapping[str, int] = dataclasses.field(default_factory=dict)


def _setting(default: Any, text: str, lowest: float = -math.inf, highest: float = math.inf) -> Any:
    """A setting with what its flag's --help says, and the numbers that it may be."""
    metadata = {"help": text, "lowest": lowest, "highest": highest}
    return dataclasses.field(default=default, metadata=metadata)


@dataclasses.dataclass(frozen=True)
class Batching:
    """When requests share a run of the model (TensorFlow Serving's BatchingParameters)."""

    max_batch_size: int = _setting(32, "most rows in a run; a larger request is refused", 1)
    batch_timeout_micros: int = _setting(0, "longest wait for others", 0, 1_000_000 * _LONGEST_WAIT)
    max_enqueued_batches: int = _setting(64, "full batches that may wait; others are refused", 1)
    num_batch_threads: int = _setting(os.cpu_count() or 1, "runs at the same time", 1)
    # Sizes that a batch is padded to, increasing; the last is `max_batch_size`. Empty: none is
    # padded.
    allowed_batch_sizes: tuple[int, ...] = ()

    def validate(self) -> None:
        """Raises SettingsError where TensorFlow Serving would refuse to start."""
        _check_ranges(self)
        sizes = self.allowed_batch_sizes
        if sizes and (
            sizes[-1] != self.max_batch_size or list(sizes) != sorted(set(sizes)) or sizes[0] < 1
        ):
            raise SettingsError(
                f"allowed_batch_sizes {', '.join(map(str, sizes))}: must increase and end with "
                f"max_batch_size, {self.max_batch_size}."
            )


@dataclasses.dataclass(frozen=True)
class ServerSettings:
    """Everything a server needs to start; what has a help is a flag of the same name."""

    models: tuple[ModelSettings, ...]
    port: int = _setting(8500, "port of the gRPC API; 0 starts none", 0, _PORTS)
    grpc_socket_path: str = _setting("", "UNIX socket on which the gRPC API is answered as well")
    rest_api_port: int = _setting(8501, "port of the REST API", 1, _PORTS)
    rest_api_num_threads: int = _setting(
        4 * (os.cpu_count() or 1), "threads that parse requests and run the model", 1
    )
    # More runs than cores only take turns in the processor's caches.
    tensorflow_session_parallelism: int = _setting(
        0, "runs of a version at the same time; 0 is one a core", 0
    )
    tensorflow_intra_op_parallelism: int = _setting(
        0, "threads of an operation; 0 is one a core", 0
    )
    tensorflow_inter_op_parallelism: int = _setting(
        0, "operations of a run at the same time; 0 is one a core", 0
    )
    tensorflow_session_config_file: Path | None = _setting(
        None, "TensorFlow's ConfigProto as text; the two above win over it"
    )
    per_process_gpu_memory_fraction: float = _setting(
        0.0, "part of a GPU's memory that is taken; 0 is what TensorFlow chooses", 0, 1
    )
    saved_model_tags: str = _setting("serve", "tags of the graph to load, with commas between them")
    rest_api_timeout_in_ms: int = _setting(
        30_000, "longest run of the model before 504; 0 is no limit", 0
    )
    rest_api_enable_cors_support: bool = _setting(False, "let pages of other origins read answers")
    grpc_channel_arguments: str = _setting(
        "", "options of the gRPC server: NAME=VALUE, with commas between them"
    )
    ssl_config_file: Path | None = _setting(
        None, "SSLConfig as text: the gRPC API is encrypted with its key and certificate"
    )
    use_alts_credentials: bool = _setting(
        False, "encrypt the gRPC API with Google's ALTS, on its machines"
    )
    enable_grpc_healthcheck_service: bool = _setting(False, "answer grpc.health.v1 on --port")
    enable_serialization_as_tensor_content: bool = _setting(
        False, "pack the numbers of gRPC's answers"
    )
    file_system_poll_wait_seconds: float = _setting(
        1.0, "seconds between looks for new versions; 0 looks once", 0, _LONGEST_WAIT
    )
    model_config_file: Path | None = _setting(
        None, "several models, in place of --model_name, --model_base_path and --num_versions"
    )
    model_config_file_poll_wait_seconds: float = _setting(
        0.0, "seconds between looks at --model_config_file; 0 looks once", 0, _LONGEST_WAIT
    )
    allow_version_labels_for_unavailable_models: bool = _setting(
        False, "let a new label name a version that does not serve yet"
    )
    max_num_load_retries: int = _setting(
        5, "how often a version that fails to load is tried again", 0
    )
    load_retry_interval_micros: int = _setting(
        60_000_000, "microseconds between loads of a version that failed; negative is 0"
    )
    enable_model_warmup: bool = _setting(
        True, "replay the version's warm-up requests before it takes traffic"
    )
    num_request_iterations_for_warmup: int = _setting(
        0, "how often each of them is replayed; 0 is once", 0
    )
    enable_per_model_batching_parameters: bool = _setting(
        False, "batch the models with a batching_params.pbtxt, as it says"
    )
    # None: every request is a run of its own.
    batching: Batching | None = None
    # Path of the metrics for Prometheus; "" serves none.
    metrics_path: str = ""
    partial_version_seconds: float = _setting(
        60.0,
        "seconds without a change until a version that is not whole is reported",
        0,
        _LONGEST_WAIT,
    )
    host: str = _setting("127.0.0.1", "address to listen on; 0.0.0.0 lets other machines in")
    # As sent or unzipped; over gRPC it is RESOURCE_EXHAUSTED.
    rest_api_max_body_bytes: int = _setting(100 * 2**20, "longest request before 413", 1)
    max_waiting_requests: int = _setting(1000, "requests that may wait for a thread before 503", 0)
    max_image_bytes: int = _setting(50 * 2**20, "largest encoded image, or other string", 1)
    max_image_pixels: int = _setting(100_000_000, "largest image, by its header", 1)
    allow_reload_from_any_path: bool = _setting(
        False, "let gRPC's reload name folders that are not served yet"
    )
    enable_page: bool = _setting(True, "a page for people at /")

    def validate(self) -> None:
        """Raises SettingsError for what can be known before TensorFlow is imported."""
        validate_models(self.models)
        _check_ranges(self, "--")
        if self.port == self.rest_api_port:
            raise SettingsError(f"--port {self.port}: --rest_api_port is the same; name another.")
        if self.use_alts_credentials and self.ssl_config_file:
            raise SettingsError("--use_alts_credentials and --ssl_config_file: name one of them.")
        self.channel_options()
        if self.batching:
            self.batching.validate()

    def channel_options(self) -> list[tuple[str, str | int]]:
        """--grpc_channel_arguments as gRPC takes them: what reads as an integer is one.

        Raises:
          SettingsError: one is not NAME=VALUE.
        """
        options: list[tuple[str, str | int]] = []
        for part in self.grpc_channel_arguments.split(",") if self.grpc_channel_arguments else ():
            name, equals, value = part.partition("=")
            if not (name and equals):
                raise SettingsError(f"--grpc_channel_arguments {part!r}: must be NAME=VALUE.")
            options.append((name, int(value) if re.fullmatch(r"[+-]?\d{1,9}", value) else value))
        return options


def _check_ranges(settings: Batching | ServerSettings, dashes: str = "") -> None:
    for field in dataclasses.fields(settings):
        value = getattr(settings, field.name)
        if isinstance(value, (int, float)):
            lowest, highest = field.metadata["lowest"], field.metadata["highest"]
            if not lowest <= value <= highest:
                wanted = f"at least {lowest}" if lowest else "0 or more"
                wanted = f"{lowest} to {highest}" if highest < math.inf else wanted
                raise SettingsError(f"{dashes}{field.name} {value}: must be {wanted}.")


def validate_models(models: tuple[ModelSettings, ...]) -> None:
    """Raises SettingsError for models that cannot be served together, or not at all."""
    names = [model.name for model in models]
    if not names:
        raise SettingsError("There is no model to serve: name one with --model_base_path FOLDER.")
    for name in names:
        if names.count(name) > 1:
            raise SettingsError(f"Two models are called {name}: give each a name of its own.")
    for model in models:
        _validate_model(model)


def _validate_model(model: ModelSettings) -> None:
    path = model.base_path
    if not path.is_dir():
        raise SettingsError(
            f"--model_base_path {path}: there is no such folder; "
            "name the folder that holds the numbered versions."
        )
    if (path / "saved_model.pb").exists():
        raise SettingsError(
            f"--model_base_path {path}: this is one version of a model; name its parent,"
            f" {path.parent}."
        )
    if not model.name or set(model.name) & set("/:"):
        raise SettingsError(
            f"--model_name {model.name!r}: must not be empty and not contain / or :."
        )
    if model.num_versions < 1:
        raise SettingsError(f"--num_versions {model.num_versions}: must be at least 1.")
    for label in model.labels:
        if not label or set(label) & set("/:"):
            raise SettingsError(
                f"Label {label!r} of {model.name}: must not be empty and not contain / or :."
            )
