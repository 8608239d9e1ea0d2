"""TensorFlow Serving's gRPC API: PredictionService, ModelService and health."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from typing import Any

import grpc
from google.protobuf.message import DecodeError, Message
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from tensorflow_serving.apis import (
    classification_pb2,
    get_model_metadata_pb2,
    get_model_status_pb2,
    inference_pb2,
    model_management_pb2,
    model_pb2,
    predict_pb2,
    regression_pb2,
)

from serving.server import connections, textproto
from serving.server.grpc_api import tensors
from serving.server.prometheus import Metrics
from serving.server.rpc_errors import Code, ServingError, invalid
from serving.server.running import inference
from serving.server.running.servable import DEFAULT_SIGNATURE, Loaded
from serving.server.running.warmup import serialized_examples
from serving.server.server_config import ServerSettings, SettingsError
from serving.server.versions.manager import Manager
from serving.server.versions.versions import status_message
from serving.server.workers import Workers

_log = logging.getLogger(__name__)

_SERVICES = ("", "ModelService", "PredictionService")
_CODES = {code.value[0]: code for code in grpc.StatusCode}
_LONGEST_TEXT = 1024
_CLASSIFY, _REGRESS = "tensorflow/serving/classify", "tensorflow/serving/regress"


async def start(
    manager: Manager, settings: ServerSettings, metrics: Metrics, workers: Workers
) -> grpc.aio.Server:
    """Answers on `settings.port`.

    Raises:
      SettingsError: the port cannot be had.
    """
    options = {
        "grpc.max_receive_message_length": settings.rest_api_max_body_bytes,
        "grpc.max_send_message_length": -1,
        "grpc.max_allowed_incoming_connections": connections.limit(),
        # Two servers on one port would share its requests.
        "grpc.so_reuseport": 0,
        **dict(settings.channel_options()),
    }
    server = grpc.aio.server(options=list(options.items()))
    services = _Services(manager, settings, metrics, workers)
    server.add_generic_rpc_handlers(services.handlers())
    if settings.enable_grpc_healthcheck_service:
        servicer = health.aio.HealthServicer()
        for name in _SERVICES:
            await servicer.set(name, health_pb2.HealthCheckResponse.SERVING)
        health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    addresses = [f"{host}:{settings.port}"] if settings.port else []
    addresses += [f"unix:{settings.grpc_socket_path}"] if settings.grpc_socket_path else []
    secret = _credentials(settings)
    for address in addresses:
        try:
            # Not refused in all versions of gRPC, but answered with port 0.
            bound = (
                server.add_secure_port(address, secret)
                if secret
                else server.add_insecure_port(address)
            )
        except RuntimeError:
            bound = 0
        if not bound:
            raise SettingsError(
                f"Cannot listen on {address}: stop what listens there, or choose with --host,"
                " --port and --grpc_socket_path"
                + (", and look at the PEM texts in --ssl_config_file." if secret else ".")
            )
    await server.start()
    return server


def _credentials(settings: ServerSettings) -> grpc.ServerCredentials | None:
    """What encrypts the API; None for nothing."""
    if settings.use_alts_credentials:
        return grpc.alts_server_credentials()
    if not settings.ssl_config_file:
        return None
    given = textproto.read_ssl(settings.ssl_config_file)
    return grpc.ssl_server_credentials(
        [(given.server_key.encode(), given.server_cert.encode())],
        root_certificates=given.custom_ca.encode() or None,
        require_client_auth=given.client_verify,
    )


class _Services:
    """Both services. Messages are read, answered and written in the workers' threads."""

    def __init__(
        self, manager: Manager, settings: ServerSettings, metrics: Metrics, workers: Workers
    ) -> None:
        self._manager, self._metrics, self._workers = manager, metrics, workers
        self._max_bytes = settings.rest_api_max_body_bytes
        self._packed = settings.enable_serialization_as_tensor_content
        self._any_path = settings.allow_reload_from_any_path

    def handlers(self) -> list[grpc.GenericRpcHandler]:
        """What a server takes: a table of methods for each service."""
        management = model_management_pb2.ReloadConfigRequest
        services: dict[str, dict[str, grpc.RpcMethodHandler]] = {
            "tensorflow.serving.PredictionService": {
                "Predict": self._method(predict_pb2.PredictRequest, self._predict, "Predict"),
                "Classify": self._method(
                    classification_pb2.ClassificationRequest, self._classify, "Classify"
                ),
                "Regress": self._method(regression_pb2.RegressionRequest, self._regress, "Regress"),
                "MultiInference": self._method(
                    inference_pb2.MultiInferenceRequest, self._multi_inference
                ),
                "GetModelMetadata": self._method(
                    get_model_metadata_pb2.GetModelMetadataRequest, self._metadata
                ),
            },
            "tensorflow.serving.ModelService": {
                "GetModelStatus": self._method(
                    get_model_status_pb2.GetModelStatusRequest, self._status
                ),
                # Not in the workers: it may wait for requests that are under way.
                "HandleReloadConfigRequest": self._method(
                    management, self._reload, run=asyncio.to_thread
                ),
            },
        }
        return [
            grpc.method_handlers_generic_handler(name, methods)
            for name, methods in services.items()
        ]

    def _method(
        self,
        kind: type[Message],
        function: Callable[[Any], Message],
        api: str = "",
        run: Callable[..., Any] | None = None,
    ) -> grpc.RpcMethodHandler:
        """A method that takes messages of `kind`; those with an `api` are counted."""

        def work(content: bytes) -> bytes:
            try:
                request: Any = kind.FromString(content)
            except DecodeError:
                raise invalid(f"The request is no {kind.DESCRIPTOR.full_name}") from None
            with self._counted(request, api):
                return function(request).SerializeToString()

        async def call(content: bytes, context: Any) -> bytes:
            try:
                return await (run or self._workers.run)(work, content)
            except ServingError as error:
                code, text = error.code, error.message
            except Exception as error:
                _log.exception("A gRPC request failed.")
                code, text = Code.INTERNAL, f"{type(error).__name__}: {error}"
            await context.abort(_CODES[code], _shortened(text))
            raise AssertionError  # abort has raised

        return grpc.unary_unary_rpc_method_handler(call)

    def _counted(self, request: Any, api: str) -> contextlib.AbstractContextManager[None]:
        if api and request.model_spec.name in self._manager.models():
            return self._metrics.request(request.model_spec.name, api, "GRPC")
        return contextlib.nullcontext()

    def _predict(self, request: predict_pb2.PredictRequest) -> Message:
        spec = request.model_spec
        inputs = tensors.decode(request.inputs, self._max_bytes)
        with self._use(spec) as servable:
            with self._metrics.run(spec.name, "Predict"):
                wanted = list(dict.fromkeys(request.output_filter))
                outputs = servable.run(spec.signature_name or DEFAULT_SIGNATURE, inputs, wanted)
            response = predict_pb2.PredictResponse(model_spec=_answered(spec, servable))
            signature = servable.signatures[spec.signature_name or DEFAULT_SIGNATURE]
        for name, array in outputs.items():
            response.outputs[name].CopyFrom(
                tensors.encode(array, signature.outputs[name].dtype, self._packed)
            )
        return response

    def _classify(self, request: classification_pb2.ClassificationRequest) -> Message:
        response = classification_pb2.ClassificationResponse()
        return self._on_examples(self._classified, request, response)

    def _regress(self, request: regression_pb2.RegressionRequest) -> Message:
        return self._on_examples(self._regressed, request, regression_pb2.RegressionResponse())

    def _on_examples(self, function: Callable[..., None], request: Any, response: Any) -> Message:
        with self._use(request.model_spec) as servable:
            function(request, servable, request.input, response.result)
            response.model_spec.CopyFrom(_answered(request.model_spec, servable))
        return response

    def _classified(self, task: Any, servable: Loaded, given: Any, result: Any) -> None:
        examples = serialized_examples(given, self._max_bytes)
        with self._metrics.run(task.model_spec.name, "Classify"):
            rows = inference.classify(servable, task.model_spec.signature_name, examples)
        for row in rows:
            listed = result.classifications.add()
            for label, score in row:
                listed.classes.add(label=label.decode(errors="replace"), score=score)

    def _regressed(self, task: Any, servable: Loaded, given: Any, result: Any) -> None:
        examples = serialized_examples(given, self._max_bytes)
        with self._metrics.run(task.model_spec.name, "Regress"):
            values = inference.regress(servable, task.model_spec.signature_name, examples)
        for value in values.tolist():
            result.regressions.add(value=value)

    def _multi_inference(self, request: inference_pb2.MultiInferenceRequest) -> Message:
        _check_tasks(request)
        response = inference_pb2.MultiInferenceResponse()
        # One servable for all tasks, so that no two versions answer together.
        with self._use(request.tasks[0].model_spec) as servable:
            for task in request.tasks:
                result = response.results.add(model_spec=_answered(task.model_spec, servable))
                if task.method_name == _CLASSIFY:
                    self._classified(task, servable, request.input, result.classification_result)
                else:
                    self._regressed(task, servable, request.input, result.regression_result)
        return response

    def _metadata(self, request: get_model_metadata_pb2.GetModelMetadataRequest) -> Message:
        if not request.metadata_field:
            raise invalid("GetModelMetadataRequest must specify at least one metadata_field")
        for field in request.metadata_field:
            if field != "signature_def":
                raise invalid(f"Metadata field {field} is not supported")
        response = get_model_metadata_pb2.GetModelMetadataResponse()
        with self._use(request.model_spec) as servable:
            response.model_spec.CopyFrom(_answered(request.model_spec, servable))
            response.model_spec.signature_name = ""  # it is about all of them
            listed = get_model_metadata_pb2.SignatureDefMap(signature_def=servable.signatures)
        response.metadata["signature_def"].Pack(listed)
        return response

    def _status(self, request: get_model_status_pb2.GetModelStatusRequest) -> Message:
        spec = request.model_spec
        version = spec.version.value if spec.WhichOneof("version_choice") == "version" else None
        return status_message(self._manager.status(spec.name, version))

    def _reload(self, request: model_management_pb2.ReloadConfigRequest) -> Message:
        try:
            wanted = textproto.models(request.config)
        except SettingsError as error:
            raise invalid(str(error)) from None
        known = {model.base_path for model in self._manager.models().values()}
        for model in wanted:
            if model.base_path not in known and not self._any_path:
                raise ServingError(
                    Code.PERMISSION_DENIED,
                    f"{model.name}: no model is served from {model.base_path}; add it to "
                    "--model_config_file, or start with --allow_reload_from_any_path=true",
                )
        self._manager.reload(wanted)
        response = model_management_pb2.ReloadConfigResponse()
        response.status.SetInParent()
        return response

    def _use(self, spec: model_pb2.ModelSpec) -> Any:
        if not spec.name:
            raise invalid("Missing ModelSpec")
        kind = spec.WhichOneof("version_choice")
        return self._manager.use(
            spec.name,
            spec.version.value if kind == "version" else None,
            spec.version_label if kind == "version_label" else None,
        )


