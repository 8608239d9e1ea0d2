"""The files of the catalogue on this machine: downloaded once, checked, and used offline after.

They lie below the folder that RESNET_TFX_CACHE names. While a file arrives it is called FILE.part,
which nothing loads; a download that breaks goes on there. `keras.utils.get_file` begins anew, and
leaves a file that has another checksum; fsspec begins anew, too, and checks nothing.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, NamedTuple

from models.weights.named import catalogue

if TYPE_CHECKING:
    import requests
    from rich.console import Console

FOLDER = "RESNET_TFX_CACHE"
_USUAL = "~/.cache/resnet-tfx"
# Seconds to connect, and without a byte.
_TIMEOUT = (10, 60)
# How often a connection may break within one file.
_BREAKS = 10
# What a break loses at most.
_BLOCK = 1 << 16
_MIB = 1 << 20

# Told of bytes that are there, and of all (0 where nobody says).
_Progress = Callable[[int, int], None]


class File(NamedTuple):
    """A file that was checked: where it is, and its whole SHA-256, hexadecimal."""

    path: str
    sha256: str


def place(entry: catalogue.Entry) -> str:
    """Where the file of an entry is, or is to be put."""
    folder = os.path.abspath(os.path.expanduser(os.environ.get(FOLDER) or _USUAL))
    return os.path.join(folder, entry.name.split(":")[0], os.path.basename(entry.address))


def fetch(name: str, console: Console | None = None) -> File:
    """The file of a name, downloaded where it is not there yet.

    Args:
      name: of the catalogue.
      console: what the progress is shown on; standard error, where there is none.

    Raises:
      ValueError: there is no such name, the file cannot be had or written, or is another one.
    """
    entry = catalogue.find(name)
    path = place(entry)
    try:
        if not os.path.isfile(path):
            _download(entry, path, console)
        return File(path, _checked(entry, path, "remove it, and it is downloaded again"))
    except OSError as error:
        raise ValueError(
            f"{path}, the file of {name}, cannot be kept ({error.strerror or error}); name another"
            f" folder with the environment variable {FOLDER}."
        ) from error


def local(source: str) -> str:
    """The file that a name stands for; everything else stands for itself."""
    return fetch(source).path if catalogue.is_name(source) else source


def _download(entry: catalogue.Entry, path: str, console: Console | None) -> None:
    import requests
    from rich.console import Console

    console = console or Console(stderr=True, highlight=False, soft_wrap=True)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    part = f"{path}.part"
    with open(f"{path}.lock", "w") as lock:
        _wait(lock.fileno(), entry, console)
        if os.path.isfile(path):
            return
        try:
            with _shown(entry, console) as progress:
                _receive(entry.address, part, progress)
        except requests.RequestException as error:
            raise ValueError(
                f"{entry.name} cannot be downloaded from {entry.address} ({_reason(error)}); try"
                f" again, or put that file there as {path}: {entry.promise}."
            ) from error
        try:
            _checked(entry, part, f"it was not kept; try again, or put the right file as {path}")
        except ValueError:
            os.remove(part)
            raise
        os.replace(part, path)


def _wait(lock: int, entry: catalogue.Entry, console: Console) -> None:
    """Takes the lock, which goes with the process."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        console.print(f"{entry.name}: waiting for another process that downloads it", markup=False)
        fcntl.flock(lock, fcntl.LOCK_EX)


def _receive(address: str, part: str, progress: _Progress) -> None:
    """Fills `part`, from where it ends; raises requests.RequestException."""
    import requests

    with _session() as session:
        for broken in range(_BREAKS + 1):
            before = _size(part)
            try:
                return _append(session, address, part, progress)
            except (requests.exceptions.ChunkedEncodingError, requests.ConnectionError):
                # One that brings nothing has been tried several times by the session.
                if broken == _BREAKS or _size(part) == before:
                    raise


def _session() -> requests.Session:
    """Proxies are those of the environment; what passes by itself is tried again."""
    import requests
    from requests.adapters import HTTPAdapter
    from urllib3.util import Retry

    again = Retry(
        total=3,
        backoff_factor=0.3,
        status_forcelist=(429, 500, 502, 503, 504),
        raise_on_status=False,
        # It may be hours.
        respect_retry_after_header=False,
    )
    session = requests.Session()
    session.mount("https://", HTTPAdapter(max_retries=again))
    session.mount("http://", HTTPAdapter(max_retries=again))
    return session


def _append(session: requests.Session, address: str, part: str, progress: _Progress) -> None:
    start = _size(part)
    # The bytes of the file, not of a compressed form: they are counted.
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={start}-"} if start else {})
    with session.get(address, headers=headers, stream=True, timeout=_TIMEOUT) as answer:
        if start and answer.status_code == 416:
            return  # There is nothing behind what we have.
        answer.raise_for_status()
        # Some servers send the whole file nevertheless.
        start = start if answer.status_code == 206 else 0
        length = int(answer.headers.get("Content-Length") or 0)
        total = start + length if length else 0
        with open(part, "ab" if start else "wb") as file:
            for block in answer.iter_content(_BLOCK):
                file.write(block)
                progress(file.tell(), total)


def _size(path: str) -> int:
    return os.path.getsize(path) if os.path.exists(path) else 0


def _checked(entry: catalogue.Entry, path: str, mend: str) -> str:
    """The SHA-256 of a file; ValueError where its checksum is not that of the entry."""
    with open(path, "rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    found = sha256
    if entry.algorithm == "md5":
        with open(path, "rb") as file:
            md5 = hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False))
        found = md5.hexdigest()
    if not found.startswith(entry.checksum):
        raise ValueError(
            f"{path} is not the file of {entry.name} from {entry.address}: {entry.promise}, and"
            f" that of this one is {found}; {mend}."
        )
    return sha256


def _reason(error: requests.RequestException) -> str:
    """Why nothing came, without the names of classes and objects."""
    if error.response is not None:
        return f"{error.response.status_code} {error.response.reason}"
    cause = error.args[0] if error.args else error
    cause = getattr(cause, "reason", None) or cause
    text = str(cause.args[0] if isinstance(cause, Exception) and cause.args else cause)
    return text.rpartition("): ")[2] or type(error).__name__


@contextlib.contextmanager
def _shown(entry: catalogue.Entry, console: Console) -> Iterator[_Progress]:
    """A bar on a terminal, elsewhere a line for each tenth."""
    from rich import progress

    if not console.is_terminal:
        console.print(f"{entry.name}: downloading {entry.address}", markup=False)
        yield _lines(entry, console)
        return
    columns = (
        progress.TextColumn("{task.description}", markup=False), progress.BarColumn(),
        progress.DownloadColumn(binary_units=True), progress.TransferSpeedColumn(),
        progress.TimeRemainingColumn(),
    )  # fmt: skip
    with progress.Progress(*columns, console=console) as bar:
        task = bar.add_task(entry.name, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total or None)


def _lines(entry: catalogue.Entry, console: Console) -> _Progress:
    said = 0

    def line(done: int, total: int) -> None:
        nonlocal said
        whole = total or entry.size * _MIB
        tenth = int(10 * done / whole)
        if tenth > said:
            said = tenth
            amount = f"{done / _MIB:.1f} of {whole / _MIB:.1f} MiB"
            console.print(f"{entry.name}: {amount}", markup=False)

    return line
