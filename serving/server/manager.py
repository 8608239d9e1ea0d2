"""Which versions of a model are in memory, and which of them takes a request.

One thread looks at the folder of versions, loads what is new beside what serves,
switches, and frees the old version when its last request is done. A version that
cannot be loaded or warmed up never takes traffic; what served before goes on.
"""

from __future__ import annotations

import contextlib
import dataclasses
import enum
import logging
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from serving.server import source
from serving.server.config import ModelSettings, ServerSettings
from serving.server.errors import Code, ServingError
from serving.server.servable import Servable
from serving.server.warmup import warm_up

_log = logging.getLogger(__name__)

# Turns a version's folder and number into a servable that is ready for traffic.
Loader = Callable[[Path, int], Servable]


class State(enum.Enum):
    """States of a version, with TensorFlow Serving's names and numbers."""

    START = 10
    LOADING = 20
    AVAILABLE = 30
    UNLOADING = 40
    END = 50


@dataclasses.dataclass
class Version:
    """One version that was seen whole; it stays listed after it has gone."""

    number: int
    state: State = State.START
    error: ServingError | None = None
    servable: Servable | None = None
    # Requests under way.
    users: int = 0
    # Failed loads: how many, when the next is due (monotonic seconds), and of which files.
    failures: int = 0
    retry_at: float = 0.0
    files: tuple[tuple[str, int, int], ...] = ()


def load_servable(settings: ServerSettings) -> Loader:
    """The usual loader: read the SavedModel, then replay its warm-up requests."""

    def load(path: Path, number: int) -> Servable:
        servable = Servable(path, number, settings.rest_api_timeout_in_ms)
        try:
            if settings.enable_model_warmup:
                warm_up(servable)
        except BaseException:
            servable.close()
            raise
        return servable

    return load


