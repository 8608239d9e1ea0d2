"""The source of a run: all that lies there, or the newest spans of it as one data set.

No TFX here, and TensorFlow only for remote paths and TFDS.
"""

from __future__ import annotations

import collections
import contextlib
import hashlib
import json
import os
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from components import files
from components.example_gen import marks
from components.example_gen.errors import SourceError
from components.example_gen.sources import folders, layouts
from components.example_gen.sources.layouts import HOLDOUT, Layout, layout

__all__ = [
    "Layout",
    "Part",
    "SourceError",
    "check",
    "classes",
    "labels",
    "layout",
    "parts",
    "spans",
]

_PATHS = ("source", "train_split", "eval_split")
_SPLITS = _PATHS[1:]


class Part(NamedTuple):
    """A span and where it lies; `span` is None for a source without spans, a single part."""

    span: marks.Span | None
    where: Layout


def has_spans(data: dict[str, Any]) -> bool:
    """Whether the source, or a split of it, has TFX's marks."""
    return any(marks.marked(data[name]) for name in _PATHS)


def parts(data: dict[str, Any], chosen: Sequence[marks.Span] = ()) -> tuple[Part, ...]:
    """The newest `data.spans` spans that are there, the oldest first.

    Args:
      data: the fields of `pipeline.config.settings.Data`.
      chosen: spans that were found before; () looks for them.

    Raises:
      SourceError: there is no span, one of them lacks a part that others have, or nothing can be
        read.
    """
    with _readable(data):
        return _parts(data, chosen)


@contextlib.contextmanager
def _readable(data: dict[str, Any]) -> Iterator[None]:
    """Says which source it is that cannot be read."""
    try:
        yield
    except files.errors() as error:
        reason = files.reason(error)
        raise SourceError(
            f"data.source={data['source']} cannot be read: {reason}; mend the place or the rights."
        ) from error


def _parts(data: dict[str, Any], chosen: Sequence[marks.Span]) -> tuple[Part, ...]:
    if not has_spans(data):
        if data["spans"] > 1:
            raise SourceError(
                f"data.spans={data['spans']} needs a source that grows, such as "
                "data.source=/data/flowers/span-{SPAN}."
            )
        return (Part(None, layout(data)),)
    if data["kind"] not in ("ilsvrc", "folder"):
        raise SourceError(
            f"data.kind={data['kind']} has no spans: take the marks out of its paths, or use class"
            " folders."
        )
    data = {**data, "source": layouts.one_spelling(data["source"])}
    if chosen:
        return tuple(Part(span, _layout(data, span)) for span in chosen)
    found = marks.find(_patterns(data))
    if not found:
        raise SourceError(
            f"There is no span {' or '.join(_patterns(data))}: put the first one there."
        )
    newest = found[-data["spans"] :]
    result = tuple(Part(span, _layout(data, span)) for span in newest)
    _check_alike([*_before(data, found[: -data["spans"]]), *result])
    return result


def _patterns(data: dict[str, Any]) -> list[str]:
    """Paths with marks; each of them has every span."""
    splits = [data[name] for name in _SPLITS if data[name] not in ("", HOLDOUT)]
    if marks.marked(data["source"]):
        if any(marks.marked(name) for name in splits):
            raise SourceError("data.source has the marks of a span: take those of the splits out.")
        return [data["source"]]
    if data["eval_split"] != HOLDOUT and not all(map(marks.marked, (data[n] for n in _SPLITS))):
        raise SourceError(
            "data.train_split and data.eval_split must both have the marks of a span, or"
            " data.eval_split must be holdout."
        )
    return [os.path.join(data["source"], name) for name in splits]


def _layout(data: dict[str, Any], span: marks.Span) -> Layout:
    filled = {**data, **{name: span.fill(data[name]) for name in _PATHS}}
    try:
        return layout(filled, kit_folder=marks.folder(data["source"]))
    except SourceError as error:
        raise SourceError(
            f"Span {span.number} is not whole: {error} A span is copied under another name and"
            " renamed."
        ) from error


