"""Bodies of REST replies, with TensorFlow Serving's shapes and error texts."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from google.protobuf import json_format
from google.protobuf.message import Message
from tensorflow.core.protobuf.meta_graph_pb2 import SignatureDef
from tensorflow_serving.apis.get_model_metadata_pb2 import SignatureDefMap
from tensorflow_serving.apis.model_pb2 import ModelSpec

from serving.server.rest_api import codec
from serving.server.rpc_errors import invalid
from serving.server.running.inference import Classes
from serving.server.running.servable import Tensors
from serving.server.versions.versions import Version, status_message


def predict_body(outputs: Tensors, dtypes: Mapping[str, int], rows: bool) -> bytes:
    """`{"predictions": [...]}` (row form) or `{"outputs": ...}`; names are dropped where there is
    one.

    Args:
      dtypes: TensorFlow's DataType of every output, by name.

    Raises:
      ServingError: a type without a JSON form; in row form, outputs of different batch sizes.
    """
    if not outputs:
        raise invalid("Cannot convert empty tensor map to JSON")
    kinds = {name: (dtypes[name], name.endswith("_bytes")) for name in outputs}
    if not rows:
        columns = {
            name: codec.encode_tensor(tensor, *kinds[name]) for name, tensor in outputs.items()
        }
        return _envelope("outputs", _named(columns))
    _check_batch(outputs)
    texts = [codec.encode_rows(tensor, *kinds[name]) for name, tensor in outputs.items()]
    lines = (_named(dict(zip(outputs, row, strict=True))) for row in zip(*texts, strict=True))
    return _envelope("predictions", _listed(lines))


def classify_body(classes: Classes) -> bytes:
    """`{"results": [[[label, score], ...], ...]}`."""
    lines = []
    for row in classes:
        labels = [codec.string_text(label) for label, _ in row]
        scores = codec.decimals(np.array([score for _, score in row], np.float32))
        pairs = [f"[{label}, {score}]" for label, score in zip(labels, scores, strict=True)]
        lines.append(_listed(pairs))
    return _envelope("results", _listed(lines))


def regress_body(values: np.ndarray) -> bytes:
    """`{"results": [value, ...]}`."""
    return _envelope("results", _listed(codec.decimals(values)))


def metadata_body(name: str, version: int, signatures: Mapping[str, SignatureDef]) -> bytes:
    """Signatures of a version, with every field printed and int64 as strings."""
    spec = ModelSpec(name=name)
    spec.version.value = version
    listed = SignatureDefMap(signature_def=signatures)
    return _dump({"model_spec": _fields(spec), "metadata": {"signature_def": _fields(listed)}})


def status_body(versions: Iterable[Version]) -> bytes:
    """`{"model_version_status": [...]}`."""
    return _dump(_fields(status_message(versions)))


def error_body(message: str) -> bytes:
    """`{"error": text}`."""
    return _dump({"error": message})


def _check_batch(outputs: Tensors) -> None:
    batch = -1
    for name, tensor in outputs.items():
        if not tensor.ndim:
            raise invalid(f"Tensor name: {name} has no shape information ")
        if batch >= 0 and len(tensor) != batch:
            raise invalid(
                f"Tensor name: {name} has inconsistent batch size: {len(tensor)} expecting: {batch}"
            )
        batch = len(tensor)


def _named(texts: Mapping[str, str]) -> str:
    if len(texts) == 1:
        return next(iter(texts.values()))
    return "{" + ", ".join(f"{json.dumps(name)}: {text}" for name, text in texts.items()) + "}"


def _listed(texts: Iterable[str]) -> str:
    return f"[{', '.join(texts)}]"


def _envelope(key: str, text: str) -> bytes:
    return f'{{"{key}": {text}}}'.encode("utf-8", "surrogateescape")


def _fields(message: Message) -> dict[str, Any]:
    return json_format.MessageToDict(
        message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
    )


def _dump(value: Any) -> bytes:
    return json.dumps(value, indent=1).encode()
