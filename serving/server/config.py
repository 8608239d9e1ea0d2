"""Settings of the server. Flags have TensorFlow Serving's names where it has them."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path


class SettingsError(ValueError):
    """Settings that the server cannot start with; the message says how to mend them."""


@dataclasses.dataclass(frozen=True)
class ModelSettings:
    """One served model: a name and a folder of numbered versions."""

    name: str
    base_path: Path
    # The newest versions that answer at the same time (policy `latest`).
    num_versions: int = 1


@dataclasses.dataclass(frozen=True)
class ServerSettings:
    """Everything a server needs to start."""

    model: ModelSettings
    host: str = "127.0.0.1"
    rest_api_port: int = 8501
    # Threads that parse requests and run the model.
    rest_api_num_threads: int = 4 * (os.cpu_count() or 1)
    # A run of the model that takes longer is answered with 504; 0 is no limit.
    rest_api_timeout_in_ms: int = 30_000
    # A longer request body, as sent or unzipped, is answered with 413.
    rest_api_max_body_bytes: int = 100 * 2**20
    # Seconds between two looks at the folder of versions; 0 looks once.
    file_system_poll_wait_seconds: float = 1.0
    # A version that failed to load is tried again so often, so many seconds apart.
    max_num_load_retries: int = 5
    load_retries_interval_seconds: float = 60.0
    # Replay assets.extra/tf_serving_warmup_requests before a version takes traffic.
    enable_model_warmup: bool = True

    def validate(self) -> None:
        """Raises SettingsError for what can be known before TensorFlow is imported."""
        path = self.model.base_path
        if not path.is_dir():
            raise SettingsError(
                f"--model_base_path {path}: there is no such folder; "
                "name the folder that holds the numbered versions."
            )
        if (path / "saved_model.pb").exists():
            raise SettingsError(
                f"--model_base_path {path}: this is one version of a model; name its parent, {path.parent}."
            )
        if not self.model.name or set(self.model.name) & set("/:"):
            raise SettingsError(
                f"--model_name {self.model.name!r}: must not be empty and not contain / or :."
            )
        if not 0 < self.rest_api_port < 65_536:
            raise SettingsError(f"--rest_api_port {self.rest_api_port}: must be 1 to 65535.")
        for name in ("rest_api_num_threads", "rest_api_max_body_bytes"):
            if getattr(self, name) < 1:
                raise SettingsError(f"--{name} {getattr(self, name)}: must be at least 1.")
        for name in ("rest_api_timeout_in_ms", "file_system_poll_wait_seconds", "max_num_load_retries"):
            if getattr(self, name) < 0:
                raise SettingsError(f"--{name} {getattr(self, name)}: must be 0 or more.")
        if self.model.num_versions < 1:
            raise SettingsError(f"--num_versions {self.model.num_versions}: must be at least 1.")
