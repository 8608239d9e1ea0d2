"""TensorFlow Serving's configuration files, in protobuf's text format."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from google.protobuf import (
    descriptor_pb2,
    descriptor_pool,
    message_factory,
    text_format,
    wrappers_pb2,
)
from google.protobuf.message import Message
from tensorflow_serving.config.file_system_storage_path_source_pb2 import (
    FileSystemStoragePathSourceConfig,
)
from tensorflow_serving.config.model_server_config_pb2 import ModelConfig, ModelServerConfig

from serving.server.server_config import Batching, ModelSettings, SettingsError

_Field = descriptor_pb2.FieldDescriptorProto
_INT64, _BOOL, _STRING = (f".google.protobuf.{name}Value" for name in ("Int64", "Bool", "String"))
# The messages of TensorFlow Serving that no package on PyPI brings: field -> (number, type).
_MESSAGES: dict[str, dict[str, tuple[int, Any]]] = {
    "BatchingParameters": {
        "max_batch_size": (1, _INT64),
        "batch_timeout_micros": (2, _INT64),
        "max_enqueued_batches": (3, _INT64),
        "num_batch_threads": (4, _INT64),
        "thread_pool_name": (5, _STRING),
        "allowed_batch_sizes": (6, "repeated"),
        "pad_variable_length_inputs": (7, _Field.TYPE_BOOL),
        "enable_large_batch_splitting": (8, _BOOL),
        "max_execution_batch_size": (9, _INT64),
    },
    "PrometheusConfig": {"enable": (1, _Field.TYPE_BOOL), "path": (2, _Field.TYPE_STRING)},
    "SSLConfig": {
        "server_key": (1, _Field.TYPE_STRING),
        "server_cert": (2, _Field.TYPE_STRING),
        "custom_ca": (3, _Field.TYPE_STRING),
        "client_verify": (4, _Field.TYPE_BOOL),
    },
    "MonitoringConfig": {"prometheus_config": (1, ".resnet_tfx.PrometheusConfig")},
}
DEFAULT_METRICS_PATH = "/monitoring/prometheus/metrics"


def _message_classes() -> Mapping[str, type[Message]]:
    file = descriptor_pb2.FileDescriptorProto(
        name="resnet_tfx/serving.proto", package="resnet_tfx", syntax="proto3"
    )
    file.dependency.append(wrappers_pb2.DESCRIPTOR.name)
    for name, fields in _MESSAGES.items():
        message = file.message_type.add(name=name)
        for field, (number, kind) in fields.items():
            added = message.field.add(name=field, number=number, label=_Field.LABEL_OPTIONAL)
            if kind == "repeated":
                added.label, added.type = _Field.LABEL_REPEATED, _Field.TYPE_INT64
            elif isinstance(kind, str):
                added.type, added.type_name = _Field.TYPE_MESSAGE, kind
            else:
                added.type = kind
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(wrappers_pb2.DESCRIPTOR.serialized_pb)
    pool.Add(file)
    found = {n: pool.FindMessageTypeByName(f"resnet_tfx.{n}") for n in _MESSAGES}
    return {name: message_factory.GetMessageClass(descriptor) for name, descriptor in found.items()}


_CLASSES = _message_classes()


def read_models(path: Path) -> tuple[ModelSettings, ...]:
    """The models of a --model_config_file.

    Raises:
      SettingsError: no such file, not a ModelServerConfig, or one that cannot be served here.
    """
    return models(_read(path, ModelServerConfig()), str(path))


def models(given: ModelServerConfig, where: str = "the configuration") -> tuple[ModelSettings, ...]:
    """The models of a ModelServerConfig.

    Raises:
      SettingsError: it is empty or of a kind that is not served here.
    """
    if given.WhichOneof("config") != "model_config_list":
        raise SettingsError(f"{where} has no model_config_list: that is the only kind served here.")
    return tuple(_model(one, where) for one in given.model_config_list.config)


def _model(one: ModelConfig, where: str) -> ModelSettings:
    if one.model_platform not in ("", "tensorflow"):
        raise SettingsError(
            f"{where}: model_platform {one.model_platform} of {one.name}: must be tensorflow."
        )
    policy = one.model_version_policy
    kind = policy.WhichOneof("policy_choice") or "latest"
    if kind == "specific" and not policy.specific.versions:
        raise SettingsError(
            f"{where}: policy specific of {one.name} names no version; add versions: NUMBER."
        )
    return ModelSettings(
        name=one.name,
        base_path=Path(one.base_path).absolute(),
        # As there: 0 is the default.
        num_versions=policy.latest.num_versions or 1,
        versions=tuple(sorted(set(policy.specific.versions))),
        all_versions=kind == "all",
        labels=dict(one.version_labels),
    )


def config(models: Iterable[ModelSettings]) -> ModelServerConfig:
    """The ModelServerConfig that `models` reads."""
    made = ModelServerConfig()
    made.model_config_list.SetInParent()
    for model in models:
        one = made.model_config_list.config.add(
            name=model.name, base_path=str(model.base_path), model_platform="tensorflow"
        )
        policy = FileSystemStoragePathSourceConfig.ServableVersionPolicy()
        if model.versions:
            policy.specific.versions.extend(model.versions)
        elif model.all_versions:
            policy.all.SetInParent()
        else:
            policy.latest.num_versions = model.num_versions
        one.model_version_policy.CopyFrom(policy)
        one.version_labels.update(model.labels)
    return made


def models_text(models: Iterable[ModelSettings]) -> str:
    """The models as the text of a --model_config_file."""
    return text_format.MessageToString(config(models))


def read_batching(path: Path | None) -> Batching:
    """The settings of a --batching_parameters_file; without one, the defaults.

    Raises:
      SettingsError: no such file, not its format, or it asks for what is not done here.
    """
    if path is None:
        return Batching()
    message = _read(path, _CLASSES["BatchingParameters"]())
    given: dict[str, Any] = {field.name: value for field, value in message.ListFields()}
    given.pop("thread_pool_name", None)
    for name in (
        "pad_variable_length_inputs",
        "enable_large_batch_splitting",
        "max_execution_batch_size",
    ):
        value = given.pop(name, None)
        if value and getattr(value, "value", True):
            raise SettingsError(f"{path}: {name} is not supported by this server; leave it out.")
    sizes = tuple(given.pop("allowed_batch_sizes", ()))
    return Batching(
        allowed_batch_sizes=sizes, **{name: value.value for name, value in given.items()}
    )


def batching_text(batching: Batching) -> str:
    """The settings as the text of a --batching_parameters_file."""
    message: Any = _CLASSES["BatchingParameters"]()
    for name in (
        "max_batch_size",
        "batch_timeout_micros",
        "max_enqueued_batches",
        "num_batch_threads",
    ):
        getattr(message, name).value = getattr(batching, name)
    message.allowed_batch_sizes.extend(batching.allowed_batch_sizes)
    return text_format.MessageToString(message)


def read_metrics_path(path: Path | None) -> str:
    """Where a --monitoring_config_file wants the metrics; "" without a file or with Prometheus off.

    Raises:
      SettingsError: no such file, or not its format.
    """
    if path is None:
        return ""
    wanted: Any = _read(path, _CLASSES["MonitoringConfig"]())
    prometheus = wanted.prometheus_config
    return (prometheus.path or DEFAULT_METRICS_PATH) if prometheus.enable else ""


def read_ssl(path: Path) -> Any:
    """The SSLConfig of an --ssl_config_file: server_key, server_cert, custom_ca (PEM) and
    client_verify.

    Raises:
      SettingsError: no such file, not its format, or without a key or certificate.
    """
    given = _read(path, _CLASSES["SSLConfig"]())
    for name in ("server_key", "server_cert", *(["custom_ca"] if given.client_verify else [])):
        if "-----BEGIN " not in getattr(given, name):
            raise SettingsError(f"{path}: {name} must be the text of a PEM file.")
    return given


def read_session(path: Path) -> Any:
    """The ConfigProto of a --tensorflow_session_config_file.

    Raises:
      SettingsError: no such file, or not its format.
    """
    # Here, for it imports TensorFlow.
    from tensorflow.core.protobuf import config_pb2

    return _read(path, config_pb2.ConfigProto())


def monitoring_text(metrics_path: str) -> str:
    """The text of a --monitoring_config_file."""
    message: Any = _CLASSES["MonitoringConfig"]()
    message.prometheus_config.enable = bool(metrics_path)
    message.prometheus_config.path = metrics_path
    return text_format.MessageToString(message)


def _read(path: Path, message: Any) -> Any:
    try:
        return text_format.Parse(path.read_text(), message)
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is no text"
        raise SettingsError(f"{path} cannot be read ({reason}).") from error
    except text_format.ParseError as error:
        kind = message.DESCRIPTOR.name
        raise SettingsError(f"{path} is no {kind} in protobuf's text format: {error}") from error
