"""Bodies of REST requests, with TensorFlow Serving's rules and error texts."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow_serving.apis.input_pb2 import Input

from serving.server.rest_api.codec import (
    decode_tensor,
    is_base64,
    json_type,
    quote,
    to_bytes,
    to_doubles,
)
from serving.server.rpc_errors import ServingError, invalid
from serving.server.running.servable import Tensors

# Rows that are decoded at once, and read again one by one where one of them is refused.
_ROWS = 1024


def parse_json(body: bytes) -> dict[str, Any]:
    """The JSON object at the start of `body`; what follows it is ignored.

    NaN and Infinity are numbers. Bytes that are not UTF-8 survive in strings.

    Raises:
      ServingError: empty, not JSON, or not an object.
    """
    if not body:
        raise invalid("JSON Parse error: The document is empty")
    text = body.decode("utf-8", "surrogateescape").lstrip("\ufeff \t\r\n")
    skipped = len(body) - len(text.encode("utf-8", "surrogateescape"))
    try:
        value, _ = json.JSONDecoder().raw_decode(text)
    except json.JSONDecodeError as error:
        offset = skipped + len(text[: error.pos].encode("utf-8", "surrogateescape"))
        raise invalid(f"JSON Parse error: {error.msg} at offset: {offset}") from None
    except RecursionError:
        raise invalid("JSON Parse error: Too many levels of brackets at offset: 0") from None
    except ValueError as error:  # an integer of thousands of digits
        raise invalid(f"JSON Parse error: {error} at offset: 0") from None
    if not isinstance(value, dict):
        raise invalid(f"JSON Value: {quote(value)} Is not object")
    return value


def signature_name(document: Mapping[str, Any]) -> str:
    """The request's `signature_name`, or ""."""
    name = document.get("signature_name", "")
    if not isinstance(name, str):
        raise invalid(
            f"JSON Value: {quote(document)} not formatted correctly. "
            "'signature_name' key must be a string value."
        )
    return name


def decode_predict(document: Mapping[str, Any], dtypes: Mapping[str, int]) -> tuple[Tensors, bool]:
    """Input tensors of a predict request.

    Args:
      document: the parsed body, with `instances` (row form) or `inputs` (columnar).
      dtypes: TensorFlow's DataType of every input of the signature, by name.

    Returns:
      Arrays by input name, and whether the request was in row form.
    """
    both = "instances" in document and "inputs" in document
    if both:
        raise invalid(
            f"JSON Value: {quote(document)} Not formatted correctly expecting only one of "
            "'inputs' or 'instances' keys to exist "
        )
    if "instances" in document:
        return _decode_rows(document, dtypes), True
    if "inputs" in document:
        return _decode_columns(document["inputs"], dtypes), False
    raise invalid("Missing 'inputs' or 'instances' key")


def decode_examples(document: Mapping[str, Any]) -> Input:
    """The tf.Examples of a classify or regress request."""
    request = Input()
    examples = request.example_list.examples
    if "context" in document:
        examples = request.example_list_with_context.examples
        _fill_example(document["context"], request.example_list_with_context.context)
    if "examples" not in document:
        raise invalid(
            f"JSON Value: {quote(document)} When method is classify, "
            "key 'examples' is expected and was not found"
        )
    listed = document["examples"]
    if not isinstance(listed, list):
        raise invalid(
            f"JSON Value: {quote(document)} Expecting 'examples' value to be an list/array"
        )
    if not listed:
        raise invalid(f"JSON Value: {quote(document)} 'examples' value is an empty array")
    for value in listed:
        _fill_example(value, examples.add())
    return request


def _decode_rows(document: Mapping[str, Any], dtypes: Mapping[str, int]) -> Tensors:
    rows = document["instances"]
    if not isinstance(rows, list):
        raise invalid(f"JSON Value: {quote(document)} Expecting 'instances' to be an list/array")
    if not rows:
        raise invalid(f"JSON Value: {quote(document)} No values in 'instances' array")
    if not isinstance(rows[0], dict) and len(dtypes) > 1:
        raise invalid(
            "instances is a plain list, but expecting list of objects as multiple input tensors "
            "required as per tensorinfo_map"
        )
    named = _is_named(rows[0])
    parts: dict[str, list[np.ndarray]] = {}
    for start in range(0, len(rows), _ROWS):
        some = rows[start : start + _ROWS]
        first = {name: arrays[0][:1] for name, arrays in parts.items()}
        found = _rows_at_once(some, named, dtypes)
        if not found or any(found[name].shape[1:] != row.shape[1:] for name, row in first.items()):
            found = _rows_one_by_one(some, named, dtypes, start, first)
        for name, array in found.items():
            parts.setdefault(name, []).append(array)
    return {name: np.concatenate(arrays) for name, arrays in parts.items()}


