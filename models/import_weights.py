"""Makes a pushed model, which can be served, of published weights.

python -m models.import_weights resnet50.pth serving/resnet50 --labels synsets.txt
python -m models.import_weights torchvision:resnet50 serving/resnet50 --labels synsets.txt
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Sequence

import tensorflow as tf

from models.export import export, protocols
from models.settings import PROTOCOLS, Transform, check_transform
from models.weights import conversion
from models.weights.named import catalogue, download
from models.weights.published import TORCH_MEAN, TORCH_STD


def push(
    found: conversion.Imported,
    folder: str,
    labels: Sequence[str],
    transform: Transform,
    names: Sequence[str] = (),
) -> str:
    """Writes the network as the newest version of a pushed model; returns its folder.

    Args:
      found: with its head.
      folder: of the model; the version is the time in seconds, as Pusher's are.
      labels: the classes in the order of the outputs; none are numbered. The classes of a data set
        (synsets) make the network fit that data set in train.init_from and model.ensemble.
      transform: of `conversion.crops`.
      names: of the classes, for people; none are the labels.

    Raises:
      ValueError: there is no head, another number of labels or names than outputs, or no crop fits.
    """
    classes = found.model.output_shape[-1]
    if not found.head:
        raise ValueError(
            "The weights have no last layer to serve; fine-tune them with train.init_from."
        )
    check_transform(transform)
    if labels and len(labels) != classes:
        raise ValueError(
            f"There are {len(labels)} labels for {classes} outputs; give one for each."
        )
    labels = labels or [f"{number:0{len(str(classes - 1))}}" for number in range(classes)]
    image = found.pixel_mean if transform.mean == "pixel" else None
    measured = conversion.constants(found.channel_mean, labels, transform.size, image)
    network = protocols.network(found.model, transform, measured)
    version = int(time.time())
    while tf.io.gfile.exists(os.path.join(folder, str(version))):
        version += 1
    path = os.path.join(folder, str(version))
    # Crops of another size fit some networks only.
    tests = [name for name, protocol in PROTOCOLS.items() if not protocol.size]
    export.export(network, path, names, tests)
    return path


def main(arguments: Sequence[str] | None = None) -> int:
    """Imports a file; returns 1, after a sentence on stderr, when that cannot be done."""
    parsed = _parser().parse_args(arguments)
    try:
        labels, names = _lines(parsed.labels), _lines(parsed.names)
        path = download.local(parsed.checkpoint)
        found = conversion.load(path, parsed.mean, parsed.std, parsed.mean_file)
        view = conversion.crops(found, parsed.size, parsed.test_shorter_side or _usual_side(parsed))
        version = push(found, parsed.out, labels, view, names)
    except (ValueError, OSError, tf.errors.OpError) as error:
        print(error, file=sys.stderr)
        return 1
    mean = ", ".join(f"{value:.3f}" for value in found.channel_mean)
    image = " of the mean image" if view.mean == "pixel" else ""
    print(
        f"{version}: {found.model.name}, {found.model.output_shape[-1]} classes, mean colour"
        f" {mean}{image}"
    )
    return 0


def _usual_side(parsed: argparse.Namespace) -> int:
    """The shorter side that the errors of a named network were measured with, 0 where none is."""
    named = catalogue.is_name(parsed.checkpoint) and not parsed.size
    return catalogue.find(parsed.checkpoint).test_shorter_side if named else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="import_weights",
        description="Makes a pushed model, ready to be served, of published weights.",
    )
    parser.add_argument(
        "checkpoint",
        help="file of weights, or a name such as torchvision:resnet50 (docs/weights.md)",
    )
    parser.add_argument("out", help="folder of the model; a new version is written into it")
    for name, text in (
        ("labels", "class names in the order of the outputs, one a line"),
        ("names", "the same for people, where the labels are synsets"),
        ("mean_file", "mean image (Caffe); else the one beside the weights"),
    ):
        parser.add_argument(f"--{name}", default="", metavar="FILE", help=text)
    for name, default in (("mean", TORCH_MEAN), ("std", TORCH_STD)):
        text = f"{name} of RGB in 0..1 (PyTorch)"
        parser.add_argument(
            f"--{name}", nargs=3, type=float, default=default, metavar="X", help=text
        )
    for name, text in (
        ("size", "side of the images; 224, or 32 in the CIFAR family"),
        ("test_shorter_side", "before the crop; that of a name, 256 for 224, 32 for 32"),
    ):
        parser.add_argument(f"--{name}", type=int, default=0, help=text)
    return parser


def _lines(path: str) -> list[str]:
    if not path:
        return []
    try:
        with open(path, encoding="utf-8") as file:
            lines = [line.strip() for line in file if line.strip()]
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is no text in UTF-8 ({error}); save it as one.") from error
    if not lines:
        raise ValueError(f"{path} is empty; write one name a line into it.")
    return lines


if __name__ == "__main__":
    sys.exit(main())
