"""Client of TensorFlow Serving's gRPC API, with the methods of `serving.client.Client`.

The stubs of tensorflow-serving-api import TensorFlow, which takes seconds; nothing of it runs.
"""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import grpc
import numpy as np
import tensorflow as tf
from google.protobuf import json_format
from google.protobuf.message import Message
from tensorflow.core.protobuf.meta_graph_pb2 import SignatureDef
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
)

from . import api
from .api import DEFAULT_MODEL, Busy, ClientError

DEFAULT_ADDRESS = "127.0.0.1:8500"

# The REST API's status for what a server answers.
_STATUS = {
    grpc.StatusCode.CANCELLED: 499,
    grpc.StatusCode.INVALID_ARGUMENT: 400,
    grpc.StatusCode.FAILED_PRECONDITION: 400,
    grpc.StatusCode.OUT_OF_RANGE: 400,
    grpc.StatusCode.UNAUTHENTICATED: 401,
    grpc.StatusCode.PERMISSION_DENIED: 403,
    grpc.StatusCode.NOT_FOUND: 404,
    grpc.StatusCode.ALREADY_EXISTS: 409,
    grpc.StatusCode.ABORTED: 409,
    grpc.StatusCode.RESOURCE_EXHAUSTED: 429,
    grpc.StatusCode.UNIMPLEMENTED: 501,
    grpc.StatusCode.UNAVAILABLE: 503,
    grpc.StatusCode.DEADLINE_EXCEEDED: 504,
}
# gRPC gives UNAVAILABLE for its own troubles too; these are its words for them.
_NO_SERVER = re.compile(
    "failed to connect|connection (refused|reset)|socket closed|broken pipe", re.I
)
_OPTIONS = (
    # The default of 4 MiB is less than a batch of photographs.
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
    # Attempts are counted by us; between them the connection is tried again and not waited for.
    ("grpc.enable_retries", 0),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
    # Else another client of this process would pass its failures on.
    ("grpc.use_local_subchannel_pool", 1),
)


@dataclasses.dataclass
class GrpcClient(api.ModelClient):
    """Talks to one model of one server over gRPC, without encryption; see `ModelClient`.

    Answers are those of the REST client, to the last bit of a float32.

    Attributes:
      address: HOST:PORT of the server.

    Raises:
      ClientError: `address` is no such address.
    """

    address: str = DEFAULT_ADDRESS
    model_name: str = DEFAULT_MODEL
    timeout: float = 60.0
    retries: int = 3

    def __post_init__(self) -> None:
        match = re.fullmatch(r"([\w.-]+|\[[\da-fA-F:.]+\]):(\d{1,5})", self.address)
        if not match or not 0 < int(match[2]) < 65_536:
            raise ClientError(f"{self.address}: must be HOST:PORT such as {DEFAULT_ADDRESS}.")
        # A proxy from the environment cannot reach this machine's own ports.
        proxy = match[1] not in ("localhost", "127.0.0.1", "[::1]")
        self._channel = grpc.insecure_channel(
            self.address, [*_OPTIONS, ("grpc.enable_http_proxy", int(proxy))]
        )
        self._predictions = prediction_service_pb2_grpc.PredictionServiceStub(self._channel)
        self._models = model_service_pb2_grpc.ModelServiceStub(self._channel)
        self._signatures: dict[tuple[int | None, str | None], Mapping[str, SignatureDef]] = {}

    def close(self) -> None:
        """Ends the connection."""
        self._channel.close()

    def predict(
        self,
        instances: Sequence[Any],
        signature_name: str = "serving_default",
        version: int | None = None,
        label: str | None = None,
    ) -> list[Any]:
        api.check_choice(version, label)
        # Their inputs have the types that requests need; a REST server looks there itself.
        if (version, label) not in self._signatures:
            answered = self._call(
                self._predictions.GetModelMetadata, self._metadata_request(version, label)
            )
            self._signatures[version, label] = _signatures(answered)
        signature = self._signatures[version, label].get(signature_name)
        if signature is None:
            raise ClientError(
                f'Serving signature name: "{signature_name}" not found in signature def', 400
            )
        request = predict_pb2.PredictRequest(model_spec=self._spec(version, label))
        request.model_spec.signature_name = signature_name
        for name, values in _columns(instances, list(signature.inputs)).items():
            request.inputs[name].CopyFrom(_tensor(name, values, signature.inputs[name].dtype))
        try:
            return _rows(self._call(self._predictions.Predict, request).outputs)
        except ClientError:
            # A newer version may have other signatures.
            self._signatures.clear()
            raise

    def metadata(self) -> dict[str, Any]:
        answered = self._call(self._predictions.GetModelMetadata, self._metadata_request())
        listed = get_model_metadata_pb2.SignatureDefMap(signature_def=_signatures(answered))
        return {
            "model_spec": _fields(answered.model_spec),
            "metadata": {"signature_def": _fields(listed)},
        }

    def _status(self) -> list[dict[str, Any]]:
        request = get_model_status_pb2.GetModelStatusRequest(model_spec=self._spec())
        return _fields(self._attempt(self._models.GetModelStatus, request))["model_version_status"]

    def _metadata_request(self, version: int | None = None, label: str | None = None) -> Message:
        return get_model_metadata_pb2.GetModelMetadataRequest(
            model_spec=self._spec(version, label), metadata_field=["signature_def"]
        )

    def _spec(self, version: int | None = None, label: str | None = None) -> model_pb2.ModelSpec:
        spec = model_pb2.ModelSpec(name=self.model_name)
        if version is not None:
            spec.version.value = version
        elif label is not None:
            spec.version_label = label
        return spec

    def _call(self, method: Callable[..., Any], request: Message) -> Any:
        return api.retried(functools.partial(self._attempt, method, request), self.retries)

    def _attempt(self, method: Callable[..., Any], request: Any) -> Any:
        """One attempt; Busy where another may have an answer."""
        try:
            return method(request, timeout=self.timeout)
        except grpc.RpcError as error:
            version = (
                request.model_spec.version.value if request.model_spec.HasField("version") else None
            )
            raise self._error(error.code(), error.details() or "", version) from None

    def _error(self, code: grpc.StatusCode, text: str, version: int | None) -> ClientError:
        if "HTTP/2" in text:
            return ClientError(f"{self.address} does not speak gRPC: give the server's --port.")
        if "errors resolving" in text:
            return ClientError(f"{self.address}: this machine has no address for that name.")
        if code is grpc.StatusCode.UNAVAILABLE and _NO_SERVER.search(text):
            return Busy(
                f"No server answers gRPC at {self.address}: start one with `python -m"
                " serving.server`, or give its address with --grpc."
            )
        if code is grpc.StatusCode.DEADLINE_EXCEEDED:
            return ClientError(f"{self.address} did not answer within {self.timeout:g} s.")
        if code is grpc.StatusCode.NOT_FOUND:
            return api.not_served(self.address, self.model_name, version, text)
        status = _STATUS.get(code, 500)
        if "larger than max" in text:
            return ClientError(f"{self.address}: {text}.", 413)
        return Busy(text, status) if status in (429, 503) else ClientError(text, status)