def _rows_at_once(rows: list[Any], named: bool, dtypes: Mapping[str, int]) -> Tensors:
    """All columns of these rows; none where a row is not as it should be.

    An array for each row would take 50 s and 2 GB for 10 MB of numbers.
    """
    if any(_is_named(row) != named or (named and row.keys() != dtypes.keys()) for row in rows):
        return {}
    columns = {name: [row[name] for row in rows] if named else rows for name in dtypes}
    try:
        return {name: decode_tensor(values, dtypes[name]) for name, values in columns.items()}
    except ServingError:
        return {}


def _rows_one_by_one(
    rows: list[Any], named: bool, dtypes: Mapping[str, int], start: int, first: Tensors
) -> Tensors:
    """The same, with what is wrong and where.

    Args:
      start: index of the first of these rows in the request.
      first: a row [1, ...] that they must be like, by input; empty for the first rows of all.
    """
    columns = {name: [row.reshape(row.shape[1:])] for name, row in first.items()}
    for index, row in enumerate(rows, start):
        if named != _is_named(row):
            expected = "object but got list" if named else "value/list but got object"
            raise invalid(f"Expecting {expected} at item {index} of input list")
        for name, value in row.items() if named else [(next(iter(dtypes)), row)]:
            key = f" key: {name}" if named else ""
            try:
                _add_row(columns.setdefault(name, []), name, value, dtypes)
            except ServingError as error:
                raise invalid(
                    f"Failed to process element: {index}{key} of 'instances' list. Error: {error}"
                ) from None
        if named and set(row) != set(dtypes):
            raise invalid(
                f"Failed to process element: {index} of 'instances' list. JSON object: {quote(row)}"
                f" keys must be equal to: {','.join(sorted(dtypes))}"
            )
    return {name: np.stack(values[len(first) > 0 :]) for name, values in columns.items()}


def _add_row(column: list[np.ndarray], name: str, value: Any, dtypes: Mapping[str, int]) -> None:
    if name not in dtypes:
        raise invalid(f"JSON object: does not have named input: {name}")
    tensor = decode_tensor(value, dtypes[name])
    if column and tensor.size != column[0].size:
        raise invalid(f"Expecting tensor size: {column[0].size} but got: {tensor.size}")
    if column and tensor.shape != column[0].shape:
        raise invalid(f"Expecting shape {_shape(column[0])} but got: {_shape(tensor)}")
    column.append(tensor)


def _shape(tensor: np.ndarray) -> str:
    return f"[{','.join(map(str, tensor.shape))}]"


def _decode_columns(value: Any, dtypes: Mapping[str, int]) -> Tensors:
    if not _is_named(value):
        if len(dtypes) > 1:
            raise invalid(
                "inputs is a plain value/list, but expecting an object as multiple input tensors "
                "required as per tensorinfo_map"
            )
        return {name: decode_tensor(value, dtype) for name, dtype in dtypes.items()}
    for name in dtypes:
        if name not in value:
            raise invalid(f"Missing named input: {name} in 'inputs' object.")
    return {name: decode_tensor(value[name], dtype) for name, dtype in dtypes.items()}


def _is_named(value: Any) -> bool:
    return isinstance(value, dict) and not is_base64(value)


def _fill_example(value: Any, example: tf.train.Example) -> None:
    if not isinstance(value, dict):
        raise invalid(f"Example must be JSON object but got JSON {json_type(value)}")
    for name, content in value.items():
        try:
            feature = example.features.feature[name]
        except UnicodeEncodeError:
            raise invalid(f"Feature name: {quote(name)} is not valid UTF-8") from None
        items = content if isinstance(content, list) else [content]
        kinds = set(map(type, items))
        # Numbers of one kind, which may be millions, at once.
        if kinds == {float}:
            feature.float_list.value.extend(items)
        elif kinds == {int} and min(items) >= -(2**63) and max(items) < 2**63:
            feature.int64_list.value.extend(items)
        else:
            for item in items:
                _add_to_feature(item, name, feature)


def _add_to_feature(item: Any, name: str, feature: tf.train.Feature) -> None:
    converted: bytes | float
    if isinstance(item, str) or is_base64(item):
        kind, converted = "bytes_list", to_bytes(item)
    elif isinstance(item, bool):
        kind, converted = "int64_list", int(item)
    elif isinstance(item, int) and -(2**63) <= item < 2**64:
        if item >= 2**63:
            raise invalid(f"Feature: {name} has uint64_t element. Only int64_t is supported.")
        kind, converted = "int64_list", item
    elif isinstance(item, (int, float)):
        kind, converted = "float_list", to_doubles([item]).item()
    else:
        raise invalid(f"Feature: {name} has element with unexpected JSON type: {json_type(item)}")
    present = feature.WhichOneof("kind")
    if present not in (None, kind):
        expected = present.removesuffix("_list")
        raise invalid(f"Unexpected element type in feature: {name} expecting type: {expected}")
    getattr(feature, kind).value.append(converted)
