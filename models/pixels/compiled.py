"""Python functions that tf.data calls: compiled where they are hot, and none at the end."""

from __future__ import annotations

import atexit
import gc
import os
import threading
import time
from collections.abc import Callable
from typing import Any


class _Calls:
    """The calls under way.

    An iterator that is alive when the interpreter ends waits for its call, and the call for the
    interpreter, for ever. An iterator that waits longer for its records than `_end` looks can still
    hang.
    """

    def __init__(self) -> None:
        self._lock, self._under_way, self._begun, self._ended = threading.Lock(), 0, 0, False
        atexit.register(self._end)

    def __enter__(self) -> None:
        with self._lock:
            self._begun += 1
            if self._ended:
                raise RuntimeError("The interpreter ends.")
            self._under_way += 1

    def __exit__(self, *error: object) -> None:
        with self._lock:
            self._under_way -= 1

    def _end(self) -> None:
        self._ended, seen = True, -1
        gc.collect()  # what only cycles hold, a traceback for one, ends here
        # Refused calls fill the buffers of the iterators, after which there are no more.
        while self._under_way or self._begun != seen:
            seen = self._begun
            time.sleep(0.05)


under_way = _Calls()


def compiled(function: Callable) -> Callable:
    """The function in machine code that holds no lock."""
    import numba  # takes a second, which evaluation and serving need not wait for

    options: dict[str, Any] = {"nogil": True, "error_model": "numpy", "fastmath": {"contract"}}
    try:
        return numba.njit(cache=True, **options)(function)
    except RuntimeError:  # no folder to keep the compiled code in: compiled again in every process
        return numba.njit(**options)(function)


def cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0))
