"""Class folders on a disk or in a tar: the classes, and what lies in the wrong place."""

from __future__ import annotations

import collections
import functools
import itertools
import os
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple, Self

from components import files
from components.example_gen import names
from components.example_gen.errors import SourceError
from components.example_gen.settings import HOLDOUT, Data
from components.example_gen.sources import tar_index
from components.example_gen.sources.kinds import File, Group, Source

# Why an image that lies in the wrong place is not used.
LOOSE = "lies in no class folder"
NO_FILE = "a link to nothing, a pipe or a device, and no file"
DEEP = "lies deeper than <split>/<class>/<file>: move it up"
_EVAL = ("val", "validation", "valid", "eval", "test")


class Folder(Source):
    """train/class/image on a disk, a tar for each split, or one tar that holds all."""

    grows = True

    @classmethod
    def find(cls, data: Data, shared: str) -> Self:
        base = data.source
        if base.lower().endswith((".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")):
            raise SourceError(
                f"{base} is compressed and cannot be read from the middle: gunzip it first."
            )
        if is_tar(base):
            return cls(*_one_tar(data, base))
        if not files.is_dir(base):
            raise SourceError(
                f"data.source={base} is not a folder: it must hold train/<class>/<image>."
            )
        train = _split_pattern(base, data.train_split or "train")
        if not train:
            raise SourceError(
                f"{base} has no {data.train_split or 'train'}/ folder and no such .tar: images must"
                " lie in train/<class>/<image>; data.train_split names another folder."
            )
        if data.eval_split == HOLDOUT:
            return cls(base, train, "")
        wanted = (data.eval_split,) if data.eval_split else _EVAL
        patterns = [p for p in (_split_pattern(base, name) for name in wanted) if p]
        if data.eval_split and not patterns:
            raise SourceError(
                f"{base} has no {data.eval_split}/ folder and no such .tar (data.eval_split)."
            )
        return cls(base, train, patterns[0] if patterns else "")

    def classes(self) -> tuple[str, ...]:
        """See the base class; a folder without images must be allowed (`allow_missing`)."""
        paths = self.paths("train")
        found: set[str] = set()
        empty: set[str] = set()
        for path in paths:
            full, without = _classes_below(path, self.train_name)
            found |= full
            empty |= without
        empty -= found
        for name in sorted(found | empty):
            names.check_class(name, paths[0])
        if empty and not self.allow_missing:
            more = f" and {len(empty) - 3} more" if len(empty) > 3 else ""
            raise SourceError(
                f"{paths[0]} has class folders without an image of their own"
                f" ({', '.join(sorted(empty)[:3])}{more}):"
                " put images there, remove them, or leave these classes out with --set"
                " data.allow_missing_classes=true."
            )
        return tuple(sorted(found))

    def check(self, classes: Sequence[str]) -> None:
        for path in self.paths("eval") if self.eval else []:
            full, _ = _classes_below(path, self.eval_name)
            for name in sorted(full.difference(classes)):
                if like := _alike(name, classes):
                    raise SourceError(
                        f"{path} has the class folder {files.printable(name)}, and train has"
                        f" {like}: give them one name."
                    )

    def groups(self, split: str, skip: names.Skip) -> Iterator[Group]:
        name = getattr(self, f"{split}_name")
        # What lies beside the splits of a tar is told with train.
        told = {name, ""} if split == "train" else {name}
        for path in self.paths(split):
            if is_tar(path):
                yield from _tar_of_folders(path, name, told, skip)
            else:
                yield from _class_folders(path, skip)


def is_tar(path: str) -> bool:
    """True for names of uncompressed tar archives."""
    return path.lower().endswith(".tar")


class _TarFolders(NamedTuple):
    """`depth`: folders above an image; `classes`, and `empty` ones without an image: of each split,
    "" where the tar has no such level.
    """

    depth: int
    classes: dict[str, set[str]]
    empty: dict[str, set[str]]


@functools.lru_cache(maxsize=64)
def _tar_folders(path: str) -> _TarFolders:
    """The class folders of a tar: they lie where most images do (of equal depths: the upper)."""
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
        split, name, misplaced = _place(folder, depth)
        if not misplaced and name:
            (classes if number else empty).setdefault(split, set()).add(name)
    return _TarFolders(depth, classes, empty)


@functools.lru_cache(maxsize=4096)  # the files of a folder come one after another
def _place(folder: str, depth: int) -> tuple[str, str, str]:
    """The split ("" where there is no such level), the class, and what is wrong with a folder of a
    tar whose images mostly lie at `depth`.
    """
    parts = _parts(folder)
    split = parts[depth - 2] if 2 <= depth <= len(parts) + 1 else ""
    if len(parts) == depth and parts:
        return split, names.class_name(parts[-1]), ""
    return split, "", DEEP if len(parts) > depth else LOOSE


