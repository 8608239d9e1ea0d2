"""The index of a split: one row an image, where its bytes are and what it is called.

The index is an Arrow table (about 60 bytes an image: 80 MB for all of
ImageNet), the only thing in memory that grows with the data.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator

import pyarrow as pa

from components.example_gen import devkit, files, source, tar_index, tfds_source
from components.example_gen.errors import SourceError

# path: archive or file that holds the bytes; size -1: all of that file.
# label: -1 where the class is not one of the training split, -2 where the record itself says.
SCHEMA = pa.schema(
    [
        ("path", pa.dictionary(pa.int32(), pa.string())),
        ("name", pa.large_string()),
        ("offset", pa.int64()),
        ("size", pa.int64()),
        ("label", pa.int32()),
        ("synset", pa.dictionary(pa.int32(), pa.string())),
    ]
)
WHOLE_FILE = -1
UNKNOWN_CLASS = -1
IN_RECORD = -2

# path, class, [(name, offset, size)]: the files of one class in one archive or folder.
_Group = tuple[str, str, list[tuple[str, int, int]]]


def build(where: source.Layout, split: str, pattern: str) -> pa.Table:
    """Indexes `pattern` as TFX's driver resolved it, for the input split `train` or `eval`.

    Returns:
      A table of SCHEMA, in the order of the source.

    Raises:
      SourceError: files are missing, damaged or in the wrong place.
    """
    if where.kind == "tfds":
        groups = _tfds(where, where.train_name if split == "train" else where.eval_name)
    else:
        paths = source.matching(where.base, pattern)
        if where.kind == "folder":
            groups = _folders(paths, where.train_name if split == "train" else where.eval_name)
        else:
            groups = _ilsvrc_train(paths) if split == "train" else _ilsvrc_eval(paths, where.devkit)
    label = {name: number for number, name in enumerate(source.classes_of(where))}
    table = _table(groups, label)
    if not table.num_rows:
        raise SourceError(f"{os.path.join(where.base, pattern)} holds no images.")
    return table


def _table(groups: Iterable[_Group], labels: dict[str, int]) -> pa.Table:
    batches = []
    for path, synset, found in groups:
        names, offsets, sizes = zip(*found, strict=True) if found else ((), (), ())
        label = labels.get(synset, UNKNOWN_CLASS) if synset else IN_RECORD
        columns = ([path] * len(found), names, offsets, sizes, [label] * len(found), [synset] * len(found))
        arrays = [pa.array(c, f.type) for c, f in zip(columns, SCHEMA, strict=True)]
        batches.append(pa.record_batch(arrays, schema=SCHEMA))
    return pa.Table.from_batches(batches, SCHEMA).unify_dictionaries().combine_chunks()


def _ilsvrc_train(paths: list[str]) -> Iterator[_Group]:
    for path in paths:
        for wnid, found in tar_index.members_of_classes(path, tar_index.class_tars(path)):
            yield path, wnid, [(os.path.basename(m.name), m.offset, m.size) for m in found]


def _ilsvrc_eval(paths: list[str], kit_path: str) -> Iterator[_Group]:
    kit = devkit.load(kit_path)
    for path in paths:
        by_class: dict[str, list[tuple[str, int, int]]] = {}
        for member in tar_index.members(path):
            name = os.path.basename(member.name)
            by_class.setdefault(kit.wnid(name), []).append((name, member.offset, member.size))
        for wnid in sorted(by_class):
            yield path, wnid, by_class[wnid]


def _folders(paths: list[str], split: str) -> Iterator[_Group]:
    for path in paths:
        yield from _tar_of_folders(path, split) if source.is_tar(path) else _class_folders(path)


def _class_folders(path: str) -> Iterator[_Group]:
    for name in files.entries(path)[0]:
        found = files.entries(os.path.join(path, name))[1]
        yield path, name, [(f"{name}/{file}", 0, WHOLE_FILE) for file in found]


def _tar_of_folders(path: str, split: str) -> Iterator[_Group]:
    by_class: dict[str, list[tuple[str, int, int]]] = {}
    for member in tar_index.members(path):
        folder, name = source.split_and_class(member.name)
        if not split or folder == split:
            file = f"{name}/{os.path.basename(member.name)}"
            by_class.setdefault(name, []).append((file, member.offset, member.size))
    for name in sorted(by_class):
        yield path, name, sorted(by_class[name])


def _tfds(where: source.Layout, split: str) -> Iterator[_Group]:
    for path, found in tfds_source.records(where.base, split):
        # Most data sets name no files: the place in the data set is the name until the record is read.
        start = os.path.basename(path)
        yield path, "", [(f"{start}@{offset}", offset, size) for offset, size in found]
