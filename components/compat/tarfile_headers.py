"""Walking a tar archive of any number of files in little memory."""

from __future__ import annotations

import tarfile
from collections.abc import Iterator


def walk(archive: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    """Every header in the order of the archive; none is remembered, as tarfile would.

    Raises:
      tarfile.TarError: a header is damaged.
    """
    while (info := archive.next()) is not None:
        archive.members = []  # type: ignore[attr-defined]
        yield info


def next_at(archive: tarfile.TarFile) -> int:
    """Where the next header should begin, in bytes; after `walk`, where it has found none."""
    return archive.offset
