"""The kinds of sources, by the names that `data.kind` takes, and what each of them must say.

A new kind is a module in this folder with a subclass of `Source`, and a line of `KINDS`. Airflow's
environment imports the module of the kind that it runs: whatever is not in the standard library is
imported inside of functions.
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

# `data.kind`: module in this folder and class; behind it, what `data.source` is. The cache sees the
# module of the kind that is used and not the others, because they are not imported here.
KINDS = {
    "digits": "digits:Digits",  # not used: the images are embedded
    "ilsvrc": "ilsvrc:Ilsvrc",  # the folder of the three archives as downloaded
    "folder": "folders:Folder",  # a folder with train/ and val/, or with train.tar and val.tar
    "tfds": "tfds_source:Tfds",  # the data_dir of TFDS; "" is its usual one
}


def of(kind: str) -> type[Source]:
    """The class of a kind.

    Raises:
      SourceError: there is no such kind.
    """
    if kind not in KINDS:
        raise SourceError(f"data.kind must be one of {', '.join(KINDS)}. Received: {kind}.")
    module, name = KINDS[kind].split(":")
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
    """A source, or one span of it, that was found. Subclasses may add texts and numbers.

    `train` and `eval` are patterns below the folder `base`, as TFX takes them: it runs again when a
    file that matches is another one. `eval` is "" when a part of train is held out. `train_name`
    and `eval_name` are for splits that have names inside of files. `allow_missing`: what only one
    split has a class for is left out.
    """

    base: str
    train: str
    eval: str
    train_name: str = ""
    eval_name: str = ""
    allow_missing: bool = False

    # It is written below the root of a run first (`prepared`), and `data.source` is not used.
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
        """Paths of files that belong to no split; the cache sees their content."""
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
        return  # most kinds cannot

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
