"""Checkpoints of `torch.save`, read without PyTorch and without running anything that they contain.

Its three formats:

  - since 1.6, a zip archive: data.pkl, and a file for each storage;
  - since 0.2, pickles one after the other (magic number, protocol, system, object, keys of the
    storages), then the storages: their number of elements (int64) and these;
  - before, a tar archive: `storages` and `tensors`, each with its description before it, and
    `pickle`.

Storages are little-endian in all of them.
"""

from __future__ import annotations

import io
import math
import pathlib
import struct
import tarfile
import zipfile
from collections.abc import Callable
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from models.weights import pickles
from models.weights.file_bounds import Refused, check_stored
from models.weights.pickles import Global, Inert, is_key

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
# Where training programs put the state dict among epoch, optimizer and the like.
_NESTS = ("state_dict", "model_state_dict", "model", "net", "weights")
# The most dimensions of a tensor; of the members of a tar archive.
_DIMENSIONS, _MEMBERS = 8, 10
# Most bytes of a pickle that describes one storage.
_SHORT = 1000


class _Storage(NamedTuple):
    """Elements `start` to `start + size` of what is kept as `key`."""

    dtype: Any
    key: Any
    start: int
    size: int


class _Tensor(NamedTuple):
    """A view of a storage; offset and strides are in elements."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


# What a file has: the object, and the bytes of a storage by its key.
_Saved = tuple[Any, Callable[[Any], Any]]


def read(path: str) -> dict[str, np.ndarray]:
    """The weights of a state dict, of one among other things, or of a whole module.

    Returns:
      Name -> array of one dimension or more, in the order of the file; views of its contents.

    Raises:
      Refused: the file is damaged, or contains something else.
    """
    try:
        value, contents = _saved(pathlib.Path(path).read_bytes())
        weights = _weights(value)
        check_stored(path, sum(_bytes(name, tensor) for name, tensor in weights.items()))
        return {name: _array(tensor, contents) for name, tensor in weights.items()}
    except Refused:
        raise
    # Damaged bytes end in whatever error they lead to.
    except Exception as error:
        reason = f"{type(error).__name__}: {error}".split("\n")[0][:200]
        raise Refused(f"is no whole PyTorch checkpoint ({reason})") from error


def _saved(contents: bytes) -> _Saved:
    if contents.startswith(b"PK\x03\x04"):
        with zipfile.ZipFile(io.BytesIO(contents)) as archive:
            return _read_zip(archive, len(contents))
    try:
        with tarfile.open(fileobj=io.BytesIO(contents), mode="r:") as archive:
            return _read_tar(archive, len(contents))
    except tarfile.ReadError:
        return _read_pickles(contents)


def _read_zip(archive: zipfile.ZipFile, size: int) -> _Saved:
    members = archive.infolist()
    # PyTorch compresses nothing: what is small stays small.
    if any(info.compress_type != zipfile.ZIP_STORED for info in members):
        raise Refused("is compressed, which no checkpoint of PyTorch is; unpack and save it again")
    if sum(info.file_size for info in members) > size:
        raise Refused("declares more bytes in its archive than it has")
    names = {info.filename for info in members}
    pickled = next((name for name in names if name.endswith("/data.pkl")), None)
    if pickled is None:
        raise Refused("is a zip archive without the data.pkl of a PyTorch checkpoint")
    root = pickled.removesuffix("data.pkl")
    if f"{root}byteorder" in names and archive.read(f"{root}byteorder") != b"little":
        raise Refused("was written on a big-endian machine; save it again on a usual one")
    kept = {name: archive.read(name) for name in names if name.startswith(f"{root}data/")}
    value = pickles.load(io.BytesIO(archive.read(pickled)), _CALLS, _storage)
    return value, lambda key: kept[f"{root}data/{key}"]


def _read_pickles(contents: bytes) -> _Saved:
    file, items = io.BytesIO(contents), {}

    def persistent(pid: Any) -> Any:
        found = _storage(pid)
        if isinstance(found, _Storage):
            items[found.key] = np.dtype(found.dtype).itemsize
        return found

    try:
        magic = pickles.load(file, {}, most=_SHORT)
    except Exception:  # whatever the first bytes of another kind of file lead to; said below
        magic = None
    if type(magic) is not int or magic != _MAGIC:
        raise Refused("is no PyTorch checkpoint")
    protocol, _ = (pickles.load(file, {}, most=_SHORT) for _ in range(2))
    if type(protocol) is not int or protocol != _PROTOCOL:
        raise Refused("is of a version of PyTorch's format that is not known")
    value = pickles.load(file, _CALLS, persistent)
    # After the object come the storages.
    kept: dict[Any, memoryview] = {}
    for key in pickles.load(file, {}):
        start = file.tell() + 8
        count = struct.unpack("<q", file.read(8))[0]
        kept[key] = memoryview(contents)[start : start + count * items[key]]
        if count < 0 or len(kept[key]) != count * items[key]:
            raise Refused(f"ends within the storage {key}")
        file.seek(start + len(kept[key]))
    return value, kept.__getitem__


def _read_tar(archive: tarfile.TarFile, size: int) -> _Saved:
    files: dict[str, io.BytesIO] = {}
    for _ in range(_MEMBERS):
        member = archive.next()
        if member is None:
            break
        # The holes of a sparse file are bytes from nowhere.
        source = archive.extractfile(member) if member.isreg() and not member.issparse() else None
        if source is not None and 0 <= member.size <= size:
            files[member.name] = io.BytesIO(source.read())
    if not {"storages", "tensors", "pickle"} <= files.keys():
        raise Refused(
            "is a tar archive without storages, tensors and pickle, which PyTorch wrote into one"
        )

    kept: dict[int, bytes] = {}
    found: dict[int, Any] = {}
    file = files["storages"]
    for _ in range(pickles.load(file, {}, most=_SHORT)):
        key, _, kind = pickles.load(file, {}, most=_SHORT)
        dtype, count = _DTYPES[kind.name.split(".")[-1]], struct.unpack("<q", file.read(8))[0]
        length = count * np.dtype(dtype).itemsize
        kept[key] = file.read(max(0, length))
        if len(kept[key]) != length:
            raise Refused(f"ends within the storage {key}")
        found[key] = _Storage(dtype, key, 0, count)
    for view, key, start, count in pickles.load(file, {}):
        found[view] = found[key]._replace(start=start, size=count)
    file = files["tensors"]
    for _ in range(pickles.load(file, {}, most=_SHORT)):
        key, storage, _ = pickles.load(file, {}, most=_SHORT)
        (dimensions,) = struct.unpack("<i4x", file.read(8))
        if not 0 <= dimensions <= _DIMENSIONS:
            raise Refused(f"has a tensor of {dimensions} dimensions")
        *numbers, offset = struct.unpack(f"<{2 * dimensions + 1}q", file.read(16 * dimensions + 8))
        shape, strides = tuple(numbers[:dimensions]), tuple(numbers[dimensions:])
        found[key] = _Tensor(found[storage], offset, shape, strides)

    def persistent(pid: Any) -> Any:
        if isinstance(pid, tuple):  # a class, with its source code beside it
            return pid[0]
        return found[int(pid)] if is_key(pid) else Inert("a tensor")

    return pickles.load(files["pickle"], _CALLS, persistent), kept.__getitem__


def _storage(pid: Any) -> Any:
    """Of ("storage", class, key, device, elements, view); the class of ("module", class, ...)."""
    if pid[0] == "module":
        return pid[1]
    kind, of, key, _, count, *view = pid
    dtype = _DTYPES.get(of.name.split(".")[-1]) if isinstance(of, Global) else None
    if kind != "storage" or dtype is None or not is_key(key):
        return Inert("a storage")
    start = 0
    if view and view[0] is not None:
        _, start, count = view[0]
    return _Storage(dtype, key, start, count)


def _tensor(storage: Any, offset: int, shape: Any, strides: Any, *_: Any) -> Any:
    if not isinstance(storage, _Storage):
        return Inert("a tensor")
    return _Tensor(storage, offset, shape, strides)


def _first(value: Any, *_: Any) -> Any:
    return value


_CALLS: dict[str, Callable[..., Any]] = {
    "torch.Size": _first,
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_parameter": _first,
    "torch._utils._rebuild_parameter_with_state": _first,
    "torch.nn.parameter.Parameter": _first,
    "torch.autograd.variable.Variable": _first,
}


def _weights(saved: Any) -> dict[str, _Tensor]:
    """The tensors of what was saved that are weights."""
    seen: dict[int, Any] = {}
    # From the innermost out: a state dict may have another beside it, not in it.
    found = _nested(saved, 3, seen)
    whole = next((value.of for value in seen.values() if isinstance(value, Inert)), None)
    if not found and whole is not None:
        raise Refused(
            f"contains {whole[:200]}, which is no part of a plain state dict and is never run here;"
            " save model.state_dict() alone"
        )
    return found


def _nested(saved: Any, depth: int, seen: dict[int, Any]) -> dict[str, _Tensor]:
    if id(saved) in seen or not isinstance(saved, (dict, Inert)):
        return {}
    seen[id(saved)] = saved
    values = _of_module(saved) if isinstance(saved, Inert) else saved
    for name in _NESTS if depth else ():  # lightning and others nest twice
        if found := _nested(values.get(name), depth - 1, seen):
            return found
    # A scalar is a best accuracy and the like, never a weight.
    tensors = {name: value for name, value in values.items() if isinstance(value, _Tensor)}
    return {name: value for name, value in tensors.items() if type(name) is str and value.shape}


def _of_module(root: Inert) -> dict[str, Any]:
    """The state dict of a module that was saved whole: of its attributes, without its class."""
    found: dict[str, Any] = {}
    rest: list[tuple[str, Any]] = [("", root)]
    seen: set[int] = set()
    while rest:
        prefix, module = rest.pop()
        if not isinstance(module, Inert) or not isinstance(module.state, dict) or len(prefix) > 200:
            continue
        for kind in ("_parameters", "_buffers", "_modules"):
            entries = module.state.get(kind)
            # Each once: modules that share what they have could be without number.
            if not isinstance(entries, dict) or id(entries) in seen:
                continue
            seen.add(id(entries))
            named = [(f"{prefix}{name}", value) for name, value in entries.items()]
            if kind == "_modules":
                rest += [(f"{name}.", value) for name, value in reversed(named)]
            else:
                found.update(named)
    return found


def _bytes(name: str, tensor: _Tensor) -> int:
    """The tensor's bytes; it must lie within its storage."""
    storage, offset, shape, strides = tensor
    numbers = (offset, *shape[:99], *strides[:99], storage.start, storage.size)
    integers = all(type(number) is int for number in numbers)
    if not integers or not len(shape) == len(strides) <= _DIMENSIONS:
        raise Refused(f"has a tensor {name[:200]} whose shape is none")
    steps = ((length - 1) * stride for length, stride in zip(shape, strides, strict=True))
    beyond = 0 not in shape and offset + sum(steps) >= storage.size
    # A stride of 0 would make much out of little.
    if min(offset, *shape, *strides, 0) < 0 or beyond or math.prod(shape) > storage.size:
        raise Refused(
            f"has a tensor {name[:200]} of shape {list(shape)} that reaches beyond its storage"
        )
    return math.prod(shape) * np.dtype(storage.dtype).itemsize


def _array(tensor: _Tensor, contents: Callable[[Any], Any]) -> np.ndarray:
    storage, offset, shape, strides = tensor
    kept = contents(storage.key)
    size = np.dtype(storage.dtype).itemsize
    if storage.start < 0 or (storage.start + storage.size) * size > len(kept):
        raise Refused(f"ends within the storage {str(storage.key)[:200]}")
    values = np.frombuffer(kept, storage.dtype, storage.size, storage.start * size)
    steps = [stride * size for stride in strides]
    return np.lib.stride_tricks.as_strided(values[offset:], shape, steps, writeable=False)