def _before(data: dict[str, Any], older: Sequence[marks.Span]) -> list[Part]:
    """The span before the window, if it can be read: it shows what a whole span has."""
    try:
        return [Part(span, _layout(data, span)) for span in older[-1:]]
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


def spans(data: dict[str, Any]) -> list[int]:
    """Numbers of the spans that a run takes, the oldest first; none for a source without spans."""
    return [part.span.number for part in parts(data) if part.span]


def key(data: dict[str, Any]) -> str:
    """A name for a source that grows, the same for every state of it."""
    place = [data["kind"], layouts.one_spelling(data["source"]), *(data[name] for name in _SPLITS)]
    return hashlib.sha256(json.dumps(place).encode()).hexdigest()[:12]


def check(data: dict[str, Any]) -> tuple[Part, ...]:
    """The parts of a source that can be ingested, so that nobody has to look for them again.

    Raises:
      SourceError: as `parts`; an archive is damaged, there are too few classes, or a class is spelt
        in two ways.
    """
    found = parts(data)
    with _readable(data):
        names = classes_of(found)
        labels_of(found)
        _check_spelling(found, names)
    if len(names) < 2:
        raise SourceError(f"{found[-1].where.base} has {len(names)} class; at least 2 are needed.")
    return found


def _check_spelling(found: Iterable[Part], names: Collection[str]) -> None:
    """A class of the evaluation split that train spells otherwise would be lost."""
    for _, where in found:
        paths = (
            layouts.matching(where.base, where.eval)
            if where.kind == "folder" and where.eval
            else []
        )
        for path in paths:
            for name in sorted(folders.classes(path, where.eval_name).full.difference(names)):
                if like := folders.alike(name, names):
                    raise SourceError(
                        f"{path} has the class folder {files.printable(name)}, and train has"
                        f" {like}: give them one name."
                    )


def classes(data: dict[str, Any]) -> list[str]:
    """Identifiers of the classes (ILSVRC: wnids), sorted; the position is the label.

    Raises:
      SourceError: as `parts`, or an archive is damaged.
    """
    return list(classes_of(parts(data)))


def labels(data: dict[str, Any]) -> list[str]:
    """Names for people, in the order of `classes`: ILSVRC's words, else the identifiers."""
    return list(labels_of(parts(data)))


def classes_of(found: Iterable[Part]) -> tuple[str, ...]:
    """The classes of all parts, sorted; the position is the label."""
    return tuple(sorted({name for part in found for name in layouts.classes_of(part.where)}))


def labels_of(found: Sequence[Part]) -> tuple[str, ...]:
    """Names for people, in the order of `classes_of`, no two the same; a newer span's name wins."""
    names: dict[str, str] = {}
    for part in found:
        names |= zip(layouts.classes_of(part.where), layouts.labels_of(part.where), strict=True)
    times = collections.Counter(names.values())
    # ImageNet's "crane" is a bird and a machine.
    return tuple(
        names[name] if times[names[name]] == 1 else f"{names[name]} ({name})"
        for name in classes_of(found)
    )


def patterns(data: dict[str, Any], part: Part) -> tuple[str, dict[str, str]]:
    """The source as TFX writes it down: a base folder, and the patterns of the splits below it.

    With spans the patterns have the marks, and the base is the folder before the first of them.
    """
    where = part.where
    found = {name: pattern for name in ("train", "eval") if (pattern := getattr(where, name))}
    if part.span is None:
        return where.base, found
    top = layouts.one_spelling(data["source"])
    if not marks.marked(top):
        splits = {"train": data["train_split"], "eval": data["eval_split"]}
        return top, {
            n: splits[n] + p.removeprefix(part.span.fill(splits[n])) for n, p in found.items()
        }
    base = marks.folder(top)
    full = {name: os.path.join(where.base, pattern) for name, pattern in found.items()}
    tail = {name: path.removeprefix(part.span.fill(top)) for name, path in full.items()}
    return base, {name: os.path.relpath(top, base) + tail[name] for name in found}
