"""What can be known to be wrong before anything starts; Airflow checks it too, so no TensorFlow."""

from __future__ import annotations

import datetime
import operator
import os
import re
from collections.abc import Callable, Iterable
from typing import Any

from components.example_gen.sources import kinds, registry
from models import fields, settings
from models.weights.named import catalogue
from pipeline.config import beam_arguments, graph, serve_check
from pipeline.config.settings import Config, ConfigError, Metadata, Schedule


def check(config: Config) -> None:
    """Raises ConfigError for the first setting that is wrong, with how to mend it."""
    _said(fields.check, config)
    _one_of("data.kind", config.data.kind, registry.KINDS)
    if not re.fullmatch(r"[\w.-]{1,200}", config.name) or config.name in (".", ".."):
        raise ConfigError(
            f"name={config.name!r}: must be letters, digits, '_', '-' and '.', 200 at most, because"
            " a folder and a DAG have this name."
        )
    if "://" in config.root:
        raise ConfigError(
            f"root={config.root}: must be a folder of this machine, for its metadata and logs; "
            "what is heavy can go elsewhere with --set artifacts=gs://BUCKET/FOLDER."
        )
    for name in ("root", "artifacts", "train.checkpoint_dir", "serve.directory"):
        _check_folder(name, operator.attrgetter(name)(config))
    kind = kinds.of(config.data.kind)
    if not (config.data.source or kind.embedded or kind.usual_place()):
        raise ConfigError(
            f"data.source is empty: name the {config.data.kind} images with --set"
            " data.source=FOLDER."
        )
    own = config.data.schema not in ("curated", "infer")
    if own and "://" not in config.data.schema and not os.path.isfile(config.data.schema):
        raise ConfigError(
            f"data.schema={config.data.schema}: must be curated, infer or the path of a"
            " schema.pbtxt."
        )
    _said(settings.check, config.transform, config.model, config.train, config.tune)
    if config.model.ensemble and (
        config.train.init_from or config.train.warm_start or config.tune.enabled
    ):
        raise ConfigError(
            "model.ensemble: an ensemble is not trained; set train.init_from=,"
            " train.warm_start=false and tune.enabled=false."
        )
    _said(catalogue.check, config.train.init_from, config.model)
    if not config.evaluate.protocols:
        raise ConfigError("evaluate.protocols is empty: name at least one, such as center.")
    for protocol in config.evaluate.protocols:
        _one_of("evaluate.protocols", protocol, settings.PROTOCOLS)
        try:
            settings.check_transform(settings.PROTOCOLS[protocol].transform(config.transform))
        except ValueError as error:
            raise ConfigError(f"evaluate.protocols={protocol}: {error}") from error
    _one_of("evaluate.protocol", config.evaluate.protocol, config.evaluate.protocols)
    _check_metadata(config.metadata)
    _check_schedule(config.schedule)
    unknown = set(config.no_cache) - set(graph.nodes(config))
    if unknown:
        raise ConfigError(
            f"no_cache={', '.join(sorted(unknown))}: must name nodes of this pipeline: "
            f"{', '.join(graph.nodes(config))}."
        )
    beam_arguments.check(config)
    serve_check.check(config.serve, config.artifacts)


def _check_folder(name: str, path: str) -> None:
    whole = path if not path or "://" in path else os.path.abspath(os.path.expanduser(path))
    if set(whole) & set("[]*?\\"):
        raise ConfigError(
            f"{name}={path}: {whole} has one of the characters [ ] * ? \\, which TensorFlow and TFX"
            " take for a pattern: name another folder."
        )


def _said(checked: Callable[..., None], *parts: Any) -> None:
    """A ValueError of the learning part as one of the configuration."""
    try:
        checked(*parts)
    except ValueError as error:
        raise ConfigError(str(error)) from error


def _check_metadata(metadata: Metadata) -> None:
    if metadata.kind == "postgresql":
        raise ConfigError(
            "metadata.kind=postgresql: ML Metadata writes broken SQL there; keep the metadata on a"
            " MySQL or MariaDB server with metadata.kind=mysql."
        )
    _one_of("metadata.kind", metadata.kind, ("sqlite", "mysql"))
    if metadata.kind == "sqlite":
        return
    for name in ("host", "database", "user"):
        if not getattr(metadata, name):
            raise ConfigError(f"metadata.{name} is empty: {metadata.kind} needs it.")


def _check_schedule(schedule: Schedule) -> None:
    if not re.fullmatch(r"[\w*/,-]+( [\w*/,-]+){4}", schedule.cron):
        raise ConfigError(
            f"schedule.cron={schedule.cron!r}: must have five fields (minute, hour, day of month,"
            " month, day of week), such as '0 3 * * 0'."
        )
    try:
        datetime.date.fromisoformat(schedule.start)
    except ValueError:
        raise ConfigError(
            f"schedule.start={schedule.start}: must be a day such as 2026-01-31."
        ) from None


def _one_of(name: str, value: str, valid: Iterable[str]) -> None:
    if value not in valid:
        raise ConfigError(f"{name}={value}: must be one of {', '.join(valid)}.")