def _parts(folder: str) -> list[str]:
    return [part for part in folder.split("/") if part not in ("", ".")]


def _alike(name: str, others: Iterable[str]) -> str:
    """Another name that differs in capitals or spaces only, "" without one."""
    plain = name.strip().casefold()
    return next(
        (other for other in others if other != name and other.strip().casefold() == plain), ""
    )


def _classes_below(path: str, split: str) -> tuple[set[str], set[str]]:
    """The classes with an image of a split's folder, or of a tar, and those without.

    `split` names a split of a tar that holds several.
    """
    if is_tar(path):
        _, *both = _tar_folders(path)
        full, empty = (set().union(*([of.get(split, ())] if split else of.values())) for of in both)
    else:
        found = [name for name in files.entries(path)[0] if not names.by_product(name)]
        full = {names.class_name(name) for name in found if _has_image(os.path.join(path, name))}
        empty = {names.class_name(name) for name in found}
    if not full | empty:
        raise SourceError(f"{path} has no class folders: images must lie in <class>/<image>.")
    return full, empty - full


def _has_image(folder: str) -> bool:
    # Object stores have no empty folders, and to list those with images would take minutes.
    return files.is_remote(folder) or files.holds(
        folder, lambda name: names.is_image(name) and not names.by_product(name)
    )


def _class_folders(path: str, skip: names.Skip) -> Iterator[Group]:
    found, *others = files.entries(path, hidden=True)
    loose = names.kept(itertools.chain(*others), names.has_image_suffix, skip)
    misplaced = [(name, LOOSE) for name in loose]
    for folder in names.kept((f"{name}/" for name in found), bool, skip):
        below, regular, unreadable = files.entries(os.path.join(path, folder), hidden=True)
        if not (below or regular or unreadable):
            skip(folder)
        for inner in names.kept((f"{folder}{name}/" for name in below), bool, skip):
            found_below = sorted(files.walk(os.path.join(path, inner)))
            inside = (os.path.relpath(file, path) for file in found_below)
            misplaced += [(name, DEEP) for name in names.kept(inside, names.has_image_suffix, skip)]
        group: list[File] = []
        for part, why in ((regular, ""), (unreadable, NO_FILE)):
            images = names.kept((f"{folder}{name}" for name in part), names.is_image, skip)
            group += [File(name, reason=why) for name in images]
        yield path, names.class_name(folder.rstrip("/")), group
    yield path, "", [File(name, reason=why) for name, why in misplaced]


def _tar_of_folders(path: str, split: str, told: set[str], skip: names.Skip) -> Iterator[Group]:
    depth = _tar_folders(path).depth

    def product(name: str) -> None:
        inside = "/" in name.rstrip("/")
        if not split or (_place(os.path.dirname(name), depth)[0] if inside else "") in told:
            skip(name)

    by_class: dict[str, list[File]] = {}
    for member in tar_index.members(path, skip=product):
        folder, name, misplaced = _place(os.path.dirname(member.name), depth)
        if split and folder not in told:
            continue
        if not (names.has_image_suffix if misplaced else names.is_image)(member.name):
            skip(os.path.normpath(member.name))
            continue
        path_inside = os.path.normpath(member.name)
        shown = path_inside if misplaced else f"{name}/{os.path.basename(member.name)}"
        file = File(shown, member.offset, member.size, misplaced or member.reason)
        by_class.setdefault(name, []).append(file)
    for name in sorted(by_class):
        yield path, name, sorted(by_class[name])


def _split_pattern(base: str, name: str) -> str:
    """The pattern of a split by name: of its folder or of its tar; "" when there is neither."""
    for path in (name, f"{name}.tar", f"{name}.TAR"):
        for found in files.glob(os.path.join(base, path)):
            if files.is_dir(found):
                return f"{path}/*/*"
            if is_tar(found):
                return path
    return ""


def _one_tar(data: Data, path: str) -> tuple[str, str, str, str, str]:
    """The fields of a tar that holds split/class/image, or class/image: a part is held out then."""
    if not files.is_file(path):
        raise SourceError(f"data.source={path} does not exist.")
    splits = list(_tar_folders(path).classes)
    train = data.train_split or ("" if splits == [""] else "train")
    wanted = [data.eval_split] if data.eval_split not in ("", HOLDOUT) else _EVAL
    found = [] if data.eval_split == HOLDOUT else [name for name in wanted if name in splits]
    if train not in splits or (data.eval_split not in ("", HOLDOUT) and not found):
        raise SourceError(
            f"{path} has the splits {', '.join(filter(None, splits)) or 'none'}: images must lie in"
            " train/<class>/<image>; data.train_split and data.eval_split name others."
        )
    base, name = os.path.split(path)
    return base, name, name if found else "", train, found[0] if found else ""
