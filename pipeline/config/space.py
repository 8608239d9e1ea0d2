"""A full disk, told as such: libraries name a file, an SQL statement, or nothing at all."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
import traceback

from pipeline.config.paths import Paths
from pipeline.config.settings import Config

# As Linux, TensorFlow, SQLite and quotas say it.
_FULL = re.compile(
    r"no space left|disk is full|disk quota exceeded|errno (28|122)\b", re.IGNORECASE
)
# Less than any file of a run: whatever failed then, failed of this.
_NOTHING = 64 * 1024
# Of a network: weights and momentum twice (while a checkpoint is replaced), the exported model with
# its Keras file, and as much again for the pushed version and for the one that it is compared with.
_COPIES = 10
# Parameters of the families, roughly: of every network, and a layer.
_PARAMETERS = {"imagenet": (6e6, 400_000), "cifar": (0, 15_500)}
# Metadata, logs, statistics.
_REST = 20e6


def sentence(error: BaseException, config: Config) -> str:
    """Which disk is full, what is free and what a run needs; "" for an error of another kind."""
    place, free = min(disks(config).items(), key=lambda item: item[1])
    # With the errors that led to it.
    told = "".join(traceback.format_exception(error))
    if not _FULL.search(told) and free > _NOTHING:
        return ""
    return (
        f"The disk of {place} is full: {_megabytes(free)} are free there, and a whole run needs"
        f" about {_megabytes(needed(config))}. Make room, or name another place (root=, artifacts=,"
        " or the environment variable TMPDIR), and run the same command again: it goes on where it"
        " stopped."
    )


def needed(config: Config) -> float:
    """Bytes that a run writes, roughly: the images once or twice, and copies of the network."""
    images = _size(config.data.source) * (2 if config.transform.shorter_side else 1)
    fixed, layer = _PARAMETERS[config.model.family]
    return images + _COPIES * 4 * (fixed + layer * config.model.depth) + _REST


def disks(config: Config) -> dict[str, int]:
    """Free bytes of the places on this machine that a run writes to."""
    paths = Paths(config)
    places = (paths.home, paths.artifacts, paths.serving, tempfile.gettempdir())
    there = dict.fromkeys(_existing(place) for place in places if "://" not in place)
    return {place: shutil.disk_usage(place).free for place in there}


def _existing(place: str) -> str:
    while not os.path.isdir(place):
        place = os.path.dirname(place)
    return place


def _size(source: str) -> int:
    """Bytes of the files at a local place, 0 for others."""
    if os.path.isfile(source):
        return os.path.getsize(source)
    files = (os.path.join(where, name) for where, _, names in os.walk(source) for name in names)
    return sum(os.path.getsize(file) for file in files if os.path.isfile(file))


def _megabytes(size: float) -> str:
    return f"{size / 1e6:,.1f} MB" if size < 10e6 else f"{size / 1e6:,.0f} MB"
