"""Weights of others as a network of this project (docs/weights.md, models.weights.published)."""

from __future__ import annotations

import glob
import os
from collections.abc import Sequence
from typing import NamedTuple

import keras
import numpy as np

from models.network import architecture
from models.pixels.augmentation import Constants
from models.settings import Model, Transform
from models.weights import foreign_files, published
from models.weights.published import MEANS, TORCH_MEAN, TORCH_STD, Layout, Tensors


class Imported(NamedTuple):
    """A network with published weights.

    Attributes:
      model: mean-subtracted images [B, H, W, 3], RGB of 0..255 -> logits.
      channel_mean: float32 [3], the mean to subtract, RGB, 0..255.
      settings: of the network.
      head: False when the file has none; the model has one output then, which is always 0.
      pixel_mean: float32 [H, W, 3], the mean image of Caffe's networks; None where only a colour is
        known.
    """

    model: keras.Model
    channel_mean: np.ndarray
    settings: Model
    head: bool
    pixel_mean: np.ndarray | None = None

    @property
    def constants(self) -> Constants:
        """The mean image, or the mean colour for images of any size; nothing else is known."""
        return constants(self.channel_mean, pixel_mean=self.pixel_mean)


def load(
    path: str,
    mean: Sequence[float] = TORCH_MEAN,
    std: Sequence[float] = TORCH_STD,
    mean_file: str = "",
) -> Imported:
    """The network of a file of weights.

    Args:
      path: of the file.
      mean: of RGB in 0..1 that a PyTorch network was trained with. Those of Keras and Caffe have
        their own.
      std: what RGB in 0..1 was divided by, after the mean.
      mean_file: the mean image of a Caffe network (.binaryproto); else the one that lies beside it
        is taken, and where there is none, the mean colour of the authors' data.

    Raises:
      ValueError: the file cannot be read, or its network is none of models.network.architecture.
        The first tensor that does not fit is named.
    """
    # Not NaN either, and not on the scale of 0..255.
    if not all(0 <= value <= 1 for value in mean):
        raise ValueError(f"--mean {' '.join(map(str, mean))}: all three must be from 0 to 1.")
    if not all(0 < value <= 1 for value in std):
        raise ValueError(
            f"--std {' '.join(map(str, std))}: all three must be above 0 and at most 1."
        )
    tensors = foreign_files.read(path)
    try:
        layout = published.recognise(tensors)
        network = architecture.build(layout.settings, _classes(layout, tensors))
        divisor = np.ones(3) if layout.kind in MEANS else 255 * np.asarray(std)
        _fill(network, layout, tensors, divisor)
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
    return found._replace(
        pixel_mean=image, channel_mean=image.mean((0, 1), np.float64).astype(np.float32)
    )


def _beside(path: str) -> str:
    """The mean file in the folder of a Caffe network, "" when there is none."""
    names = sorted(glob.glob(os.path.join(glob.escape(os.path.dirname(path)), "*.binaryproto")))
    if len(names) > 1:
        raise ValueError(
            f"{' and '.join(names[:2])} lie beside {path}; name the right one with --mean_file."
        )
    return names[0] if names else ""


def constants(
    channel_mean: np.ndarray,
    labels: Sequence[str] = (),
    size: int = 1,
    pixel_mean: np.ndarray | None = None,
) -> Constants:
    """Constants of a network whose means alone are known; covariance and class counts are 0.

    Args:
      channel_mean: float32 [3].
      labels: class names in label order, none when they are not known.
      size: side of the mean image where `pixel_mean` is None: it has the mean colour everywhere; 1
        fits images of any size.
      pixel_mean: float32 [H, W, 3].
    """
    if pixel_mean is None:
        pixel_mean = np.broadcast_to(channel_mean, [size, size, 3]).copy()
    return Constants(
        pixel_mean=pixel_mean,
        channel_mean=channel_mean,
        covariance=np.zeros([3, 3], np.float32),
        labels=tuple(labels),
        class_counts=(0,) * len(labels),
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
                raise ValueError(
                    f"its tensor {name} has shape {have}, and {what} needs {list(shape)}"
                )
            if not np.isfinite(tensors[name]).all():
                raise ValueError(
                    f"its tensor {name} has values that are no finite numbers of 32 bits"
                )
            if part == "moving_variance" and tensors[name].min() < 0:
                raise ValueError(f"its tensor {name} has variances below 0")
            parts[part] = tensors[name]
        layer.set_weights(published.to_ours(layout, layer.name, parts, std))


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
