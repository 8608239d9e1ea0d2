"""Size and cost of every network of the paper, by arithmetic alone: no network is built.

    python -m benchmarks.network_table [docs/networks.md]

writes docs/networks.md, or prints it. The tests hold the numbers against the networks themselves.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from models.settings import BLOCKS, Model

_FILTERS = {"imagenet": (64, 128, 256, 512), "cifar": (16, 32, 64)}
CLASSES = {"imagenet": 1000, "cifar": 10}
SIZES = {"imagenet": 224, "cifar": 32}
CIFAR_DEPTHS = (20, 32, 44, 56, 110, 1202)
# Table 1, in 10^9 multiply-adds, and Table 6, in 10^6 parameters; both are rounded there.
PAPER_MULTIPLY_ADDS = {18: 1.8, 34: 3.6, 50: 3.8, 101: 7.6, 152: 11.3}
PAPER_PARAMETERS = {20: 0.27, 32: 0.46, 44: 0.66, 56: 0.85, 110: 1.7, 1202: 19.4}
_COLUMNS = ("network", "convolutions", "parameters", "with moving statistics")


@dataclasses.dataclass(frozen=True)
class Convolution:
    """One convolution; no bias, batch normalisation after it."""

    kernel: int
    inputs: int
    outputs: int
    # Side of the square map that it writes, in pixels.
    side: int


@dataclasses.dataclass(frozen=True)
class Counts:
    """Size and cost of a network.

    Attributes:
      trainable: kernels, scale and offset of batch normalisation, kernel and bias of the dense
        layer.
      total: the same with the moving means and variances.
      multiply_adds: of the convolutions and the dense layer, for one image.
      convolutions: with the projections of the shortcuts, which the depth does not count.
    """

    trainable: int
    total: int
    multiply_adds: int
    convolutions: int


def nets() -> Iterator[Model]:
    """Every network of the tables; v1.5 only where it is another network than v1."""
    for depth in BLOCKS:
        for variant in ("v1", "v1.5") if BLOCKS[depth].bottleneck else ("v1",):
            yield Model(depth=depth, residual=False, shortcut="A", variant=variant)
            for shortcut in "ABC":
                yield Model(depth=depth, shortcut=shortcut, variant=variant)
    for depth in CIFAR_DEPTHS:
        for residual in (False, True):
            yield Model(family="cifar", depth=depth, residual=residual, shortcut="A")


def count(model: Model) -> Counts:
    """Size and cost of a network at the paper's image size and number of classes."""
    layers = list(convolutions(model))
    channels, classes = layers[-1].outputs, CLASSES[model.family]
    kernels = [layer.kernel**2 * layer.inputs * layer.outputs for layer in layers]
    norms = sum(layer.outputs for layer in layers)
    dense = channels * classes
    trainable = sum(kernels) + 2 * norms + dense + classes
    work = sum(kernel * layer.side**2 for kernel, layer in zip(kernels, layers, strict=True))
    return Counts(trainable, trainable + 2 * norms, work + dense, len(layers))


def convolutions(model: Model) -> Iterator[Convolution]:
    """The convolutions of a network (Table 1; section 4.2); the projection of a block comes last in
    it.
    """
    imagenet = model.family == "imagenet"
    filters = _FILTERS[model.family]
    blocks = BLOCKS[model.depth].numbers if imagenet else ((model.depth - 2) // 6,) * 3
    side = SIZES[model.family] // (2 if imagenet else 1)
    yield Convolution(7 if imagenet else 3, 3, filters[0], side)
    side //= 2 if imagenet else 1
    inputs = filters[0]
    for stage, (width, number) in enumerate(zip(filters, blocks, strict=True)):
        for block in range(number):
            before, side = side, side // 2 if stage and not block else side
            if imagenet and BLOCKS[model.depth].bottleneck:
                outputs = 4 * width
                yield Convolution(1, inputs, width, side if model.variant == "v1" else before)
                yield Convolution(3, width, width, side)
                yield Convolution(1, width, outputs, side)
            else:
                outputs = width
                yield Convolution(3, inputs, width, side)
                yield Convolution(3, width, width, side)
            changes = outputs != inputs
            if model.residual and (model.shortcut == "C" or (model.shortcut == "B" and changes)):
                yield Convolution(1, inputs, outputs, side)
            inputs = outputs


def document() -> str:
    """docs/networks.md."""
    text = Path(__file__).with_name("network_notes.md").read_text("utf-8")
    tables = {"imagenet": _imagenet(), "cifar": _cifar()}
    for name, rows in tables.items():
        text = text.replace(
            f"<!-- {name} -->\n", "".join(f"| {' | '.join(row)} |\n" for row in rows)
        )
    return text


def _imagenet() -> Iterator[list[str]]:
    yield [*_COLUMNS, "multiply-adds v1", "v1.5", "paper"]
    yield ["---", *["---:"] * 6]
    for depth in BLOCKS:
        deep = BLOCKS[depth].bottleneck
        for shortcut in "ABC":
            net = Model(depth=depth, shortcut=shortcut)
            other = count(dataclasses.replace(net, variant="v1.5")).multiply_adds
            # Figure 3 has 3.6 for plain-34 and for A.
            paper = shortcut == "B" or (shortcut == "A" and not deep)
            yield [
                *_cells(net),
                f"{other:,}" if deep else "",
                f"{PAPER_MULTIPLY_ADDS[depth]}·10⁹"
                if paper and depth in PAPER_MULTIPLY_ADDS
                else "",
            ]


def _cifar() -> Iterator[list[str]]:
    yield [*_COLUMNS, "multiply-adds", "paper"]
    yield ["---", *["---:"] * 5]
    for depth in CIFAR_DEPTHS:
        net = Model(family="cifar", depth=depth, shortcut="A")
        yield [*_cells(net), f"{PAPER_PARAMETERS[depth]} M"]


def _cells(net: Model) -> list[str]:
    """Name and counts; a plain net has those of option A."""
    counts = count(net)
    name = f"ResNet-{net.depth} {net.shortcut}"
    numbers = (counts.convolutions, counts.trainable, counts.total, counts.multiply_adds)
    return [
        f"plain-{net.depth}, {name}" if net.shortcut == "A" else name,
        *(f"{n:,}" for n in numbers),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", nargs="?", help="file to write instead of the standard output")
    out = parser.parse_args().out
    if not out:
        sys.stdout.write(document())
        return
    with open(f"{out}.part", "w", encoding="utf-8") as file:
        file.write(document())
    os.replace(f"{out}.part", out)


if __name__ == "__main__":
    main()
