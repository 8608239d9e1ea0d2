"""Plain and residual networks of He et al. 2016 (arXiv:1512.03385), in pure Keras 3.

Runs on any Keras backend, always channels-last. Padding is explicit, as in Caffe: TensorFlow's
"SAME" shifts strided windows. docs/networks.md has the choices that the paper leaves.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Sequence

import keras

from models.network.layers import L2, BatchNormalization, ZeroPadShortcut
from models.settings import BLOCKS, Model, Pool, Shortcut, Variant, check_model

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
      weight_decay: wd of the paper, 0 or more: the gradient wd * kernel joins the momentum.
        Convolution and dense kernels only.

    Returns:
      A model from float images [B, H, W, 3] of any size to logits [B, classes] in the variables'
      dtype (float32 under mixed precision).

    Raises:
      ValueError: an option outside its range.
    """
    check_model(settings)
    net = _Builder(settings, weight_decay)
    inputs = keras.Input((None, None, 3), name="images")
    name = f"{'resnet' if settings.residual else 'plain'}{settings.depth}"
    if settings.family == "cifar":
        x = net.relu(net.conv_bn(inputs, CIFAR_FILTERS[0], 3, 1, "conv1"), "conv1_relu")
        x = net.stages(x, net.basic, CIFAR_FILTERS, [(settings.depth - 2) // 6] * 3)
        return net.head(inputs, x, classes, f"cifar_{name}")
    x = net.relu(net.conv_bn(inputs, FILTERS[0], 7, 2, "conv1"), "conv1_relu")
    # Zeros never win against ReLU outputs, so this is padding with minus infinity. At the bottom
    # and right it is Caffe's rounding up: a window that starts inside is kept.
    x = _pad(x, 1 if settings.pool == "symmetric" else ((0, 1), (0, 1)), "pool1_pad")
    x = keras.layers.MaxPooling2D(3, 2, data_format="channels_last", name="pool1_pool")(x)
    bottleneck, numbers = BLOCKS[settings.depth]
    x = net.stages(x, net.bottleneck if bottleneck else net.basic, FILTERS, numbers)
    return net.head(inputs, x, classes, name)


def resnet(
    depth: int,
    *,
    residual: bool = True,
    shortcut: Shortcut = "B",
    variant: Variant = "v1",
    pool: Pool = "symmetric",
    classes: int = 1000,
    weight_decay: float = 0.0,
) -> keras.Model:
    """An ImageNet network (Table 1); the arguments are those of models.settings.Model and `build`.

    Raises:
      ValueError: an argument outside its range.
    """
    settings = Model("imagenet", depth, residual, shortcut, variant, pool)
    return build(settings, classes, weight_decay)


def cifar_resnet(
    depth: int,
    *,
    residual: bool = True,
    shortcut: Shortcut = "A",
    classes: int = 10,
    weight_decay: float = 0.0,
) -> keras.Model:
    """A CIFAR network of 6n+2 layers (section 4.2): 20, 32, 44, 56, 110, 1202; 8 and 14 as well.

    Arguments and errors are those of `resnet`; there is no bottleneck.
    """
    return build(Model("cifar", depth, residual, shortcut), classes, weight_decay)


def feature_maps(model: keras.Model) -> keras.Model:
    """The output of every stage of a network of this module, after its last ReLU.

    Returns:
      A model that shares the weights of `model`: images [B, H, W, 3] to a dict of "c2" .. "c5"
      ("c4" in the CIFAR family), each [B, h, w, channels].
    """
    last: dict[str, keras.KerasTensor] = {}
    for layer in model.layers:
        if match := re.fullmatch(r"conv(\d)_block\d+_out", layer.name):
            last[f"c{match[1]}"] = layer.output  # layers are in the order of the graph
    return keras.Model(model.input, last, name=f"{model.name}_features")


def head_parts(model: keras.Model) -> tuple[keras.Model, keras.layers.Dense]:
    """A network before its global pooling, and the dense layer after it; both share its weights.

    Returns:
      (images [B, H, W, 3] -> the last feature map [B, h, w, channels], layer [B, channels] ->
      logits).
    """
    last_map = model.get_layer("avg_pool").input
    trunk = keras.Model(model.input, last_map, name=f"{model.name}_trunk")
    return trunk, model.get_layer("logits")


def stage_layers(model: keras.Model, stages: int) -> list[keras.layers.Layer]:
    """The layers of the first stages, in the order of the graph.

    Args:
      model: built by this module.
      stages: 1 is conv1, 2 is conv1 and conv2_x, and so on; 0 is none.
    """
    numbers = [re.match(r"conv(\d)_", layer.name) for layer in model.layers]
    pairs = zip(model.layers, numbers, strict=True)
    return [layer for layer, match in pairs if match and int(match[1]) <= stages]


class _Builder:
    """The parts that all networks are made of, with one place for their options."""

    def __init__(self, settings: Model, weight_decay: float):
        self.settings = settings
        # L2(l) adds l * |k|^2, whose gradient is 2 * l * k.
        self.decay = weight_decay / 2

    def stages(self, x, block: Callable, widths: Sequence[int], numbers: Sequence[int]):
        """Stages from conv2_x on: how wide their blocks are, and how many."""
        for stage, (filters, number) in enumerate(zip(widths, numbers, strict=True), start=2):
            for index in range(1, number + 1):
                stride = 2 if stage > 2 and index == 1 else 1
                x = block(x, filters, stride, f"conv{stage}_block{index}")
        return x

    def basic(self, x, filters: int, stride: int, name: str):
        """Two 3x3 convolutions (figure 5, left)."""
        y = self.relu(self.conv_bn(x, filters, 3, stride, f"{name}_1"), f"{name}_1_relu")
        y = self.conv_bn(y, filters, 3, 1, f"{name}_2")
        return self._join(x, y, filters, stride, name)

    def bottleneck(self, x, filters: int, stride: int, name: str):
        """1x1, 3x3, 1x1 (figure 5, right); v1 has the stride in the first one, v1.5 in the 3x3."""
        first, second = (stride, 1) if self.settings.variant == "v1" else (1, stride)
        y = self.relu(self.conv_bn(x, filters, 1, first, f"{name}_1"), f"{name}_1_relu")
        y = self.relu(self.conv_bn(y, filters, 3, second, f"{name}_2"), f"{name}_2_relu")
        y = self.conv_bn(y, EXPANSION * filters, 1, 1, f"{name}_3")
        return self._join(x, y, EXPANSION * filters, stride, name)

    def conv_bn(self, x, filters: int, kernel: int, stride: int, name: str):
        """Convolution without bias, then batch normalisation."""
        if stride > 1 and kernel > 1:
            x = _pad(x, kernel // 2, f"{name}_pad")
        x = keras.layers.Conv2D(
            filters,
            kernel,
            stride,
            "valid" if stride > 1 else "same",  # which pads by kernel // 2 where nothing is strided
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

    def head(self, inputs, x, classes: int, name: str) -> keras.Model:
        """Global average pooling and the dense layer, in full precision under a mixed policy."""
        dtype = keras.config.dtype_policy().variable_dtype
        x = keras.layers.GlobalAveragePooling2D(
            data_format="channels_last", dtype=dtype, name="avg_pool"
        )(x)
        # Keras walks the graph recursively, an operation a frame: 1202 layers have 4,200. Reading
        # the configuration back does so again, so the limit stays.
        sys.setrecursionlimit(max(sys.getrecursionlimit(), 1000 + 10 * self.settings.depth))
        logits = keras.layers.Dense(
            classes,
            kernel_initializer=_he_normal(),
            kernel_regularizer=self._regularizer(),
            dtype=dtype,
            name="logits",
        )(x)
        return keras.Model(inputs, logits, name=name)

    def _join(self, x, y, filters: int, stride: int, name: str):
        """Adds the shortcut (equations 1 and 2), then ReLU."""
        if self.settings.residual:
            option, changes = self.settings.shortcut, stride > 1 or x.shape[-1] != filters
            if option == "C" or (option == "B" and changes):
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
