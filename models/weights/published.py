"""How others name and arrange the weights of these networks, and what makes them ours.

Five layouts, told apart by the names of the tensors, which also give depth and shortcuts:

  - "torch": torchvision and timm (conv1.weight, layer1.0.downsample.0.weight, fc.weight). ImageNet,
    v1.5.
  - "torch_cifar": the CIFAR networks of 16, 32 and 64 channels with the same names (or shortcut,
    linear).
  - "keras": keras.applications (conv1_conv/kernel, conv2_block1_0_bn/gamma). ImageNet, v1.
  - "old_keras": what it was before 2019 (res2a_branch2a/kernel, bn2a_branch2a/gamma), with the
    kernels of TensorFlow or of Theano; with scale2a_branch2a/gamma too, as a layer of its own.
    ImageNet, v1.
  - "caffe": the authors' own (the same names, gamma and beta in scale2a_branch2a). ImageNet, v1.

Nothing is approximated: docs/weights.md, "Why the answers are the same".
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

import numpy as np

from models.network.architecture import BN_EPSILON, CIFAR_FILTERS
from models.settings import BLOCKS, Model, Shortcut, Variant

# Mean and deviation of torchvision: RGB in 0..1.
TORCH_MEAN, TORCH_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
# The mean of networks that see BGR ("caffe" in keras.applications), here as RGB in 0..255.
_KERAS_MEAN = (123.68, 116.779, 103.939)
MEANS = {
    "keras": _KERAS_MEAN,
    "old_keras": _KERAS_MEAN,
    # The mean of the authors' ResNet_mean.binaryproto, rounded.
    "caffe": (123.154, 115.904, 103.063),
}
# Keras' default was 1e-3, and that of its users with a layer for scale and shift 1.1e-5.
_EPSILONS = {"keras": 1.001e-5, "old_keras": 1e-3, "scaled": 1.1e-5}
_KERAS_HEADS = ("predictions", "probs")
_BN_TORCH = ("weight", "bias", "running_mean", "running_var")
_BN_KERAS = ("gamma", "beta", "moving_mean", "moving_variance")
# Parts of a batch normalisation that not every file has.
OPTIONAL = ("before", "scale", "shift")
_OURS = re.compile(r"conv(\d)_block(\d+)_(\d)_(conv|bn)")
_BRANCHES = ("1", "2a", "2b", "2c")

Tensors = Mapping[str, np.ndarray]


class Layout(NamedTuple):
    """What a file of weights is.

    Attributes:
      kind: "torch", "torch_cifar", "keras", "old_keras" or "caffe".
      settings: the network.
      head: the name of the last layer, None when there is none.
      projection: the name of shortcuts B and C in "torch" and "torch_cifar".
      channels_first: whether the kernels of convolutions are [out, in, height, width].
      blocks: the names of the blocks of a stage in "old_keras" and "caffe", such as "a", "b1",
        "b2".
    """

    kind: str
    settings: Model
    head: str | None
    projection: str = "downsample"
    channels_first: bool = False
    blocks: Mapping[int, Sequence[str]] = MappingProxyType({})


def recognise(tensors: Tensors) -> Layout:
    """The layout of named tensors.

    Raises:
      ValueError: it is none of those above.
    """
    if any(name.startswith("conv2_block1_") for name in tensors):
        blocks = [_count(tensors, rf"conv{stage}_block(\d+)_") for stage in (2, 3, 4, 5)]
        found = {name.split("/")[0] for name in tensors}
        head = next((name for name in _KERAS_HEADS if name in found), None)
        return Layout("keras", Model("imagenet", _depth(blocks, True)), head)
    if any(name.startswith("res2a_branch") for name in tensors):
        return _with_branches(tensors)
    if "layer1.0.conv1.weight" not in tensors:
        raise ValueError(
            f"its first tensor is {next(iter(tensors))}, and neither the names of torchvision"
            " (layer1.0.conv1.weight), nor those of keras.applications"
            " (conv2_block1_1_conv/kernel), nor those of the authors (res2a_branch2a) are in it"
        )
    blocks = [_count(tensors, rf"layer{stage}\.(\d+)\.") for stage in (1, 2, 3, 4)]
    head = next((name for name in ("fc", "linear") if f"{name}.weight" in tensors), None)
    projection = "shortcut" if any(".shortcut." in name for name in tensors) else "downsample"
    projected = {name.split(f".{projection}.")[0] for name in tensors if f".{projection}." in name}
    if blocks[3]:
        # Only C has a projection in a block that changes nothing.
        bottleneck = "layer1.0.conv3.weight" in tensors
        shortcut: Shortcut = "C" if ("layer1.1" if bottleneck else "layer1.0") in projected else "B"
        variant: Variant = "v1.5" if bottleneck else "v1"
        settings = Model("imagenet", _depth(blocks, bottleneck), True, shortcut, variant)
        return Layout("torch", settings, head, projection, True)
    if len(set(blocks[:3])) > 1:
        raise ValueError(
            f"its stages have {blocks[:3]} blocks, and a CIFAR network has the same number in each"
        )
    shortcut = "C" if "layer1.0" in projected else "B" if projected else "A"
    settings = Model("cifar", 6 * blocks[0] + 2, True, shortcut)
    return Layout("torch_cifar", settings, head, projection, True)


def _with_branches(tensors: Tensors) -> Layout:
    blocks = {stage: _letters(tensors, rf"res{stage}([a-z]\d*)_branch") for stage in (2, 3, 4, 5)}
    depth = _depth([len(found) for found in blocks.values()], True)
    # The one that is called so in the ImageNet's files, or whatever a fine-tuned one has in its
    # place.
    head = next(
        (n.split("/")[0] for n, v in tensors.items() if n.endswith("/kernel") and v.ndim == 2), None
    )
    caffe = "bn_conv1/gamma" not in tensors
    kernel = tensors.get("conv1/kernel")
    first = caffe or (kernel is not None and kernel.shape[2:] == (7, 7))
    settings = Model("imagenet", depth, pool="caffe" if caffe else "symmetric")
    return Layout("caffe" if caffe else "old_keras", settings, head, "", first, blocks)


def _count(tensors: Tensors, pattern: str) -> int:
    """How many numbers `pattern` finds in the names."""
    return len({match[1] for name in tensors if (match := re.match(pattern, name))})


def _letters(tensors: Tensors, pattern: str) -> list[str]:
    """What `pattern` finds in the names: a, b, c ... or a, b1, b2 ..."""
    found = {match[1] for name in tensors if (match := re.match(pattern, name))}
    return sorted(found, key=lambda name: (name[0], int(name[1:] or 0)))


def _depth(blocks: list[int], bottleneck: bool) -> int:
    fitting = {depth: b.numbers for depth, b in BLOCKS.items() if b.bottleneck == bottleneck}
    for depth, known in fitting.items():
        if tuple(blocks) == known:
            return depth
    kind = "bottleneck" if bottleneck else "basic"
    known_ones = ", ".join(f"{list(b)} ({depth} layers)" for depth, b in fitting.items())
    raise ValueError(f"its stages have {blocks} {kind} blocks, and the known networks {known_ones}")


def names(layout: Layout, layer: str) -> dict[str, str]:
    """The tensors of the file that a layer needs: part ("kernel", "gamma", ...) -> name."""
    if layout.kind not in ("torch", "torch_cifar"):
        if layer == "logits":
            return {part: f"{layout.head}/{part}" for part in ("kernel", "bias")}
        convolution, norm, scale = _keras_layers(layout, layer)
        if layer.endswith("_conv"):
            return {"kernel": f"{convolution}/kernel"}
        # The bias of the convolution ends in its batch normalisation.
        parts = {part: f"{norm}/{part}" for part in _BN_KERAS} | {"before": f"{convolution}/bias"}
        added = {"caffe": ("gamma", "beta"), "old_keras": ("scale", "shift")}.get(layout.kind, ())
        return parts | {
            part: f"{scale}/{of}" for part, of in zip(added, ("gamma", "beta"), strict=False)
        }
    if layer == "logits":
        return {"kernel": f"{layout.head}.weight", "bias": f"{layout.head}.bias"}
    match = _OURS.fullmatch(layer)
    if match is None:  # conv1_conv and conv1_bn
        place = "conv1" if layer == "conv1_conv" else "bn1"
    else:
        stage, block, number, kind = int(match[1]), int(match[2]), int(match[3]), match[4]
        inner = f"{kind}{number}" if number else f"{layout.projection}.{0 if kind == 'conv' else 1}"
        place = f"layer{stage - 1}.{block - 1}.{inner}"
    if layer.endswith("_conv"):
        return {"kernel": f"{place}.weight"}
    return {ours: f"{place}.{theirs}" for ours, theirs in zip(_BN_KERAS, _BN_TORCH, strict=True)}


def _keras_layers(layout: Layout, layer: str) -> tuple[str, str, str]:
    """Their names for a layer's convolution, batch normalisation and scale."""
    stem = layer.removesuffix("_conv").removesuffix("_bn")
    if layout.kind == "keras":
        return f"{stem}_conv", f"{stem}_bn", ""
    match = _OURS.fullmatch(layer)
    if match is None:
        return "conv1", "bn_conv1", "scale_conv1"
    stage, number = int(match[1]), int(match[3])
    place = f"{stage}{layout.blocks[stage][int(match[2]) - 1]}_branch{_BRANCHES[number]}"
    return f"res{place}", f"bn{place}", f"scale{place}"


