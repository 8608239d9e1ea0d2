"""Weights that others have published, by name: the starting points of `train.init_from=NAME`.

A line a file. Where the facts are from:

  - torchvision: `torchvision/models/resnet.py` (0.29) has addresses, sizes, accuracies and test
    crops; V1 is IMAGENET1K_V1 there, and V2 IMAGENET1K_V2. The licence is that of the library.
  - Keras: `keras.applications` has addresses and MD5s, keras.io's table of applications sizes and
    accuracies, and `get_file` tells the sizes of the files without a last layer while it downloads
    them. The licence is that of the library. Nobody says from which side the crops were taken.
  - timm: `timm/models/resnet.py` has addresses, licences and test crops, and
    `results/results-imagenet.csv` the accuracies with 224 pixels and the numbers of parameters; the
    size is 4 bytes for each.

The file names of torchvision and timm have the first 8 digits of the SHA-256, which is what their
own loaders check. A whole SHA-256 is here where several public repositories state the same one.
"""

from __future__ import annotations

import os
import re
from typing import NamedTuple

from models.settings import BLOCKS, Model, Variant

# Source, colon, name; neither an address (s3://) nor a path.
_NAME = re.compile(r"[a-z_]+:(?!//)[^/]*")
# What people call them, and their digits.
_ALGORITHMS = {"sha256": ("SHA-256", 64), "md5": ("MD5", 32)}


class Entry(NamedTuple):
    """One file.

    Attributes:
      name: what `train.init_from` says, such as "torchvision:resnet50".
      address: where its owner offers the file.
      size: in MiB, rounded.
      algorithm: "sha256" or "md5".
      checksum: hexadecimal; the first digits alone where no more are known.
      licence: that the owner gives, as an SPDX identifier.
      recipe: how it was trained, in a few words.
      errors: top-1 and top-5 on the validation images of ImageNet in percent, as published for one
        crop of 224 pixels; None where there is no last layer.
      model: the network.
      test_shorter_side: of the images that these errors were measured on, in pixels.
    """

    name: str
    address: str
    size: float
    algorithm: str
    checksum: str
    licence: str
    recipe: str
    errors: tuple[float, float] | None
    model: Model
    test_shorter_side: int

    @property
    def promise(self) -> str:
        """A part of a sentence about the checksum."""
        name, digits = _ALGORITHMS[self.algorithm]
        whole = len(self.checksum) == digits
        return f"its {name} {'is' if whole else 'begins with'} {self.checksum}"

    @property
    def settings(self) -> str:
        """What a configuration says to fit the network, and to measure as its owner did."""
        names = [name for name in ("depth", "variant") if name in self.model.network]
        said = [f"model.{name}={getattr(self.model, name)}" for name in names]
        return " ".join([*said, f"transform.test_shorter_side={self.test_shorter_side}"])


def _model(name: str, variant: Variant) -> Model:
    depth = int(re.findall(r"\d+", name)[0])
    return Model(depth=depth, variant=variant if BLOCKS[depth].bottleneck else "v1")


def _torchvision(name: str, file: str, size: float, top1: float, top5: float) -> Entry:
    second = name.endswith("_v2")
    return Entry(
        name=f"torchvision:{name}",
        address=f"https://download.pytorch.org/models/{file}.pth",
        size=size,
        algorithm="sha256",
        checksum=_digest(file),
        licence="BSD-3-Clause",
        recipe="torchvision's V2" if second else "torchvision's V1, simple",
        errors=(round(100 - top1, 3), round(100 - top5, 3)),
        model=_model(name, "v1.5"),
        test_shorter_side=232 if second else 256,
    )


