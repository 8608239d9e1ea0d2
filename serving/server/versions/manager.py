"""The models of a server, their labels, and changes of both while requests are served."""

from __future__ import annotations

import contextlib
import logging
import os
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path

from tensorflow.core.protobuf import config_pb2

from serving.server import textproto, version_folders
from serving.server.prometheus import Metrics
from serving.server.rpc_errors import Code, ServingError, invalid
from serving.server.running.batching import BatchingServable
from serving.server.running.limits import Limits
from serving.server.running.servable import Loaded, Servable
from serving.server.running.warmup import warm_up
from serving.server.server_config import (
    Batching,
    ModelSettings,
    ServerSettings,
    SettingsError,
    validate_models,
)
from serving.server.versions.versions import Loader, State, Version, Versions, not_served

__all__ = ["Manager", "State", "Version", "load_servable"]

_log = logging.getLogger(__name__)


def load_servable(settings: ServerSettings, metrics: Metrics | None = None) -> Loader:
    """The usual loader: compare with what was pushed, read the SavedModel, replay its warm-up
    requests.
    """
    limits = Limits(settings.max_image_bytes, settings.max_image_pixels)
    session = session_config(settings)
    tags = settings.saved_model_tags.split(",")

    def load(path: Path, number: int) -> Loaded:
        changed = version_folders.changed_part(path)
        if changed:
            raise ServingError(
                Code.DATA_LOSS,
                f"{path} is not what was pushed: {changed}. Push the model again, or remove "
                f"{version_folders.CHECKSUMS_FILE} to serve it unchecked.",
            )
        parallel = settings.tensorflow_session_parallelism or os.cpu_count() or 1
        batching = _batching(settings, path)
        servable = Servable(
            path, number, settings.rest_api_timeout_in_ms, limits, parallel, tags, session
        )
        try:
            if settings.enable_model_warmup:
                with metrics.warm_up(str(path)) if metrics else contextlib.nullcontext():
                    warm_up(servable, settings.num_request_iterations_for_warmup or 1)
        except BaseException:
            servable.close()
            raise
        return BatchingServable(servable, batching) if batching else servable

    return load


def session_config(settings: ServerSettings) -> config_pb2.ConfigProto:
    """How TensorFlow's sessions run.

    Raises:
      SettingsError: --tensorflow_session_config_file cannot be read.
    """
    file = settings.tensorflow_session_config_file
    config = textproto.read_session(file) if file else config_pb2.ConfigProto()
    if settings.tensorflow_intra_op_parallelism:
        config.intra_op_parallelism_threads = settings.tensorflow_intra_op_parallelism
    if settings.tensorflow_inter_op_parallelism:
        config.inter_op_parallelism_threads = settings.tensorflow_inter_op_parallelism
    if settings.per_process_gpu_memory_fraction:
        config.gpu_options.per_process_gpu_memory_fraction = (
            settings.per_process_gpu_memory_fraction
        )
    return config


def _batching(settings: ServerSettings, path: Path) -> Batching | None:
    """How the requests of the version at `path` are put together, if they are."""
    if not (settings.batching and settings.enable_per_model_batching_parameters):
        return settings.batching
    file = path / "batching_params.pbtxt"
    try:
        batching = textproto.read_batching(file) if file.is_file() else None
        if batching:
            batching.validate()
    except SettingsError as error:
        raise ServingError(Code.FAILED_PRECONDITION, f"{file}: {error}") from None
    return batching


