"""Where the parts of a source, or of one span of it, lie; looked at before anything heavy starts.

No TFX here, and TensorFlow only for remote paths and TFDS.
"""

from __future__ import annotations

import collections
import dataclasses
import functools
import os
from typing import Any, NamedTuple

from components.example_gen import devkit, files, tar_index, tfds_source
from components.example_gen.errors import SourceError

# Value of data.eval_split that takes a part of train although there is an evaluation split.
HOLDOUT = "holdout"
_ILSVRC_TRAIN = "ILSVRC2012_img_train.tar"
_ILSVRC_EVAL = "ILSVRC2012_img_val.tar"
_ILSVRC_DEVKIT = "ILSVRC2012_devkit_t12.tar.gz"
_FOLDER_EVAL = ("val", "validation", "valid", "eval", "test")
# Why an image that lies in the wrong place is not used.
LOOSE = "lies in no class folder"
NO_FILE = "a link to nothing, a pipe or a device, and no file"
DEEP = "lies deeper than <split>/<class>/<file>: move it up"


@dataclasses.dataclass(frozen=True)
class Layout:
    """A source as TFX sees it: patterns below a base folder.

    `eval` is "" when a part of `train` is held out. `train_name` and `eval_name`
    are the splits' names inside a TFDS data set or a tar that holds all splits.
    """

    kind: str
    base: str
    train: str
    eval: str
    devkit: str = ""
    train_name: str = ""
    eval_name: str = ""


def layout(data: dict[str, Any], kit_folder: str = "") -> Layout:
    """Finds the parts of the source, or of one span of it.

    Args:
      data: the fields of `pipeline.config.Data`, without marks of spans.
      kit_folder: where else ILSVRC's development kit may lie.

    Raises:
      SourceError: something is missing; the message names it and where it is expected.
    """
    kinds = {"ilsvrc": _ilsvrc, "folder": _folder, "tfds": _tfds}
    kind = data["kind"]
    if kind not in kinds:
        raise SourceError(f"data.kind must be one of {', '.join(kinds)}. Received: {kind}.")
    if not data["source"] and kind != "tfds":
        raise SourceError(f"data.source must name the folder that holds the data (data.kind={kind}).")
    return kinds[kind]({**data, "source": one_spelling(data["source"]), "kit_folder": kit_folder})


def one_spelling(path: str) -> str:
    """The same text for every way to write `data.source`: another one would miss the cache."""
    path = path or tfds_source.default_dir()
    path = path.rstrip("/") if files.is_remote(path) else os.path.abspath(os.path.expanduser(path))
    if files.printable(path) != path:
        raise SourceError(f"data.source={files.printable(path)} is not UTF-8: rename the folder.")
    if set("[]*?\\") & set(path):
        raise SourceError(
            f"data.source={path} has one of the characters [ ] * ? \\, which TFX takes for a pattern: "
            "rename the folder or link to it."
        )
    return path


@functools.lru_cache(maxsize=64)
def classes_of(where: Layout) -> tuple[str, ...]:
    """Identifiers of the classes (ILSVRC: wnids), sorted; looked up once a process.

    Raises:
      SourceError: an archive is damaged.
    """
    if where.kind == "tfds":
        return tfds_source.class_names(where.base)
    paths = matching(where.base, where.train)
    if where.kind == "ilsvrc":
        return tuple(sorted({wnid for path in paths for wnid in tar_index.class_tars(path)}))
    names = sorted({name for path in paths for name in _folder_classes(path, where.train_name)})
    for name in names:
        if files.printable(name) != name:
            raise SourceError(
                f"The class folder {files.printable(name)} of {paths[0]} is not UTF-8: rename it."
            )
        if len(name.splitlines()) != 1:  # labels.txt has a class a line
            raise SourceError(f"The class folder {name!r} of {paths[0]} has a line break: rename it.")
    return tuple(names)


@functools.lru_cache(maxsize=64)
def labels_of(where: Layout) -> tuple[str, ...]:
    """Names for people, in the order of `classes_of`: ILSVRC's words, else the identifiers."""
    names = classes_of(where)
    if not where.devkit:
        return names
    words = devkit.load(where.devkit).words
    unknown = [name for name in names if name not in words]
    if unknown:
        raise SourceError(
            f"The development kit {where.devkit} has no class {', '.join(unknown[:3])} of the training "
            "archive: they belong to different data sets."
        )
    return tuple(words[name] for name in names)


def matching(base: str, pattern: str) -> list[str]:
    """Archives or split folders of a pattern.

    Raises:
      SourceError: there is none.
    """
    pattern = pattern.removesuffix("/*/*")
    found = files.glob(os.path.join(base, pattern))
    if not found:
        raise SourceError(f"{os.path.join(base, pattern)} is missing: put it there or change data.source.")
    return found


def is_tar(path: str) -> bool:
    """True for names of uncompressed tar archives."""
    return path.endswith(".tar")


