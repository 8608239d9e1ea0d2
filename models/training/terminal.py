"""The person's terminal. The command line writes to it before TensorFlow is imported."""

from __future__ import annotations

import errno
import io
from typing import TextIO


def stream(descriptor: int, closefd: bool = True) -> TextIO:
    """A text stream to a descriptor, line by line; what is written to a closed terminal is lost.

    A run that outlives its terminal (`disown`, `setsid`) would otherwise end at its next line.
    """
    raw = _Lasting(descriptor, "w", closefd=closefd)
    # A terminal that has no ✓ shows a question mark.
    return io.TextIOWrapper(io.BufferedWriter(raw), errors="replace", line_buffering=True)


class _Lasting(io.FileIO):
    def write(self, data):
        try:
            return super().write(data)
        except OSError as error:
            if error.errno != errno.EIO:
                raise
            return len(data)
