"""How far a run over many images is, on standard error: a bar, or a line now and then."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator
from typing import Any, Protocol

# Between two lines where there is no bar.
_SECONDS = 10.0


class View(Protocol):
    """What a person sees of the run."""

    def advance(self) -> None:
        """One more image is done."""

    def say(self, text: str) -> None:
        """A line that stays."""


class Lines:
    """Plain lines, for logs and where rich is not installed.

    Args:
      total: number of images.
      seconds: between two lines.
    """

    def __init__(self, total: int, seconds: float = _SECONDS) -> None:
        self._total, self._seconds = total, seconds
        self._done = 0
        self._next = time.monotonic() + seconds

    def advance(self) -> None:
        self._done += 1
        if time.monotonic() >= self._next and self._done < self._total:
            self.say(f"{self._done} of {self._total} images")
            self._next = time.monotonic() + self._seconds

    def say(self, text: str) -> None:
        print(text, file=sys.stderr, flush=True)


class _Bar:
    """A bar of rich's."""

    def __init__(self, progress: Any, total: int) -> None:
        self._progress = progress
        self._task = progress.add_task("images", total=total)

    def advance(self) -> None:
        self._progress.advance(self._task)

    def say(self, text: str) -> None:
        self._progress.console.print(text, markup=False, highlight=False, soft_wrap=True)


@contextlib.contextmanager
def view(total: int) -> Iterator[View]:
    """A bar on a terminal, lines elsewhere."""
    progress = _rich() if total > 1 and sys.stderr.isatty() else None
    if progress is None:
        yield Lines(total)
        return
    with progress:
        yield _Bar(progress, total)


def _rich() -> Any:
    """A display of rich's, or None where it is not installed."""
    try:
        from rich import console, progress
    except ImportError:
        return None
    return progress.Progress(
        progress.TextColumn("{task.description}"),
        progress.BarColumn(),
        progress.MofNCompleteColumn(),
        progress.TimeRemainingColumn(),
        console=console.Console(stderr=True),
        transient=True,
    )