def _ilsvrc(data: dict[str, Any]) -> Layout:
    base = data["source"]
    train = data["train_split"] or _ILSVRC_TRAIN
    kits = [os.path.join(folder, _ILSVRC_DEVKIT) for folder in (base, data["kit_folder"]) if folder]
    kit = next(filter(files.is_file, kits), "")
    held_out = data["eval_split"] == HOLDOUT
    evaluation = "" if held_out else data["eval_split"] or _ILSVRC_EVAL
    missing = [p for p in (train, evaluation) if p and not files.glob(os.path.join(base, p))]
    missing += [] if kit else [_ILSVRC_DEVKIT]
    if missing:
        advice = " or set data.eval_split=holdout" if missing == [evaluation] else ""
        raise SourceError(
            f"{base} lacks {', '.join(missing)}: put the archives there as image-net.org hands them out, "
            f"not unpacked{advice}."
        )
    return Layout("ilsvrc", base, train, evaluation, devkit=kit)


def _folder(data: dict[str, Any]) -> Layout:
    base = data["source"]
    if base.endswith((".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")):
        raise SourceError(f"{base} is compressed and cannot be read from the middle: gunzip it first.")
    if is_tar(base):
        return _one_tar(data, base)
    if not files.is_dir(base):
        raise SourceError(f"data.source={base} is not a folder: it must hold train/<class>/<image>.")
    train = _split_pattern(base, data["train_split"] or "train")
    if not train:
        raise SourceError(
            f"{base} has no {data['train_split'] or 'train'}/ folder and no such .tar: images must lie in "
            "train/<class>/<image>; data.train_split names another folder."
        )
    if data["eval_split"] == HOLDOUT:
        return Layout("folder", base, train, "")
    wanted = (data["eval_split"],) if data["eval_split"] else _FOLDER_EVAL
    patterns = [p for p in (_split_pattern(base, name) for name in wanted) if p]
    if data["eval_split"] and not patterns:
        raise SourceError(f"{base} has no {data['eval_split']}/ folder and no such .tar (data.eval_split).")
    return Layout("folder", base, train, patterns[0] if patterns else "")


def _split_pattern(base: str, name: str) -> str:
    """The pattern of a split by name: of its folder or of its tar; "" when there is neither."""
    for path in (name, f"{name}.tar"):
        for found in files.glob(os.path.join(base, path)):
            if files.is_dir(found):
                return f"{path}/*/*"
            if is_tar(found):
                return path
    return ""


def _one_tar(data: dict[str, Any], path: str) -> Layout:
    """A tar that holds split/class/image, or class/image: then a part is held out."""
    if not files.is_file(path):
        raise SourceError(f"data.source={path} does not exist.")
    splits = list(tar_folders(path).classes)
    train = data["train_split"] or ("" if splits == [""] else "train")
    wanted = [data["eval_split"]] if data["eval_split"] not in ("", HOLDOUT) else _FOLDER_EVAL
    found = [] if data["eval_split"] == HOLDOUT else [name for name in wanted if name in splits]
    if train not in splits or (data["eval_split"] not in ("", HOLDOUT) and not found):
        raise SourceError(
            f"{path} has the splits {', '.join(filter(None, splits)) or 'none'}: images must lie in "
            f"train/<class>/<image>; data.train_split and data.eval_split name others."
        )
    base, name = os.path.split(path)
    return Layout("folder", base, name, name if found else "", "", train, found[0] if found else "")


class TarFolders(NamedTuple):
    """`depth`: folders above an image; `classes`: of each split, "" where the tar has no such level."""

    depth: int
    classes: dict[str, set[str]]


@functools.lru_cache(maxsize=64)
def tar_folders(path: str) -> TarFolders:
    """The class folders of a tar: they lie at the depth that most files have (of equals: the upper)."""
    found = collections.Counter(os.path.dirname(member.name) for member in tar_index.members(path))
    depths: collections.Counter[int] = collections.Counter()
    for folder, number in found.items():
        depths[len(_parts(folder))] += number
    depth = min(depths, key=lambda d: (-depths[d], d), default=0)
    classes: dict[str, set[str]] = {}
    for folder in found:
        split, name, misplaced = place(f"{folder}/", depth)
        if not misplaced and name:
            classes.setdefault(split, set()).add(name)
    return TarFolders(depth, classes)


def place(name: str, depth: int) -> tuple[str, str, str]:
    """The split ("" where there is no such level), the class, and what is wrong with a path in a tar.

    Args:
      depth: of `tar_folders`.
    """
    return _place(os.path.dirname(name), depth)


@functools.lru_cache(maxsize=4096)  # the files of a folder come one after another
def _place(folder: str, depth: int) -> tuple[str, str, str]:
    parts = _parts(folder)
    split = parts[depth - 2] if 2 <= depth <= len(parts) + 1 else ""
    if len(parts) == depth and parts:
        return split, parts[-1], ""
    return split, "", DEEP if len(parts) > depth else LOOSE


def _parts(folder: str) -> list[str]:
    return [part for part in folder.split("/") if part not in ("", ".")]


def _folder_classes(path: str, split: str) -> list[str]:
    if not is_tar(path):
        found = files.entries(path)[0]
    elif split:
        found = sorted(tar_folders(path).classes[split])
    else:
        found = sorted(set().union(*tar_folders(path).classes.values()))
    if not found:
        raise SourceError(f"{path} has no class folders: images must lie in <class>/<image>.")
    return found


def _tfds(data: dict[str, Any]) -> Layout:
    base = tfds_source.find(data["tfds_name"], data["source"])
    train, evaluation = tfds_source.split_names(base, data["train_split"], data["eval_split"], HOLDOUT)
    # Both patterns are all files of the data set: a slice such as train[:90%] is no pattern.
    return Layout("tfds", base, "*", "?*" if evaluation else "", "", train, evaluation)
