"""Where the parts of a source, or of one span of it, lie; looked at before anything heavy starts.

No TFX here, and TensorFlow only for remote paths and TFDS.
"""

from __future__ import annotations

import dataclasses
import functools
import os
from typing import Any

from components import files
from components.example_gen.errors import SourceError
from components.example_gen.sources import devkit, folders, tar_index, tfds_source

# Value of data.eval_split that takes a part of train although there is an evaluation split.
HOLDOUT = "holdout"
_ILSVRC_TRAIN = "ILSVRC2012_img_train.tar"
_ILSVRC_EVAL = "ILSVRC2012_img_val.tar"
# As it is handed out, as a browser may leave it, and unpacked.
_ILSVRC_DEVKIT = "ILSVRC2012_devkit_t12"
_DEVKITS = tuple(f"{_ILSVRC_DEVKIT}{end}" for end in (".tar.gz", ".tgz", ".tar", "/data", ""))
_FOLDER_EVAL = ("val", "validation", "valid", "eval", "test")


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
    # A class may have no image in a split: what only one split has is left out.
    allow_missing: bool = False


def layout(data: dict[str, Any], kit_folder: str = "") -> Layout:
    """Finds the parts of the source, or of one span of it.

    Args:
      data: the fields of `pipeline.config.settings.Data`, without marks of spans.
      kit_folder: where else ILSVRC's development kit may lie.

    Raises:
      SourceError: something is missing; the message names it and where it is expected.
    """
    kinds = {"ilsvrc": _ilsvrc, "folder": _folder, "tfds": _tfds}
    kind = data["kind"]
    if kind not in kinds:
        raise SourceError(f"data.kind must be one of {', '.join(kinds)}. Received: {kind}.")
    if not data["source"] and kind != "tfds":
        raise SourceError(
            f"data.source must name the folder that holds the data (data.kind={kind})."
        )
    found = kinds[kind]({**data, "source": one_spelling(data["source"]), "kit_folder": kit_folder})
    return dataclasses.replace(found, allow_missing=data["allow_missing_classes"])


def one_spelling(path: str) -> str:
    """The same text for every way to write `data.source`: another one would miss the cache."""
    path = path or tfds_source.default_dir()
    path = path.rstrip("/") if files.is_remote(path) else os.path.abspath(os.path.expanduser(path))
    if files.printable(path) != path:
        raise SourceError(f"data.source={files.printable(path)} is not UTF-8: rename the folder.")
    if set("[]*?\\") & set(path):
        raise SourceError(
            f"data.source={path} has one of the characters [ ] * ? \\, which TFX takes for a"
            " pattern: rename the folder or link to it."
        )
    return path


@functools.lru_cache(maxsize=64)
def classes_of(where: Layout) -> tuple[str, ...]:
    """Identifiers of the classes (ILSVRC: wnids), sorted; looked up once a process.

    Raises:
      SourceError: an archive is damaged; or a class folder has no images or a name that cannot be
        used.
    """
    if where.kind == "tfds":
        return tfds_source.class_names(where.base)
    paths = matching(where.base, where.train)
    if where.kind == "ilsvrc":
        return tuple(sorted({wnid for path in paths for wnid in tar_index.class_tars(path)}))
    found: set[str] = set()
    empty: set[str] = set()
    for path in paths:
        classes = folders.classes(path, where.train_name)
        found |= classes.full
        empty |= classes.empty
    empty -= found
    for name in sorted(found | empty):
        _check_class(name, paths[0])
    if empty and not where.allow_missing:
        more = f" and {len(empty) - 3} more" if len(empty) > 3 else ""
        raise SourceError(
            f"{paths[0]} has class folders without an image of their own"
            f" ({', '.join(sorted(empty)[:3])}{more}):"
            " put images there, remove them, or leave these classes out with --set"
            " data.allow_missing_classes=true."
        )
    return tuple(sorted(found))


def _check_class(name: str, path: str) -> None:
    if files.printable(name) != name:
        raise SourceError(
            f"The class folder {files.printable(name)} of {path} is not UTF-8: rename it."
        )
    if len(name.splitlines()) != 1:  # labels.txt has a class a line
        raise SourceError(f"The class folder {name!r} of {path} has a line break: rename it.")


@functools.lru_cache(maxsize=64)
def labels_of(where: Layout) -> tuple[str, ...]:
    """Names for people, in the order of `classes_of`: ILSVRC's words, else the identifiers."""
    wnids = classes_of(where)
    if not where.devkit:
        return wnids
    words = devkit.load(where.devkit).words
    unknown = [wnid for wnid in wnids if wnid not in words]
    if unknown:
        raise SourceError(
            f"The development kit {where.devkit} has no class {', '.join(unknown[:3])} of the"
            " training archive: they belong to different data sets."
        )
    return tuple(words[wnid] for wnid in wnids)


