"""Published weights as a network of this project, and as a pushed model that can be served.

    python -m models.import_weights resnet50.pth serving/resnet50 --labels synsets.txt

docs/weights.md says what can be read; models.weights.published, what is done to it and why that is exact.
"""

from __future__ import annotations

import argparse
import dataclasses
import glob
import json
import os
import sys
import time
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import keras
import numpy as np
import tensorflow as tf

from models.export import export, protocols
from models.network import architecture
from models.pixels.augmentation import Constants
from models.settings import PROTOCOLS, Model, Transform, check_transform
from models.weights import foreign_files, published
from models.weights.published import MEANS, TORCH_MEAN, TORCH_STD, Layout, Tensors


class Imported(NamedTuple):
    """A network with published weights.

    Attributes:
      model: mean-subtracted images [B, H, W, 3], RGB of 0..255 -> logits.
      channel_mean: float32 [3], the mean to subtract, RGB, 0..255.
      settings: of the network.
      head: False when the file has none; the model has one output then, which is always 0.
      pixel_mean: float32 [H, W, 3], the mean image of Caffe's networks; None where only a colour is known.
    """

    model: keras.Model
    channel_mean: np.ndarray
    settings: Model
    head: bool
    pixel_mean: np.ndarray | None = None

    @property
    def constants(self) -> Constants:
        """The mean image, or the mean colour for images of any size; nothing else is known."""
        found = constants(self.channel_mean)
        return found if self.pixel_mean is None else dataclasses.replace(found, pixel_mean=self.pixel_mean)


def load(
    path: str,
    model: Model | None = None,
    mean: Sequence[float] = TORCH_MEAN,
    std: Sequence[float] = TORCH_STD,
    mean_file: str = "",
) -> Imported:
    """The network of a file of weights.

    Args:
      path: of the file.
      model: what it is expected to be; None takes what it is.
      mean: of RGB in 0..1 that a PyTorch network was trained with. Those of Keras and Caffe have their own.
      std: what RGB in 0..1 was divided by, after the mean.
      mean_file: the mean image of a Caffe network (.binaryproto); else the one that lies beside it is taken,
        and where there is none, the mean colour of the authors' data.

    Raises:
      ValueError: the file cannot be read, or its network is none of models.network.architecture or not the expected one.
        The first tensor that does not fit is named.
    """
    return _load(path, dataclasses.asdict(model) if model else {}, mean, std, mean_file)


def _load(
    path: str, wanted: Mapping[str, object], mean: Sequence[float], std: Sequence[float], mean_file: str
) -> Imported:
    # Not NaN either, and not on the scale of 0..255.
    if not all(0 <= value <= 1 for value in mean):
        raise ValueError(f"--mean {' '.join(map(str, mean))}: all three must be from 0 to 1.")
    if not all(0 < value <= 1 for value in std):
        raise ValueError(f"--std {' '.join(map(str, std))}: all three must be above 0 and at most 1.")
    tensors = foreign_files.read(path)
    try:
        layout = published.recognise(tensors)
        _check(layout.settings, wanted)
        network = architecture.build(layout.settings, _classes(layout, tensors))
        _fill(network, layout, tensors, np.ones(3) if layout.kind in MEANS else 255 * np.asarray(std))
    except ValueError as error:
        raise ValueError(f"{path}: {error}.") from error
    channel_mean = np.asarray(MEANS.get(layout.kind, 255 * np.asarray(mean)), np.float32)
    found = Imported(network, channel_mean, layout.settings, layout.head is not None)
    if layout.kind != "caffe" and mean_file:
        raise ValueError(f"--mean_file {mean_file}: {path} is no network of Caffe; leave it out.")
    mean_file = mean_file or (_beside(path) if layout.kind == "caffe" else "")
    if not mean_file:
        return found
    image = foreign_files.read_mean(mean_file)
    return found._replace(pixel_mean=image, channel_mean=image.mean((0, 1), np.float64).astype(np.float32))


