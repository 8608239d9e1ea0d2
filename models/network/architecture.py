"""Plain and residual networks of He et al. 2016 (arXiv:1512.03385), in pure Keras 3.

Runs on any Keras backend, always channels-last. Every builder returns a functional
`keras.Model` from mean-subtracted images [B, H, W, 3] to logits [B, classes].

Where the paper leaves a choice:
  - Padding is explicit (3 before conv1, 1 before every strided 3x3), as in Caffe, not TensorFlow's
    "SAME", which shifts strided windows. 224 gives 112, 56, 28, 14, 7.
  - pool1 pads 1 on every side, as torchvision and keras.applications do, so that their weights fit
    (pool="symmetric"). The authors' Caffe model pads nothing and rounds up: the bottom and right
    only, windows one pixel further on (pool="caffe"). 112 gives 56 either way.
  - "Initialization as in [13]" is its equation 10: a normal of variance 2 / fan_in, not truncated
    (Caffe's MSRAFiller).
"""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Callable
from typing import get_args

import keras

from models.network.layers import L2, BatchNormalization, ZeroPadShortcut
from models.settings import BLOCKS, Model, Pool, Shortcut, Variant

FILTERS = (64, 128, 256, 512)
CIFAR_FILTERS = (16, 32, 64)
EXPANSION = 4
BN_MOMENTUM = 0.9
BN_EPSILON = 1e-5


def build(settings: Model, classes: int, weight_decay: float = 0.0) -> keras.Model:
    """The network that `settings` describe.

    Args:
      settings: family, depth and options.
      classes: number of outputs, 1 or more.
      weight_decay: coupled decay of every convolution and dense kernel, 0 or more.

    Raises:
      ValueError: an option outside its range.
    """
    if settings.family == "imagenet":
        return resnet(
            settings.depth,
            residual=settings.residual,
            shortcut=settings.shortcut,
            variant=settings.variant,
            pool=settings.pool,
            classes=classes,
            weight_decay=weight_decay,
        )
    if settings.family == "cifar":
        return cifar_resnet(
            settings.depth,
            residual=settings.residual,
            shortcut=settings.shortcut,
            classes=classes,
            weight_decay=weight_decay,
        )
    raise ValueError(f"model.family must be imagenet or cifar. Received: {settings.family!r}.")


def resnet(
    depth: int,
    *,
    residual: bool = True,
    shortcut: str = "B",
    variant: str = "v1",
    pool: str = "symmetric",
    classes: int = 1000,
    input_shape: tuple[int | None, int | None, int] = (None, None, 3),
    weight_decay: float = 0.0,
) -> keras.Model:
    """An ImageNet network (Table 1).

    Args:
      depth: a key of models.settings.BLOCKS.
      residual: False leaves the shortcuts out (the plain net).
      shortcut: the paper's option A (zero padding), B (projection where the shape changes) or
        C (projections everywhere).
      variant: "v1" strides in the first 1x1 of a bottleneck (the paper), "v1.5" in its 3x3. 18 and
        34 have no 1x1: both are the same net.
      pool: "symmetric" pads the first max pooling by 1 on every side, "caffe" at the bottom and
        right only.
      classes: number of outputs.
      input_shape: (height, width, channels) of an image; None is any size.
      weight_decay: wd of the paper: the gradient wd * kernel joins the momentum. Convolution and
        dense kernels only.

    Returns:
      A model from float images [B, H, W, 3] to logits [B, classes] in the variables' dtype
      (float32 under mixed precision).

    Raises:
      ValueError: an argument outside its range.
    """
    if depth not in BLOCKS:
        raise ValueError(f"depth must be one of {', '.join(map(str, BLOCKS))}. Received: {depth}.")
    if variant not in get_args(Variant):
        raise ValueError(f"variant must be v1 or v1.5. Received: {variant!r}.")
    if pool not in get_args(Pool):
        raise ValueError(f"pool must be symmetric or caffe. Received: {pool!r}.")
    net = _Builder(depth, residual, shortcut, classes, weight_decay)
    block: Callable[..., keras.KerasTensor] = net.basic
    if BLOCKS[depth].bottleneck:
        block = net.bottleneck if variant == "v1" else net.bottleneck_v1_5

    inputs = keras.Input(input_shape, name="images")
    x = net.conv_bn(inputs, 64, 7, 2, "conv1")
    x = net.relu(x, "conv1_relu")
    # Zeros never win against ReLU outputs, so this is padding with minus infinity. At the bottom
    # and right it is Caffe's rounding up: a window that starts inside is kept.
    x = _pad(x, 1 if pool == "symmetric" else ((0, 1), (0, 1)), "pool1_pad")
    x = keras.layers.MaxPooling2D(3, 2, data_format="channels_last", name="pool1_pool")(x)
    stages = zip(FILTERS, BLOCKS[depth].numbers, strict=True)
    for stage, (filters, number) in enumerate(stages, start=2):
        for index in range(1, number + 1):
            stride = 2 if stage > 2 and index == 1 else 1
            x = block(x, filters, stride, f"conv{stage}_block{index}")
    return net.head(inputs, x, f"resnet{depth}" if residual else f"plain{depth}")


