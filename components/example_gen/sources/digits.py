"""An embedded data set of real images, in the layout of ILSVRC2012's archives.

scikit-learn carries 1,797 scanned handwritten digits of 8 x 8 pixels. Written
as a training archive of class archives, a validation archive and a development
kit, they go through the very path that ImageNet takes.
"""

from __future__ import annotations

import dataclasses
import io
import os
import shutil
import tarfile
import uuid
from typing import TYPE_CHECKING

from components.example_gen.settings import Data
from components.example_gen.sources import ilsvrc

if TYPE_CHECKING:
    import numpy as np

TRAIN, EVAL = 1437, 360
SIDE = 32  # pixels; the scans are 8 x 8
QUALITY = 95
WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
_FOLDER = "ILSVRC2012_devkit_t12/data"
# Changes when what is written changes: a folder of an older form is not taken for this one.
_FORM = 1


class Digits(ilsvrc.Ilsvrc):
    """The scans; what is written of them is a source of ILSVRC's kind."""

    embedded = True

    @classmethod
    def prepared(cls, data: Data, folder: str) -> Data:
        return dataclasses.replace(data, kind="ilsvrc", source=write(folder, data.seed))


def write(root: str, seed: int = 0) -> str:
    """Writes the three archives below `root`, unless they are there; returns their folder.

    The split is stratified (1,437 and 360 images) and depends on `seed` alone. The
    folder appears whole or not at all.
    """
    folder = os.path.join(root, f"digits-{_FORM}-{seed}")
    if os.path.isdir(folder):
        return folder
    temp = f"{folder}.{uuid.uuid4().hex[:12]}.tmp"
    os.makedirs(temp)
    try:
        _write_archives(temp, seed)
        os.rename(temp, folder)
    except OSError:
        if not os.path.isdir(folder):  # else another process was faster, with the same content
            raise
    finally:
        shutil.rmtree(temp, ignore_errors=True)
    return folder


def wnid(digit: int) -> str:
    """The made-up WordNet id of a digit; sorted ids are sorted digits."""
    return f"n{digit:08d}"


def jpeg(scan: np.ndarray) -> bytes:
    """A scan of 8 x 8 values 0..16 as a grey JPEG of 32 x 32 pixels."""
    import numpy as np
    from PIL import Image

    grey = Image.fromarray((scan * (255 / 16)).round().astype(np.uint8))
    out = io.BytesIO()
    grey.resize((SIDE, SIDE), Image.Resampling.BICUBIC).save(out, "JPEG", quality=QUALITY)
    return out.getvalue()


def _write_archives(folder: str, seed: int) -> None:
    import numpy as np
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    scans, digits = load_digits(return_X_y=True)
    rows = np.arange(len(digits))
    train, val = train_test_split(rows, test_size=EVAL, stratify=digits, random_state=seed)
    images = [jpeg(scan.reshape(8, 8)) for scan in scans]
    with tarfile.open(os.path.join(folder, ilsvrc.TRAIN), "w") as outer:
        for digit in range(10):
            members = {
                f"{wnid(digit)}_{i}.JPEG": images[i] for i in sorted(train) if digits[i] == digit
            }
            _add(outer, f"{wnid(digit)}.tar", _tar(members))
    with open(os.path.join(folder, ilsvrc.EVAL), "wb") as stream:
        stream.write(
            _tar({f"ILSVRC2012_val_{n:08d}.JPEG": images[i] for n, i in enumerate(val, 1)})
        )
    _write_devkit(folder, digits[val], seed)


def _write_devkit(folder: str, val: np.ndarray, seed: int) -> None:
    import numpy as np
    from scipy.io import savemat

    # As in ImageNet's kit, ids are not the order of the sorted wnids.
    order = [int(d) for d in np.random.default_rng(seed).permutation(10)]
    ids = {digit: number for number, digit in enumerate(order, 1)}
    rows = [
        {
            "ILSVRC2012_ID": ids[digit],
            "WNID": wnid(digit),
            "words": WORDS[digit],
            "gloss": f"the handwritten digit {digit}",
            "num_children": 0,
            "children": np.zeros((1, 0)),
            "wordnet_height": 0,
        }
        for digit in order
    ]
    columns = [(name, object) for name in rows[0]]
    synsets = np.array([[tuple(row.values())] for row in rows], columns)
    meta = io.BytesIO()
    savemat(meta, {"synsets": synsets})
    truth = "".join(f"{ids[int(d)]}\n" for d in val).encode()
    with tarfile.open(os.path.join(folder, "ILSVRC2012_devkit_t12.tar.gz"), "w:gz") as kit:
        _add(kit, f"{_FOLDER}/meta.mat", meta.getvalue())
        _add(kit, f"{_FOLDER}/ILSVRC2012_validation_ground_truth.txt", truth)


def _tar(members: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name, data in members.items():
            _add(tar, name, data)
    return out.getvalue()


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    tar.addfile(info, io.BytesIO(data))