def _beside(path: str) -> str:
    """The mean file in the folder of a Caffe network, "" when there is none."""
    names = sorted(glob.glob(os.path.join(glob.escape(os.path.dirname(path)), "*.binaryproto")))
    if len(names) > 1:
        raise ValueError(f"{' and '.join(names[:2])} lie beside {path}; name the right one with --mean_file.")
    return names[0] if names else ""


def constants(channel_mean: np.ndarray, labels: Sequence[str] = (), size: int = 1) -> Constants:
    """Constants of a network of which only the mean colour is known.

    Args:
      channel_mean: float32 [3].
      labels: class names in label order, none when they are not known.
      size: side of the mean image, which has the mean colour everywhere; 1 fits images of any size.

    Returns:
      Constants of which the covariance is 0 and so is the number of examples of every class.
    """
    return Constants(
        pixel_mean=np.broadcast_to(channel_mean, [size, size, 3]).copy(),
        channel_mean=channel_mean,
        covariance=np.zeros([3, 3], np.float32),
        labels=tuple(labels),
        class_counts=(0,) * len(labels),
    )


def _check(found: Model, wanted: Mapping[str, object]) -> None:
    """Raises ValueError when the file is not what is asked for."""
    for name, value in found.network.items():
        if wanted.get(name, value) != value:
            said, asked = (json.dumps(setting).strip('"') for setting in (value, wanted[name]))
            raise ValueError(
                f"it is a network with model.{name}={said}, and {asked} is asked for; set model.{name}={said}"
            )


def _classes(layout: Layout, tensors: Tensors) -> int:
    if layout.head is None:
        return 1
    kernel, bias = (published.names(layout, "logits")[part] for part in ("kernel", "bias"))
    for name in (kernel, bias):
        if name not in tensors:
            raise ValueError(f"it lacks the tensor {name}")
    # Before a network of that many outputs is built.
    classes = tensors[bias].size
    if classes not in tensors[kernel].shape:
        shape = list(tensors[kernel].shape)
        raise ValueError(f"its tensor {kernel} has shape {shape}, and {bias} has {classes} values")
    return classes


def _fill(network: keras.Model, layout: Layout, tensors: Tensors, std: np.ndarray) -> None:
    """Gives `network` its weights; every tensor must have its place and every weight its tensor."""
    layers = [layer for layer in network.layers if layer.weights]
    if layout.head is None:
        logits = layers.pop()
        logits.set_weights([np.zeros_like(value) for value in logits.get_weights()])
    sources = {layer.name: published.names(layout, layer.name) for layer in layers}
    what = f"{network.name} with shortcut {layout.settings.shortcut}"
    known = {name for parts in sources.values() for name in parts.values()}
    for name in tensors:
        if name not in known:
            raise ValueError(f"its tensor {name} {list(tensors[name].shape)} is no part of {what}")
    for layer in layers:
        parts = {}
        for part, name in sources[layer.name].items():
            # The vectors of a layer all have the shape of its last.
            shape = layer.weights[0 if part == "kernel" else -1].shape
            shape = published.their_shape(layout, part, tuple(shape))
            if name not in tensors and part in published.OPTIONAL:
                continue
            if name not in tensors:
                raise ValueError(f"it lacks the tensor {name} {list(shape)} of {what}")
            if tensors[name].shape != shape:
                have = list(tensors[name].shape)
                raise ValueError(f"its tensor {name} has shape {have}, and {what} needs {list(shape)}")
            if not np.isfinite(tensors[name]).all():
                raise ValueError(f"its tensor {name} has values that are no finite numbers of 32 bits")
            if part == "moving_variance" and tensors[name].min() < 0:
                raise ValueError(f"its tensor {name} has variances below 0")
            parts[part] = tensors[name]
        layer.set_weights(published.to_ours(layout, layer.name, parts, std))


