"""Class folders on a disk or in a tar: the classes, and what lies in the wrong place."""

from __future__ import annotations

import collections
import functools
import os
import unicodedata
from collections.abc import Iterable
from typing import NamedTuple

from components import files
from components.example_gen import names
from components.example_gen.errors import SourceError
from components.example_gen.sources import tar_index

# Why an image that lies in the wrong place is not used.
LOOSE = "lies in no class folder"
NO_FILE = "a link to nothing, a pipe or a device, and no file"
DEEP = "lies deeper than <split>/<class>/<file>: move it up"
# How the reason for an image of a class ends that only the evaluation split has.
ABSENT = "is not in the training split"


def is_tar(path: str) -> bool:
    """True for names of uncompressed tar archives."""
    return path.lower().endswith(".tar")


class TarFolders(NamedTuple):
    """`depth`: folders above an image; `classes`: of each split, "" where the tar has no such
    level.

    `empty`: class folders of each split without an image.
    """

    depth: int
    classes: dict[str, set[str]]
    empty: dict[str, set[str]]


@functools.lru_cache(maxsize=64)
def tar_folders(path: str) -> TarFolders:
    """The class folders of a tar: they lie at the depth that most images have (of equals: the
    upper).
    """
    found = collections.Counter[str]()  # folder -> its images
    for member in tar_index.members(path):
        found[os.path.dirname(member.name)] += names.is_image(member.name)
    depths: collections.Counter[int] = collections.Counter()
    for folder, number in found.items():
        depths[len(_parts(folder))] += number
    depth = min(depths, key=lambda d: (-depths[d], d), default=0)
    classes: dict[str, set[str]] = {}
    empty: dict[str, set[str]] = {}
    for folder, number in found.items():
        split, name, misplaced = place(f"{folder}/", depth)
        if not misplaced and name:
            (classes if number else empty).setdefault(split, set()).add(name)
    return TarFolders(depth, classes, empty)


def place(name: str, depth: int) -> tuple[str, str, str]:
    """The split ("" where there is no such level), the class, and what is wrong with a path in a
    tar.

    Args:
      depth: of `tar_folders`.
    """
    return _place(os.path.dirname(name), depth)


@functools.lru_cache(maxsize=4096)  # the files of a folder come one after another
def _place(folder: str, depth: int) -> tuple[str, str, str]:
    parts = _parts(folder)
    split = parts[depth - 2] if 2 <= depth <= len(parts) + 1 else ""
    if len(parts) == depth and parts:
        return split, class_name(parts[-1]), ""
    return split, "", DEEP if len(parts) > depth else LOOSE


def class_name(folder: str) -> str:
    """The class of a folder: macOS spells accents in two characters, other systems in one."""
    return unicodedata.normalize("NFC", folder)


def _parts(folder: str) -> list[str]:
    return [part for part in folder.split("/") if part not in ("", ".")]


def alike(name: str, others: Iterable[str]) -> str:
    """Another name that differs in capitals or spaces only, "" without one."""
    plain = name.strip().casefold()
    return next(
        (other for other in others if other != name and other.strip().casefold() == plain), ""
    )


class Classes(NamedTuple):
    """Classes with an image, and those without."""

    full: set[str]
    empty: set[str]


def classes(path: str, split: str) -> Classes:
    """The classes of a split's folder, or of a tar; `split` names one of a tar that holds several.

    Raises:
      SourceError: there is no class folder, or the tar is damaged.
    """
    if is_tar(path):
        _, *both = tar_folders(path)
        full, empty = (set().union(*([of.get(split, ())] if split else of.values())) for of in both)
    else:
        found = [name for name in files.entries(path)[0] if not names.by_product(name)]
        full = {class_name(name) for name in found if _has_image(os.path.join(path, name))}
        empty = {class_name(name) for name in found}
    if not full | empty:
        raise SourceError(f"{path} has no class folders: images must lie in <class>/<image>.")
    return Classes(full, empty - full)


def _has_image(folder: str) -> bool:
    # Object stores have no empty folders, and to list those with images would take minutes.
    return files.is_remote(folder) or files.holds(
        folder, lambda name: names.is_image(name) and not names.by_product(name)
    )
