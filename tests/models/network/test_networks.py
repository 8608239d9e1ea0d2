"""Size and cost of every network of the paper: the networks, docs/networks.md and published counts
agree.
"""

import math
import pathlib
import subprocess
import sys

import keras
import pytest

from benchmarks import network_table
from models.network import architecture
from models.settings import BLOCKS, Model

# Trainable parameters, and those with the moving statistics: torchvision's num_params, Keras Hub's
# backbones with the dense layer, and the paper's Table 6 (rounded there).
PUBLISHED = {
    (18, "B"): (11_689_512, 11_699_112),
    (34, "B"): (21_797_672, 21_814_696),
    (50, "B"): (25_557_032, 25_610_152),
    (101, "B"): (44_549_160, 44_654_504),
    (152, "B"): (60_192_808, 60_344_232),
}
# Multiply-adds at 224x224 pixels, the dense layer's with them.
MULTIPLY_ADDS = {
    (18, "v1"): 1_814_073_344,
    (34, "v1"): 3_663_761_408,
    (50, "v1"): 3_857_973_248,
    (101, "v1"): 7_570_194_432,
    (152, "v1"): 11_282_415_616,
    (50, "v1.5"): 4_089_184_256,
    (101, "v1.5"): 7_801_405_440,
    (152, "v1.5"): 11_513_626_624,
}
NETS = list(network_table.nets())


def name(net):
    return f"{net.family}-{net.depth}-{net.shortcut if net.residual else 'plain'}-{net.variant}"


def multiply_adds(model, size):
    """Those of the convolutions and dense layers for one size x size image."""
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


@pytest.mark.parametrize("net", NETS, ids=map(name, NETS))
def test_a_network_is_what_the_table_says(net):
    size, classes = network_table.SIZES[net.family], network_table.CLASSES[net.family]
    # The graph without memory for its variables: five times faster.
    with keras.StatelessScope(initialize_variables=False):
        model = architecture.build(net, classes)
        maps = architecture.feature_maps(model)
    expected = network_table.count(net)
    sizes = {weight.path: math.prod(weight.shape) for weight in model.weights}
    moving = sum(number for path, number in sizes.items() if "/moving_" in path)
    convolutions = [layer for layer in model.layers if isinstance(layer, keras.layers.Conv2D)]
    assert (sum(sizes.values()) - moving, sum(sizes.values())) == (
        expected.trainable,
        expected.total,
    )
    assert (multiply_adds(model, size), len(convolutions)) == (
        expected.multiply_adds,
        expected.convolutions,
    )
    # Convolutions and the dense layer, without projections, are what the name counts.
    assert sum("_0_" not in layer.name for layer in convolutions) + 1 == net.depth

    channels = {"imagenet": (64, 128, 256, 512), "cifar": (16, 32, 64)}[net.family]
    sides = {"imagenet": (56, 28, 14, 7), "cifar": (32, 16, 8)}[net.family]
    wide = 4 if net.family == "imagenet" and BLOCKS[net.depth].bottleneck else 1
    shapes = maps.compute_output_shape((1, size, size, 3))
    assert shapes == {
        f"c{stage}": (1, side, side, wide * width)
        for stage, (side, width) in enumerate(zip(sides, channels, strict=True), start=2)
    }


@pytest.mark.parametrize(("depth", "shortcut"), PUBLISHED)
def test_the_table_has_the_published_parameters(depth, shortcut):
    counts = network_table.count(Model(depth=depth, shortcut=shortcut))
    assert (counts.trainable, counts.total) == PUBLISHED[depth, shortcut]


@pytest.mark.parametrize(("depth", "variant"), MULTIPLY_ADDS)
def test_the_table_has_the_papers_multiply_adds(depth, variant):
    count = network_table.count(Model(depth=depth, variant=variant)).multiply_adds
    assert count == MULTIPLY_ADDS[depth, variant]
    if variant == "v1":
        # The paper rounds, here and there down.
        assert abs(count / 1e9 - network_table.PAPER_MULTIPLY_ADDS[depth]) < 0.07


@pytest.mark.parametrize("depth", network_table.CIFAR_DEPTHS)
def test_the_table_has_the_parameters_of_table_6(depth):
    count = network_table.count(Model(family="cifar", depth=depth, shortcut="A")).trainable / 1e6
    paper = network_table.PAPER_PARAMETERS[depth]
    digits = len(str(paper).split(".")[1])
    assert abs(count - paper) < 10.0**-digits


def test_the_documentation_is_what_the_command_writes(tmp_path):
    out = tmp_path / "networks.md"
    subprocess.run([sys.executable, "-m", "benchmarks.network_table", str(out)], check=True)
    committed = pathlib.Path(__file__).parents[3] / "docs" / "networks.md"
    assert out.read_text() == committed.read_text(), (
        "run: python -m benchmarks.network_table docs/networks.md"
    )
    assert [path.name for path in tmp_path.iterdir()] == ["networks.md"]
