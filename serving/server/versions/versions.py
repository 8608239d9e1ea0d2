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
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from tensorflow_serving.apis.get_model_status_pb2 import GetModelStatusResponse

from serving.server import version_folders
from serving.server.rpc_errors import Code, ServingError
from serving.server.running.servable import Loaded
from serving.server.server_config import ModelSettings, ServerSettings

_log = logging.getLogger(__name__)

# Turns a version's folder and number into a servable that is ready for traffic.
Loader = Callable[[Path, int], Loaded]


class State(enum.Enum):
    """States of a version, with TensorFlow Serving's names and numbers."""

    START = 10
    LOADING = 20
    AVAILABLE = 30
    UNLOADING = 40
    END = 50


@dataclasses.dataclass
class Version:
    """One version that was seen whole, or in part for long; it stays listed after it has gone."""

    number: int
    state: State = State.START
    error: ServingError | None = None
    servable: Loaded | None = None
    # Requests under way.
    users: int = 0
    # Failed loads: how many, when the next is due (monotonic seconds), and of which files.
    failures: int = 0
    retry_at: float = 0.0
    files: version_folders.Files = ()


class Versions:
    """Versions of one model. Every method may be called from any thread."""

    def __init__(self, model: ModelSettings, settings: ServerSettings, load: Loader) -> None:
        self.model = model
        # Versions that stay, wanted or not.
        self._held: frozenset[int] = frozenset()
        self._settings = settings
        self._load = load
        self._versions: dict[int, Version] = {}
        self._lock = threading.Lock()
        # Looks that were asked for, and the last of them that is over.
        self._asked, self._looked = 1, 0
        self._over = threading.Condition(self._lock)
        # Set when the poll thread has something to do before its time.
        self._wake = threading.Event()
        self._stopping = False
        self._thread = threading.Thread(
            target=self._poll, name=f"versions of {model.name}", daemon=True
        )
        # Versions that are not whole: since when (monotonic seconds) they have had these files.
        self._partial: dict[int, tuple[float, version_folders.Files]] = {}
        # The last line about each path.
        self._notices: dict[Path, str] = {}

    def start(self) -> None:
        """Starts looking for versions; returns at once."""
        self._thread.start()

    def wait(self) -> bool:
        """Waits until what lay in the folder when this was called, or started, is loaded or has
        failed to.

        Returns:
          False when whole versions lay there and none of them can be served.
        """
        with self._lock:
            asked = self._asked
            self._over.wait_for(lambda: self._looked >= asked)
            return not self._versions or any(
                v.state is State.AVAILABLE for v in self._versions.values()
            )

    def configure(self, model: ModelSettings, held: Iterable[int] = ()) -> None:
        """Serves other versions of the same folder; returns when they are loaded or have failed.

        Args:
          held: versions that go on serving as well, until the next change.
        """
        with self._lock:
            self.model, self._held = model, frozenset(held)
            self._asked += 1
        self._wake.set()
        self.wait()

    def stop(self) -> None:
        """Takes every version out of service, waits for requests under way and frees the memory."""
        self._stopping = True
        self._wake.set()
        self._thread.join()

    @contextlib.contextmanager
    def use(self, version: int | None = None) -> Iterator[Loaded]:
        """The servable that answers a request; it stays in memory until the block ends.

        Args:
          version: a number; None is the newest that is available.

        Raises:
          ServingError: NOT_FOUND for a version that does not serve.
        """
        with self._lock:
            chosen = self._find(version)
            chosen.users += 1
        try:
            assert chosen.servable is not None
            yield chosen.servable
        finally:
            with self._lock:
                chosen.users -= 1
                if chosen.state is State.UNLOADING and not chosen.users:
                    self._wake.set()

    def status(self, version: int | None = None) -> list[Version]:
        """Copies of the known versions, newest first, or of one.

        Raises:
          ServingError: NOT_FOUND when there is none.
        """
        name = self.model.name
        with self._lock:
            known = self._versions
            if version is not None and version not in known:
                raise ServingError(
                    Code.NOT_FOUND, f"Could not find version {version} of model {name}"
                )
            if not known:
                raise ServingError(Code.NOT_FOUND, f"Could not find any versions of model {name}")
            numbers = [version] if version is not None else sorted(known, reverse=True)
            return [dataclasses.replace(known[number]) for number in numbers]

    def available(self) -> list[int]:
        """Numbers of the versions that take requests."""
        with self._lock:
            return [v.number for v in self._versions.values() if v.state is State.AVAILABLE]

    def errors(self) -> dict[int, ServingError]:
        """Why versions do not serve, by number."""
        with self._lock:
            return {v.number: v.error for v in self._versions.values() if v.error}

    def _find(self, number: int | None) -> Version:
        known = self._versions.values()
        serving = [v for v in known if v.state is State.AVAILABLE and number in (None, v.number)]
        if not serving:
            raise not_served(self.model.name, number)
        return max(serving, key=lambda v: v.number)

    def _poll(self) -> None:
        seconds = self._settings.file_system_poll_wait_seconds
        while not self._stopping:
            with self._lock:
                asked = self._asked
            if seconds or self._looked < asked:
                try:
                    self._follow(version_folders.list_versions(self.model.base_path))
                except OSError as error:
                    base = self.model.base_path
                    self._notice(
                        base, f"{base} cannot be read ({error.strerror}): nothing changes."
                    )
                except Exception:
                    _log.exception("Looking for new versions of %s failed.", self.model.name)
            self._free()
            with self._lock:
                self._looked = asked
                self._over.notify_all()
            self._wake.wait(seconds or None)
            self._wake.clear()
        self._retire(self.available())
        while self._free():
            self._wake.wait(0.1)

    def _follow(self, found: dict[int, Path]) -> None:
        """Loads the wanted versions of `found`, newest first, then retires what they replace."""
        model = self.model
        chosen = {n: path for n, path in found.items() if not model.versions or n in model.versions}
        most = len(chosen) if model.versions or model.all_versions else model.num_versions
        wanted: list[int] = []
        for number in sorted(chosen, reverse=True):
            if self._stopping or len(wanted) == most:
                break
            if self._serves(number, chosen[number]):
                wanted.append(number)
        missing = [str(n) for n in model.versions if n not in chosen]
        if missing:
            self._notice(
                model.base_path,
                f"{model.base_path} has no version {', '.join(missing)} of {model.name}: waiting.",
            )
        elif not found:
            self._notice(
                model.base_path,
                f"There is no version of {model.name} in {model.base_path} yet: waiting.",
            )
        # While no wanted version can serve, the one in memory does.
        if wanted or not found:
            kept = self._held.union(wanted)
            self._retire([number for number in self.available() if number not in kept])

    def _serves(self, number: int, path: Path) -> bool:
        """Whether a version takes requests, after an attempt to load it where one is due."""
        version = self._versions.get(number)
        if version and version.state is State.AVAILABLE:
            return True
        try:
            files = version_folders.fingerprint(path)
            if version and version.state is State.UNLOADING:
                # Requests still use it: it is in memory, and no other can be in its place.
                if version.files == files:
                    with self._lock:
                        version.state = State.AVAILABLE
                return version.files == files
            if (
                version
                and version.error
                and version.files == files
                and not self._retry_due(version)
            ):
                return False
            missing = version_folders.missing_part(path)
        except OSError as error:
            self._notice(
                path, f"Version {number} in {path} cannot be read ({error.strerror}): waiting."
            )
            return False
        if missing:
            self._notice(path, f"Version {number} in {path} is not whole yet ({missing}): waiting.")
            self._report_partial(number, path, files, missing)
            return False
        if not version or version.files != files:
            version = Version(number, files=files)
            with self._lock:
                self._versions[number] = version
        self._try_load(version, path)
        return version.state is State.AVAILABLE

    def _report_partial(
        self, number: int, path: Path, files: version_folders.Files, missing: str
    ) -> None:
        """Puts it into the status, once its files have been the same for long."""
        since, known = self._partial.get(number, (0.0, None))
        if known != files:
            self._partial[number] = time.monotonic(), files
            return
        seconds = self._settings.partial_version_seconds
        version = self._versions.get(number)
        if time.monotonic() - since < seconds or (version and version.files == files):
            return
        text = f"{path} is not whole: {missing}, and nothing has come for {seconds:g} s"
        with self._lock:
            error = ServingError(Code.FAILED_PRECONDITION, text)
            self._versions[number] = Version(number, State.END, error, files=files)
        _log.error("Version %d of %s cannot be served: %s", number, self.model.name, text)

    def _retry_due(self, version: Version) -> bool:
        retries = version.failures - 1
        return (
            retries < self._settings.max_num_load_retries and time.monotonic() >= version.retry_at
        )

    def _try_load(self, version: Version, path: Path) -> None:
        start = time.monotonic()
        self._change(version, State.LOADING)
        try:
            servable = self._load(path, version.number)
        except Exception as error:
            if not isinstance(error, ServingError):
                _log.exception("Loading %s failed.", path)
            version.failures += 1
            version.retry_at = time.monotonic() + self._settings.load_retry_interval_micros / 1e6
            self._change(version, State.END, error=_without_frames(error))
            _log.error(
                "Version %d of %s cannot be served: %s", version.number, self.model.name, error
            )
            return
        self._change(version, State.AVAILABLE, servable=servable)
        seconds = time.monotonic() - start
        _log.info(
            "Version %d of %s serves (loaded in %.1f s).", version.number, self.model.name, seconds
        )

    def _change(
        self,
        version: Version,
        state: State,
        servable: Loaded | None = None,
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


def not_served(name: str, number: int | None) -> ServingError:
    """What a request for a model or version that does not serve is answered with."""
    wanted = f"Latest({name})" if number is None else f"Specific({name}, {number})"
    return ServingError(Code.NOT_FOUND, f"Servable not found for request: {wanted}")


def status_message(versions: Iterable[Version]) -> GetModelStatusResponse:
    """State and last error of each version, as TensorFlow Serving's status message."""
    response = GetModelStatusResponse()
    for version in versions:
        entry = response.model_version_status.add(version=version.number, state=version.state.value)
        entry.status.SetInParent()
        if version.error:
            entry.status.error_code = version.error.code
            entry.status.error_message = version.error.message
    return response


def _without_frames(error: Exception) -> ServingError:
    """A copy to keep: the traceback of the original would keep the whole graph in memory."""
    if isinstance(error, ServingError):
        return ServingError(error.code, error.message)
    return ServingError(Code.INTERNAL, f"{type(error).__name__}: {error}")