def push(
    found: Imported, folder: str, labels: Sequence[str], transform: Transform, names: Sequence[str] = ()
) -> str:
    """Writes the network as the newest version of a pushed model.

    Args:
      found: with its head.
      folder: of the model; the version is the time in seconds, as Pusher's are.
      labels: the classes in the order of the outputs; none are numbered. The classes of a data set
        (synsets) make the network fit that data set in train.init_from and model.ensemble.
      transform: of `crops`.
      names: of the classes, for people; none are the labels.

    Returns:
      The folder of the version.

    Raises:
      ValueError: there is no head, another number of labels or names than outputs, or no crop fits.
    """
    classes = found.model.output_shape[-1]
    if not found.head:
        raise ValueError("The weights have no last layer to serve; fine-tune them with train.init_from.")
    check_transform(transform)
    if labels and len(labels) != classes:
        raise ValueError(f"There are {len(labels)} labels for {classes} outputs; give one for each.")
    labels = labels or [f"{number:0{len(str(classes - 1))}}" for number in range(classes)]
    measured = constants(found.channel_mean, labels, transform.size)
    if transform.mean == "pixel" and found.pixel_mean is not None:
        measured = dataclasses.replace(measured, pixel_mean=found.pixel_mean)
    network = protocols.network(found.model, transform, measured)
    version = int(time.time())
    while tf.io.gfile.exists(os.path.join(folder, str(version))):
        version += 1
    path = os.path.join(folder, str(version))
    export.export(network, path, names, PROTOCOLS)
    return path


def crops(found: Imported, size: int = 0, test_shorter_side: int = 0) -> Transform:
    """The usual test crops of a family, 224 of 256 pixels or 32 of 32, unless others are given.

    The mean image is subtracted where it is known and has their size, else the mean colour.
    """
    cifar = found.settings.family == "cifar"
    size = size or (32 if cifar else 224)
    shorter = size if cifar else round(size * 256 / 224)
    by_pixel = found.pixel_mean is not None and found.pixel_mean.shape == (size, size, 3)
    return Transform(
        size=size,
        crop="none",
        colour=0.0,
        mean="pixel" if by_pixel else "channel",
        test_shorter_side=test_shorter_side or shorter,
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Imports a file; returns 1, after a sentence on stderr, when that cannot be done."""
    parsed = _parser().parse_args(arguments)
    expected = {name: getattr(parsed, name) for name in ("family", "depth", "shortcut", "variant")}
    wanted = {name: value for name, value in expected.items() if value is not None}
    try:
        labels, names = _lines(parsed.labels), _lines(parsed.names)
        found = _load(parsed.checkpoint, wanted, parsed.mean, parsed.std, parsed.mean_file)
        view = crops(found, parsed.size, parsed.test_shorter_side)
        version = push(found, parsed.out, labels, view, names)
    except (ValueError, OSError, tf.errors.OpError) as error:
        print(error, file=sys.stderr)
        return 1
    mean = ", ".join(f"{value:.3f}" for value in found.channel_mean)
    image = " of the mean image" if view.mean == "pixel" else ""
    print(f"{version}: {found.model.name}, {found.model.output_shape[-1]} classes, mean colour {mean}{image}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="import_weights", description="Makes a pushed model, ready to be served, of published weights."
    )
    add = parser.add_argument
    add("checkpoint", help="file of weights (docs/weights.md)")
    add("out", help="folder of the model; a new version is written into it")
    add("--labels", default="", metavar="FILE", help="class names in the order of the outputs, one a line")
    add("--names", default="", metavar="FILE", help="the same for people, where the labels are synsets")
    add("--mean", nargs=3, type=float, default=TORCH_MEAN, metavar="X", help="of RGB in 0..1 (PyTorch)")
    add("--std", nargs=3, type=float, default=TORCH_STD, metavar="X", help="of RGB in 0..1 (PyTorch)")
    add("--mean_file", default="", metavar="FILE", help="mean image (Caffe); else the one beside the weights")
    add("--size", type=int, default=0, help="side of the images; 224, or 32 in the CIFAR family")
    add("--test_shorter_side", type=int, default=0, help="before the crop; 256 for 224, 32 for 32")
    for field, kind in (("family", str), ("depth", int), ("shortcut", str), ("variant", str)):
        add(f"--{field}", type=kind, help="refuse weights of another one")
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
