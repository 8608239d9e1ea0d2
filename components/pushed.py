"""The folder of pushed models: TensorFlow Serving's layout, one numbered folder a version."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
from collections.abc import Iterator, Mapping

import tensorflow as tf

from components import files
from serving.server.version_folders import CHECKSUMS_FILE, EVALUATION_FILE

# What the version was made from: of pipeline.local.history.
LINEAGE_FILE = "assets.extra/lineage.json"
# Written at the push, and no part of the model.
_ADDED = (EVALUATION_FILE, LINEAGE_FILE, CHECKSUMS_FILE)
_MODEL_FILE = "saved_model.pb"
_UNFINISHED = ".pushing-"
_LOCK = ".push.lock"


def checksums(model: str) -> str:
    """A line "SHA256  PATH" for each file in the folder of a SavedModel, as `sha256sum` has it."""
    return "".join(f"{_sha256(path)}  {path[len(model) + 1 :]}\n" for path in _files(model))


def difference(model: str, wanted: str) -> str:
    """The first difference of a SavedModel from lines of `checksums`, in words; "" without one."""
    found, known = (_by_path(text) for text in (checksums(model), wanted))
    added = sorted(found.keys() - known.keys())
    return _change(found, known) or (f"{added[0]} is no part of it" if added else "")


def damage(version: str) -> str:
    """What is wrong with a pushed version, in words; "" for a whole one."""
    path = os.path.join(version, CHECKSUMS_FILE)
    if not files.is_file(path):  # pushed by an earlier release, or by others
        return unreadable(version)
    try:
        # What somebody has put beside them is no damage.
        return _change(_by_path(checksums(version)), _by_path(files.read(path).decode()))
    except (OSError, tf.errors.OpError, UnicodeDecodeError) as error:
        return f"{CHECKSUMS_FILE} cannot be read: {error}"


def unreadable(model: str) -> str:
    """Why TensorFlow cannot load a SavedModel and its weights; "" where it can."""
    try:
        tf.saved_model.load(model)
        return ""
    except Exception as error:  # TensorFlow lets through whatever damaged contents lead to
        return (str(error) or type(error).__name__).splitlines()[0]


@contextlib.contextmanager
def alone(folder: str) -> Iterator[None]:
    """One push at a time, of whatever pipeline, into a folder of this machine.

    What another one copies would be taken for what a killed one has left, and both may have one
    number.
    """
    if files.is_remote(folder):
        yield
        return
    files.make_dirs(folder)
    with open(os.path.join(folder, _LOCK), "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def copy(model: str, target: str, extra: Mapping[str, str] | None = None) -> None:
    """Copies a SavedModel so that `target` is whole or not there.

    Object stores cannot rename a folder: there saved_model.pb, by which a version is known to be
    whole, comes last.

    Args:
      model: its folder.
      target: that does not exist yet.
      extra: texts by path below `target`, which go along.
    """
    parent, name = os.path.split(target)
    remote = files.is_remote(target)
    place = target if remote else os.path.join(parent, f"{_UNFINISHED}{name}")
    for below, text in (extra or {}).items():
        files.make_dirs(os.path.dirname(os.path.join(place, below)))
        files.write(os.path.join(place, below), text)
    for path in sorted(_files(model), key=lambda path: os.path.basename(path) == _MODEL_FILE):
        copied = place + path[len(model) :]
        tf.io.gfile.makedirs(os.path.dirname(copied))
        tf.io.gfile.copy(path, copied, overwrite=True)
    if not remote:
        os.rename(place, target)


def remove_unfinished(folder: str, version: int) -> None:
    """Removes what a killed `copy` left in the folder of versions, up to the next version's."""
    for path in files.glob(os.path.join(folder, f"{_UNFINISHED}*")):
        files.remove_tree(path)
    if not files.is_remote(folder) or not files.is_dir(folder):
        return
    for name in files.entries(folder)[0]:
        path = os.path.join(folder, name)
        begun = name.isdecimal() and int(name) <= version
        if begun and not files.is_file(f"{path}/{_MODEL_FILE}"):
            files.remove_tree(path)


def _files(folder: str) -> list[str]:
    """Those of a model, without what a push adds."""
    return sorted(path for path in files.walk(folder) if not path.endswith(_ADDED))


def _sha256(path: str) -> str:
    with files.open_read(path) as file:
        found = hashlib.sha256()
        while block := file.read(2**22):
            found.update(block)
    return found.hexdigest()


def _change(found: Mapping[str, str], known: Mapping[str, str]) -> str:
    """The first of the known files that is not as it was, in words; "" without one."""
    for path in sorted(known):
        if found.get(path) != known[path]:
            return f"{path} has changed" if path in found else f"{path} is missing"
    return ""


def _by_path(text: str) -> dict[str, str]:
    """Digests of lines of `checksums`."""
    lines = (line.partition("  ") for line in text.splitlines())
    return {path: digest for digest, _, path in lines}