def _keras(name: str, md5: str, size: float, top1: float = 0.0, top5: float = 0.0) -> Entry:
    stem, _, notop = name.partition("_")
    folder = "https://storage.googleapis.com/tensorflow/keras-applications/resnet"
    end = "_notop" if notop else ""
    return Entry(
        name=f"keras:{name}",
        address=f"{folder}/{stem}_weights_tf_dim_ordering_tf_kernels{end}.h5",
        size=size,
        algorithm="md5",
        checksum=md5,
        licence="Apache-2.0",
        recipe="not told; no last layer" if notop else "not told",
        errors=None if notop else (round(100 - top1, 3), round(100 - top5, 3)),
        model=_model(name, "v1"),
        test_shorter_side=256,
    )


def _timm(
    name: str, file: str, size: float, top1: float, top5: float, owner: str = "huggingface"
) -> Entry:
    releases = f"https://github.com/{owner}/pytorch-image-models/releases/download"
    return Entry(
        name=f"timm:{name}",
        address=f"{releases}/v0.1-rsb-weights/{file}.pth",
        size=size,
        algorithm="sha256",
        checksum=_digest(file),
        licence="Apache-2.0",
        recipe=f"ResNet strikes back, {name.split('.')[1][:2].upper()}",
        errors=(round(100 - top1, 3), round(100 - top5, 3)),
        model=_model(name, "v1.5"),
        test_shorter_side=235,
    )


def _digest(file: str) -> str:
    """The SHA-256 of a file by its name, as much of it as is known."""
    start = file[-8:]
    return next((digest for digest in _WHOLE if digest.startswith(start)), start)


_WHOLE = (
    "f37072fd47e89c5e827621c5baffa7500819f7896bbacec160b1a16c560e07ec",
    "b627a593bcbe140c234610266fe4f8ae95ea42fc881d091c9b6052e6b1d0590f",
    "0676ba61b6795bbe1773cffd859882e5e297624d384b6993f7c9e683e722fb8a",
    "11ad3fa62ca79e40addfd354a8ec4b7c75143b3038b8d2a807fbc68deab379ca",
    "63fe2227b86e8f1f2063f43a75c84d195911b6a0eace650907dd3dc62dd49a0a",
    "394f9c45966e3651a89bbb78a48410a6755854ce4a5ab64927cf1c7247f85e58",
    "d63eafa07a6e32a39d328e364f8c9f89d671444ecc7f02aa0f7eb8882af3dd29",
)
_ALL = (
    _torchvision("resnet18", "resnet18-f37072fd", 44.7, 69.758, 89.078),
    _torchvision("resnet34", "resnet34-b627a593", 83.3, 73.314, 91.420),
    _torchvision("resnet50", "resnet50-0676ba61", 97.8, 76.130, 92.862),
    _torchvision("resnet50_v2", "resnet50-11ad3fa6", 97.8, 80.858, 95.434),
    _torchvision("resnet101", "resnet101-63fe2227", 170.5, 77.374, 93.546),
    _torchvision("resnet101_v2", "resnet101-cd907fc2", 170.5, 81.886, 95.780),
    _torchvision("resnet152", "resnet152-394f9c45", 230.4, 78.312, 94.046),
    _torchvision("resnet152_v2", "resnet152-f82ba261", 230.5, 82.284, 96.002),
    _keras("resnet50", "2cb95161c43110f7111970584f804107", 98, 74.9, 92.1),
    _keras("resnet50_notop", "4d473c1dd8becc155b73f8504c6f6626", 90.4),
    _keras("resnet101", "f1aeb4b969a6efcfb50fad2f0c20cfc5", 171, 76.4, 92.8),
    _keras("resnet101_notop", "88cf7a10940856eca736dc7b7e228a21", 163.5),
    _keras("resnet152", "100835be76be38e30d865e96f2aaae62", 232, 76.6, 93.1),
    _keras("resnet152_notop", "ee4c566cf9a93f14d82f913c2dc6dd0c", 223.8),
    _timm("resnet18.a1_in1k", "resnet18_a1_0-d63eafa0", 44.6, 71.504, 90.086),
    _timm("resnet18.a2_in1k", "resnet18_a2_0-b61bd467", 44.6, 70.634, 89.486),
    _timm("resnet18.a3_in1k", "resnet18_a3_0-40c531c8", 44.6, 68.250, 88.172),
    _timm("resnet34.a1_in1k", "resnet34_a1_0-46f8f793", 83.2, 76.420, 92.896),
    _timm("resnet34.a2_in1k", "resnet34_a2_0-82d47d71", 83.2, 75.520, 92.454),
    _timm("resnet34.a3_in1k", "resnet34_a3_0-a20cabb6", 83.2, 72.996, 91.116),
    _timm("resnet50.a1_in1k", "resnet50_a1_0-14fe96d1", 97.5, 80.382, 94.598, "rwightman"),
    _timm("resnet50.a2_in1k", "resnet50_a2_0-a2746f79", 97.5, 79.828, 94.560),
    _timm("resnet50.a3_in1k", "resnet50_a3_0-59cae1ef", 97.5, 78.052, 93.780),
    _timm("resnet101.a1_in1k", "resnet101_a1_0-cdcb52a9", 169.9, 81.494, 95.164),
    _timm("resnet101.a2_in1k", "resnet101_a2_0-6edb36c7", 169.9, 81.344, 95.198),
    _timm("resnet101.a3_in1k", "resnet101_a3_0-1db14157", 169.9, 79.836, 94.608),
    _timm("resnet152.a1_in1k", "resnet152_a1_0-2eee8a7a", 229.6, 81.998, 95.294),
    _timm("resnet152.a2_in1k", "resnet152_a2_0-b4c6978f", 229.6, 81.764, 95.270),
    _timm("resnet152.a3_in1k", "resnet152_a3_0-134d4688", 229.6, 80.548, 95.004),
)
ENTRIES = {entry.name: entry for entry in _ALL}


