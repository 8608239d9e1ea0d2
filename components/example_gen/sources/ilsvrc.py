"""ILSVRC2012's archives as they are handed out, read where they lie."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator
from typing import Self

from components import files
from components.example_gen import names
from components.example_gen.errors import SourceError
from components.example_gen.settings import HOLDOUT, Data
from components.example_gen.sources import devkit, folders, tar_index
from components.example_gen.sources.kinds import File, Group, Source

TRAIN = "ILSVRC2012_img_train.tar"
EVAL = "ILSVRC2012_img_val.tar"
# As it is handed out, as a browser may leave it, and unpacked.
_DEVKIT = "ILSVRC2012_devkit_t12"
_DEVKITS = tuple(f"{_DEVKIT}{end}" for end in (".tar.gz", ".tgz", ".tar", "/data", ""))
_NESTED = (
    "an archive inside the archive of its class: its files are not read, pack them beside the"
    " others"
)


@dataclasses.dataclass(frozen=True)
class Ilsvrc(Source):
    """A tar of class tars, a tar of validation images and the development kit."""

    grows = True

    # The kit's archive or folder.
    devkit: str = ""

    @classmethod
    def find(cls, data: Data, shared: str) -> Self:
        base = data.source
        train = data.train_split or TRAIN
        places = [place for place in (base, shared) if place]
        kits = (os.path.join(place, name) for place in places for name in _DEVKITS)
        kit = next(filter(devkit.is_kit, kits), "")
        evaluation = "" if data.eval_split == HOLDOUT else data.eval_split or EVAL
        missing = [p for p in (train, evaluation) if p and not files.glob(os.path.join(base, p))]
        missing += [] if kit else [_DEVKITS[0]]
        if missing:
            advice = " or set data.eval_split=holdout" if missing == [evaluation] else ""
            raise SourceError(
                f"{base} lacks {', '.join(missing)}: put the archives there as image-net.org hands"
                f" them out, not unpacked{advice}."
            )
        return cls(base, train, evaluation, devkit=kit)

    def beside(self) -> list[str]:
        """The kit."""
        return devkit.files_of(self.devkit)

    def classes(self) -> tuple[str, ...]:
        """The wnids; see the base class."""
        paths = self.paths("train")
        return tuple(sorted({wnid for path in paths for wnid in tar_index.class_tars(path)}))

    def labels(self, classes: tuple[str, ...]) -> tuple[str, ...]:
        """The words of the development kit.

        Raises:
          SourceError: it lacks a class.
        """
        words = devkit.load(self.devkit).words
        unknown = [wnid for wnid in classes if wnid not in words]
        if unknown:
            raise SourceError(
                f"The development kit {self.devkit} has no class {', '.join(unknown[:3])} of the"
                " training archive: they belong to different data sets."
            )
        return tuple(words[wnid] for wnid in classes)

    def groups(self, split: str, skip: names.Skip) -> Iterator[Group]:
        paths = self.paths(split)
        return _train(paths, skip) if split == "train" else _eval(paths, self.devkit, skip)


def _train(paths: list[str], skip: names.Skip) -> Iterator[Group]:
    for path in paths:
        yield path, "", _beside_the_classes(path, skip)
        for wnid, found in tar_index.members_of_classes(path, tar_index.class_tars(path), skip):
            group: list[File] = []
            for member in found:
                name = os.path.basename(member.name)
                if names.is_archive(name):
                    group.append(File(name, *member[1:3], _NESTED))
                elif names.is_image(name):
                    group.append(File(name, *member[1:]))
                else:
                    skip(f"{wnid}/{name}")
            yield path, wnid, group


def _beside_the_classes(path: str, skip: names.Skip) -> list[File]:
    found: list[File] = []
    for member in tar_index.members(path, skip=skip):
        if folders.is_tar(member.name):
            continue
        if names.is_archive(member.name):
            raise SourceError(
                f"{path} holds {member.name}, which is no plain tar: unpack it to one."
            )
        if names.has_image_suffix(member.name):
            found.append(File(*member[:3], folders.LOOSE))
        else:
            skip(os.path.normpath(member.name))
    return found


def _eval(paths: list[str], kit_path: str, skip: names.Skip) -> Iterator[Group]:
    kit = devkit.load(kit_path)
    for path in paths:
        by_class: dict[str, list[File]] = {}
        for member in tar_index.members(path, skip=skip):
            name = os.path.basename(member.name)
            if names.is_image(name):
                by_class.setdefault(kit.wnid(name), []).append(File(name, *member[1:]))
            else:
                skip(name)
        for wnid in sorted(by_class):
            yield path, wnid, by_class[wnid]
