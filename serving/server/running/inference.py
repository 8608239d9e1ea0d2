"""Classify and regress on a servable, whatever protocol asks."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from tensorflow.core.framework import types_pb2
from tensorflow.core.protobuf.meta_graph_pb2 import SignatureDef

from serving.server.rpc_errors import Code, ServingError, invalid
from serving.server.running.servable import DEFAULT_SIGNATURE, Loaded

Classes = list[list[tuple[bytes, float]]]


def classify(servable: Loaded, signature_name: str, examples: Sequence[bytes]) -> Classes:
    """Labels and scores of serialized tf.Examples.

    The signature has one string input `inputs` and the outputs `classes`
    (string [N, k]), `scores` (float32 [N, k]) or both. What the signature lacks
    is b"" or 0.0.

    Returns:
      For every example, its (label, score) pairs in the model's order.
    """
    name, signature = _signature(servable, signature_name)
    if len(signature.outputs) not in (1, 2):
        raise invalid(f"Expected one or two output Tensors, found {len(signature.outputs)}")
    if "inputs" not in signature.inputs:
        raise ServingError(
            Code.FAILED_PRECONDITION, f"No classification inputs found in SignatureDef: {signature}"
        )
    wanted = [output for output in ("classes", "scores") if output in signature.outputs]
    if not wanted:
        raise ServingError(
            Code.FAILED_PRECONDITION,
            "Expected classification signature outputs to contain at least one of "
            f'"classes" or "scores". Signature was: {signature}',
        )
    results = servable.run(name, {"inputs": _strings(examples)}, wanted)
    for output, dtype in (("classes", "DT_STRING"), ("scores", "DT_FLOAT")):
        if output in results:
            _check_output(signature, output, results[output], dtype, len(examples))
    shape = results[wanted[0]].shape
    classes = results.get("classes", np.full(shape, b"", object))
    scores = results.get("scores", np.zeros(shape, np.float32))
    if classes.shape != scores.shape:
        raise invalid(
            "Tensors class and score should match in dim_size(1). "
            f"Got {classes.shape[1]} vs. {scores.shape[1]}"
        )
    return [list(zip(*row, strict=True)) for row in zip(classes.tolist(), scores, strict=True)]


def regress(servable: Loaded, signature_name: str, examples: Sequence[bytes]) -> np.ndarray:
    """Values of serialized tf.Examples: float32 [N].

    The signature has one string input `inputs` and one output `outputs`, float32 [N] or [N, 1].
    """
    name, signature = _signature(servable, signature_name)
    if len(signature.outputs) != 1:
        raise invalid("Expected one output Tensor.")
    for part, names in (("inputs", signature.inputs), ("outputs", signature.outputs)):
        if part not in names:
            raise ServingError(
                Code.FAILED_PRECONDITION, f"No regression {part} found in SignatureDef: {signature}"
            )
    values = servable.run(name, {"inputs": _strings(examples)})["outputs"]
    if _dtype_name(signature, "outputs") != "DT_FLOAT":
        raise invalid(
            f"Expected output Tensor of DT_FLOAT. Got: {_dtype_name(signature, 'outputs')}"
        )
    if values.shape not in ((len(examples),), (len(examples), 1)):
        raise invalid(
            "Expected output Tensor shape to be either [batch_size] or [batch_size, 1] "
            f"but got {list(values.shape)}"
        )
    return values.reshape(-1)


def _signature(servable: Loaded, name: str) -> tuple[str, SignatureDef]:
    name = name or DEFAULT_SIGNATURE
    if name not in servable.signatures:
        raise invalid(f"No signature was found with the name: {name}")
    signature = servable.signatures[name]
    if len(signature.inputs) != 1:
        raise invalid("Expected one input Tensor.")
    return name, signature


def _strings(values: Sequence[bytes]) -> np.ndarray:
    if not values:
        raise invalid("Input is empty.")
    return np.array(list(values), object)


def _check_output(
    signature: SignatureDef, name: str, value: np.ndarray, dtype: str, rows: int
) -> None:
    if value.ndim != 2:
        raise invalid(
            f"Expected Tensor shape: [batch_size num_classes] but got {list(value.shape)}"
        )
    if _dtype_name(signature, name) != dtype:
        raise invalid(f"Expected {name} Tensor of {dtype}. Got: {_dtype_name(signature, name)}")
    if len(value) != rows:
        raise invalid(f"Expected {name} output batch size of {rows}. Got: {len(value)}")


def _dtype_name(signature: SignatureDef, output: str) -> str:
    return types_pb2.DataType.Name(signature.outputs[output].dtype)