def matching(base: str, pattern: str) -> list[str]:
    """Archives or split folders of a pattern.

    Raises:
      SourceError: there is none.
    """
    pattern = pattern.removesuffix("/*/*")
    found = files.glob(os.path.join(base, pattern))
    if not found:
        raise SourceError(
            f"{os.path.join(base, pattern)} is missing: put it there or change data.source."
        )
    return found


def _ilsvrc(data: dict[str, Any]) -> Layout:
    base = data["source"]
    train = data["train_split"] or _ILSVRC_TRAIN
    places = [place for place in (base, data["kit_folder"]) if place]
    kits = (os.path.join(place, name) for place in places for name in _DEVKITS)
    kit = next(filter(devkit.is_kit, kits), "")
    held_out = data["eval_split"] == HOLDOUT
    evaluation = "" if held_out else data["eval_split"] or _ILSVRC_EVAL
    missing = [p for p in (train, evaluation) if p and not files.glob(os.path.join(base, p))]
    missing += [] if kit else [_DEVKITS[0]]
    if missing:
        advice = " or set data.eval_split=holdout" if missing == [evaluation] else ""
        raise SourceError(
            f"{base} lacks {', '.join(missing)}: put the archives there as image-net.org hands them"
            f" out, not unpacked{advice}."
        )
    return Layout("ilsvrc", base, train, evaluation, devkit=kit)


def _folder(data: dict[str, Any]) -> Layout:
    base = data["source"]
    if base.lower().endswith((".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")):
        raise SourceError(
            f"{base} is compressed and cannot be read from the middle: gunzip it first."
        )
    if folders.is_tar(base):
        return _one_tar(data, base)
    if not files.is_dir(base):
        raise SourceError(
            f"data.source={base} is not a folder: it must hold train/<class>/<image>."
        )
    train = _split_pattern(base, data["train_split"] or "train")
    if not train:
        raise SourceError(
            f"{base} has no {data['train_split'] or 'train'}/ folder and no such .tar: images must"
            " lie in train/<class>/<image>; data.train_split names another folder."
        )
    if data["eval_split"] == HOLDOUT:
        return Layout("folder", base, train, "")
    wanted = (data["eval_split"],) if data["eval_split"] else _FOLDER_EVAL
    patterns = [p for p in (_split_pattern(base, name) for name in wanted) if p]
    if data["eval_split"] and not patterns:
        raise SourceError(
            f"{base} has no {data['eval_split']}/ folder and no such .tar (data.eval_split)."
        )
    return Layout("folder", base, train, patterns[0] if patterns else "")


def _split_pattern(base: str, name: str) -> str:
    """The pattern of a split by name: of its folder or of its tar; "" when there is neither."""
    for path in (name, f"{name}.tar", f"{name}.TAR"):
        for found in files.glob(os.path.join(base, path)):
            if files.is_dir(found):
                return f"{path}/*/*"
            if folders.is_tar(found):
                return path
    return ""


def _one_tar(data: dict[str, Any], path: str) -> Layout:
    """A tar that holds split/class/image, or class/image: then a part is held out."""
    if not files.is_file(path):
        raise SourceError(f"data.source={path} does not exist.")
    splits = list(folders.tar_folders(path).classes)
    train = data["train_split"] or ("" if splits == [""] else "train")
    wanted = [data["eval_split"]] if data["eval_split"] not in ("", HOLDOUT) else _FOLDER_EVAL
    found = [] if data["eval_split"] == HOLDOUT else [name for name in wanted if name in splits]
    if train not in splits or (data["eval_split"] not in ("", HOLDOUT) and not found):
        raise SourceError(
            f"{path} has the splits {', '.join(filter(None, splits)) or 'none'}: images must lie in"
            " train/<class>/<image>; data.train_split and data.eval_split name others."
        )
    base, name = os.path.split(path)
    return Layout("folder", base, name, name if found else "", "", train, found[0] if found else "")


def _tfds(data: dict[str, Any]) -> Layout:
    base = tfds_source.find(data["tfds_name"], data["source"])
    train, evaluation = tfds_source.split_names(
        base, data["train_split"], data["eval_split"], HOLDOUT
    )
    # Both patterns are all files of the data set: a slice such as train[:90%] is no pattern.
    return Layout("tfds", base, "*", "?*" if evaluation else "", "", train, evaluation)