def their_shape(layout: Layout, part: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape in the file of a weight that has `shape` in our network."""
    if part != "kernel":
        return shape
    if len(shape) == 4:
        return (shape[3], shape[2], *shape[:2]) if layout.channels_first else shape
    return shape if layout.kind in ("keras", "old_keras") else shape[::-1]


def to_ours(layout: Layout, layer: str, parts: Tensors, std: np.ndarray) -> list[np.ndarray]:
    """The weights of a layer of this project's network.

    Args:
      layout: of the file.
      layer: the name in our network.
      parts: of `names`, float32 as in the file.
      std: [3], what their pixels are divided by, for RGB in 0..255; all 1 for those that see BGR.

    Returns:
      Float32, in the order of `layer.get_weights()`.
    """
    values = {part: np.asarray(value, np.float64) for part, value in parts.items()}
    kernel = values.get("kernel")
    if kernel is not None and kernel.ndim == 4 and layout.channels_first:
        values["kernel"] = kernel.transpose(2, 3, 1, 0)
    elif kernel is not None and kernel.ndim == 2 and layout.kind not in ("keras", "old_keras"):
        values["kernel"] = kernel.T
    if layer == "conv1_conv":
        if layout.kind in MEANS:
            values["kernel"] = values["kernel"][:, :, ::-1]
        values["kernel"] = values["kernel"] / std[:, None]
    if layer.endswith("_bn"):
        values = _normalisation(layout, values)
    if layout.kind == "torch_cifar" and layout.settings.shortcut == "A":
        values = _reordered(layer, values)
    return [value.astype(np.float32) for value in values.values()]


def _normalisation(layout: Layout, values: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """With what stands before and behind it."""
    gamma, beta, mean, variance = (values[part] for part in _BN_KERAS)
    scale, shift = values.get("scale", 1), values.get("shift", 0)
    epsilon = _EPSILONS.get("scaled" if "scale" in values else layout.kind, BN_EPSILON)
    mean, variance = mean - values.get("before", 0), variance + (epsilon - BN_EPSILON)
    return dict(zip(_BN_KERAS, (gamma * scale, beta * scale + shift, mean, variance), strict=True))


def _reordered(layer: str, values: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The channels of a layer of a CIFAR network, in the order of this project."""
    match = _OURS.fullmatch(layer)
    # Stages whose channels, which the shortcuts carry, go in and come out; within a block there is
    # no order.
    reads = writes = 2
    if layer == "logits":
        reads, writes = 4, 0
    elif layer == "conv1_conv":
        reads = 0
    elif match:
        stage, block, number = int(match[1]), int(match[2]), int(match[3])
        reads = (stage if block > 1 else max(2, stage - 1)) if number == 1 else 0
        writes = stage if number == 2 else 0
    ordered = dict(values)
    for part, value in values.items():
        if part == "kernel" and reads:
            value = value[..., _order(reads), :]
        if writes:
            value = value[..., _order(writes)]
        ordered[part] = value
    return ordered


def _order(stage: int) -> np.ndarray:
    """Their channel for each channel of this project, in a stage (2, 3 or 4).

    They put a quarter of the channels, as zeros, before and behind those of the stage before; we
    put all of them behind.
    """
    order = np.arange(CIFAR_FILTERS[0])
    for filters in CIFAR_FILTERS[1 : stage - 1]:
        kept = filters // 4 + order
        order = np.concatenate([kept, np.setdiff1d(np.arange(filters), kept)])
    return order
