"""The index of a split: one row an image, where its bytes are and what it is called.

The index is an Arrow table (about 60 bytes an image: 80 MB for all of
ImageNet), the only thing in memory that grows with the data.
"""

from __future__ import annotations

import itertools
import operator
import os
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from components import files
from components.example_gen import names
from components.example_gen.errors import SourceError
from components.example_gen.sources import devkit, folders, layouts, tar_index, tfds_source

# path: archive or file that holds the bytes; size -1: all of that file.
# label: -1 where there is a reason, -2 where the record itself says.
# reason: why the file cannot be used, as far as its name tells; "" for all others.
# span: null in a source without spans.
SCHEMA = pa.schema(
    [
        ("path", pa.dictionary(pa.int32(), pa.string())),
        ("name", pa.large_string()),
        ("offset", pa.int64()),
        ("size", pa.int64()),
        ("label", pa.int32()),
        ("synset", pa.dictionary(pa.int32(), pa.string())),
        ("reason", pa.dictionary(pa.int32(), pa.string())),
        ("span", pa.int32()),
    ]
)
WHOLE_FILE = -1
UNKNOWN_CLASS = -1
IN_RECORD = -2

_NESTED = (
    "an archive inside the archive of its class: its files are not read, pack them beside the"
    " others"
)

# name, offset, size, reason
_File = tuple[str, int, int, str]
# path, class, files: those of one class in one archive or folder; class "" where it is not known.
_Group = tuple[str, str, list[_File]]


def build(
    where: layouts.Layout,
    split: str,
    classes: Sequence[str] = (),
    span: int | None = None,
    skip: names.Skip = names.ignore,
) -> pa.Table:
    """Indexes the input split `train` or `eval` of a source, or of one span of it.

    Args:
      classes: of all spans, in the order of the labels; () are those of this layout.
      span: the number of the span.
      skip: told of the files that are left out, because they are no images.

    Returns:
      A table of SCHEMA, in the order of the source.

    Raises:
      SourceError: files are missing, damaged or in the wrong place.
    """
    train = split == "train"
    if where.kind == "tfds":
        groups = _tfds(where, where.train_name if train else where.eval_name)
    else:
        paths = layouts.matching(where.base, where.train if train else where.eval)
        if where.kind == "folder":
            groups = _folders(paths, where, train, skip)
        else:
            groups = (
                _ilsvrc_train(paths, skip) if train else _ilsvrc_eval(paths, where.devkit, skip)
            )
    label = {name: number for number, name in enumerate(classes or layouts.classes_of(where))}
    if where.allow_missing:
        groups = _known(groups, label, skip)
    table = _table(groups, label, IN_RECORD if where.kind == "tfds" else UNKNOWN_CLASS, span)
    if not table.num_rows:
        place = os.path.join(where.base, getattr(where, split)).removesuffix("/*/*")
        mend = "" if train else ", or take a part of train with --set data.eval_split=holdout"
        raise SourceError(f"{place} holds no images: put them there{mend}.")
    return table


def record_labels(table: pa.Table, base: str) -> np.ndarray:
    """The own labels of TFDS records, int64 [rows]: they lie inside the records, so each is read.

    -1 where the record is damaged.
    """
    fields, found = tfds_source.keys(base), []
    rows = zip(*(table[name].to_pylist() for name in ("path", "offset", "size")), strict=True)
    for path, places in itertools.groupby(rows, key=operator.itemgetter(0)):
        with files.open_read(path) as stream:
            for _, offset, size in places:
                stream.seek(offset)
                try:
                    found.append(tfds_source.parse(stream.read(size), fields)[1])
                except tfds_source.DamagedRecord:  # it will be quarantined
                    found.append(UNKNOWN_CLASS)
    return np.array(found, np.int64)


def _table(
    groups: Iterable[_Group], labels: dict[str, int], unknown: int, span: int | None
) -> pa.Table:
    batches = []
    for path, synset, found in groups:
        label = labels.get(synset, unknown)
        absent = f"its class {files.printable(synset)} {folders.ABSENT}" if synset else ""
        rows = [
            _row(path, synset, file, label, absent if label == UNKNOWN_CLASS else "")
            for file in found
        ]
        rows = [(*row, span) for row in rows]
        columns = zip(*rows, strict=True) if rows else [()] * len(SCHEMA)
        arrays = [pa.array(c, f.type) for c, f in zip(columns, SCHEMA, strict=True)]
        batches.append(pa.record_batch(arrays, schema=SCHEMA))
    return pa.Table.from_batches(batches, SCHEMA).unify_dictionaries().combine_chunks()


def _known(groups: Iterable[_Group], labels: Container[str], skip: names.Skip) -> Iterator[_Group]:
    """The groups of classes that the training split has."""
    for path, synset, found in groups:
        if not synset or synset in labels:
            yield path, synset, found
            continue
        for name, *_ in found:
            skip(name)


def _row(path: str, synset: str, file: _File, label: int, absent: str) -> tuple[Any, ...]:
    name, offset, size, reason = file
    shown = files.printable(name)
    if shown != name:
        reason = "its name is not UTF-8: rename it"
    reason = reason or absent
    return (
        path,
        shown,
        offset,
        size,
        UNKNOWN_CLASS if reason else label,
        files.printable(synset),
        reason,
    )


