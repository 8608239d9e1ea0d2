"""ILSVRC's development kit: which class each validation image is.

The kit numbers its classes in an order of its own; `meta.mat` maps its ids to
wnids. Line i of the ground truth belongs to `ILSVRC2012_val_%08d` number i.
"""

from __future__ import annotations

import io
import os
import re
import tarfile
import zlib
from typing import TYPE_CHECKING, NamedTuple

from components import files
from components.example_gen.errors import SourceError

if TYPE_CHECKING:
    import numpy as np

META = "meta.mat"
TRUTH = "ILSVRC2012_validation_ground_truth.txt"
_NUMBER = re.compile(r"_(\d{8})\.\w+$")


class Devkit(NamedTuple):
    """`wnids`: id -> wnid, `words`: wnid -> human label, `truth`: ids of images 1, 2, ..."""

    wnids: dict[int, str]
    words: dict[str, str]
    truth: list[int]

    def wnid(self, filename: str) -> str:
        """The class of a validation image, by the number in its name.

        Raises:
          SourceError: the name has no number, or one outside the ground truth.
        """
        match = _NUMBER.search(filename)
        number = int(match[1]) if match else 0
        if not 1 <= number <= len(self.truth):
            raise SourceError(
                f"The validation image {filename} has no ground truth: names must be like "
                f"ILSVRC2012_val_00000001.JPEG, numbers 1 to {len(self.truth)}."
            )
        return self.wnids[self.truth[number - 1]]


def is_kit(path: str) -> bool:
    """Whether a path is a file, which should be the archive, or a folder with the kit's files."""
    return files.is_file(path) or files.is_file(os.path.join(path, META))


def files_of(path: str) -> list[str]:
    """The kit's archive, or the files of its folder that are read."""
    return [os.path.join(path, name) for name in (META, TRUTH)] if files.is_dir(path) else [path]


def load(path: str) -> Devkit:
    """Reads the kit's archive, compressed or not, or the folder of its files.

    Raises:
      SourceError: the archive is damaged or lacks a file, or an id has no leaf class.
    """
    contents = _unpacked(path) if files.is_dir(path) else _extract(path)
    for name in (META, TRUTH):
        if name not in contents:
            raise SourceError(
                f"{path} lacks {name}: it is not the ILSVRC2012 development kit (task 1 and 2)."
            )
    try:
        synsets = _synsets(contents[META])
        # Only leaves are classes of the challenge; inner synsets have larger ids.
        leaves = [s for s in synsets.reshape(-1) if int(s["num_children"]) == 0]
        wnids = {int(s["ILSVRC2012_ID"]): str(s["WNID"]) for s in leaves}
        words = {str(s["WNID"]): str(s["words"]) for s in leaves}
        truth = [int(line) for line in contents[TRUTH].split()]
    except Exception as error:  # SciPy raises anything where a file is not what it should be
        raise SourceError(
            f"{path}: {META} or {TRUTH} is not that of ILSVRC2012 ({error}): download it again."
        ) from error
    unknown = sorted(set(truth) - set(wnids))
    if unknown:
        raise SourceError(
            f"The ground truth of {path} has ids that meta.mat has no class for: {unknown[:5]}."
        )
    return Devkit(wnids, words, truth)


def _synsets(content: bytes) -> np.ndarray:
    import scipy.io  # half a second: only when a kit is read

    return scipy.io.loadmat(io.BytesIO(content), squeeze_me=True)["synsets"]


def _extract(path: str) -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    try:
        with tarfile.open(fileobj=io.BytesIO(files.read(path)), mode="r:*") as tar:
            for member in tar:
                name = os.path.basename(member.name)
                stream = tar.extractfile(member) if name in (META, TRUTH) else None
                if stream is not None:
                    found[name] = stream.read()
            # To the end, where gzip's checksum is: a changed bit may be another class.
            while tar.fileobj is not None and tar.fileobj.read(2**20):
                pass
    except (tarfile.TarError, zlib.error, EOFError, OSError) as error:
        raise SourceError(f"{path} is damaged ({error}): download it again.") from error
    return found


def _unpacked(path: str) -> dict[str, bytes]:
    places = {name: os.path.join(path, name) for name in (META, TRUTH)}
    return {name: files.read(place) for name, place in places.items() if files.is_file(place)}
