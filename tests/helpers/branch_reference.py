"""The authors' networks of 50 layers and more in NumPy, channels first, with the names of their
prototxt.

Writes them as Caffe does, number by number as caffe.proto says, and as Keras did before 2019.
"""

import struct

import h5py
import numpy as np

from tests.helpers.torch_reference import _conv as torch_convolution
from tests.helpers.torch_reference import _windows

BLOCKS = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}


def blocks(depth):
    """The names of the blocks (2a, 2b ..., or 3a, 3b1, 3b2 ... of the deeper) with their width and
    stride.
    """
    for stage, count in enumerate(BLOCKS[depth], start=2):
        for number in range(count):
            numbered = depth > 50 and stage in (3, 4)
            letter = f"b{number}" if numbered and number else chr(ord("a") + number)
            yield f"{stage}{letter}", 64 * 2 ** (stage - 2), 2 if stage > 2 and number == 0 else 1


def layers(depth, classes=5, biases=("conv1",), seed=0):
    """Layer -> its arrays: kernel and perhaps bias, the four of Keras of a bn, gamma and beta of a
    scale.
    """
    rng = np.random.default_rng(seed)
    found = {}

    def convolution(name, out, into, size):
        found[name] = [rng.normal(0, (2 / (into * size**2)) ** 0.5, [out, into, size, size])]
        if name in biases or biases == "all":
            found[name].append(rng.normal(0, 0.2, out))
        norm = name.replace("res", "bn") if name.startswith("res") else "bn_conv1"
        for kind in (norm, norm.replace("bn", "scale")):
            found[kind] = [rng.uniform(0.5, 1.1, out), rng.normal(0, 0.2, out)]
        found[norm] += [rng.normal(0, 0.2, out), rng.uniform(0.5, 1.5, out)]

    convolution("conv1", 64, 3, 7)
    into = 64
    for name, width, _ in blocks(depth):
        if into != 4 * width:
            convolution(f"res{name}_branch1", 4 * width, into, 1)
        convolution(f"res{name}_branch2a", width, into, 1)
        convolution(f"res{name}_branch2b", width, width, 3)
        convolution(f"res{name}_branch2c", 4 * width, width, 1)
        into = 4 * width
    found["fc1000"] = [rng.normal(0, 0.1, [classes, into]), rng.normal(0, 0.1, classes)]
    return {name: [value.astype(np.float32) for value in values] for name, values in found.items()}


def logits(layers, depth, pixels, epsilon, pool, normalised=True, scaled=True):
    """Of mean-subtracted images [n, H, W, 3], BGR; with the gamma and beta of bn, of scale, or
    both.
    """
    layers = {
        name: [np.asarray(value, np.float64) for value in values] for name, values in layers.items()
    }

    def convolution(name, x, stride):
        y = torch_convolution({"x.weight": layers[name][0]}, "x", x, stride)
        y += layers[name][1][:, None, None] if len(layers[name]) > 1 else 0
        norm = name.replace("res", "bn") if name.startswith("res") else "bn_conv1"
        gamma, beta, mean, variance = (value[:, None, None] for value in layers[norm])
        y = (y - mean) / np.sqrt(variance + epsilon)
        y = y * gamma + beta if normalised else y
        gamma, beta = (value[:, None, None] for value in layers[norm.replace("bn", "scale")])
        return y * gamma + beta if scaled else y

    x = np.maximum(convolution("conv1", pixels.transpose(0, 3, 1, 2), 2), 0)
    around = (1, 1) if pool == "symmetric" else (0, 1)
    x = _windows(np.pad(x, [(0, 0), (0, 0), around, around], constant_values=-np.inf), 3, 2).max(
        (4, 5)
    )
    for name, _, stride in blocks(depth):
        y = np.maximum(convolution(f"res{name}_branch2a", x, stride), 0)
        y = np.maximum(convolution(f"res{name}_branch2b", y, 1), 0)
        y = convolution(f"res{name}_branch2c", y, 1)
        if f"res{name}_branch1" in layers:
            x = convolution(f"res{name}_branch1", x, stride)
        x = np.maximum(x + y, 0)
    return x.mean((2, 3)) @ layers["fc1000"][0].T + layers["fc1000"][1]


