"""Ways that take turns, so that all meet the same machine; each in a process of its own where
asked.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from typing import Any

_MARK = "measured: "


def take_turns(ways: Mapping[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    """Calls every way `rounds` times, in alternating order; returns what each gave, a figure a
    round.
    """
    found: dict[str, list[float]] = {way: [] for way in ways}
    for turn in range(rounds):
        for way in list(ways)[:: 1 if turn % 2 == 0 else -1]:
            found[way].append(ways[way]())
            print(
                f"  round {turn + 1} of {rounds}: {way}: {found[way][-1]:,.4g}",
                file=sys.stderr,
                flush=True,
            )
    return found


class Worker:
    """A process that measures when it is asked to, and waits in between.

    Args:
      command: its program and arguments; it must call `answer`.
      environment: what is set beside this process's own environment.
    """

    def __init__(self, *command: str, environment: Mapping[str, str] | None = None):
        quiet = {"TF_CPP_MIN_LOG_LEVEL": "3", "PYTHONWARNINGS": "ignore"}
        self._command = command
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL if not os.environ.get("BENCHMARK_STDERR") else None,
            text=True,
            env={**os.environ, **quiet, **(environment or {})},
        )

    def ask(self, **arguments: Any) -> Any:
        """The answer of the process's function to these arguments (JSON).

        Raises:
          RuntimeError: the process ended.
        """
        assert self._process.stdin and self._process.stdout
        with contextlib.suppress(BrokenPipeError):  # said below
            self._process.stdin.write(json.dumps(arguments) + "\n")
            self._process.stdin.flush()
        for line in self._process.stdout:
            if line.startswith(_MARK):
                return json.loads(line.removeprefix(_MARK))
        raise RuntimeError(
            f"{' '.join(self._command)} ended with status {self._process.wait()}; "
            "BENCHMARK_STDERR=1 shows what it printed."
        )

    def close(self) -> None:
        """Ends the process."""
        self._process.kill()
        self._process.wait()


def answer(function: Callable[..., Any]) -> None:
    """Serves a `Worker` in the parent process until that closes the input."""
    for line in sys.stdin:
        print(_MARK + json.dumps(function(**json.loads(line))), flush=True)
