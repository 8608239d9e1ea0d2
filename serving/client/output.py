"""Answers as a table, as JSON, and as files: CSV or JSON Lines; how many there are by now."""

from __future__ import annotations

import contextlib
import csv
import json
import os
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from typing import IO

from .api import ClientError
from .batch import Answer

# Between two counts where each is a line of its own.
_SECONDS = 10.0
COLUMNS = ("file", "rank", "label", "probability", "error")


def table(answers: Sequence[Answer]) -> str:
    """Aligned lines: name, label and probability; the answers without labels are left out."""
    rows = [
        (_cell(answer.name) if rank == 0 else "", label)
        for answer in answers
        for rank, label in enumerate(answer.labels)
    ]
    names = max((len(name) for name, _ in rows), default=0)
    labels = max((len(_cell(label.name)) for _, label in rows), default=0)
    return "".join(
        f"{name:{names}}  {_cell(label.name):{labels}}  {label.probability:6.2%}\n"
        for name, label in rows
    )


def as_json(answers: Sequence[Answer]) -> str:
    """A JSON list with an object for each answer that has labels."""
    return _json([_entry(answer) for answer in answers if not answer.error], indent=2) + "\n"


def check_path(path: str) -> None:
    """Raises ClientError when `write` could not write there."""
    if os.path.splitext(path)[1] not in _FORMATS:
        raise ClientError(f"--out {path}: must end in {' or '.join(_FORMATS)}.")
    folder = os.path.dirname(path) or "."
    if not os.access(folder, os.W_OK) or os.path.isdir(path):
        raise ClientError(f"--out {path}: must be a file in a folder that can be written.")


def write(path: str, answers: Iterable[Answer]) -> None:
    """Writes all answers, those without labels with their error, in the format that `path` ends in.

    The file is there when the last answer is, and never in part. What `answers` raises leaves none.
    """
    folder, name = os.path.split(path)
    part = os.path.join(folder, f".{name}.{os.getpid()}.part")
    try:
        # Names of files may be of any bytes.
        with open(part, "w", newline="", encoding="utf-8", errors="surrogateescape") as file:
            _FORMATS[os.path.splitext(name)[1]](file, answers)
        os.replace(part, path)
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(part)


def shown(text: str) -> str:
    """A text of one or more lines as it can be printed."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


class Counter:
    """A count that a terminal shows in place; elsewhere it is a line now and then.

    Args:
      total: number of images.
      seconds: between two lines.
    """

    def __init__(self, total: int, seconds: float = _SECONDS) -> None:
        self._total, self._done = total, 0
        # Clears the line of the count.
        self._clear = "\r\x1b[2K" if total > 1 and sys.stderr.isatty() else ""
        self._seconds = 0.1 if self._clear else seconds
        self._next = time.monotonic() + self._seconds

    def advance(self) -> None:
        """One more image is done."""
        self._done += 1
        if self._done == self._total:
            print(self._clear, end="", file=sys.stderr, flush=True)
        elif time.monotonic() >= self._next:
            self._next = time.monotonic() + self._seconds
            self.say(f"{self._done} of {self._total} images", "" if self._clear else "\n")

    def say(self, text: str, end: str = "\n") -> None:
        """A line that stays, unless it has another end."""
        print(f"{self._clear}{text}", end=end, file=sys.stderr, flush=True)


def _cell(text: str) -> str:
    """A name in one line, without what would steer the terminal."""
    return "".join(
        sign if sign.isprintable() else "\N{REPLACEMENT CHARACTER}" for sign in shown(text)
    )


def _csv(file: IO[str], answers: Iterable[Answer]) -> None:
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(COLUMNS)
    for answer in answers:
        if answer.error:
            writer.writerow([answer.name, "", "", "", answer.error])
        for rank, label in enumerate(answer.labels, 1):
            writer.writerow([answer.name, rank, label.name, label.probability, ""])


def _json_lines(file: IO[str], answers: Iterable[Answer]) -> None:
    for answer in answers:
        entry = {"file": answer.name, "error": answer.error} if answer.error else _entry(answer)
        file.write(_json(entry) + "\n")


def _json(value: object, indent: int | None = None) -> str:
    text = json.dumps(value, ensure_ascii=False, indent=indent)
    # A file's name may be of any bytes. Escaped, they make a document that Python reads back.
    return text if shown(text) == text else json.dumps(value, indent=indent)


def _entry(answer: Answer) -> dict[str, object]:
    return {"file": answer.name, "labels": [label._asdict() for label in answer.labels]}


_FORMATS: dict[str, Callable[[IO[str], Iterable[Answer]], None]] = {
    ".csv": _csv,
    ".jsonl": _json_lines,
}
