"""A step as a process of its own that leaves nothing behind. Standard library only.

Run as a program, this file is the guard of such a process. The guard leads a session, in which it
runs the command. It ends all that is left in the session when the command ends, or when the process
that started the guard does: then the pipe that is its standard input ends.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from typing import Any

# Linux's prctl(2): the signal that a process gets when its parent has died.
_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None, use_errno=True)


class Failed(RuntimeError):
    """A process did not end well; the message says why."""


class Child:
    """One process with all that it starts; it dies with the process that started it."""

    def __init__(self, command: Sequence[str]) -> None:
        self._command = list(command)
        self._process: subprocess.Popen[str] | None = None

    def run(self, say: Callable[[str], None]) -> None:
        """Runs it to its end and hands on every line that it prints.

        Raises:
          Failed: the message has the reason, and the path of the full log if it named one.
        """
        last = log = ""
        self._process = start(
            self._command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
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
            end(self._process, patience)


def start(command: Sequence[str], **options: Any) -> subprocess.Popen:
    """Starts a command under a guard, which ends as it does; `options` are Popen's."""
    guard = [sys.executable, "-IS", os.path.abspath(__file__)]
    return subprocess.Popen(
        [*guard, *command], stdin=subprocess.PIPE, start_new_session=True, **options
    )


def end(process: subprocess.Popen, patience: float) -> None:
    """Ends what `start` has started: politely, and after `patience` seconds by force."""
    process.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(patience)
    assert process.stdin
    process.stdin.close()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(patience)


def die_with_parent() -> None:
    """Ends this process when its parent ends, or now if the parent has ended already.

    Both must be of one session; whoever gets the processes of the dead is of another.
    """
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getsid(0) not in (os.getpid(), os.getsid(os.getppid())):
        os.kill(os.getpid(), signal.SIGKILL)


def _guard(command: Sequence[str]) -> int:
    try:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, preexec_fn=die_with_parent)
    except OSError as error:
        print(f"{command[0]} cannot be started: {error.strerror}.", file=sys.stderr)
        return 127
    signal.signal(signal.SIGTERM, lambda *_: process.terminate())
    threading.Thread(target=_watch, daemon=True).start()
    status = process.wait()
    _end_session()
    if status < 0:
        # Ends as the command did.
        if -status != signal.SIGKILL:
            signal.signal(-status, signal.SIG_DFL)
        os.kill(os.getpid(), -status)
    return status


def _watch() -> None:
    """Waits for the end of the process at the other end of standard input."""
    while os.read(0, 1):
        continue
    _end_session()


def _end_session() -> None:
    """Ends every other process of this session, whatever group it belongs to."""
    ended = {os.getpid()}
    # Until no new one is found: they may be starting others.
    while found := _session() - ended:
        for pid in found:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        ended |= found


def _session() -> set[int]:
    """The processes of this session."""
    pids = set()
    for name in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(ProcessLookupError):
            if os.getsid(int(name)) == os.getsid(0):
                pids.add(int(name))
    return pids


if __name__ == "__main__":
    sys.exit(_guard(sys.argv[1:]))