def cifar_resnet(
    depth: int,
    *,
    residual: bool = True,
    shortcut: str = "A",
    classes: int = 10,
    input_shape: tuple[int | None, int | None, int] = (None, None, 3),
    weight_decay: float = 0.0,
) -> keras.Model:
    """A CIFAR network of 6n+2 layers (section 4.2): 20, 32, 44, 56, 110, 1202; 8 and 14 as well.

    Arguments, result and errors are those of `resnet`; there is no bottleneck.
    """
    blocks, rest = divmod(depth - 2, 6)
    if rest or blocks < 1:
        raise ValueError(
            f"depth must be 6n+2, such as 8, 20, 32, 44, 56 or 110. Received: {depth}."
        )
    net = _Builder(depth, residual, shortcut, classes, weight_decay)

    inputs = keras.Input(input_shape, name="images")
    x = net.conv_bn(inputs, CIFAR_FILTERS[0], 3, 1, "conv1")
    x = net.relu(x, "conv1_relu")
    for stage, filters in enumerate(CIFAR_FILTERS, start=2):
        for index in range(1, blocks + 1):
            stride = 2 if stage > 2 and index == 1 else 1
            x = net.basic(x, filters, stride, f"conv{stage}_block{index}")
    return net.head(inputs, x, f"cifar_resnet{depth}" if residual else f"cifar_plain{depth}")


def feature_maps(model: keras.Model) -> keras.Model:
    """The output of every stage, after its last ReLU.

    Returns:
      A model that shares the weights of `model`: images [B, H, W, 3] to a dict of "c2" .. "c5"
      ("c4" in the CIFAR family), each [B, h, w, channels].

    Raises:
      ValueError: `model` was not built by this module.
    """
    last: dict[str, keras.KerasTensor] = {}
    for layer in model.layers:
        if match := re.fullmatch(r"conv(\d)_block\d+_out", layer.name):
            last[f"c{match[1]}"] = layer.output  # layers are in the order of the graph
    _need(bool(last), model, "no block's output (conv2_block1_out)")
    return keras.Model(model.input, last, name=f"{model.name}_features")


def head_parts(model: keras.Model) -> tuple[keras.Model, keras.layers.Dense]:
    """The network before its global pooling, and the dense layer after it; both share its weights.

    Returns:
      (images [B, H, W, 3] -> the last feature map [B, h, w, channels], layer [B, channels] ->
      logits).

    Raises:
      ValueError: `model` was not built by this module.
    """
    found = {layer.name: layer for layer in model.layers}
    _need({"avg_pool", "logits"} <= found.keys(), model, "no layers avg_pool and logits")
    trunk = keras.Model(model.input, found["avg_pool"].input, name=f"{model.name}_trunk")
    return trunk, found["logits"]


def stage_layers(model: keras.Model, stages: int) -> list[keras.layers.Layer]:
    """The layers of the first stages, in the order of the graph.

    Args:
      model: built by this module.
      stages: 1 is conv1, 2 is conv1 and conv2_x, and so on; 0 is none.

    Raises:
      ValueError: the network has fewer stages, or was not built by this
        module.
    """
    numbers = [re.match(r"conv(\d)_", layer.name) for layer in model.layers]
    count = max((int(match[1]) for match in numbers if match), default=0)
    _need(count > 0, model, "no layers of a stage (conv1_conv)")
    if not 0 <= stages <= count:
        raise ValueError(
            f"stages must be from 0 to {count}, all of {model.name}. Received: {stages}."
        )
    pairs = zip(model.layers, numbers, strict=True)
    return [layer for layer, match in pairs if match and int(match[1]) <= stages]


def macs(model: keras.Model, size: int) -> int:
    """Multiply-adds of the convolutions and dense layers for one size x size image."""
    shapes = {id(model.input): (1, size, size, model.input.shape[-1])}
    total = 0
    for layer in model.layers:
        if isinstance(layer, keras.layers.InputLayer):
            continue
        sources = layer.input if isinstance(layer.input, list) else [layer.input]
        known = [shapes[id(tensor)] for tensor in sources]
        shape = layer.compute_output_shape(known if isinstance(layer.input, list) else known[0])
        shapes[id(layer.output)] = shape
        if isinstance(layer, keras.layers.Conv2D | keras.layers.Dense):
            total += math.prod(layer.kernel.shape) * math.prod(shape[1:-1])
    return total