def _ilsvrc_train(paths: list[str], skip: names.Skip) -> Iterator[_Group]:
    for path in paths:
        yield path, "", _beside_the_classes(path, skip)
        for wnid, found in tar_index.members_of_classes(path, tar_index.class_tars(path), skip):
            group: list[_File] = []
            for member in found:
                name = os.path.basename(member.name)
                if names.is_archive(name):
                    group.append((name, *member[1:3], _NESTED))
                elif names.is_image(name):
                    group.append((name, *member[1:]))
                else:
                    skip(f"{wnid}/{name}")
            yield path, wnid, group


def _beside_the_classes(path: str, skip: names.Skip) -> list[_File]:
    found: list[_File] = []
    for member in tar_index.members(path, skip=skip):
        if folders.is_tar(member.name):
            continue
        if names.is_archive(member.name):
            raise SourceError(
                f"{path} holds {member.name}, which is no plain tar: unpack it to one."
            )
        if names.has_image_suffix(member.name):
            found.append((member.name, member.offset, member.size, folders.LOOSE))
        else:
            skip(os.path.normpath(member.name))
    return found


def _ilsvrc_eval(paths: list[str], kit_path: str, skip: names.Skip) -> Iterator[_Group]:
    kit = devkit.load(kit_path)
    for path in paths:
        by_class: dict[str, list[_File]] = {}
        for member in tar_index.members(path, skip=skip):
            name = os.path.basename(member.name)
            if names.is_image(name):
                by_class.setdefault(kit.wnid(name), []).append((name, *member[1:]))
            else:
                skip(name)
        for wnid in sorted(by_class):
            yield path, wnid, by_class[wnid]


def _folders(
    paths: list[str], where: layouts.Layout, train: bool, skip: names.Skip
) -> Iterator[_Group]:
    split = where.train_name if train else where.eval_name
    for path in paths:
        if folders.is_tar(path):
            # What lies beside the splits is told with train.
            yield from _tar_of_folders(path, split, {split, ""} if train else {split}, skip)
        else:
            yield from _class_folders(path, skip)


def _class_folders(path: str, skip: names.Skip) -> Iterator[_Group]:
    found, *others = files.entries(path, hidden=True)
    loose = _kept(itertools.chain(*others), names.has_image_suffix, skip)
    misplaced = [(name, folders.LOOSE) for name in loose]
    for folder in _kept((f"{name}/" for name in found), bool, skip):
        below, regular, unreadable = files.entries(os.path.join(path, folder), hidden=True)
        if not (below or regular or unreadable):
            skip(folder)
        for inner in _kept((f"{folder}{name}/" for name in below), bool, skip):
            inside = (
                os.path.relpath(file, path)
                for file in sorted(files.walk(os.path.join(path, inner)))
            )
            misplaced += [
                (name, folders.DEEP) for name in _kept(inside, names.has_image_suffix, skip)
            ]
        group: list[_File] = []
        for part, why in ((regular, ""), (unreadable, folders.NO_FILE)):
            images = _kept((f"{folder}{name}" for name in part), names.is_image, skip)
            group += [(name, 0, WHOLE_FILE, why) for name in images]
        yield path, folders.class_name(folder.rstrip("/")), group
    yield path, "", [(name, 0, WHOLE_FILE, why) for name, why in misplaced]


def _kept(paths: Iterable[str], wanted: Callable[[str], bool], skip: names.Skip) -> Iterator[str]:
    """The paths that are wanted and no by-products; those of folders end with a slash."""
    for path in paths:
        product = names.by_product(path)
        if not product and wanted(path):
            yield path
        else:
            skip(f"{product}{'/' * (product != path)}" if product else path)


def _tar_of_folders(path: str, split: str, told: set[str], skip: names.Skip) -> Iterator[_Group]:
    depth = folders.tar_folders(path).depth

    def product(name: str) -> None:
        if not split or (folders.place(name, depth)[0] if "/" in name.rstrip("/") else "") in told:
            skip(name)

    by_class: dict[str, list[_File]] = {}
    for member in tar_index.members(path, skip=product):
        folder, name, misplaced = folders.place(member.name, depth)
        if split and folder not in told:
            continue
        if not (names.has_image_suffix if misplaced else names.is_image)(member.name):
            skip(os.path.normpath(member.name))
            continue
        file = (
            os.path.normpath(member.name)
            if misplaced
            else f"{name}/{os.path.basename(member.name)}"
        )
        by_class.setdefault(name, []).append((file, *member[1:3], misplaced or member.reason))
    for name in sorted(by_class):
        yield path, name, sorted(by_class[name])


def _tfds(where: layouts.Layout, split: str) -> Iterator[_Group]:
    for path, found in tfds_source.records(where.base, split):
        # Most data sets name no files: the place in the data set is the name until the record is
        # read.
        start = os.path.basename(path)
        yield path, "", [(f"{start}@{offset}", offset, size, "") for offset, size in found]