def _check_tasks(request: inference_pb2.MultiInferenceRequest) -> None:
    if not request.tasks:
        raise invalid("Inference request must have one or more tasks.")
    seen = set()
    for task in request.tasks:
        if not task.model_spec.name:
            raise invalid("Found ModelSpec with an empty model name.")
        if task.model_spec.name != request.tasks[0].model_spec.name:
            raise invalid(
                "All ModelSpecs in a MultiInferenceRequest must access the same model name."
            )
        signature = task.model_spec.signature_name or DEFAULT_SIGNATURE
        if signature in seen:
            raise invalid(f"Duplicate evaluation of signature: {signature}")
        seen.add(signature)
        if task.method_name not in (_CLASSIFY, _REGRESS):
            raise ServingError(
                Code.UNIMPLEMENTED, f"Unsupported signature method_name: {task.method_name}"
            )


def _answered(spec: model_pb2.ModelSpec, servable: Loaded) -> model_pb2.ModelSpec:
    """Which version has answered."""
    answered = model_pb2.ModelSpec(
        name=spec.name, signature_name=spec.signature_name or DEFAULT_SIGNATURE
    )
    answered.version.value = servable.version
    return answered


def _shortened(text: str) -> str:
    return text if len(text) <= _LONGEST_TEXT else f"{text[:_LONGEST_TEXT]}...TRUNCATED"
