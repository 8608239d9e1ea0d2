"""Weights of Caffe: a protobuf NetParameter, and the mean image of its data, a BlobProto.

Only the fields that hold weights are described here, by the numbers that caffe.proto gives them;
all others stay unread. `data` is a packed list of floats there. Here it is bytes, which are written
the same way, and no number becomes an object; so are layers and blobs, of which one after the other
is read.
"""

from __future__ import annotations

import functools
import math
import pathlib
from typing import Any

import numpy as np
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import DecodeError

from models.weights.file_bounds import Refused

# Added to the variance: Caffe's own default.
EPSILON = 1e-5
_FIELDS = {
    "Shape": (("dim", 1, "repeated int64"),),
    "Blob": (
        ("num", 1, "int32"),
        ("channels", 2, "int32"),
        ("height", 3, "int32"),
        ("width", 4, "int32"),
        ("data", 5, "repeated bytes"),
        ("shape", 7, "Shape"),
        ("double_data", 8, "repeated bytes"),
    ),
    "BatchNorm": (("eps", 3, "float"),),
    "Layer": (
        ("name", 1, "bytes"),
        ("type", 2, "bytes"),
        ("blobs", 7, "repeated bytes"),
        ("batch_norm_param", 139, "BatchNorm"),
    ),
    "OldLayer": (("name", 4, "bytes"), ("type", 5, "int32"), ("blobs", 6, "repeated bytes")),
    "Net": (("layers", 2, "repeated bytes"), ("layer", 100, "repeated bytes")),
}
# The numbers of V1LayerParameter.LayerType.
_OLD_TYPES = {4: "Convolution", 14: "InnerProduct"}
_PARTS = {
    "Convolution": ("kernel", "bias"),
    "InnerProduct": ("kernel", "bias"),
    "BatchNorm": ("moving_mean", "moving_variance", "factor"),
    "Scale": ("gamma", "beta"),
}


def read(path: str) -> dict[str, np.ndarray]:
    """The weights of a .caffemodel.

    Returns:
      LAYER/VARIABLE -> array. Convolutions and inner products have kernel ([out, in, height, width]
      or [out, in]) and perhaps bias; Scale gamma and beta; BatchNorm moving_mean and
      moving_variance, divided by their factor and as if epsilon were `EPSILON`.

    Raises:
      Refused: it is no NetParameter, or a blob has another size than its shape.
    """
    net = _parse("Net", pathlib.Path(path).read_bytes())
    layers = [("OldLayer", layer) for layer in net.layers]
    layers += [("Layer", layer) for layer in net.layer]
    found: dict[str, np.ndarray] = {}
    for message, contents in layers:
        layer = _parse(message, contents)
        old = isinstance(layer.type, int)
        kind = _OLD_TYPES.get(layer.type, "") if old else layer.type.decode("latin-1")
        if not layer.blobs or kind not in _PARTS:
            continue
        name = layer.name.decode("utf-8", "replace")
        blobs = (_blob(_parse("Blob", blob), name) for blob in layer.blobs)
        parts = dict(zip(_PARTS[kind], blobs, strict=False))
        if kind == "BatchNorm":
            _normalise(parts, layer.batch_norm_param)
        for part, values in parts.items():
            found[f"{name}/{part}"] = _trimmed(values, kind, part)
    return found


def read_mean(path: str) -> np.ndarray:
    """The mean image of a .binaryproto, float32 [height, width, 3], RGB; the file has BGR, channels
    first.

    Raises:
      Refused: it is no BlobProto of such an image.
    """
    values = _blob(_parse("Blob", pathlib.Path(path).read_bytes()), "mean")
    shape = values.shape[-3:]
    if values.ndim not in (3, 4) or shape[0] != 3 or values.size != math.prod(shape):
        raise Refused(
            f"has a mean of shape {list(values.shape)}, and one of an image, [3, height, width], is"
            " needed"
        )
    if not np.isfinite(values).all() or values.min() < 0 or values.max() > 255:
        raise Refused("has a mean that is no colour of 0..255")
    return np.ascontiguousarray(values.reshape(shape)[::-1].transpose(1, 2, 0), np.float32)


def _parse(kind: str, contents: bytes) -> Any:
    try:
        return _messages()[kind].FromString(contents)
    except DecodeError as error:
        raise Refused("is no whole protobuf of Caffe; get it again") from error


@functools.cache
def _messages() -> dict[str, Any]:
    types = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(
        name="weights.proto", package="weights", syntax="proto2"
    )
    for name, fields in _FIELDS.items():
        message = file.message_type.add(name=name)
        for field, number, kind in fields:
            added = message.field.add(name=field, number=number, label=types.LABEL_OPTIONAL)
            if kind.startswith("repeated "):
                added.label = types.LABEL_REPEATED
            kind = kind.removeprefix("repeated ")
            if kind in _FIELDS:
                added.type, added.type_name = types.TYPE_MESSAGE, f".weights.{kind}"
            else:
                added.type = types.Type.Value(f"TYPE_{kind.upper()}")
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return {
        name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"weights.{name}"))
        for name in _FIELDS
    }


def _blob(blob: Any, layer: str) -> np.ndarray:
    values = np.frombuffer(b"".join(blob.data), "<f4")
    if blob.double_data:
        values = np.frombuffer(b"".join(blob.double_data), "<f8")
    shape = tuple(blob.shape.dim)
    if not blob.HasField("shape"):
        shape = (blob.num, blob.channels, blob.height, blob.width)
    if len(shape) > 8 or min(shape, default=0) < 0 or math.prod(shape) != values.size:
        raise Refused(
            f"has {values.size} numbers in the layer {layer[:200]}, and another shape,"
            f" {list(shape[:8])}"
        )
    return values.reshape(shape)


def _normalise(parts: dict[str, np.ndarray], settings: Any) -> None:
    """The mean and variance that a BatchNorm computes with."""
    factor = float(parts.pop("factor", np.ones(1)).ravel()[0])
    for part in parts:
        parts[part] = parts[part] * np.float64(1 / factor if factor else 0)
    if settings.HasField("eps") and "moving_variance" in parts:
        parts["moving_variance"] = parts["moving_variance"] + (settings.eps - EPSILON)


def _trimmed(values: np.ndarray, kind: str, part: str) -> np.ndarray:
    """Without the leading 1s of the time when every blob had four dimensions."""
    dimensions = {"Convolution": 4, "InnerProduct": 2}[kind] if part == "kernel" else 1
    while values.ndim > dimensions and values.shape[0] == 1:
        values = values[0]
    return values
