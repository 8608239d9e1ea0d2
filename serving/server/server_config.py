"""Settings of the server. Flags have TensorFlow Serving's names where it has them."""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Mapping
from pathlib import Path

# Seconds. The system cannot wait for very long times, and a thread that tries to ends.
_LONGEST_WAIT = 30 * 86_400


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


@dataclasses.dataclass(frozen=True)
class Batching:
    """When requests share a run of the model (TensorFlow Serving's BatchingParameters)."""

    # Most rows in a run; a larger request is refused.
    max_batch_size: int = 32
    # Longest wait for others.
    batch_timeout_micros: int = 0
    # Full batches that may wait; a request beyond them is refused.
    max_enqueued_batches: int = 64
    # Runs at the same time.
    num_batch_threads: int = os.cpu_count() or 1
    # Sizes that a batch is padded to, increasing; the last is `max_batch_size`. Empty: none is
    # padded.
    allowed_batch_sizes: tuple[int, ...] = ()

    def validate(self) -> None:
        """Raises SettingsError where TensorFlow Serving would refuse to start."""
        for name in ("max_batch_size", "max_enqueued_batches", "num_batch_threads"):
            if getattr(self, name) < 1:
                raise SettingsError(f"{name} {getattr(self, name)}: must be at least 1.")
        if not 0 <= self.batch_timeout_micros <= 1e6 * _LONGEST_WAIT:
            raise SettingsError(
                f"batch_timeout_micros {self.batch_timeout_micros}: must be 0 to"
                f" {1e6 * _LONGEST_WAIT:.0f}."
            )
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
    """Everything a server needs to start."""

    models: tuple[ModelSettings, ...]
    host: str = "127.0.0.1"
    rest_api_port: int = 8501
    # Port of the gRPC API; 0 starts none.
    port: int = 8500
    # Threads that parse requests and run the model.
    rest_api_num_threads: int = 4 * (os.cpu_count() or 1)
    # Runs of a version at the same time; 0 is one a core. More only take turns in the processor's
    # caches.
    tensorflow_session_parallelism: int = 0
    # Threads of an operation, and operations of a run at the same time; 0 is one a core.
    tensorflow_intra_op_parallelism: int = 0
    tensorflow_inter_op_parallelism: int = 0
    # TensorFlow's ConfigProto as text, and the part of a GPU's memory to take; 0 is TensorFlow's
    # choice.
    tensorflow_session_config_file: Path | None = None
    per_process_gpu_memory_fraction: float = 0.0
    # Tags of the graph to load, with commas between them.
    saved_model_tags: str = "serve"
    # Requests that may wait for a thread; one beyond them is answered with 503.
    max_waiting_requests: int = 1000
    # A run of the model that takes longer is answered with 504; 0 is no limit.
    rest_api_timeout_in_ms: int = 30_000
    # A longer request body, as sent or unzipped, is answered with 413 (gRPC: RESOURCE_EXHAUSTED).
    rest_api_max_body_bytes: int = 100 * 2**20
    # An encoded image (or any string) with more bytes, an image with more pixels: 400, before it is
    # decoded.
    max_image_bytes: int = 50 * 2**20
    max_image_pixels: int = 100_000_000
    # Answers of the REST API may be read by pages of other origins.
    rest_api_enable_cors_support: bool = False
    # UNIX socket of the gRPC API, beside its port; "" is none.
    grpc_socket_path: str = ""
    # More options of the gRPC server: NAME=VALUE, with commas between them.
    grpc_channel_arguments: str = ""
    # SSLConfig with which the gRPC API is encrypted, or Google's ALTS.
    ssl_config_file: Path | None = None
    use_alts_credentials: bool = False
    # gRPC's answers carry their numbers as one piece of bytes.
    enable_serialization_as_tensor_content: bool = False
    # grpc.health.v1 on the gRPC port.
    enable_grpc_healthcheck_service: bool = False
    # Seconds between two looks at the folder of versions; 0 looks once.
    file_system_poll_wait_seconds: float = 1.0
    # The file that the models come from, and the seconds between two looks at it; 0 looks once.
    model_config_file: Path | None = None
    model_config_file_poll_wait_seconds: float = 0.0
    # A label may name a version that does not serve (yet).
    allow_version_labels_for_unavailable_models: bool = False
    # HandleReloadConfigRequest may name folders that no model was served from.
    allow_reload_from_any_path: bool = False
    # A version that failed to load is tried again so often, so many seconds apart.
    max_num_load_retries: int = 5
    load_retries_interval_seconds: float = 60.0
    # A version that is not whole, and whose files have not changed for so long, is reported in the
    # status.
    partial_version_seconds: float = 60.0
    # Replay assets.extra/tf_serving_warmup_requests before a version takes traffic.
    enable_model_warmup: bool = True
    # How often each of its records is replayed; 0 is once.
    num_request_iterations_for_warmup: int = 0
    # Only models with a batching_params.pbtxt are batched, as it says.
    enable_per_model_batching_parameters: bool = False
    # None: every request is a run of its own.
    batching: Batching | None = None
    # Path of the metrics for Prometheus; "" serves none.
    metrics_path: str = ""
    # A page for people at /.
    enable_page: bool = True

    def validate(self) -> None:
        """Raises SettingsError for what can be known before TensorFlow is imported."""
        validate_models(self.models)
        for name, lowest in (("rest_api_port", 1), ("port", 0)):
            if not lowest <= getattr(self, name) < 65_536:
                raise SettingsError(f"--{name} {getattr(self, name)}: must be {lowest} to 65535.")
        if self.port == self.rest_api_port:
            raise SettingsError(f"--port {self.port}: --rest_api_port is the same; name another.")
        for name in (
            "rest_api_num_threads",
            "rest_api_max_body_bytes",
            "max_image_bytes",
            "max_image_pixels",
        ):
            if getattr(self, name) < 1:
                raise SettingsError(f"--{name} {getattr(self, name)}: must be at least 1.")
        for name in (
            "rest_api_timeout_in_ms",
            "max_num_load_retries",
            "max_waiting_requests",
            "tensorflow_session_parallelism",
            "tensorflow_intra_op_parallelism",
            "tensorflow_inter_op_parallelism",
            "num_request_iterations_for_warmup",
        ):
            if getattr(self, name) < 0:
                raise SettingsError(f"--{name} {getattr(self, name)}: must be 0 or more.")
        for name in (
            "file_system_poll_wait_seconds",
            "model_config_file_poll_wait_seconds",
            "load_retries_interval_seconds",
            "partial_version_seconds",
        ):
            if not 0 <= getattr(self, name) <= _LONGEST_WAIT:
                raise SettingsError(
                    f"--{name} {getattr(self, name)}: must be 0 to {_LONGEST_WAIT}."
                )
        if not 0 <= self.per_process_gpu_memory_fraction <= 1:
            raise SettingsError(
                f"--per_process_gpu_memory_fraction {self.per_process_gpu_memory_fraction}: must be"
                " 0 to 1."
            )
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
