"""Files of published weights, read into named arrays. TensorFlow and PyTorch are not needed."""

from __future__ import annotations

import io
import os
import zipfile
import zlib
from collections.abc import Callable

import ml_dtypes
import numpy as np
import safetensors

from models.weights import caffe_files, h5_files, torch_files
from models.weights.file_bounds import Refused, check_unpacked

# What PyTorch and counters of multiply-adds write beside the weights.
_COUNTS = ("num_batches_tracked", "total_ops", "total_params")
# Wrappers leave their names before those of the tensors.
_PREFIXES = ("module.", "model.", "net.", "_orig_mod.")
_NPY_HEADERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}
# What the libraries say to damaged bytes, or to contents that are no numbers.
_PYTHON = (OSError, ValueError, TypeError, LookupError, RuntimeError, MemoryError, EOFError)
_LIBRARIES = (zipfile.BadZipFile, zlib.error, safetensors.SafetensorError)
_NUMPY_ZIPS = {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}
_SAFETENSORS = {"F64": np.float64, "F32": np.float32, "F16": np.float16, "BF16": ml_dtypes.bfloat16}


def read(path: str) -> dict[str, np.ndarray]:
    """The tensors of a file, in its order; those of Keras and Caffe are called LAYER/VARIABLE.

    Returns:
      Name -> float32 array. What is counted beside the weights (num_batches_tracked and the like)
      is left out, and so are prefixes that all names share (module., model., net., _orig_mod.).

    Raises:
      ValueError: there is no such file, its kind is not known, it is damaged or holds something
        else.
    """
    suffix = os.path.splitext(path)[1].lower()
    if suffix not in _READERS:
        raise ValueError(
            f"{path}: files of weights end in {', '.join(_READERS)}; save them as one of these."
        )
    if not os.path.isfile(path):
        raise ValueError(f"{path} does not exist; give a file of weights on this machine.")
    try:
        tensors = _READERS[suffix](path)
        names = [name for name in tensors if not name.endswith(_COUNTS)]
        found = {name: np.asarray(tensors[name], np.float32) for name in names}
    except Refused as error:
        raise ValueError(f"{path} {error}.") from error
    except (*_PYTHON, *_LIBRARIES) as error:
        reason = str(error).split("\n")[0]
        raise ValueError(f"{path} cannot be read as {suffix} ({reason}); get it again.") from error
    if not found:
        raise ValueError(f"{path} contains no tensors; save the network's state dict in it.")
    return _without_prefixes(found)


def read_mean(path: str) -> np.ndarray:
    """The mean image of Caffe's data (.binaryproto), float32 [H, W, 3], RGB of 0..255.

    Raises:
      ValueError: there is no such file, or it is none of an image.
    """
    if not os.path.isfile(path):
        raise ValueError(
            f"{path} does not exist; give a mean image (.binaryproto) on this machine."
        )
    try:
        return caffe_files.read_mean(path)
    except (Refused, OSError) as error:
        raise ValueError(f"{path} {error}.") from error


def _read_npz(path: str) -> dict[str, np.ndarray]:
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        # bz2 and lzma make any size of little, and numpy writes neither.
        if not {info.compress_type for info in members} <= _NUMPY_ZIPS:
            raise Refused("is compressed by another program than NumPy; save it with np.savez")
        check_unpacked(path, sum(info.file_size for info in members))
        return {info.filename.removesuffix(".npy"): _npy(archive.read(info)) for info in members}


def _npy(contents: bytes) -> np.ndarray:
    """An array of a file .npy; np.load would ask for the memory that its header declares."""
    file = io.BytesIO(contents)
    read_header = _NPY_HEADERS[np.lib.format.read_magic(file)]
    shape, in_fortran_order, dtype = read_header(file)
    if dtype.kind not in "biuf":
        raise TypeError(f"an array of {dtype}, which are no numbers")
    values = np.frombuffer(contents, dtype, offset=file.tell())
    return values.reshape(shape, order="F" if in_fortran_order else "C")


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


def _without_prefixes(tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    for _ in _PREFIXES:
        for prefix in _PREFIXES:
            if all(name.startswith(prefix) for name in tensors):
                tensors = {name[len(prefix) :]: value for name, value in tensors.items()}
    return tensors


_READERS: dict[str, Callable[[str], dict[str, np.ndarray]]] = {
    ".npz": _read_npz,
    ".safetensors": _read_safetensors,
    ".h5": h5_files.read,
    ".hdf5": h5_files.read,
    **dict.fromkeys((".pth", ".pt", ".th", ".bin", ".tar"), torch_files.read),
    ".caffemodel": caffe_files.read,
}
