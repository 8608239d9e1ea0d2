"""Where ML Metadata is kept."""

from __future__ import annotations

import copy
import os
from typing import Any

import ml_metadata
import tensorflow as tf
from google.protobuf.message import Message
from ml_metadata import errors
from ml_metadata.proto import metadata_store_pb2
from tfx.orchestration import metadata

from pipeline.config import space
from pipeline.config.paths import Paths
from pipeline.config.settings import Config, ConfigError

_PORTS = {"mysql": 3306, "postgresql": 5432}
# What PostgreSQL gets for a backslash: a character that Unicode leaves to private use.
_STAND_IN = "\ue05c"


def connection(config: Config, secret: bool = True) -> metadata_store_pb2.ConnectionConfig:
    """How to reach the store.

    Args:
      config: `metadata` says where it is.
      secret: whether the password is put in; not where the result is written down.

    Raises:
      ConfigError: the environment has no password.
    """
    at = config.metadata
    if at.kind == "sqlite":
        return metadata.sqlite_metadata_connection_config(Paths(config).metadata)
    password = os.environ.get(at.password_env) if secret else ""
    if password is None:
        raise ConfigError(
            f"metadata.kind={at.kind} needs the password of {at.user} in the environment variable "
            f"{at.password_env}; set it (empty where the server asks for none)."
        )
    port = at.port or _PORTS[at.kind]
    if at.kind == "mysql":
        return metadata.mysql_metadata_connection_config(
            at.host, port, at.database, at.user, password
        )
    server = metadata_store_pb2.PostgreSQLDatabaseConfig(
        host=at.host, port=str(port), user=at.user, password=_quoted(password), dbname=at.database
    )
    return metadata_store_pb2.ConnectionConfig(postgresql=server)


def _quoted(value: str) -> str:
    """A value of libpq's connection string, into which ML Metadata pastes it as it is."""
    escaped = value.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"


class Store(metadata.Metadata):
    """TFX's handle of the store, which also works on PostgreSQL.

    Args:
      connection_config: of `connection`.
    """

    def __enter__(self) -> Store:
        super().__enter__()
        if self.connection_config.HasField("postgresql"):
            self._store = _PostgreSQL(self._connection_config)
        return self


class _PostgreSQL(ml_metadata.MetadataStore):
    """ML Metadata 1.17 makes broken SQL of every text with a backslash, and TFX writes JSON inside
    JSON.
    """

    def _call(self, method_name: str, request: Message, response: Message, *options: Any) -> None:
        stored = copy.deepcopy(request)
        _replace(stored, "\\", _STAND_IN)
        super()._call(method_name, stored, response, *options)
        _replace(response, _STAND_IN, "\\")


def _replace(message: Message, old: str, new: str) -> None:
    """Replaces a character in every text of a message, those inside other messages too."""
    for field, value in message.ListFields():
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            values = (
                value.values() if field.message_type.fields_by_name["value"].message_type else ()
            )
        elif field.message_type is not None:
            values = value if field.is_repeated else [value]
        else:
            values = ()
            if isinstance(value, str):
                setattr(message, field.name, value.replace(old, new))
            elif field.type == field.TYPE_STRING:
                value[:] = [text.replace(old, new) for text in value]
        for part in values:
            _replace(part, old, new)


def check(config: Config) -> None:
    """Finds a store that no run can use, and one that is not that of the artifacts.

    Raises:
      ConfigError: a server does not let us in, a file is damaged, or the artifacts are of another
        store.
    """
    at = config.metadata
    try:
        store = ml_metadata.MetadataStore(connection(config))
        known = store.get_context_by_type_and_name("pipeline", config.name)
    except (RuntimeError, errors.StatusError) as error:
        reason = " ".join(str(error).partition(" query: ")[0].split()).rstrip(". ")
        if at.kind == "sqlite" and "Concurrent writes" in reason:
            raise ConfigError(
                f"{Paths(config).metadata} is locked by another process; end that first."
            ) from error
        if at.kind == "sqlite" and (full := space.sentence(error, config)):
            raise ConfigError(full) from error
        if at.kind == "sqlite":
            raise ConfigError(
                f"{Paths(config).metadata} cannot be used: {reason}. Bring back a copy of it, or"
                " remove it: the next run makes a new one and serves nothing from the cache."
            ) from error
        raise ConfigError(
            f"metadata.kind={at.kind}: no connection to database {at.database} as {at.user} at"
            f" {at.host}:{at.port or _PORTS[at.kind]}: {reason}. Mend the section metadata or the"
            " server."
        ) from error
    if config.artifacts and not known:
        _check_artifacts(store, Paths(config).artifacts)


def _check_artifacts(store: ml_metadata.MetadataStore, place: str) -> None:
    """Every store counts from one, and the numbers name the folders: two would write into each
    other's.
    """
    folder = os.path.join(place, "ExampleGen", "examples")
    if not tf.io.gfile.exists(folder):
        return
    folders = [os.path.join(folder, name.rstrip("/")) for name in tf.io.gfile.listdir(folder)]
    if not any(store.get_artifacts_by_uri(one) for one in folders):
        raise ConfigError(
            f"artifacts={place}: this metadata store does not know what is in {folder}; set"
            " metadata to the store of these artifacts, name another folder, or remove this one if"
            " its store is lost."
        )
