"""Local and remote files behind one set of calls; TensorFlow is imported for remote ones only."""

from __future__ import annotations

import contextlib
import glob as local_glob
import os
import shutil
import sys
import uuid
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO, cast


def _gfile() -> Any:
    import tensorflow as tf

    return tf.io.gfile


def is_remote(path: str) -> bool:
    """True for paths of a file system that TensorFlow handles, such as gs://."""
    return "://" in path


def errors() -> tuple[type[Exception], ...]:
    """What is raised where a file cannot be read; TensorFlow's errors only if it is in use."""
    tensorflow = sys.modules.get("tensorflow")
    return (OSError, tensorflow.errors.OpError) if tensorflow else (OSError,)


def reason(error: Exception) -> str:
    """The text of an error in one line, of TensorFlow's without the names of operations."""
    return " ".join((getattr(error, "message", "") or str(error)).split()).rstrip(". ")


def open_read(path: str) -> BinaryIO:
    """Opens `path` for seeking and reading bytes."""
    return cast(BinaryIO, _gfile().GFile(path, "rb")) if is_remote(path) else open(path, "rb")


def open_write(path: str) -> BinaryIO:
    """Opens `path` for writing bytes."""
    return cast(BinaryIO, _gfile().GFile(path, "wb")) if is_remote(path) else open(path, "wb")


def read(path: str) -> bytes:
    """The whole content of a (small) file."""
    with open_read(path) as stream:
        return stream.read()


def temporary(path: str, mark: str = "") -> str:
    """A name beside `path` that no other process uses; `commit` makes it `path`.

    With the mark `*`, the pattern of all such names.
    """
    return f"{path}.{mark or uuid.uuid4().hex[:12]}.tmp"


def commit(temp: str, path: str) -> None:
    """Renames a finished file, so that `path` is whole or not there."""
    if is_remote(path):
        _gfile().rename(temp, path, overwrite=True)
    else:
        os.replace(temp, path)


def write(path: str, content: bytes | str) -> None:
    """Writes a (small) file, a text in UTF-8, so that it is whole or as it was before.

    Raises:
      OSError, or TensorFlow's OpError of a remote path: it cannot be written; nothing is left.
    """
    temp = temporary(path)
    try:
        with open_write(temp) as stream:
            stream.write(content.encode() if isinstance(content, str) else content)
        commit(temp, path)
    except BaseException:
        with contextlib.suppress(*errors()):
            remove(temp)
        raise


def printable(name: str) -> str:
    """`name` itself when it is UTF-8; other bytes of a file name become backslash escapes."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def one_line(name: str) -> str:
    """`printable`, with control characters as escapes too: a terminal would obey them."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in printable(name))


def is_file(path: str) -> bool:
    """True when `path` is a file."""
    if is_remote(path):
        return bool(_gfile().exists(path) and not _gfile().isdir(path))
    return os.path.isfile(path)


def size(path: str) -> int:
    """Length of a file in bytes."""
    return int(_gfile().stat(path).length) if is_remote(path) else os.path.getsize(path)


def state(path: str) -> str:
    """Length and time of a file, which change with its content; a dead link's own."""
    if is_remote(path):
        found = _gfile().stat(path)
        return f"{found.length} {found.mtime_nsec}"
    try:
        stat = os.stat(path)
    except OSError:
        stat = os.lstat(path)
    return f"{stat.st_size} {stat.st_mtime_ns}"


def is_dir(path: str) -> bool:
    """True when `path` is a folder."""
    return bool(_gfile().isdir(path)) if is_remote(path) else os.path.isdir(path)


def glob(pattern: str) -> list[str]:
    """Sorted paths that match."""
    return sorted(_gfile().glob(pattern) if is_remote(pattern) else local_glob.glob(pattern))


def entries(folder: str, hidden: bool = False) -> tuple[list[str], list[str], list[str]]:
    """Sorted names of the sub-folders, the files and the rest of a folder.

    The rest cannot be read: links to nothing, pipes, sockets, devices.

    Args:
      hidden: whether names that begin with a dot are among them.
    """
    if is_remote(folder):
        names = [n for n in _gfile().listdir(folder) if hidden or not n.startswith(".")]
        # Object stores end the names of folders with a slash.
        slashed = {n.rstrip("/") for n in names if n.endswith("/")}
        rest = {n for n in names if not n.endswith("/")}
        if not slashed:
            slashed = {n for n in rest if _gfile().isdir(os.path.join(folder, n))}
        return sorted(slashed), sorted(rest - slashed), []
    with os.scandir(folder) as found:
        seen = sorted((e.name, _kind(e)) for e in found if hidden or not e.name.startswith("."))
    folders, regular, others = (
        [name for name, kind in seen if kind == wanted] for wanted in range(3)
    )
    return folders, regular, others


def _kind(entry: os.DirEntry[str]) -> int:
    try:
        return 0 if entry.is_dir() else 1 if entry.is_file() else 2
    except OSError:  # links that go in a circle
        return 2


def walk(folder: str) -> Iterator[str]:
    """Paths of the files at any depth below a folder; follows no links to folders."""
    for where, _, names in _gfile().walk(folder) if is_remote(folder) else os.walk(folder):
        yield from (os.path.join(where, name) for name in names)


def holds(folder: str, wanted: Callable[[str], bool]) -> bool:
    """Whether something in a local folder, but no folder, has a name that is wanted."""
    with os.scandir(folder) as found:
        return any(wanted(entry.name) and _kind(entry) != 0 for entry in found)


def make_dirs(path: str) -> None:
    """Makes a folder and its parents; no error when it is there."""
    if is_remote(path):
        _gfile().makedirs(path)
    else:
        os.makedirs(path, exist_ok=True)


def remove(path: str) -> None:
    """Removes a file."""
    if is_remote(path):
        _gfile().remove(path)
    else:
        os.remove(path)


def remove_tree(path: str) -> None:
    """Removes a folder with all it holds; no error when it is not there."""
    if is_remote(path):
        if _gfile().exists(path):
            _gfile().rmtree(path)
    elif os.path.isdir(path):
        shutil.rmtree(path)
