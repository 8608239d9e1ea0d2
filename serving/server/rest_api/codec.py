"""JSON values to arrays and back, with TensorFlow Serving's rules and error texts."""

from __future__ import annotations

import binascii
import itertools
import json
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow.core.framework import types_pb2

from serving.server.rpc_errors import Code, ServingError, invalid

_INT32 = (-(2**31), 2**31 - 1)
_INT64 = (-(2**63), 2**63 - 1)
# Values a JSON integer may have for each type; 8 and 16 bits wrap around, as upstream.
_INT_RANGES = {
    types_pb2.DT_INT8: _INT32,
    types_pb2.DT_UINT8: _INT32,
    types_pb2.DT_INT16: _INT32,
    types_pb2.DT_INT32: _INT32,
    types_pb2.DT_INT64: _INT64,
    types_pb2.DT_UINT32: (0, 2**32 - 1),
    types_pb2.DT_UINT64: (0, 2**64 - 1),
}
_FLOATS = {types_pb2.DT_FLOAT, types_pb2.DT_DOUBLE}
_SUPPORTED = {*_INT_RANGES, *_FLOATS, types_pb2.DT_STRING, types_pb2.DT_BOOL}
_NOT_FINITE = {"nan": "NaN", "inf": "Infinity", "-inf": "-Infinity"}
# Longest piece of the request that an error text repeats.
_QUOTE = 512
# NumPy's arrays have 64 dimensions at most; row form adds the batch.
_MAX_RANK = 63


def decode_tensor(value: Any, dtype: int) -> np.ndarray:
    """A dense array of any rank from nested lists; strings become an object array of bytes.

    Raises:
      ServingError: ragged lists, more than 63 levels of them, or a value that is
        not of the type: what comes first in the text.
    """
    shape: list[int] = []
    head = value
    while isinstance(head, list):
        shape.append(len(head))
        if not head:
            break
        head = head[0]
    if len(shape) > _MAX_RANK:
        raise invalid(f"JSON Value: {quote(value)} has more than {_MAX_RANK} levels of lists")
    misplaced: ServingError | None = None
    flat: list[Any] = [value]
    for level, size in enumerate(shape):
        fits = (type(item) is list and len(item) == size for item in flat)
        good = next((index for index, fit in enumerate(fits) if not fit), len(flat))
        if good < len(flat):
            misplaced = _misplaced(flat[good], shape, level)
        # Only what comes before it can hold an earlier mistake.
        flat = list(itertools.chain.from_iterable(flat[:good]))
    good = next((index for index, item in enumerate(flat) if type(item) is list), len(flat))
    if good < len(flat):
        misplaced = _misplaced(flat[good], shape, len(shape))
    array = _convert(flat[:good], dtype)
    if misplaced:
        raise misplaced
    return array.reshape(shape)


def _misplaced(value: Any, shape: list[int], level: int) -> ServingError:
    if not isinstance(value, list):
        return invalid(
            f"JSON Value: {quote(value)} found at incorrect level: {level + 1} in the JSON DOM. "
            f"Expected at level: {len(shape)}"
        )
    if level >= len(shape):
        return invalid(f"Encountered list at unexpected level: {level} expected < {len(shape)}")
    return invalid(
        f"Encountered list at unexpected size: {len(value)} at level: {level} expected size:"
        f" {shape[level]}"
    )


def _convert(flat: list[Any], dtype: int) -> np.ndarray:
    """One-dimensional array of plain JSON values."""
    if dtype == types_pb2.DT_STRING:
        values = np.empty(len(flat), object)
        values[:] = [to_bytes(item) for item in flat]
        return values
    if not _fit(flat, dtype):
        raise _misfit(_first_misfit(flat, dtype), dtype)
    if dtype in _FLOATS:
        with np.errstate(over="ignore"):  # too large for a float32 is infinite
            return to_doubles(flat).astype(_numpy_type(dtype))
    wide = np.uint64 if dtype == types_pb2.DT_UINT64 else np.int64
    return np.array(flat, wide).astype(_numpy_type(dtype))


def to_doubles(flat: Sequence[float]) -> np.ndarray:
    """Numbers as float64, one dimension.

    Raises:
      ServingError: an integer beyond the largest float64.
    """
    try:
        return np.array(flat, np.float64)
    except OverflowError:
        raise invalid(
            "JSON Parse error: Number too big to be stored in double. at offset: 0"
        ) from None


def _numpy_type(dtype: int) -> Any:
    return tf.dtypes.as_dtype(dtype).as_numpy_dtype


def _fit(flat: list[Any], dtype: int) -> bool:
    kinds = set(map(type, flat))
    if dtype in _FLOATS:
        return kinds <= {int, float}
    if dtype == types_pb2.DT_BOOL:
        return kinds <= {bool}
    if not flat:
        return True
    low, high = _INT_RANGES.get(dtype, (1, 0))
    return kinds == {int} and low <= min(flat) and max(flat) <= high


def _first_misfit(flat: list[Any], dtype: int) -> Any:
    while len(flat) > 1:
        half = len(flat) // 2
        flat = flat[half:] if _fit(flat[:half], dtype) else flat[:half]
    return flat[0]