class Manager:
    """Versions of one model. Every method may be called from any thread."""

    def __init__(self, settings: ServerSettings, load: Loader | None = None) -> None:
        self.model: ModelSettings = settings.model
        self._settings = settings
        self._load = load or load_servable(settings)
        self._versions: dict[int, Version] = {}
        self._lock = threading.Lock()
        # Set when the poll thread has something to do before its time.
        self._wake = threading.Event()
        self._stopping = False
        self._first_look = threading.Event()
        self._thread = threading.Thread(target=self._poll, name="versions", daemon=True)
        # The last line about each path.
        self._notices: dict[Path, str] = {}

    def start(self) -> None:
        """Starts looking for versions; returns at once."""
        self._thread.start()

    def wait_first_look(self) -> bool:
        """Waits until what lay in the folder at the start is loaded, or has failed to.

        Returns:
          False when whole versions lay there and none of them can be served.
        """
        self._first_look.wait()
        with self._lock:
            return not self._versions or any(v.state is State.AVAILABLE for v in self._versions.values())

    def stop(self) -> None:
        """Takes every version out of service, waits for requests under way and frees the memory."""
        self._stopping = True
        self._wake.set()
        self._thread.join()

    @contextlib.contextmanager
    def use(self, name: str, version: int | None = None, label: str | None = None) -> Iterator[Servable]:
        """The servable that answers a request; it stays in memory until the block ends.

        Args:
          version: a number; None is the newest that is available.
          label: a version label. None are configured yet, so each one is unknown.

        Raises:
          ServingError: NOT_FOUND for a model or version that does not serve.
        """
        if label is not None:
            raise ServingError(Code.INVALID_ARGUMENT, f"Unrecognized servable version label: {label}")
        with self._lock:
            chosen = self._find(name, version)
            chosen.users += 1
        try:
            assert chosen.servable is not None
            yield chosen.servable
        finally:
            with self._lock:
                chosen.users -= 1
                if chosen.state is State.UNLOADING and not chosen.users:
                    self._wake.set()

    def status(self, name: str, version: int | None = None) -> list[Version]:
        """Copies of the known versions, newest first, or of one.

        Raises:
          ServingError: NOT_FOUND when there is none.
        """
        with self._lock:
            known = self._versions if name == self.model.name else {}
            if version is not None and version not in known:
                raise ServingError(Code.NOT_FOUND, f"Could not find version {version} of model {name}")
            if not known:
                raise ServingError(Code.NOT_FOUND, f"Could not find any versions of model {name}")
            numbers = [version] if version is not None else sorted(known, reverse=True)
            return [dataclasses.replace(known[number]) for number in numbers]

    def ready(self) -> bool:
        """Whether a version takes requests."""
        with self._lock:
            return any(v.state is State.AVAILABLE for v in self._versions.values())

    def _find(self, name: str, number: int | None) -> Version:
        known = self._versions if name == self.model.name else {}
        serving = [v for v in known.values() if v.state is State.AVAILABLE and number in (None, v.number)]
        if not serving:
            wanted = f"Latest({name})" if number is None else f"Specific({name}, {number})"
            raise ServingError(Code.NOT_FOUND, f"Servable not found for request: {wanted}")
        return max(serving, key=lambda v: v.number)

    def _poll(self) -> None:
        seconds = self._settings.file_system_poll_wait_seconds
        while not self._stopping:
            if seconds or not self._first_look.is_set():
                try:
                    self._follow(source.list_versions(self.model.base_path))
                except OSError as error:
                    base = self.model.base_path
                    self._notice(base, f"{base} cannot be read ({error.strerror}): nothing changes.")
                except Exception:
                    _log.exception("Looking for new versions of %s failed.", self.model.name)
            self._free()
            self._first_look.set()
            self._wake.wait(seconds or None)
            self._wake.clear()
        self._retire(self._available())
        while self._free():
            self._wake.wait(0.1)

    def _follow(self, found: dict[int, Path]) -> None:
        """Loads the newest versions of `found`, then retires what they replace."""
        wanted: list[int] = []
        for number in sorted(found, reverse=True):
            if self._stopping or len(wanted) == self.model.num_versions:
                break
            if self._serves(number, found[number]):
                wanted.append(number)
        if not found:
            base = self.model.base_path
            self._notice(base, f"There is no version of {self.model.name} in {base} yet: waiting.")
        # While no version on disk can serve, the one in memory does.
        if wanted or not found:
            self._retire([number for number in self._available() if number not in wanted])

    def _available(self) -> list[int]:
        with self._lock:
            return [v.number for v in self._versions.values() if v.state is State.AVAILABLE]

    def _serves(self, number: int, path: Path) -> bool:
        """Whether a version takes requests, after an attempt to load it where one is due."""
        version = self._versions.get(number)
        if version and version.state is State.AVAILABLE:
            return True
        if version and version.state is State.UNLOADING:
            return False
        try:
            files = source.fingerprint(path)
            if version and version.error and version.files == files and not self._retry_due(version):
                return False
            missing = source.missing_part(path)
        except OSError as error:
            self._notice(path, f"Version {number} in {path} cannot be read ({error.strerror}): waiting.")
            return False
        if missing:
            self._notice(path, f"Version {number} in {path} is not whole yet ({missing}): waiting.")
            return False
        if not version or version.files != files:
            version = Version(number, files=files)
            with self._lock:
                self._versions[number] = version
        self._try_load(version, path)
        return version.state is State.AVAILABLE

    def _retry_due(self, version: Version) -> bool:
        retries = version.failures - 1
        return retries < self._settings.max_num_load_retries and time.monotonic() >= version.retry_at

    def _try_load(self, version: Version, path: Path) -> None:
        start = time.monotonic()
        self._change(version, State.LOADING)
        try:
            servable = self._load(path, version.number)
        except Exception as error:
            if not isinstance(error, ServingError):
                _log.exception("Loading %s failed.", path)
            version.failures += 1
            version.retry_at = time.monotonic() + self._settings.load_retries_interval_seconds
            self._change(version, State.END, error=_without_frames(error))
            _log.error("Version %d of %s cannot be served: %s", version.number, self.model.name, error)
            return
        self._change(version, State.AVAILABLE, servable=servable)
        seconds = time.monotonic() - start
        _log.info("Version %d of %s serves (loaded in %.1f s).", version.number, self.model.name, seconds)

    def _change(
        self,
        version: Version,
        state: State,
        servable: Servable | None = None,
        error: ServingError | None = None,
    ) -> None:
        with self._lock:
            version.state, version.servable, version.error = state, servable, error

    def _retire(self, numbers: list[int]) -> None:
        with self._lock:
            for number in numbers:
                self._versions[number].state = State.UNLOADING

    def _free(self) -> bool:
        """Closes retired versions that nobody uses; whether some are still in use."""
        with self._lock:
            retired = [v for v in self._versions.values() if v.state is State.UNLOADING]
            idle = [v for v in retired if not v.users]
        for version in idle:
            servable = version.servable
            assert servable is not None
            servable.close()
            # A version that comes back is loaded afresh.
            version.files = ()
            self._change(version, State.END)
            _log.info("Version %d of %s is unloaded.", version.number, self.model.name)
        return len(idle) < len(retired)

    def _notice(self, path: Path, text: str) -> None:
        """Logs a line about a path, but not the same one at every look."""
        if self._notices.get(path) != text:
            self._notices[path] = text
            _log.warning("%s", text)


def _without_frames(error: Exception) -> ServingError:
    """A copy to keep: the traceback of the original would keep the whole graph in memory."""
    if isinstance(error, ServingError):
        return ServingError(error.code, error.message)
    return ServingError(Code.INTERNAL, f"{type(error).__name__}: {error}")
