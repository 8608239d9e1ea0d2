"""What can be known to be wrong before anything heavy starts. No TensorFlow here: Airflow checks it
too.
"""

from __future__ import annotations

import datetime
import os
import re
from collections.abc import Iterable
from typing import Any

from models import settings
from pipeline.config import beam_arguments, cron, graph, serve_check
from pipeline.config.settings import Config, ConfigError, Metadata, Schedule, to_dict


def check(config: Config) -> None:
    """Finds what cannot run before anything heavy starts.

    Raises:
      ConfigError: the first setting that is wrong, and how to mend it.
    """
    kinds = ("digits", "ilsvrc", "folder", "tfds")
    _one_of("data.kind", config.data.kind, kinds)
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
    _check_folder("root", config.root)
    _check_folder("artifacts", config.artifacts)
    _check_folder("train.checkpoint_dir", config.train.checkpoint_dir)
    _check_folder("serve.directory", config.serve.directory)
    if config.data.kind not in ("digits", "tfds") and not config.data.source:
        raise ConfigError(
            f"data.source is empty: name the {config.data.kind} images with --set"
            " data.source=FOLDER."
        )
    if not 0 <= config.data.max_bad_fraction <= 1:
        raise ConfigError(
            f"data.max_bad_fraction={config.data.max_bad_fraction}: must be from 0 to 1."
        )
    own = config.data.schema not in ("curated", "infer")
    if own and "://" not in config.data.schema and not os.path.isfile(config.data.schema):
        raise ConfigError(
            f"data.schema={config.data.schema}: must be curated, infer or the path of a"
            " schema.pbtxt."
        )
    for name in ("train_shards", "eval_shards", "classes", "max_bad_images"):
        if getattr(config.data, name) < 0:
            raise ConfigError(f"data.{name}={getattr(config.data, name)}: must be 0 or more.")
    if not 0 <= config.data.seed <= settings.MAX_SEED:
        raise ConfigError(f"data.seed={config.data.seed}: must be from 0 to {settings.MAX_SEED}.")
    if not 1 <= config.data.max_pixels <= 100_000_000:
        raise ConfigError(
            f"data.max_pixels={config.data.max_pixels}: must be from 1 to 100000000, the most that "
            "evaluation and serving take."
        )
    if config.data.spans < 1:
        raise ConfigError(f"data.spans={config.data.spans}: must be 1 or more.")
    for name in ("max_label_drift", "max_size_drift", "max_format_drift", "max_skew"):
        if not 0 < getattr(config.data, name) <= 1:
            raise ConfigError(
                f"data.{name}={getattr(config.data, name)}: must be above 0 and at most 1 (asks"
                " nothing)."
            )
    if not 0 < config.data.holdout < 1:
        raise ConfigError(f"data.holdout={config.data.holdout}: must be between 0 and 1.")
    try:
        settings.check(config.transform, config.model, config.train, config.tune)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    if config.model.ensemble and (
        config.train.init_from or config.train.warm_start or config.tune.enabled
    ):
        raise ConfigError(
            "model.ensemble: an ensemble is not trained; set train.init_from=,"
            " train.warm_start=false and tune.enabled=false."
        )
    if not config.evaluate.protocols:
        raise ConfigError("evaluate.protocols is empty: name at least one, such as center.")
    for protocol in config.evaluate.protocols:
        _one_of("evaluate.protocols", protocol, settings.PROTOCOLS)
        try:
            settings.check_transform(settings.PROTOCOLS[protocol].transform(config.transform))
        except ValueError as error:
            raise ConfigError(f"evaluate.protocols={protocol}: {error}") from error
    _one_of("evaluate.protocol", config.evaluate.protocol, config.evaluate.protocols)
    for name in ("max_top1_error", "max_top5_error"):
        if not 0 < getattr(config.evaluate, name) <= 1:
            raise ConfigError(
                f"evaluate.{name}={getattr(config.evaluate, name)}: must be above 0 and at most 1,"
                " which lets every model pass."
            )
    if (
        not -1 <= config.evaluate.max_top1_increase <= 1
    ):  # nor NaN, which every comparison would pass
        raise ConfigError(
            f"evaluate.max_top1_increase={config.evaluate.max_top1_increase}: must be from -1 to 1,"
            " which compares with none."
        )
    _check_numbers(to_dict(config), "")
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


def _check_numbers(tree: dict[str, Any], where: str) -> None:
    """Refuses counts that are a slip of the pen; what may be larger has a check of its own."""
    for name, value in tree.items():
        if isinstance(value, dict):
            _check_numbers(value, f"{name}.")
        elif type(value) is int and value > settings.MAX_NUMBER and name != "seed":
            raise ConfigError(f"{where}{name}={value}: must be at most {settings.MAX_NUMBER}.")


def _check_metadata(metadata: Metadata) -> None:
    if metadata.kind == "postgresql":
        raise ConfigError(
            "metadata.kind=postgresql: ML Metadata writes broken SQL there; keep the metadata on a"
            " MySQL or MariaDB server with metadata.kind=mysql."
        )
    _one_of("metadata.kind", metadata.kind, ("sqlite", "mysql"))
    if not 0 <= metadata.port <= 65535:
        raise ConfigError(
            f"metadata.port={metadata.port}: must be from 1 to 65535, or 0 for the usual one."
        )
    if metadata.kind == "sqlite":
        return
    for name in ("host", "database", "user"):
        if not getattr(metadata, name):
            raise ConfigError(f"metadata.{name} is empty: {metadata.kind} needs it.")


def _check_schedule(schedule: Schedule) -> None:
    try:
        cron.check(schedule.cron)
    except ValueError as error:
        raise ConfigError(f"schedule.cron={schedule.cron!r} {error}") from None
    try:
        datetime.date.fromisoformat(schedule.start)
    except ValueError:
        raise ConfigError(
            f"schedule.start={schedule.start}: must be a day such as 2026-01-31."
        ) from None
    for name in ("retries", "retry_minutes", "timeout_hours"):
        # More is longer than Python's dates go.
        if not 0 <= getattr(schedule, name) <= 1_000_000:
            raise ConfigError(
                f"schedule.{name}={getattr(schedule, name)}: must be from 0 to 1000000."
            )


def _one_of(name: str, value: str, valid: Iterable[str]) -> None:
    if value not in valid:
        raise ConfigError(f"{name}={value}: must be one of {', '.join(valid)}.")
