"""A step as a process of its own that leaves nothing behind. Standard library only."""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import signal
import subprocess
from collections.abc import Callable, Sequence

# Linux's prctl(2): the signal that a process gets when its parent has died.
_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None, use_errno=True)


class Failed(RuntimeError):
    """The process did not end well; the message is its own last line."""


class Child:
    """One process with all that it starts.

    It dies with the one that started it, so that after a crash nobody works on beside the next try.

    Args:
      command: program and arguments.
    """

    def __init__(self, command: Sequence[str]) -> None:
        self._command = list(command)
        self._process: subprocess.Popen[str] | None = None

    def run(self, say: Callable[[str], None]) -> None:
        """Runs it to its end and hands on every line that it prints.

        Raises:
          Failed: it failed; the message has the reason and the path of the full log where it named one.
          OSError: it could not be started.
        """
        last = log = ""
        self._process = subprocess.Popen(
            self._command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            # A group of its own: what it starts ends with it.
            start_new_session=True,
            preexec_fn=die_with_parent,
        )
        assert self._process.stdout
        with self._process.stdout as lines:
            for line in lines:
                last = line.strip() or last
                found = re.fullmatch(r"Full log: (.+)", line.strip())
                log = found[1] if found else log
                say(line.rstrip("\n"))
        status = self._process.wait()
        if status < 0:
            last = f"ended by {signal.Signals(-status).name}; its last line was: {last}"
        if status:
            raise Failed(f"{last} (full log: {log})" if log else last or f"exit status {status}")

    def stop(self, patience: float = 10.0) -> None:
        """Ends the process and all that it has started; by force after `patience` seconds."""
        if self._process:
            end_group(self._process, patience)


def end_group(process: subprocess.Popen, patience: float) -> None:
    """Ends a process that leads a group, then its group by force; waits `patience` seconds between."""
    process.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(patience)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def die_with_parent() -> None:
    """Called in a process: it ends when the one that started it does, in whatever way."""
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
