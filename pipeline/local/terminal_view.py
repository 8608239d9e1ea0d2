"""What the person sees of a run: one line a component, then a summary.

Everything that libraries print goes to a log file: standard output and error
are redirected at the level of file descriptors, C++ and child processes
included. The view itself writes to a duplicate of the terminal.
"""

from __future__ import annotations

import contextlib
import os
import re
import sys
import threading
import time
from collections.abc import Iterator

from rich.console import Console
from rich.markup import escape

from models.training import terminal

# Read by the training callbacks (models.training.callbacks).
PROGRESS_FD = "RESNET_TFX_PROGRESS_FD"
_WIDTH = 18
_MARKS = {
    "done": ("✓", "green"),
    "cached": ("·", "cyan"),
    "failed": ("✗", "red"),
    "skipped": ("-", "yellow"),
}


class View:
    """Prints the run to the terminal while `redirected` sends all else to the file `log`."""

    def __init__(self, log: str) -> None:
        self.log = log
        self._fd = os.dup(sys.stdout.fileno())
        self._stream = terminal.stream(self._fd, closefd=False)
        self._live = os.isatty(self._fd)
        self.console = Console(file=self._stream, highlight=False, soft_wrap=True)

    @contextlib.contextmanager
    def redirected(self) -> Iterator[None]:
        """Sends standard output and error to the log until the block is left."""
        os.makedirs(os.path.dirname(self.log), exist_ok=True)
        sys.stdout.flush()
        sys.stderr.flush()
        saved = os.dup(1), os.dup(2)
        with open(self.log, "ab", buffering=0) as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
            os.environ[PROGRESS_FD] = str(self._fd)
            os.set_inheritable(self._fd, True)
            try:
                yield
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                os.environ.pop(PROGRESS_FD, None)
                for fd, old in zip((1, 2), saved, strict=True):
                    os.dup2(old, fd)
                    os.close(old)

    def line(self, text: str = "") -> None:
        """One line of rich markup."""
        self.console.print(text)

    @contextlib.contextmanager
    def component(self, name: str, talks: bool = False) -> Iterator[Outcome]:
        """One component: a running clock unless it `talks` itself (training), then its outcome."""
        outcome = Outcome()
        start = time.monotonic()
        stop = threading.Event()
        clock = None
        if talks and self._live:
            # Its first progress line goes over this one.
            self._stream.write(f"\r  … {name}")
            self._stream.flush()
        elif self._live:
            clock = threading.Thread(target=self._tick, args=(name, start, stop), daemon=True)
            clock.start()
        try:
            yield outcome
        except BaseException as error:
            interrupted = isinstance(error, KeyboardInterrupt)
            outcome.state, outcome.figure = "failed", "interrupted" if interrupted else "failed"
            raise
        finally:
            stop.set()
            if clock:
                clock.join()
            if self._live:
                self._stream.write("\r\033[K")
            mark, style = _MARKS[outcome.state]
            note = f"cached  {outcome.figure}" if outcome.state == "cached" else outcome.figure
            seconds = time.monotonic() - start
            self.line(
                f"  [{style}]{mark}[/] {name:<{_WIDTH}} {seconds:7.1f} s   {escape(note.strip())}"
            )

    def _tick(self, name: str, start: float, stop: threading.Event) -> None:
        while not stop.wait(0.5):
            self._stream.write(f"\r  … {name:<{_WIDTH}} {time.monotonic() - start:7.1f} s")
            self._stream.flush()


class Outcome:
    """How a component ended; the runner fills it in."""

    state = "done"
    figure = ""


def reason(error: BaseException) -> str:
    """The one sentence a person needs of an exception that crossed TFX and Beam."""
    text = (
        re.sub(r"\s*\[while running '.*?'\]", "", str(error), flags=re.S).strip()
        or type(error).__name__
    )
    handed_over = "Traceback (most recent call last)" in text
    if handed_over:
        # A worker process or a function under TensorFlow failed: the last line names the error.
        text = _lines(text)[-1]
    text = re.sub(r"^(?:[\w.]+\.)?(\w*(?:Error|Exception)): ", "", text)
    lines = _lines(text)
    text = lines[-1] if lines[0].endswith(":") else lines[0]
    text = re.sub(r"^{{.*?}} | \[Op:\w+\].*$", "", text)  # TensorFlow's too
    known = type(error).__module__.split(".")[0] in ("pipeline", "components", "models")
    if text.startswith("Not a valid TFRecord"):  # Beam adds all bytes of the record
        text = (
            "A record of its examples is damaged or cut off: --no-cache ExampleGen writes them"
            " anew."
        )
    elif "codec can't decode byte" in text:
        text = (
            "A text that it reads is no UTF-8, so a file is damaged or not of this project:"
            f" {text}."
        )
    plain = known or handed_over or isinstance(error, ValueError | RuntimeError)
    return text if plain else f"{type(error).__name__}: {text}"


def _lines(text: str) -> list[str]:
    """Without TensorFlow's places in the graph, which come behind what it has to say."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return [line for line in lines if not line.startswith("[[")] or lines