class _Builder:
    """The parts that all networks are made of, with one place for their options."""

    def __init__(
        self, depth: int, residual: bool, shortcut: str, classes: int, weight_decay: float
    ):
        if shortcut not in get_args(Shortcut):
            raise ValueError(f"shortcut must be A, B or C. Received: {shortcut!r}.")
        if classes < 1:
            raise ValueError(f"classes must be 1 or more. Received: {classes}.")
        if weight_decay < 0:
            raise ValueError(f"weight_decay must be 0 or more. Received: {weight_decay}.")
        self.depth = depth
        self.residual = residual
        self.option = shortcut
        self.classes = classes
        # L2(l) adds l * |k|^2, whose gradient is 2 * l * k.
        self.decay = weight_decay / 2

    def basic(self, x, filters: int, stride: int, name: str):
        """Two 3x3 convolutions (figure 5, left)."""
        y = self.relu(self.conv_bn(x, filters, 3, stride, f"{name}_1"), f"{name}_1_relu")
        y = self.conv_bn(y, filters, 3, 1, f"{name}_2")
        return self._join(x, y, filters, stride, name)

    def bottleneck(self, x, filters: int, stride: int, name: str, stride_3x3: int = 1):
        """1x1, 3x3, 1x1 (figure 5, right); the stride is in the first 1x1."""
        y = self.relu(self.conv_bn(x, filters, 1, stride, f"{name}_1"), f"{name}_1_relu")
        y = self.relu(self.conv_bn(y, filters, 3, stride_3x3, f"{name}_2"), f"{name}_2_relu")
        y = self.conv_bn(y, EXPANSION * filters, 1, 1, f"{name}_3")
        return self._join(x, y, EXPANSION * filters, stride * stride_3x3, name)

    def bottleneck_v1_5(self, x, filters: int, stride: int, name: str):
        """The bottleneck with the stride in the 3x3."""
        return self.bottleneck(x, filters, 1, name, stride_3x3=stride)

    def conv_bn(self, x, filters: int, kernel: int, stride: int, name: str):
        """Convolution without bias, then batch normalisation."""
        padding = "same"  # equals padding by kernel // 2 where nothing is strided
        if stride > 1:
            padding = "valid"
            if kernel > 1:
                x = _pad(x, kernel // 2, f"{name}_pad")
        x = keras.layers.Conv2D(
            filters,
            kernel,
            stride,
            padding,
            data_format="channels_last",
            use_bias=False,
            kernel_initializer=_he_normal(),
            kernel_regularizer=self._regularizer(),
            name=f"{name}_conv",
        )(x)
        return BatchNormalization(
            axis=-1, momentum=BN_MOMENTUM, epsilon=BN_EPSILON, name=f"{name}_bn"
        )(x)

    def relu(self, x, name: str):
        return keras.layers.Activation("relu", name=name)(x)

    def head(self, inputs, x, name: str) -> keras.Model:
        """Global average pooling and the dense layer, in full precision under a mixed policy."""
        dtype = keras.config.dtype_policy().variable_dtype
        x = keras.layers.GlobalAveragePooling2D(
            data_format="channels_last", dtype=dtype, name="avg_pool"
        )(x)
        # Keras walks the graph recursively, an operation a frame: 1202 layers have 4,200. Reading
        # the configuration back does so again, so the limit stays.
        sys.setrecursionlimit(max(sys.getrecursionlimit(), 1000 + 10 * self.depth))
        logits = keras.layers.Dense(
            self.classes,
            kernel_initializer=_he_normal(),
            kernel_regularizer=self._regularizer(),
            dtype=dtype,
            name="logits",
        )(x)
        return keras.Model(inputs, logits, name=name)

    def _join(self, x, y, filters: int, stride: int, name: str):
        """Adds the shortcut (equations 1 and 2), then ReLU."""
        if self.residual:
            changes = stride > 1 or x.shape[-1] != filters
            if self.option == "C" or (self.option == "B" and changes):
                x = self.conv_bn(x, filters, 1, stride, f"{name}_0")
            elif changes:
                x = ZeroPadShortcut(filters, stride, name=f"{name}_0_pad")(x)
            y = keras.layers.Add(name=f"{name}_add")([x, y])
        return self.relu(y, f"{name}_out")

    def _regularizer(self) -> keras.Regularizer | None:
        return L2(self.decay) if self.decay else None


def _pad(x, width: int | tuple[tuple[int, int], tuple[int, int]], name: str):
    return keras.layers.ZeroPadding2D(width, data_format="channels_last", name=name)(x)


def _he_normal() -> keras.Initializer:
    return keras.initializers.VarianceScaling(2.0, "fan_in", "untruncated_normal")


def _need(holds: bool, model: keras.Model, lack: str) -> None:
    if not holds:
        raise ValueError(
            f"{model.name} has {lack}; give a network that models.network.architecture built."
        )
