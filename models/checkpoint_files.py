"""Files of published weights, read into named arrays. TensorFlow and PyTorch are not needed."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import h5py
import ml_dtypes
import numpy as np
import safetensors

from models import torch_files

# Where training programs put the state dict among epoch, optimizer and the like.
_NESTS = ("state_dict", "model_state_dict", "model", "net", "weights")
# Wrappers leave their names before those of the tensors.
_PREFIXES = ("module.", "model.", "net.", "_orig_mod.")
# Keras' order within a layer, by how many variables it has.
_VARIABLES = {1: ("kernel",), 2: ("kernel", "bias"), 4: ("gamma", "beta", "moving_mean", "moving_variance")}
_LIBRARIES = (EOFError, zipfile.BadZipFile, safetensors.SafetensorError)
_SAFETENSORS = {"F64": np.float64, "F32": np.float32, "F16": np.float16, "BF16": ml_dtypes.bfloat16}


def read(path: str) -> dict[str, np.ndarray]:
    """The tensors of a file, in its order; those of Keras are called LAYER/VARIABLE.

    Args:
      path: .npz, .safetensors, .h5 (Keras: both layouts), or .pth, .pt, .th, .bin, .tar (PyTorch).

    Returns:
      Name -> float32 array. What PyTorch counts (num_batches_tracked) is left out, and so are prefixes
      that all names share (module., model., net., _orig_mod.).

    Raises:
      ValueError: there is no such file, its kind is not known, it is damaged or holds something else.
    """
    suffix = os.path.splitext(path)[1].lower()
    if suffix not in _READERS:
        raise ValueError(f"{path}: files of weights end in {', '.join(_READERS)}; save them as one of these.")
    if not os.path.isfile(path):
        raise ValueError(f"{path} does not exist; give a file of weights on this machine.")
    try:
        tensors = _READERS[suffix](path)
        names = [name for name in tensors if not name.endswith("num_batches_tracked")]
        found = {name: np.asarray(tensors[name], np.float32) for name in names}
    except torch_files.Refused as error:
        raise ValueError(f"{path} {error}.") from error
    # What the libraries say to damaged bytes, or to contents that are no numbers.
    except (OSError, ValueError, TypeError, LookupError, RuntimeError, MemoryError, *_LIBRARIES) as error:
        reason = str(error).split("\n")[0]
        raise ValueError(f"{path} cannot be read as {suffix} ({reason}); get it again.") from error
    if not found:
        raise ValueError(f"{path} contains no tensors; save the network's state dict in it.")
    return _without_prefixes(found)


def _read_npz(path: str) -> dict[str, np.ndarray]:
    with np.load(path, allow_pickle=False) as values:
        return dict(values)


def _read_safetensors(path: str) -> dict[str, np.ndarray]:
    # safetensors.numpy has no bfloat16.
    with open(path, "rb") as file:
        tensors = safetensors.deserialize(file.read())
    found = {}
    for name, tensor in tensors:
        dtype = _SAFETENSORS.get(tensor["dtype"])
        if dtype is not None:
            found[name] = np.frombuffer(tensor["data"], dtype).reshape(tensor["shape"])
    return found


def _read_torch(path: str) -> dict[str, np.ndarray]:
    found = torch_files.read(path)
    for _ in range(2):  # lightning and others nest twice
        if isinstance(found, Mapping) and not _arrays(found):
            found = next((found[name] for name in _NESTS if isinstance(found.get(name), Mapping)), found)
    return _arrays(found) if isinstance(found, Mapping) else {}


def _arrays(values: Mapping[Any, Any]) -> dict[str, np.ndarray]:
    # A scalar is a best accuracy and the like, never a weight.
    return {str(k): v for k, v in values.items() if isinstance(v, np.ndarray) and v.ndim}


def _read_h5(path: str) -> dict[str, np.ndarray]:
    with h5py.File(path) as file:
        root = file.get("model_weights", file)
        pairs = _legacy_h5(root) if "layer_names" in root.attrs else _keras3_h5(root)
        return {f"{layer}/{name}": values for layer, name, values in pairs}


def _legacy_h5(root: h5py.Group) -> Iterator[tuple[str, str, np.ndarray]]:
    """Groups called as the layers, with their variables in the attribute weight_names."""
    for layer in _texts(root.attrs["layer_names"]):
        for path in _texts(root[layer].attrs["weight_names"]):
            yield layer, path.split("/")[-1].split(":")[0], root[layer][path][()]


def _keras3_h5(root: h5py.Group) -> Iterator[tuple[str, str, np.ndarray]]:
    """layers/KIND_NUMBER/vars/0, with the name of the layer as an attribute."""
    paths: list[str] = []
    root.visit(paths.append)
    for path in paths:
        if not path.endswith("/vars") or path.startswith("optimizer"):
            continue
        group = root[path]
        layer = group.attrs.get("name") or group.parent.name.split("/")[-1]
        variables = [group[key][()] for key in sorted(group, key=int)]
        names = _VARIABLES.get(len(variables), tuple(map(str, range(len(variables)))))
        for name, values in zip(names, variables, strict=True):
            yield layer, name, values


def _texts(values: Any) -> list[str]:
    return [value.decode() if isinstance(value, bytes) else str(value) for value in values]


def _without_prefixes(tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    for _ in _PREFIXES:
        for prefix in _PREFIXES:
            if all(name.startswith(prefix) for name in tensors):
                tensors = {name[len(prefix) :]: value for name, value in tensors.items()}
    return tensors


_READERS: dict[str, Callable[[str], dict[str, np.ndarray]]] = {
    ".npz": _read_npz,
    ".safetensors": _read_safetensors,
    ".h5": _read_h5,
    ".hdf5": _read_h5,
    **dict.fromkeys((".pth", ".pt", ".th", ".bin", ".tar"), _read_torch),
}
