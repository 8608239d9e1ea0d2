"""Weights of Keras in HDF5, of all its versions; neither TensorFlow nor Keras is needed.

Two layouts: groups called as the layers, with their variables somewhere within (Keras 1 and 2, at
the root or in `model_weights` of a whole model), and layers/KIND_NUMBER/vars/0 (Keras 3). As in
Keras, what lies outside of the file is not read: links, external storage, virtual datasets.

The attributes of Keras 1 and 2 that list layers and variables are not needed, and not read: as
texts without a length a few bytes of them can stand for any number.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import h5py
import numpy as np

from models.weights.file_bounds import Refused, check_unpacked

# Keras' order within a layer, by how many variables it has.
_VARIABLES = {
    1: ("kernel",),
    2: ("kernel", "bias"),
    4: ("gamma", "beta", "moving_mean", "moving_variance"),
}
# What Keras 1 calls them; running_std is a variance.
_KERAS_1 = {
    "W": "kernel",
    "b": "bias",
    "running_mean": "moving_mean",
    "running_std": "moving_variance",
}
_LONGEST_NAME = 1000
# Height and width of the kernels of these networks.
_KERNELS = ((1, 1), (3, 3), (7, 7))


def read(path: str) -> dict[str, np.ndarray]:
    """The variables of a file.

    Returns:
      LAYER/VARIABLE -> array, the variables by Keras 2's names (kernel, bias, gamma, moving_mean
      ...). Kernels for Theano, which convolves with the mirrored kernel, are mirrored; those of
      Keras 1 keep their shape, [out, in, height, width].

    Raises:
      Refused: it refers to other files, or declares much more than it has.
    """
    with h5py.File(path) as file:
        root, paths = file, _datasets(file)
        if "model_weights" in file:
            root, paths = file["model_weights"], _datasets(file["model_weights"])
        old = "layer_names" in root.attrs or "layer_names0" in root.attrs
        pairs = list((_by_layer if old else _by_number)(root, paths))
        check_unpacked(path, sum(_size(values) for _, values in pairs))
        theano = _text(root, "backend") == "theano"
        return {name: _values(values, theano) for name, values in pairs}


def _size(values: h5py.Dataset) -> int:
    """The bytes that reading takes: a chunk is read whole, and may be larger than the data."""
    return values.dtype.itemsize * max(values.size, math.prod(values.chunks or (0,)))


def _values(values: h5py.Dataset, theano: bool) -> np.ndarray:
    found = values[()]
    # The order of Keras 1 with Theano.
    if found.ndim == 4 and found.shape[2:] in _KERNELS:
        return found[:, :, ::-1, ::-1]
    return found[::-1, ::-1] if theano and found.ndim == 4 else found


def _datasets(root: h5py.Group) -> list[str]:
    """The paths of all datasets within, each of which lies in this file."""
    links: list[tuple[str, object]] = []
    root.visititems_links(lambda path, link: links.append((path, link)))
    for path, link in links:
        if not isinstance(link, h5py.HardLink):
            raise Refused(
                f"has a link in the place of {path[:200]}, and what it leads to is not read"
            )
    return [path for path, _ in links if isinstance(root[path], h5py.Dataset)]


def _by_layer(root: h5py.Group, paths: list[str]) -> Iterator[tuple[str, h5py.Dataset]]:
    """Of LAYER/VARIABLE, LAYER/SCOPE/VARIABLE, or MODEL/LAYER/VARIABLE of a model in a model."""
    scopes: dict[str, set[str]] = {}
    for path in paths:
        scopes.setdefault(path.split("/")[0], set()).add(path.rpartition("/")[0])
    for path in paths:
        group, *_, scope, name = [path.split("/")[0], *path.split("/")]
        layer = group if len(scopes[group]) == 1 else scope
        name = name.split(":")[0].removeprefix(f"{layer}_")
        yield f"{layer}/{_KERAS_1.get(name, name)}", _dataset(root, path)


def _by_number(root: h5py.Group, paths: list[str]) -> Iterator[tuple[str, h5py.Dataset]]:
    """layers/KIND_NUMBER/vars/0, with the name of the layer as an attribute."""
    numbers: dict[str, list[str]] = {}
    for path in paths:
        group, _, number = path.rpartition("/")
        if group.endswith("/vars") and not group.startswith("optimizer"):
            numbers.setdefault(group, []).append(number)
    for group, found in numbers.items():
        layer = _text(root[group], "name") or group.split("/")[-2]
        found.sort(key=int)
        names = _VARIABLES.get(len(found), tuple(map(str, range(len(found)))))
        for name, number in zip(names, found, strict=True):
            yield f"{layer}/{name}", _dataset(root, f"{group}/{number}")


def _dataset(root: h5py.Group, path: str) -> h5py.Dataset:
    found = root[path]
    if found.dtype.kind not in "biuf" or found.shape is None:
        raise Refused(f"has no numbers in {path[:200]}")
    if found.external or found.is_virtual:
        raise Refused(
            f"keeps {path[:200]} in another file, which is not read; save the network again whole"
        )
    return found


def _text(group: h5py.Group, attribute: str) -> str:
    """An attribute of one text, "" where there is none."""
    if attribute not in group.attrs or group.attrs.get_id(attribute).shape != ():
        return ""
    value = group.attrs[attribute]
    text = value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
    if len(text) > _LONGEST_NAME:
        raise Refused("has a name of more than a thousand characters")
    return text
