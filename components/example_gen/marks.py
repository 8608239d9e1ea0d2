"""TFX's marks {SPAN}, {VERSION} and {YYYY} {MM} {DD} in a path, and the spans it names."""

from __future__ import annotations

import dataclasses
import datetime
import os
import re
from collections.abc import Sequence

from components import files
from components.example_gen.errors import SourceError

_MARK = re.compile(r"\{(SPAN|VERSION|YYYY|MM|DD)(?::(\d+))?\}")
_DATE = ("YYYY", "MM", "DD")
_DIGITS = {"YYYY": "4", "MM": "2", "DD": "2"}
# TFX and ML Metadata keep the number in 32 bits.
_MOST = 2**31 - 1
_EPOCH = datetime.date(1970, 1, 1)


@dataclasses.dataclass(frozen=True)
class Span:
    """A span that is there.

    `number`: of {SPAN}; of a date, as in TFX, the days since 1970-01-01. `version`: None without
    {VERSION}. `texts`: what stands for each mark, such as ("SPAN", "07").
    """

    number: int
    version: int | None
    texts: tuple[tuple[str, str], ...]

    def fill(self, path: str) -> str:
        """The path with this span in the place of the marks."""
        texts = dict(self.texts)
        return _MARK.sub(lambda mark: texts[mark[1]], path)


def marked(path: str) -> bool:
    """Whether there are marks in a path."""
    return bool(_MARK.search(path))


def folder(path: str) -> str:
    """The part of a path before the first component with a mark."""
    match = _MARK.search(path)
    return os.path.dirname(path[: match.start()]) if match else path


def check(pattern: str) -> None:
    """Raises SourceError when the marks of a path do not name spans."""
    names = [mark[1] for mark in _MARK.finditer(pattern)]
    rest = sorted(name for name in names if name != "VERSION")
    if rest not in (["SPAN"], sorted(_DATE)) or names.count("VERSION") > 1:
        raise SourceError(
            f"{pattern} must have one {{SPAN}}, or {{YYYY}}, {{MM}} and {{DD}} once each; one"
            " {VERSION} may go with them."
        )


def find(patterns: Sequence[str]) -> list[Span]:
    """The spans of paths with the same marks, each in its newest version, the oldest first.

    A path whose marks stand for other things than digits is no span: what is still being copied can
    have such a name.

    Raises:
      SourceError: two paths are the same span, a date is none, or a number is too large.
    """
    found: dict[int, Span] = {}
    for pattern in patterns:
        check(pattern)
        for path in files.glob(_MARK.sub("*", pattern)):
            span = _read(pattern, path)
            if span is None:
                continue
            other = found.get(span.number)
            if other and other.version == span.version and other.texts != span.texts:
                raise SourceError(
                    f"{other.fill(pattern)} and {path} are both span {span.number}: rename one of"
                    " them."
                )
            if other is None or (span.version or 0) > (other.version or 0):
                found[span.number] = span
    return [found[number] for number in sorted(found)]


def _read(pattern: str, path: str) -> Span | None:
    """The span of a path that matches the pattern's glob."""
    match = re.fullmatch(_regex(pattern), path)
    if match is None:
        return None
    texts = match.groupdict()
    for name in ("SPAN", "VERSION"):
        if int(texts.get(name, 0)) > _MOST:
            raise SourceError(
                f"{path} has the number {texts[name]}, and {_MOST} is the largest for {{{name}}}: "
                "rename it, or use {YYYY}, {MM} and {DD}."
            )
    version = int(texts["VERSION"]) if "VERSION" in texts else None
    if "SPAN" in texts:
        return Span(int(texts["SPAN"]), version, tuple(texts.items()))
    try:
        day = datetime.date(*(int(texts[name]) for name in _DATE))
    except ValueError:
        raise SourceError(f"{path} names a day that does not exist: rename it.") from None
    return Span((day - _EPOCH).days, version, tuple(texts.items()))


def _regex(pattern: str) -> str:
    parts, at = [], 0
    for mark in _MARK.finditer(pattern):
        width = mark[2] or _DIGITS.get(mark[1], "")
        parts.append(_literal(pattern[at : mark.start()]))
        parts.append(f"(?P<{mark[1]}>[0-9]{f'{{{width}}}' if width else '+'})")
        at = mark.end()
    return "".join([*parts, _literal(pattern[at:])])


def _literal(text: str) -> str:
    return re.escape(text).replace(r"\*", "[^/]*")
