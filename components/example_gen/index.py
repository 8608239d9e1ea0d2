"""The index of a split: one row an image, where its bytes are and what it is called.

The index is an Arrow table (about 60 bytes an image: 80 MB for all of
ImageNet), the only thing in memory that grows with the data.
"""

from __future__ import annotations

import itertools
import operator
import os
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from components.example_gen import devkit, files, images, layouts, tar_index, tfds_source
from components.example_gen.errors import SourceError

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

# name, offset, size, reason
_File = tuple[str, int, int, str]
# path, class, files: those of one class in one archive or folder; class "" where it is not known.
_Group = tuple[str, str, list[_File]]


def build(
    where: layouts.Layout, split: str, classes: Sequence[str] = (), span: int | None = None
) -> pa.Table:
    """Indexes the input split `train` or `eval` of a source, or of one span of it.

    Args:
      classes: of all spans, in the order of the labels; () are those of this layout.
      span: the number of the span.

    Returns:
      A table of SCHEMA, in the order of the source.

    Raises:
      SourceError: files are missing, damaged or in the wrong place.
    """
    if where.kind == "tfds":
        groups = _tfds(where, where.train_name if split == "train" else where.eval_name)
    else:
        paths = layouts.matching(where.base, where.train if split == "train" else where.eval)
        if where.kind == "folder":
            groups = _folders(paths, where.train_name if split == "train" else where.eval_name)
        else:
            groups = _ilsvrc_train(paths) if split == "train" else _ilsvrc_eval(paths, where.devkit)
    label = {name: number for number, name in enumerate(classes or layouts.classes_of(where))}
    table = _table(groups, label, IN_RECORD if where.kind == "tfds" else UNKNOWN_CLASS, span)
    if not table.num_rows:
        raise SourceError(f"{os.path.join(where.base, getattr(where, split))} holds no images.")
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


def _table(groups: Iterable[_Group], labels: dict[str, int], unknown: int, span: int | None) -> pa.Table:
    batches = []
    for path, synset, found in groups:
        label = labels.get(synset, unknown)
        absent = f"its class {files.printable(synset)} is not in the training split" if synset else ""
        rows = [_row(path, synset, file, label, absent if label == UNKNOWN_CLASS else "") for file in found]
        rows = [(*row, span) for row in rows]
        columns = zip(*rows, strict=True) if rows else [()] * len(SCHEMA)
        arrays = [pa.array(c, f.type) for c, f in zip(columns, SCHEMA, strict=True)]
        batches.append(pa.record_batch(arrays, schema=SCHEMA))
    return pa.Table.from_batches(batches, SCHEMA).unify_dictionaries().combine_chunks()


def _row(path: str, synset: str, file: _File, label: int, absent: str) -> tuple[Any, ...]:
    name, offset, size, reason = file
    shown = files.printable(name)
    if shown != name:
        reason = "its name is not UTF-8: rename it"
    reason = reason or absent
    return path, shown, offset, size, UNKNOWN_CLASS if reason else label, files.printable(synset), reason


def _ilsvrc_train(paths: list[str]) -> Iterator[_Group]:
    for path in paths:
        loose = [m for m in tar_index.members(path) if images.named_like_image(m.name)]
        yield path, "", [(m.name, m.offset, m.size, layouts.LOOSE) for m in loose]
        for wnid, found in tar_index.members_of_classes(path, tar_index.class_tars(path)):
            yield path, wnid, [(os.path.basename(m.name), *m[1:]) for m in found]


def _ilsvrc_eval(paths: list[str], kit_path: str) -> Iterator[_Group]:
    kit = devkit.load(kit_path)
    for path in paths:
        by_class: dict[str, list[_File]] = {}
        for member in tar_index.members(path):
            name = os.path.basename(member.name)
            by_class.setdefault(kit.wnid(name), []).append((name, *member[1:]))
        for wnid in sorted(by_class):
            yield path, wnid, by_class[wnid]


def _folders(paths: list[str], split: str) -> Iterator[_Group]:
    for path in paths:
        yield from _tar_of_folders(path, split) if layouts.is_tar(path) else _class_folders(path)


def _class_folders(path: str) -> Iterator[_Group]:
    classes, *others = files.entries(path)
    loose = itertools.chain(*others)
    misplaced = [(name, layouts.LOOSE) for name in loose]
    for name in classes:
        below, found, unreadable = files.entries(os.path.join(path, name))
        for folder in below:
            deep = sorted(files.walk(os.path.join(path, name, folder)))
            misplaced += [(os.path.relpath(file, path), layouts.DEEP) for file in deep]
        group = [(f"{name}/{file}", 0, WHOLE_FILE, "") for file in found]
        group += [(f"{name}/{file}", 0, WHOLE_FILE, layouts.NO_FILE) for file in unreadable]
        yield path, name, group
    yield path, "", [(n, 0, WHOLE_FILE, why) for n, why in misplaced if images.named_like_image(n)]


def _tar_of_folders(path: str, split: str) -> Iterator[_Group]:
    depth = layouts.tar_folders(path).depth
    by_class: dict[str, list[_File]] = {}
    for member in tar_index.members(path):
        folder, name, misplaced = layouts.place(member.name, depth)
        if (split and folder != split) or (misplaced and not images.named_like_image(member.name)):
            continue
        file = os.path.normpath(member.name) if misplaced else f"{name}/{os.path.basename(member.name)}"
        by_class.setdefault(name, []).append((file, *member[1:3], misplaced or member.reason))
    for name in sorted(by_class):
        yield path, name, sorted(by_class[name])


def _tfds(where: layouts.Layout, split: str) -> Iterator[_Group]:
    for path, found in tfds_source.records(where.base, split):
        # Most data sets name no files: the place in the data set is the name until the record is read.
        start = os.path.basename(path)
        yield path, "", [(f"{start}@{offset}", offset, size, "") for offset, size in found]
