"""What lies in a folder of versions, and which of it is whole."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TypeAlias

from google.protobuf.message import DecodeError
from tensorflow.core.protobuf.saved_model_pb2 import SavedModel

# How a version did on the evaluation split, below its folder; who pushes a model writes it.
EVALUATION_FILE = "assets.extra/evaluation.json"
# What was pushed, as `sha256sum -c` reads it in the folder of the version.
CHECKSUMS_FILE = "assets.extra/sha256sums"
# How the model sees image files: {"upright": true} where it applies the rotation that EXIF stores.
PIXELS_FILE = "assets.extra/pixels.json"
_INDEX = "variables/variables.index"
Files: TypeAlias = tuple[tuple[str, int, int], ...]
_INT64_MAX = 2**63 - 1
# Ops that hold what the files of variables bring.
_STATE = ("Var", "Mutable")


def list_versions(base_path: Path) -> dict[int, Path]:
    """Version folders under `base_path`, by number.

    Names are read as int64, leading zeros included; other entries are ignored. A
    version that cannot be read is listed: it must not hide the others.

    Raises:
      OSError: the folder cannot be read (unmounted, no permission).
    """
    found: dict[int, Path] = {}
    for entry in sorted(base_path.iterdir()):
        name = entry.name
        if name.isascii() and name.isdigit() and int(name) <= _INT64_MAX and _may_be_folder(entry):
            found[int(name)] = entry
    return found


def _may_be_folder(entry: Path) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        return True


def missing_part(path: Path) -> str | None:
    """Why the version at `path` is not whole yet, or None when it is.

    Copies arrive file by file; TFX's Pusher writes `saved_model.pb` last, other
    tools write it first, so the variables' index must be there as well, where there are variables.

    Raises:
      OSError: a file is there and cannot be read (no permission, stale mount).
    """
    try:
        content = (path / "saved_model.pb").read_bytes()
    except FileNotFoundError:
        return f"{'saved_model.pb' if has_variables(path) else _INDEX} is missing"
    try:
        graphs = SavedModel.FromString(content).meta_graphs
    except DecodeError:
        return "saved_model.pb is cut off or damaged"
    if not graphs:
        return "saved_model.pb is empty"
    if not has_variables(path) and any(
        n.op.startswith(_STATE) for g in graphs for n in g.graph_def.node
    ):
        return f"{_INDEX} is missing"
    return None


def has_variables(path: Path) -> bool:
    """Whether there are variables to restore; a SavedModel of constants may come without."""
    return (path / _INDEX).is_file()


def changed_part(path: Path) -> str | None:
    """The first file that is not as it was pushed, in words; None for a version without checksums.

    Files that somebody has put beside the pushed ones are no change.

    Raises:
      OSError: a file is there and cannot be read.
    """
    checksums = path / CHECKSUMS_FILE
    if not checksums.is_file():
        return None
    for line in checksums.read_bytes().decode(errors="replace").splitlines():
        digest, _, name = line.partition("  ")
        if not (path / name).is_file():
            return f"{name} is missing"
        with (path / name).open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != digest:
                return f"{name} has changed"
    return None


def fingerprint(path: Path) -> Files:
    """Names, sizes and times of a version's files: changes when one is written again.

    Raises:
      OSError: a file cannot be looked at.
    """
    files = sorted(f for f in path.rglob("*") if f.is_file())
    return tuple((str(f), f.stat().st_size, f.stat().st_mtime_ns) for f in files)
