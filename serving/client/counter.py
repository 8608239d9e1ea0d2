"""How far a run over many images is, on standard error."""

from __future__ import annotations

import sys
import time

# Between two counts where each is a line of its own.
_SECONDS = 10.0


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