def write_caffe(path, layers, old_shapes=False, factor=1.0, epsilon=None):
    """A NetParameter with the blobs of every layer, and a ReLU without any."""
    net = _text(1, "ResNet-50") + _bytes(
        100, _text(1, "conv1_relu") + _text(2, "ReLU") + _text(3, "conv1")
    )
    for name, values in layers.items():
        settings = b""
        if name.startswith("bn"):
            kind, values = (
                "BatchNorm",
                [
                    values[2] * factor,
                    values[3] * factor,
                    np.float32([factor]),
                ],
            )
            if epsilon is not None:
                settings = _bytes(
                    139, _tag(1, 0) + b"\x01" + _tag(3, 5) + struct.pack("<f", epsilon)
                )
        else:
            kind = {"fc": "InnerProduct", "sc": "Scale"}.get(name[:2], "Convolution")
        blobs = b"".join(_bytes(7, blob(value, old_shapes)) for value in values)
        net += _bytes(
            100, _text(1, name) + _text(2, kind) + _text(3, "x") + _text(4, "y") + blobs + settings
        )
    path.write_bytes(net)


def blob(values, old_shape=False):
    """A BlobProto: packed floats, and the shape, or the four numbers that there were before."""
    data = _bytes(5, values.astype("<f4").tobytes())
    if not old_shape:
        return _bytes(7, _bytes(1, b"".join(map(_varint, values.shape)))) + data
    numbers = (1,) * (4 - values.ndim) + values.shape
    return (
        b"".join(_tag(field, 0) + _varint(size) for field, size in enumerate(numbers, start=1))
        + data
    )


def _varint(number):
    found = b""
    while number > 127:
        found += bytes([number & 127 | 128])
        number >>= 7
    return found + bytes([number])


def _tag(field, wire):
    return _varint(field << 3 | wire)


def _bytes(field, contents):
    return _tag(field, 2) + _varint(len(contents)) + contents


def _text(field, text):
    return _bytes(field, text.encode())


def write_keras(path, layers, version, whole=False, scaled=False, order="tensorflow"):
    """As Keras 1 (conv1_W:0; on Theano conv1_W, [out, in, h, w] and mirrored) or Keras 2
    (conv1/kernel:0).
    """
    with h5py.File(path, "w") as file:
        root = file.create_group("model_weights") if whole else file
        names = [
            "input_1",
            *(name for name in layers if scaled or not name.startswith("scale")),
            "avg_pool",
        ]
        root.attrs["layer_names"] = np.array([name.encode() for name in names])
        if version == 2:
            root.attrs["backend"], root.attrs["keras_version"] = order.encode(), b"2.0.8"
        for name in names:
            group = root.create_group(name)
            values = _named(name, layers.get(name, ()), version, order)
            group.attrs["weight_names"] = np.array([part.encode() for part in values])
            for part, value in values.items():
                group[part] = value


def _named(name, values, version, order):
    parts = ("kernel", "bias") if version == 2 else ("W", "b")
    if name.startswith(("bn", "scale")):
        running = (
            ("moving_mean", "moving_variance") if version == 2 else ("running_mean", "running_std")
        )
        parts = ("gamma", "beta", *running)
    values = [value.T if value.ndim == 2 else value for value in values]
    if order == "theano":
        values = [value[:, :, ::-1, ::-1] if value.ndim == 4 else value for value in values]
    if order == "tensorflow" or version == 2:
        values = [value.transpose(2, 3, 1, 0) if value.ndim == 4 else value for value in values]
    after = "" if order == "theano" and version == 1 else ":0"
    between = "/" if version == 2 else "_"
    return {
        f"{name}{between}{part}{after}": value for part, value in zip(parts, values, strict=False)
    }
