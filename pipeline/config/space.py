"""A full disk, told as such: libraries name a file, an SQL statement, or nothing at all."""

from __future__ import annotations

import itertools
import os
import re
import shutil
import tempfile
from collections.abc import Iterator

from models.settings import BLOCKS, Model
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
# Metadata, logs, statistics.
_REST = 20e6


def sentence(error: BaseException, config: Config) -> str:
    """Which disk is full, what is free there and what a run needs; "" when the error is of another
    kind.
    """
    disks = disks(config)
    place, free = min(disks.items(), key=lambda item: item[1])
    said = any(_FULL.search(f"{e} {getattr(e, 'message', '')}") for e in _chain(error))
    if not said and free > _NOTHING:
        return ""
    return (
        f"The disk of {place} is full: {_megabytes(free)} are free there, and a whole run needs"
        f" about {_megabytes(needed(config))}. Make room, or name another place (root=, artifacts=,"
        " or the environment variable TMPDIR), and run the same command again: it goes on where it"
        " stopped."
    )


def needed(config: Config) -> float:
    """Bytes that a run writes, roughly: the images once or twice, and copies of the network."""
    images = (
        2 * _size(config.data.source)
        if config.transform.shorter_side
        else _size(config.data.source)
    )
    return images + _COPIES * 4 * _parameters(config.model) + _REST


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


def _chain(error: BaseException) -> Iterator[BaseException]:
    """An error and those that led to it."""
    seen: set[int] = set()
    waiting: list[BaseException | None] = [error]
    while waiting:
        one = waiting.pop()
        if one is not None and id(one) not in seen:
            seen.add(id(one))
            yield one
            waiting += [one.__cause__, one.__context__]


def _parameters(model: Model) -> float:
    if model.family == "imagenet":
        bottleneck, numbers = BLOCKS[model.depth]
        widths, outer = (64, 128, 256, 512), 4 if bottleneck else 1
        # Kernels of a block that is `width` wide: two of 3x3, or 1x1, 3x3 and 1x1 with four times
        # the width outside. Then the shortcuts' and the last layer's, for 1,000 classes.
        kernels = 17 if bottleneck else 18
        blocks = sum(kernels * w * w * number for w, number in zip(widths, numbers, strict=True))
        sides = [64, *(outer * width for width in widths)]
        shortcuts = sum(before * after for before, after in itertools.pairwise(sides))
        return blocks + shortcuts + 1000 * sides[-1]
    return 15_500 * model.depth  # 0.27 million for 20 layers, 1.7 for 110


def _size(source: str) -> int:
    """Bytes of the files at a local place, 0 for others."""
    if os.path.isfile(source):
        return os.path.getsize(source)
    files = (os.path.join(where, name) for where, _, names in os.walk(source) for name in names)
    return sum(os.path.getsize(file) for file in files if os.path.isfile(file))


def _megabytes(size: float) -> str:
    return f"{size / 1e6:,.1f} MB" if size < 10e6 else f"{size / 1e6:,.0f} MB"
