"""Arrays from gRPC's TensorProtos and back."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import tensorflow as tf
from tensorflow.core.framework import tensor_pb2, types_pb2

from serving.server.rpc_errors import invalid

# The field of a TensorProto that holds the values of a type.
_FIELDS = {
    types_pb2.DT_FLOAT: "float_val",
    types_pb2.DT_DOUBLE: "double_val",
    types_pb2.DT_INT32: "int_val",
    types_pb2.DT_UINT8: "int_val",
    types_pb2.DT_INT16: "int_val",
    types_pb2.DT_UINT16: "int_val",
    types_pb2.DT_INT8: "int_val",
    types_pb2.DT_INT64: "int64_val",
    types_pb2.DT_UINT32: "uint32_val",
    types_pb2.DT_UINT64: "uint64_val",
    types_pb2.DT_BOOL: "bool_val",
    types_pb2.DT_STRING: "string_val",
}


def decode(tensors: Mapping[str, tensor_pb2.TensorProto], most: int) -> dict[str, np.ndarray]:
    """The values of input tensors by name.

    Args:
      most: bytes that all of them may have.

    Raises:
      ServingError: one is damaged, or their shapes together announce more bytes.
    """
    size = sum(_announced(name, tensor) for name, tensor in tensors.items())
    if not size <= most:  # it may be no number: infinite times nothing
        listed = ", ".join(tensors)
        raise invalid(f"Tensor {listed} of {size:.0f} bytes is larger than {most}")
    return {name: _array(name, tensor) for name, tensor in tensors.items()}


def _announced(name: str, tensor: tensor_pb2.TensorProto) -> float:
    """Bytes of a tensor once it is made; a short message may stand for many."""
    sides = [float(dim.size) for dim in tensor.tensor_shape.dim]
    if min(sides, default=0) < 0:
        raise invalid(f"tensor parsing error: {name} (a side of its shape is negative)")
    texts, count = tensor.string_val, math.prod(sides)
    # One value may stand for all, and TensorFlow copies a text for each.
    copied = max(count - len(texts), 0) * len(texts[-1]) if texts else 0
    try:
        return count * (tf.dtypes.as_dtype(tensor.dtype).size or 8) + copied
    except TypeError as error:
        raise invalid(f"tensor parsing error: {name} ({error})") from None


def _array(name: str, tensor: tensor_pb2.TensorProto) -> np.ndarray:
    try:
        if tensor.dtype == types_pb2.DT_STRING and (tensor.tensor_content or not tensor.string_val):
            # Packed texts, as C++ clients may send them, or none for empty ones: not known to
            # NumPy.
            return np.asarray(
                tf.io.parse_tensor(tensor.SerializeToString(), tf.string).numpy(), object
            )
        return tf.make_ndarray(tensor)
    except (TypeError, ValueError, KeyError, OverflowError, tf.errors.OpError) as error:
        raise invalid(f"tensor parsing error: {name} ({error})") from None


def encode(array: np.ndarray, dtype: int, packed: bool = False) -> tensor_pb2.TensorProto:
    """A TensorProto with its values in the field of their type, as TensorFlow Serving answers by
    default.

    Args:
      packed: numbers as one piece of bytes instead.
    """
    field = None if packed else _FIELDS.get(dtype)
    if field is None:
        return tf.make_tensor_proto(array, dtype=dtype)
    tensor = tensor_pb2.TensorProto(dtype=dtype)
    for size in array.shape:
        tensor.tensor_shape.dim.add(size=size)
    tensor.tensor_shape.SetInParent()
    getattr(tensor, field).extend(array.ravel().tolist())
    return tensor