def is_name(source: str) -> bool:
    """True for SOURCE:NAME, whether there is such an entry or not; files that exist win."""
    return bool(_NAME.fullmatch(source)) and not os.path.exists(source)


def find(name: str) -> Entry:
    """The entry of a name.

    Raises:
      ValueError: there is none; those that there are follow.
    """
    if name in ENTRIES:
        return ENTRIES[name]
    source = name.split(":")[0]
    like = [known for known in ENTRIES if known.startswith(f"{source}:")]
    raise ValueError(f"{name} is no known name; choose one of {', '.join(like or ENTRIES)}.")


def check(source: str, model: Model) -> None:
    """Raises ValueError when `source` is a name and cannot start the training of `model`."""
    if is_name(source):
        try:
            theirs = find(source).model
        except ValueError as error:
            raise ValueError(f"train.init_from={error}") from error
        check_network(source, theirs, model)


def check_network(source: str, theirs: Model, model: Model) -> None:
    """Raises ValueError when the network `theirs`, from `source`, is another than `model`."""
    wanted, ours = theirs.network, model.network
    for name in ours:
        if wanted.get(name) != ours[name]:
            said = _said(getattr(theirs, name))
            raise ValueError(
                f"train.init_from={source} is a network with model.{name}={said}, and the"
                f" configuration has {_said(ours[name])}; set model.{name}={said}."
            )


def _said(value: object) -> str:
    """A setting as it is written."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def table() -> str:
    """The entries for docs/weights.md, in Markdown."""
    rows = [
        "| name | MiB | checked by | licence | recipe | top-1, top-5 error | settings |",
        "|---|---|---|---|---|---|---|",
    ]
    for entry in ENTRIES.values():
        name, digits = _ALGORITHMS[entry.algorithm]
        known = "" if len(entry.checksum) == digits else f", {len(entry.checksum)} digits"
        errors = "{:.2f}, {:.2f} %".format(*entry.errors) if entry.errors else ""
        rows.append(
            f"| [`{entry.name}`]({entry.address}) | {entry.size:g} | {name}{known} |"
            f" {entry.licence} | {entry.recipe} | {errors} | `{entry.settings}` |"
        )
    return "\n".join(rows)
