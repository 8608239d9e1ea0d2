"""The index of a split: one row an image, where its bytes are and what it is called.

The index is an Arrow table (about 60 bytes an image: 80 MB for all of
ImageNet), the only thing in memory that grows with the data.
"""

from __future__ import annotations

import itertools
import operator
from collections.abc import Container, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from components import files
from components.example_gen import names
from components.example_gen.errors import ABSENT, BadImage, SourceError
from components.example_gen.sources.kinds import File, Group, Source

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
UNKNOWN_CLASS = -1
IN_RECORD = -2


def build(
    where: Source,
    split: str,
    classes: Sequence[str] = (),
    span: int | None = None,
    skip: names.Skip = names.ignore,
) -> pa.Table:
    """Indexes the input split `train` or `eval` of a source, or of one span of it.

    Args:
      classes: of all spans, in the order of the labels; () are those of this source.
      span: the number of the span.
      skip: told of the files that are left out, because they are no images.

    Returns:
      A table of SCHEMA, in the order of the source.

    Raises:
      SourceError: files are missing, damaged or in the wrong place.
    """
    groups = where.groups(split, skip)
    label = {name: number for number, name in enumerate(classes or where.classes())}
    if where.allow_missing:
        groups = _known(groups, label, skip)
    table = _table(groups, label, span)
    if not table.num_rows:
        mend = ", or take a part of train with --set data.eval_split=holdout"
        raise SourceError(
            f"{where.place(split)} holds no images: put them there{mend * (split == 'eval')}."
        )
    return table


def labels(table: pa.Table, where: Source, classes: Sequence[str]) -> np.ndarray:
    """The labels of an index, int32 [rows]; those that lie inside of records are read from there.

    -1 where the class is not known, or the record is damaged.
    """
    found = table["label"].to_numpy().copy()
    number = {name: label for label, name in enumerate(classes)}
    unread = np.flatnonzero(found == IN_RECORD)
    columns = (table[name].take(unread).to_pylist() for name in ("path", "offset", "size"))
    rows = zip(*columns, unread, strict=True)
    for path, places in itertools.groupby(rows, key=operator.itemgetter(0)):
        with files.open_read(path) as stream:
            for _, offset, size, row in places:
                stream.seek(offset)
                try:
                    synset = where.record(stream.read(size)).synset
                except BadImage:  # it will be quarantined
                    synset = ""
                found[row] = number.get(synset, UNKNOWN_CLASS)
    return found


def _table(groups: Iterable[Group], labels: dict[str, int], span: int | None) -> pa.Table:
    batches = []
    for path, synset, found in groups:
        label = labels.get(synset, UNKNOWN_CLASS) if synset else IN_RECORD
        known = label != UNKNOWN_CLASS
        absent = "" if known else f"its class {files.printable(synset)} {ABSENT}"
        rows = [(path, *_row(synset, file, label, absent), span) for file in found]
        columns = zip(*rows, strict=True) if rows else [()] * len(SCHEMA)
        arrays = [pa.array(c, f.type) for c, f in zip(columns, SCHEMA, strict=True)]
        batches.append(pa.record_batch(arrays, schema=SCHEMA))
    return pa.Table.from_batches(batches, SCHEMA).unify_dictionaries().combine_chunks()


def _known(groups: Iterable[Group], labels: Container[str], skip: names.Skip) -> Iterator[Group]:
    """The groups of classes that the training split has."""
    for path, synset, found in groups:
        if not synset or synset in labels:
            yield path, synset, found
            continue
        for name, *_ in found:
            skip(name)


def _row(synset: str, file: File, label: int, absent: str) -> tuple[Any, ...]:
    """The columns between `path` and `span`."""
    name, offset, size, reason = file
    shown = files.printable(name)
    if shown != name:
        reason = "its name is not UTF-8: rename it"
    reason = reason or absent
    label = UNKNOWN_CLASS if reason else label
    return shown, offset, size, label, files.printable(synset), reason
