"""What every kind of source must say. `registry` has the kinds; a new one is a file in this folder
with a subclass of `Source`, and a line there.

Airflow's environment imports the file of the kind that it runs: whatever is not in the standard
library is imported inside of functions.
"""

from __future__ import annotations

import abc
import dataclasses
import importlib
import os
from collections.abc import Iterator, Sequence
from typing import ClassVar, NamedTuple, Self

from components import files
from components.example_gen import names
from components.example_gen.errors import SourceError
from components.example_gen.settings import Data


def of(kind: str) -> type[Source]:
    """The class of a kind.

    Raises:
      SourceError: there is no such kind.
    """
    # The cache follows import statements. With none for the registry, data that were ingested stay
    # so when somebody adds a kind; `component.example_gen` tells the cache which class is used.
    known: dict[str, str] = importlib.import_module(f"{__package__}.registry").KINDS
    if kind not in known:
        raise SourceError(f"data.kind must be one of {', '.join(known)}. Received: {kind}.")
    module, name = known[kind].split(":")
    found: type[Source] = getattr(importlib.import_module(f"{__package__}.{module}"), name)
    return found


# The size of an image that is all of a file.
WHOLE_FILE = -1


class File(NamedTuple):
    """An image: `size` bytes from byte `offset` of an archive, or all of a file.

    `name` is the path in the archive, or the path of the file below the folder of its group.
    `reason` says why the image cannot be used; it is "" for all others.
    """

    name: str
    offset: int = 0
    size: int = WHOLE_FILE
    reason: str = ""


# path, class, files: those of one class in one archive or folder. The class is "" where parts of
# archives say it themselves (`Source.record`), or where no file can be used.
Group = tuple[str, str, list[File]]


class Record(NamedTuple):
    """An encoded image; its class and its name where the record itself says them, else ""."""

    image: bytes
    synset: str = ""
    name: str = ""


@dataclasses.dataclass(frozen=True)
class Source(abc.ABC):
    """A source that `find` has found, or one span of it. A subclass may add fields for texts.

    `train` and `eval` are patterns of files below the folder `base`: ExampleGen runs again when one
    of these files has changed. `eval` is "" when a part of train is held out. `train_name` and
    `eval_name` are the names of the splits where several lie in one file. With `allow_missing`,
    images of classes that the training split lacks are left out.
    """

    base: str
    train: str
    eval: str
    train_name: str = ""
    eval_name: str = ""
    allow_missing: bool = False

    # `prepared` writes it below the root of a run, and `data.source` is not used.
    embedded: ClassVar[bool] = False
    # It may have spans.
    grows: ClassVar[bool] = False

    @classmethod
    def usual_place(cls) -> str:
        """What an empty `data.source` means; "" where a place must be named."""
        return ""

    @classmethod
    def prepared(cls, data: Data, folder: str) -> Data:
        """The settings to go on with; an embedded source is written into `folder` for them."""
        return data

    @classmethod
    @abc.abstractmethod
    def find(cls, data: Data, shared: str) -> Self:
        """Looks for the parts of the source, or of one span of it.

        Args:
          data: without marks of spans; `source` is an absolute path or a URL.
          shared: the folder above all spans, "" without spans.

        Raises:
          SourceError: something is missing; the message names it and where it is expected.
        """

    def beside(self) -> list[str]:
        """Paths of files that belong to no split; ExampleGen runs again when they change."""
        return []

    @abc.abstractmethod
    def classes(self) -> tuple[str, ...]:
        """Identifiers of the classes of the training split, sorted.

        Raises:
          SourceError: an archive is damaged, or a class cannot be used.
        """

    def labels(self, classes: tuple[str, ...]) -> tuple[str, ...]:
        """Names of `classes` for people, in their order."""
        return classes

    def check(self, classes: Sequence[str]) -> None:
        """Raises SourceError where the evaluation split spells one of `classes` otherwise."""
        return  # in most kinds nothing can be wrong

    @abc.abstractmethod
    def groups(self, split: str, skip: names.Skip) -> Iterator[Group]:
        """The files of the split `train` or `eval`, in the order of the source.

        Args:
          skip: told of the files that are left out, because they are no images.

        Raises:
          SourceError: files are missing, damaged or in the wrong place.
        """

    def record(self, content: bytes) -> Record:
        """What the bytes of a file of `groups` hold.

        Raises:
          BadImage: they are not what was written.
        """
        return Record(content)

    def place(self, split: str) -> str:
        """Where a split lies: its folder, or a pattern of its archives."""
        return os.path.join(self.base, getattr(self, split)).removesuffix("/*/*")

    def paths(self, split: str) -> list[str]:
        """The archives or folders of a split.

        Raises:
          SourceError: there is none.
        """
        place = self.place(split)
        found = files.glob(place)
        if not found:
            raise SourceError(f"{place} is missing: put it there or change data.source.")
        return found
