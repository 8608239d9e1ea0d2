"""Where ML Metadata is kept."""

from __future__ import annotations

import contextlib
import os
import sqlite3

import ml_metadata
import tensorflow as tf
from ml_metadata import errors
from ml_metadata.proto import metadata_store_pb2
from tfx.orchestration import metadata

from pipeline.config import space
from pipeline.config.paths import Paths
from pipeline.config.settings import Config, ConfigError

_MYSQL_PORT = 3306
# Seconds that another process may keep the file locked.
_PATIENCE = 5.0


def connection(config: Config, secret: bool = True) -> metadata_store_pb2.ConnectionConfig:
    """How to reach the store, with the password unless `secret` is False.

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
    return metadata.mysql_metadata_connection_config(
        at.host, at.port or _MYSQL_PORT, at.database, at.user, password
    )


def check(config: Config) -> None:
    """Finds a store that no run can use, and one that is not that of the artifacts.

    Raises:
      ConfigError: a server does not let us in, a file is damaged, or the artifacts are of another
        store.
    """
    at = config.metadata
    if at.kind == "sqlite":
        _check_file(Paths(config).metadata)
    try:
        store = ml_metadata.MetadataStore(connection(config))
        known = store.get_context_by_type_and_name("pipeline", config.name)
    except (RuntimeError, errors.StatusError) as error:
        reason = " ".join(str(error).partition(" query: ")[0].split()).rstrip(". ")
        if at.kind == "sqlite" and (full := space.sentence(error, config)):
            raise ConfigError(full) from error
        if at.kind == "sqlite":
            raise _unusable(Paths(config).metadata, reason) from error
        raise ConfigError(
            f"metadata.kind={at.kind}: no connection to database {at.database} as {at.user} at"
            f" {at.host}:{at.port or _MYSQL_PORT}: {reason}. Mend the section metadata or the"
            " server."
        ) from error
    if config.artifacts and not known:
        _check_artifacts(store, Paths(config).artifacts)


def _check_file(path: str) -> None:
    """Says at once what ML Metadata says after half a minute of trying again."""
    if not os.path.exists(path):
        return
    try:
        with contextlib.closing(sqlite3.connect(path, timeout=_PATIENCE)) as file:
            file.execute("SELECT 1 FROM sqlite_master")
    except sqlite3.DatabaseError as error:
        if error.sqlite_errorcode == sqlite3.SQLITE_BUSY:
            raise ConfigError(f"{path} is locked by another process; end that first.") from error
        raise _unusable(path, str(error)) from error


def _unusable(path: str, reason: str) -> ConfigError:
    return ConfigError(
        f"{path} cannot be used: {reason}. Bring back a copy of it, or remove it: the next run"
        " makes a new one and serves nothing from the cache."
    )


def _check_artifacts(store: ml_metadata.MetadataStore, place: str) -> None:
    """Executions are counted from one in every store, and name the folders of artifacts."""
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