def _signatures(
    answered: get_model_metadata_pb2.GetModelMetadataResponse,
) -> Mapping[str, SignatureDef]:
    listed = get_model_metadata_pb2.SignatureDefMap()
    answered.metadata["signature_def"].Unpack(listed)
    return listed.signature_def


def _fields(message: Message) -> dict[str, Any]:
    """A message as the REST API prints it."""
    return json_format.MessageToDict(
        message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
    )


def _columns(instances: Sequence[Any], inputs: Sequence[str]) -> dict[str, list[Any]]:
    """The values of all instances by input; an instance is a dict, or the only input's value."""
    if not len(instances):
        raise ClientError("There are no instances to predict.", 400)
    only = inputs[0] if len(inputs) == 1 else None
    rows = [row if isinstance(row, dict) or only is None else {only: row} for row in instances]
    if any(not isinstance(row, dict) or set(row) != set(inputs) for row in rows):
        raise ClientError(f"Each instance must be a dict of {', '.join(sorted(inputs))}.", 400)
    return {name: [row[name] for row in rows] for name in inputs}


def _tensor(name: str, values: list[Any], dtype: int) -> Any:
    if dtype == tf.string.as_datatype_enum:
        values = [_encoded(name, value) for value in values]
    try:
        return tf.make_tensor_proto(values, dtype=dtype)
    except (TypeError, ValueError) as error:
        raise ClientError(
            f"Input {name} must be {tf.dtypes.as_dtype(dtype).name}: {error}", 400
        ) from None


def _encoded(name: str, value: Any) -> Any:
    """A value of a string input; refuses pixels, which no such input decodes."""
    if isinstance(value, (bytearray, memoryview)):
        return bytes(value)
    if isinstance(value, list):
        return [_encoded(name, part) for part in value]
    if not isinstance(value, (bytes, str)):
        raise api.no_pixels(f"a {type(value).__name__} for {name}")
    return value


def _rows(outputs: Mapping[str, Any]) -> list[Any]:
    """One prediction for each row of the outputs, in the REST API's form."""
    columns = {name: _values(name, tf.make_ndarray(tensor)) for name, tensor in outputs.items()}
    if len({len(values) for values in columns.values()}) != 1:
        raise ClientError(
            f"Outputs {', '.join(sorted(columns))} differ in their number of rows: "
            "they cannot be read as predictions.",
            400,
        )
    if len(columns) == 1:
        [values] = columns.values()
        return values
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def _values(name: str, array: np.ndarray) -> list[Any]:
    if not array.ndim:
        raise ClientError(f"Output {name} has no rows: it cannot be read as predictions.", 400)
    if array.dtype == object and not name.endswith("_bytes"):
        array = np.vectorize(lambda text: text.decode(errors="replace"), otypes=[object])(array)
    return array.tolist()
