"""What a file of weights may make of its bytes."""

from __future__ import annotations

import os

# Networks hardly shrink: 1.1 times. Some are pruned, and small files have much of little.
_MOST_TIMES, _ALWAYS = 20, 2**24


class Refused(Exception):
    """Why a file is not read; the sentence goes on after the file's name."""


def check_unpacked(path: str, size: int) -> None:
    """Raises Refused when a compressed file declares more bytes, `size`, than it can hold."""
    packed = os.path.getsize(path)
    if size > max(_MOST_TIMES * packed, _ALWAYS):
        raise Refused(
            f"declares {size} bytes of tensors in {packed}; save the network alone, uncompressed"
        )


def check_stored(path: str, size: int) -> None:
    """Raises Refused when the tensors of an uncompressed file have more bytes than the file."""
    stored = os.path.getsize(path)
    if size > stored:
        raise Refused(
            f"has {size} bytes of tensors in {stored}: they share their storage; save clones"
        )
