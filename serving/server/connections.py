"""How many connections each API may have."""

from __future__ import annotations

import resource

# More files are not asked of the system, and more connections only hold memory.
_FILES, _CONNECTIONS = 65_536, 10_000


def limit() -> int:
    """Connections that each API may have, so that half of the files that this process may open are
    left.

    Lets the process open as many files as the system allows.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    files = _FILES if hard == resource.RLIM_INFINITY else min(hard, _FILES)
    if soft != resource.RLIM_INFINITY and soft < files:
        resource.setrlimit(resource.RLIMIT_NOFILE, (files, hard))
    return min(files // 4, _CONNECTIONS)
