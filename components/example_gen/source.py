"""The source of a run: all that lies there, or the newest spans of it as one data set.

No TFX here, and TensorFlow only for remote paths and TFDS.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import functools
import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from components import files
from components.example_gen import marks
from components.example_gen.errors import SourceError
from components.example_gen.settings import HOLDOUT, Data
from components.example_gen.sources import kinds
from components.example_gen.sources.kinds import Source


class Part(NamedTuple):
    """A span and where it lies; `span` is None for a source without spans, a single part."""

    span: marks.Span | None
    where: Source


def has_spans(data: Data) -> bool:
    """Whether the source, or a split of it, has TFX's marks."""
    return any(map(marks.marked, (data.source, data.train_split, data.eval_split)))


def find(data: Data, shared: str = "") -> Source:
    """The source, or one span of it; arguments and errors are those of `Source.find`."""
    kind = kinds.of(data.kind)
    found = kind.find(dataclasses.replace(data, source=one_spelling(data)), shared)
    return dataclasses.replace(found, allow_missing=data.allow_missing_classes)


def one_spelling(data: Data) -> str:
    """The same text for every way to write `data.source`: another one would miss the cache.

    Raises:
      SourceError: it is empty, is not UTF-8 or has a character of patterns.
    """
    path = data.source or kinds.of(data.kind).usual_place()
    if not path:
        raise SourceError(
            f"data.source must name the folder that holds the data (data.kind={data.kind})."
        )
    path = path.rstrip("/") if files.is_remote(path) else os.path.abspath(os.path.expanduser(path))
    if files.printable(path) != path:
        raise SourceError(f"data.source={files.printable(path)} is not UTF-8: rename the folder.")
    if set("[]*?\\") & set(path):
        raise SourceError(
            f"data.source={path} has one of the characters [ ] * ? \\, which TFX takes for a"
            " pattern: rename the folder or link to it."
        )
    return path


def parts(data: Data, chosen: Sequence[marks.Span] = ()) -> tuple[Part, ...]:
    """The newest `data.spans` spans that are there, the oldest first.

    Args:
      chosen: spans that were found before; () looks for them.

    Raises:
      SourceError: there is no span, one of them lacks a part that others have, or nothing can be
        read.
    """
    with _readable(data):
        return _parts(data, chosen)


@contextlib.contextmanager
def _readable(data: Data) -> Iterator[None]:
    """Says which source it is that cannot be read."""
    try:
        yield
    except files.errors() as error:
        reason = files.reason(error)
        raise SourceError(
            f"data.source={data.source} cannot be read: {reason}; mend the place or the rights."
        ) from error


def _parts(data: Data, chosen: Sequence[marks.Span]) -> tuple[Part, ...]:
    if not has_spans(data):
        if data.spans > 1:
            raise SourceError(
                f"data.spans={data.spans} needs a source that grows, such as "
                "data.source=/data/flowers/span-{SPAN}."
            )
        return (Part(None, find(data)),)
    if not kinds.of(data.kind).grows:
        raise SourceError(
            f"data.kind={data.kind} has no spans: take the marks out of its paths, or use class"
            " folders."
        )
    data = dataclasses.replace(data, source=one_spelling(data))
    if chosen:
        return tuple(_part(data, span) for span in chosen)
    found = marks.find(_patterns(data))
    if not found:
        raise SourceError(
            f"There is no span {' or '.join(_patterns(data))}: put the first one there."
        )
    result = tuple(_part(data, span) for span in found[-data.spans :])
    _check_alike([*_before(data, found[: -data.spans]), *result])
    return result


def _patterns(data: Data) -> list[str]:
    """Paths with marks; each of them has every span."""
    splits = [name for name in (data.train_split, data.eval_split) if name not in ("", HOLDOUT)]
    if marks.marked(data.source):
        if any(marks.marked(name) for name in splits):
            raise SourceError("data.source has the marks of a span: take those of the splits out.")
        return [data.source]
    both = marks.marked(data.train_split) and marks.marked(data.eval_split)
    if data.eval_split != HOLDOUT and not both:
        raise SourceError(
            "data.train_split and data.eval_split must both have the marks of a span, or"
            " data.eval_split must be holdout."
        )
    return [os.path.join(data.source, name) for name in splits]


def _part(data: Data, span: marks.Span) -> Part:
    filled = dataclasses.replace(
        data,
        source=span.fill(data.source),
        train_split=span.fill(data.train_split),
        eval_split=span.fill(data.eval_split),
    )
    try:
        return Part(span, find(filled, marks.folder(data.source)))
    except SourceError as error:
        raise SourceError(
            f"Span {span.number} is not whole: {error} A span is copied under another name and"
            " renamed."
        ) from error


def _before(data: Data, older: Sequence[marks.Span]) -> list[Part]:
    """The span before the window, if it can be read: it shows what a whole span has."""
    try:
        return [_part(data, span) for span in older[-1:]]
    except SourceError:
        return []  # it is not asked for


def _check_alike(found: Sequence[Part]) -> None:
    whole = [part for part in found if part.where.eval]
    for part in found:
        if whole and not part.where.eval:
            assert part.span and whole[-1].span
            raise SourceError(
                f"Span {part.span.number} ({part.where.base}) lacks"
                f" {whole[-1].where.eval.removesuffix('/*/*')}, which span {whole[-1].span.number}"
                " has: copy it, or set data.eval_split=holdout, which takes a part of every span's"
                " train."
            )


def spans(data: Data) -> list[int]:
    """Numbers of the spans that a run takes, the oldest first; none for a source without spans."""
    return [part.span.number for part in parts(data) if part.span]


def key(data: Data) -> str:
    """A name for a source that grows, the same for every state of it."""
    place = [data.kind, one_spelling(data), data.train_split, data.eval_split]
    return hashlib.sha256(json.dumps(place).encode()).hexdigest()[:12]


def check(data: Data) -> tuple[Part, ...]:
    """The parts of a source that can be ingested, so that nobody has to look for them again.

    There are none of an embedded source that has not been `prepared` yet.

    Raises:
      SourceError: as `parts`; an archive is damaged, there are too few classes, or a class is spelt
        in two ways.
    """
    if kinds.of(data.kind).embedded:
        return ()
    found = parts(data)
    with _readable(data):
        names = classes_of(found)
        labels_of(found)
        for part in found:
            part.where.check(names)
    if len(names) < 2:
        raise SourceError(f"{found[-1].where.base} has {len(names)} class; at least 2 are needed.")
    return found


# Of the training archive of ImageNet, a walk through 1,000 headers: once a process.
@functools.lru_cache(maxsize=64)
def _classes(where: Source) -> tuple[str, ...]:
    return where.classes()


@functools.lru_cache(maxsize=64)
def _labels(where: Source) -> tuple[str, ...]:
    return where.labels(_classes(where))


def classes_of(found: Iterable[Part]) -> tuple[str, ...]:
    """The classes of all parts (ILSVRC: wnids), sorted; the position is the label."""
    return tuple(sorted({name for part in found for name in _classes(part.where)}))


def labels_of(found: Sequence[Part]) -> tuple[str, ...]:
    """Names for people, in the order of `classes_of`, no two the same; a newer span's name wins."""
    names: dict[str, str] = {}
    for part in found:
        names |= zip(_classes(part.where), _labels(part.where), strict=True)
    times = collections.Counter(names.values())
    # ImageNet's "crane" is a bird and a machine.
    return tuple(
        names[name] if times[names[name]] == 1 else f"{names[name]} ({name})"
        for name in classes_of(found)
    )