class Manager:
    """Models by name. Every method may be called from any thread."""

    def __init__(
        self, settings: ServerSettings, load: Loader | None = None, metrics: Metrics | None = None
    ) -> None:
        self._settings = settings
        self._load = load or load_servable(settings, metrics)
        self._models = {model.name: self._versions(model) for model in settings.models}
        self._labels: dict[str, dict[str, int]] = {}
        # A request finds its version in the models and labels of one moment.
        self._finding = threading.Lock()
        # One change of the models at a time.
        self._changing = threading.Lock()
        self._stopping = threading.Event()
        self._watcher = threading.Thread(target=self._watch, name="model config", daemon=True)

    def start(self) -> None:
        """Starts looking for versions; returns at once."""
        for versions in self._models.values():
            versions.start()

    def wait_first_look(self) -> bool:
        """Waits until what lay in the folders at the start is loaded, or has failed to.

        Returns:
          False when whole versions of a model lay there and none of them can be served.

        Raises:
          SettingsError: a label names a version that does not serve.
        """
        for versions in self._models.values():
            if not versions.wait():
                return False
        try:
            self._labels = self._checked_labels({name: v.model for name, v in self._models.items()})
        except ServingError as error:
            raise SettingsError(
                f"{error.message}: mend version_labels, or let labels wait for their versions with "
                "--allow_version_labels_for_unavailable_models=true."
            ) from None
        if self._settings.model_config_file and self._settings.model_config_file_poll_wait_seconds:
            self._watcher.start()
        return True

    def stop(self) -> None:
        """Takes every version out of service, waits for requests under way and frees the memory."""
        self._stopping.set()
        with self._changing:
            for versions in self._models.values():
                versions.stop()

    @contextlib.contextmanager
    def use(
        self, name: str, version: int | None = None, label: str | None = None
    ) -> Iterator[Loaded]:
        """The servable that answers a request; it stays in memory until the block ends.

        Args:
          version: a number; None is the newest that is available.
          label: stands for the number that it was given.

        Raises:
          ServingError: NOT_FOUND for a model or version that does not serve, INVALID_ARGUMENT for
            an unknown label.
        """
        with contextlib.ExitStack() as stack:
            with self._finding:
                if label is not None:
                    try:
                        version = self._labels[name][label]
                    except KeyError:
                        raise invalid(f"Unrecognized servable version label: {label}") from None
                versions = self._models.get(name)
                if versions is None:
                    raise not_served(name, version)
                servable = stack.enter_context(versions.use(version))
            yield servable

    def status(self, name: str, version: int | None = None) -> list[Version]:
        """Copies of the known versions, newest first, or of one.

        Raises:
          ServingError: NOT_FOUND when there is none.
        """
        versions = self._models.get(name)
        if versions is None:
            wanted = "any versions" if version is None else f"version {version}"
            raise ServingError(Code.NOT_FOUND, f"Could not find {wanted} of model {name}")
        return versions.status(version)

    def models(self) -> dict[str, ModelSettings]:
        """The settings of every model, by name."""
        return {name: versions.model for name, versions in self._models.items()}

    def labels(self, name: str) -> Mapping[str, int]:
        """Version by label of a model."""
        return self._labels.get(name, {})

    def ready(self) -> bool:
        """Whether a version of every model takes requests."""
        return all(versions.available() for versions in self._models.values())

    def reload(self, models: tuple[ModelSettings, ...]) -> None:
        """Serves these models from now on, whole or not at all.

        What serves on goes on serving while the new versions load. Returns when they have.

        Raises:
          ServingError: INVALID_ARGUMENT for models that cannot be, FAILED_PRECONDITION when a
            version does not load or a label names one that does not serve. Nothing has changed
            then.
        """
        try:
            validate_models(models)
        except SettingsError as error:
            raise invalid(str(error)) from None
        with self._changing:
            if self._stopping.is_set():
                raise ServingError(Code.UNAVAILABLE, "The server is stopping.")
            old = dict(self._models)
            before = self.models()
            same = {
                m.name for m in models if m.name in old and before[m.name].base_path == m.base_path
            }
            new = {m.name: self._versions(m) for m in models if m.name not in same}
            try:
                for versions in new.values():
                    versions.start()
                for model in models:
                    if model.name in same:
                        # Labels still name the old versions.
                        old[model.name].configure(model, self.labels(model.name).values())
                for versions in new.values():
                    versions.wait()
                chosen = {m.name: old[m.name] if m.name in same else new[m.name] for m in models}
                for model in models:
                    _check_served(model, chosen[model.name])
                labels = self._checked_labels({m.name: m for m in models}, chosen)
            except ServingError:
                for versions in new.values():
                    versions.stop()
                for name in same:
                    old[name].configure(before[name])
                raise
            with self._finding:
                self._models, self._labels = chosen, labels
            for name, versions in old.items():
                if name in same:
                    versions.configure(versions.model)
                else:
                    versions.stop()

    def _versions(self, model: ModelSettings) -> Versions:
        return Versions(model, self._settings, self._load)

    def _checked_labels(
        self, models: Mapping[str, ModelSettings], served: Mapping[str, Versions] | None = None
    ) -> dict[str, dict[str, int]]:
        served = self._models if served is None else served
        for name, model in models.items():
            available = served[name].available()
            for label, version in model.labels.items():
                # As there: a label that is in use never moves to a version that does not serve.
                may_wait = self._settings.allow_version_labels_for_unavailable_models
                if version not in available and (not may_wait or label in self.labels(name)):
                    raise ServingError(
                        Code.FAILED_PRECONDITION,
                        f"Request to assign label to version {version} of model {name}, "
                        "which is not currently available for inference",
                    )
        return {name: dict(model.labels) for name, model in models.items()}

    def _watch(self) -> None:
        """Follows the file of models; a file that cannot be served changes nothing."""
        path = self._settings.model_config_file
        assert path is not None
        known = path.read_bytes() if path.is_file() else b""
        while not self._stopping.wait(self._settings.model_config_file_poll_wait_seconds):
            try:
                content = path.read_bytes()
                if content == known:
                    continue
                known = content
                self.reload(textproto.read_models(path))
                _log.info("%s is read anew.", path)
            except (OSError, SettingsError, ServingError) as error:
                _log.error("%s changes nothing: %s", path, error)
                known = b"" if isinstance(error, OSError) else known


def _check_served(model: ModelSettings, versions: Versions) -> None:
    available = versions.available()
    missing = [number for number in model.versions if number not in available]
    if not missing and available:
        return
    wanted = f"version {', '.join(map(str, missing))}" if missing else "any version"
    reasons = [f"version {number}: {error}" for number, error in sorted(versions.errors().items())]
    said = f" ({'; '.join(reasons)})" if reasons else ""
    raise ServingError(
        Code.FAILED_PRECONDITION,
        f"{model.name}: {model.base_path} has not {wanted} that can be served{said}",
    )