def _misfit(item: Any, dtype: int) -> ServingError:
    if dtype not in _SUPPORTED and not isinstance(item, dict):
        text = f"Conversion of JSON Value: {quote(item)} to type: {type_name(dtype)}"
        return ServingError(Code.UNIMPLEMENTED, text)
    return invalid(
        f"JSON Value: {quote(item)} Type: {json_type(item)} is not of expected type:"
        f" {type_name(dtype)}"
    )


def json_type(item: Any) -> str:
    """The kind of a JSON value as error texts name it: `Object`, `Number`, `True`."""
    if item is None or isinstance(item, bool):
        return {None: "Null", True: "True", False: "False"}[item]
    names = {dict: "Object", list: "Array", str: "String", int: "Number", float: "Number"}
    return names[type(item)]


def to_bytes(item: Any) -> bytes:
    """Bytes of a JSON string or of a {"b64": "..."} object.

    Raises:
      ServingError: another value, or damaged base64.
    """
    if isinstance(item, str):
        return _encode(item)
    if not isinstance(item, dict):
        raise _misfit(item, types_pb2.DT_STRING)
    if not is_base64(item):
        raise invalid(f"JSON Value: {quote(item)} not formatted correctly for base64 data")
    return decode_base64(item["b64"])


def _encode(text: str) -> bytes:
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        raise invalid(
            "JSON Parse error: The surrogate pair in string is invalid. at offset: 0"
        ) from None


def decode_base64(text: str) -> bytes:
    """Standard alphabet; white space anywhere and missing padding are accepted."""
    compact = "".join(text.split())
    digits = compact.rstrip("=")
    padding = "=" * (-len(digits) % 4)
    if compact != digits and compact != digits + padding:
        raise invalid("Unable to base64 decode")
    try:
        return binascii.a2b_base64(digits + padding, strict_mode=True)
    except ValueError:
        raise invalid("Unable to base64 decode") from None


def is_base64(value: Any) -> bool:
    """Whether a JSON value is binary data: an object with the one key `b64` and a string."""
    return isinstance(value, dict) and len(value) == 1 and isinstance(value.get("b64"), str)


def quote(value: Any) -> str:
    """A JSON value as error texts show it, cut where it is long."""
    text = ""
    # Piece by piece: the value may be the whole request.
    for piece in json.JSONEncoder(indent=4, ensure_ascii=False).iterencode(value):
        text += piece
        if len(text) > _QUOTE:
            return text[:_QUOTE] + "..."
    return text


def type_name(dtype: int) -> str:
    """TensorFlow's short name of a type: `float`, `int64`, `string`."""
    return types_pb2.DataType.Name(types_pb2.DataType.ValueType(dtype)).removeprefix("DT_").lower()


def encode_tensor(tensor: np.ndarray, dtype: int, as_base64: bool = False) -> str:
    """JSON text of an array.

    Args:
      tensor: any shape; string tensors are object arrays of bytes.
      dtype: its TensorFlow DataType.
      as_base64: write strings as {"b64": "..."} objects.

    Raises:
      ServingError: half precision, complex and other types that have no JSON form.
    """
    if not tensor.ndim:
        return encode_rows(tensor.reshape(1), dtype, as_base64)[0]
    return f"[{', '.join(encode_rows(tensor, dtype, as_base64))}]"


def encode_rows(tensor: np.ndarray, dtype: int, as_base64: bool = False) -> list[str]:
    """The same for every entry of the first dimension, which the array must have."""
    texts = _texts(tensor.reshape(-1), dtype, as_base64)
    for axis in range(tensor.ndim - 1, 0, -1):
        size, lists = tensor.shape[axis], math.prod(tensor.shape[:axis])
        texts = [f"[{', '.join(texts[i * size : (i + 1) * size])}]" for i in range(lists)]
    return texts


def decimals(values: np.ndarray) -> list[str]:
    """Shortest of 6 or 9 (float64: 17) digits that reads back as the same number.

    Whole numbers keep a ".0", so that readers see decimals throughout.
    """
    digits = 17 if values.dtype == np.float64 else 9
    numbers = values.tolist()
    texts = [f"{number:.6g}" for number in numbers]
    with np.errstate(over="ignore"):
        exact = np.array(texts, np.float64).astype(values.dtype) == values
    for index in np.flatnonzero(~exact):
        texts[index] = f"{numbers[index]:.{digits}g}"
    return [_NOT_FINITE.get(t) or (t if "." in t or "e" in t else t + ".0") for t in texts]


def string_text(value: bytes) -> str:
    """A JSON string; bytes that are not UTF-8 stay as they are once the text is encoded."""
    return json.dumps(value.decode("utf-8", "surrogateescape"), ensure_ascii=False)


def _base64_text(value: bytes) -> str:
    return f'{{"b64": "{binascii.b2a_base64(value, newline=False).decode()}"}}'


def _texts(flat: np.ndarray, dtype: int, as_base64: bool) -> list[str]:
    if dtype not in _SUPPORTED:
        raise invalid(f"Failed to write JSON value for tensor type: {type_name(dtype)}")
    if dtype in _FLOATS:
        return decimals(flat)
    if dtype == types_pb2.DT_STRING:
        return [_base64_text(item) if as_base64 else string_text(item) for item in flat]
    if dtype == types_pb2.DT_BOOL:
        return ["true" if item else "false" for item in flat]
    return list(map(str, flat.tolist()))
