"""Checkpoints of `torch.save`, read without PyTorch and without running anything that they contain.

Both of its formats: a zip archive (since PyTorch 1.6), and several pickles one after the other (before). A
pickle can call any function that it names. Here it can name only those few that tensors, dictionaries and
lists are made of; the first other name ends the reading.
"""

from __future__ import annotations

import collections
import io
import math
import pickle
import zipfile
from collections.abc import Callable
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

# First pickle of the format before 1.6.
_MAGIC = 0x1950A86A20F9469CFC6C
_PROTOCOL = 1001
_DTYPES: dict[str, Any] = {
    "FloatStorage": np.float32,
    "DoubleStorage": np.float64,
    "HalfStorage": np.float16,
    "BFloat16Storage": ml_dtypes.bfloat16,
    "LongStorage": np.int64,
    "IntStorage": np.int32,
    "ShortStorage": np.int16,
    "CharStorage": np.int8,
    "ByteStorage": np.uint8,
    "BoolStorage": np.bool_,
}


class Refused(Exception):
    """Why a file is not read."""


def read(path: str) -> Any:
    """What was saved: dictionaries, lists, numbers and text, with arrays in the place of tensors.

    Raises:
      Refused: the file is damaged, or contains something else.
    """
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                return _read_zip(archive)
        with open(path, "rb") as file:
            return _read_legacy(file)
    except (Refused, OSError):
        raise
    # Damaged bytes end in whatever error they lead to.
    except Exception as error:
        reason = f"{type(error).__name__}: {error}".split("\n")[0]
        raise Refused(f"is no whole PyTorch checkpoint ({reason})") from error


def _read_zip(archive: zipfile.ZipFile) -> Any:
    names = set(archive.namelist())
    # PyTorch compresses nothing: what is small stays small.
    if any(info.compress_type != zipfile.ZIP_STORED for info in archive.infolist()):
        raise Refused("is compressed, which no checkpoint of PyTorch is; unpack and save it again")
    root = next((name.removesuffix("data.pkl") for name in names if name.endswith("/data.pkl")), None)
    if root is None:
        raise Refused("is a zip archive without the data.pkl of a PyTorch checkpoint")
    if f"{root}byteorder" in names and archive.read(f"{root}byteorder") != b"little":
        raise Refused("was written on a big-endian machine; save it again on a usual one")

    kept: dict[str, np.ndarray] = {}

    def storage(dtype: str, key: str, count: int) -> np.ndarray:
        if key not in kept:  # several tensors may share one
            kept[key] = np.frombuffer(archive.read(f"{root}data/{key}"), _DTYPES[dtype], count)
        return kept[key]

    return _Unpickler(io.BytesIO(archive.read(f"{root}data.pkl")), storage).load()


def _read_legacy(file: io.BufferedReader) -> Any:
    """Magic number, protocol, system, object; keys of the storages; size and bytes of each."""
    kept: dict[str, np.ndarray] = {}

    def storage(dtype: str, key: str, count: int) -> np.ndarray:
        # Its bytes follow after the object: they are filled in below.
        return kept.setdefault(key, np.zeros(count, _DTYPES[dtype]))

    try:
        magic = _Unpickler(file, storage).load()
    except Exception:  # whatever the first bytes of another kind of file lead to; said below
        magic = None
    if magic != _MAGIC:
        raise Refused("is no PyTorch checkpoint")
    protocol, _, found, keys = (_Unpickler(file, storage).load() for _ in range(4))
    if protocol != _PROTOCOL:
        raise Refused(f"is of version {protocol} of PyTorch's format, which is not known")
    for key in keys:
        values = kept[key]
        count = int.from_bytes(file.read(8), "little")
        contents = file.read(values.nbytes)
        if count != len(values) or len(contents) != values.nbytes:
            raise Refused(f"ends within the storage {key}")
        values[:] = np.frombuffer(contents, values.dtype)
    return found


class _Type(NamedTuple):
    """torch.FloatStorage and the others."""

    dtype: str


class _Unpickler(pickle.Unpickler):
    """Makes arrays of tensors; knows nothing else than what a state dict needs."""

    def __init__(self, file: Any, storage: Callable[[str, str, int], np.ndarray]):
        super().__init__(file, encoding="utf-8")
        self._storage = storage

    def find_class(self, module: str, name: str) -> Any:
        found = {
            "collections.OrderedDict": collections.OrderedDict,
            "torch.Size": tuple,
            # New ones each time: a pickle may set attributes of what it is given.
            "torch._utils._rebuild_tensor_v2": lambda *args: _tensor(*args),
            "torch._utils._rebuild_parameter": lambda *args: _parameter(*args),
        }.get(f"{module}.{name}")
        if found is None and module == "torch" and name in _DTYPES:
            found = _Type(name)
        if found is None:
            raise Refused(
                f"contains {module}.{name}, which is no part of a plain state dict and is never run here; "
                "save model.state_dict() alone"
            )
        return found

    def persistent_load(self, pid: Any) -> np.ndarray:
        kind, of, key, _, count, *view = pid
        if kind != "storage" or any(part is not None for part in view):
            raise Refused(f"refers to {pid}, which is no whole storage; save it again with a newer PyTorch")
        return self._storage(of.dtype, key, count)


def _tensor(storage: np.ndarray, offset: int, shape: tuple, strides: tuple, *_: Any) -> np.ndarray:
    """A view of `storage`, flat; offset and strides are in elements."""
    last = offset + sum((length - 1) * stride for length, stride in zip(shape, strides, strict=True))
    beyond = 0 not in shape and last >= len(storage)
    # A stride of 0 would make much out of little.
    if min(offset, *shape, *strides, 0) < 0 or beyond or math.prod(shape) > len(storage):
        raise Refused(f"has a tensor of shape {tuple(shape)} that reaches beyond its storage")
    steps = [stride * storage.itemsize for stride in strides]
    return np.lib.stride_tricks.as_strided(storage[offset:], shape, steps, writeable=False)


def _parameter(data: np.ndarray, *_: Any) -> np.ndarray:
    return data
