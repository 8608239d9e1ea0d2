"""Temporary files in the pipeline's own folder, where the next run finds and removes them."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator


@contextlib.contextmanager
def folder(home: str) -> Iterator[None]:
    """Makes temporary files of this process, and of those that it starts, in a folder of its own.

    It goes with the run; what a killed run has left goes at the start of the next one. Its name
    comes from `home`, the pipeline's folder, and is short, as sockets lie there.
    """
    before = tempfile.tempdir, os.environ.get("TMPDIR")
    name = hashlib.sha256(os.fsencode(home)).hexdigest()[:8]
    place = os.path.join(tempfile.gettempdir(), f"resnet-tfx-{os.getuid()}-{name}")
    if os.path.lexists(place) and not _ours(place):
        place = tempfile.mkdtemp()  # somebody else's, in a folder that all may write to
    shutil.rmtree(place, ignore_errors=True)
    os.makedirs(place, 0o700, exist_ok=True)
    tempfile.tempdir = os.environ["TMPDIR"] = place
    try:
        yield
    finally:
        tempfile.tempdir = before[0]
        if before[1] is None:
            del os.environ["TMPDIR"]
        else:
            os.environ["TMPDIR"] = before[1]
        shutil.rmtree(place, ignore_errors=True)


def _ours(folder: str) -> bool:
    found = os.lstat(folder)
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid()
