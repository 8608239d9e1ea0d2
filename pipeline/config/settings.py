"""The configuration of a run: one tree of frozen dataclasses, `Config`.

A configuration starts from a preset (`pipeline.config.presets`) and is changed with
`section.field=value` assignments. Unknown names and values of the wrong type
are errors that say what would be right. No TensorFlow import here.
"""

from __future__ import annotations

import dataclasses
import datetime
import difflib
import hashlib
import json
import os
import re
import typing
from collections.abc import Iterable
from typing import Any

from models import settings
from models.settings import Model, Train, Transform, Tune
from pipeline.config import cron, graph

__all__ = [
    "Beam",
    "Config",
    "ConfigError",
    "Data",
    "Evaluate",
    "Kubeflow",
    "Metadata",
    "Model",
    "Schedule",
    "Serve",
    "Train",
    "Transform",
    "Tune",
    "assign",
    "from_dict",
    "read",
    "to_dict",
]


# Of a configuration; devices have no end.
_MOST_BYTES = 2**20


class ConfigError(ValueError):
    """A configuration that cannot run; the message says how to mend it."""


@dataclasses.dataclass(frozen=True)
class Data:
    """Where the images come from."""

    # "digits" (embedded), "ilsvrc" (archives as downloaded), "folder" (class
    # folders, or tars of them) or "tfds".
    kind: str = "digits"
    # ilsvrc: folder of the three archives. folder: folder with train/ and val/
    # (or train.tar and val.tar). tfds: the data_dir, "" for TFDS's own. digits: not used.
    source: str = ""
    # TFDS name, for kind "tfds": imagenet2012, imagenette/full-size-v2, cifar10.
    tfds_name: str = ""
    # Split names in the source that become `train` and `eval`; "" is the usual
    # name of the kind. With no evaluation split, or with eval_split="holdout",
    # `holdout` of train becomes it, chosen by a hash of the file name;
    # every class of two or more images keeps one in each.
    train_split: str = ""
    eval_split: str = ""
    holdout: float = 0.1
    # Number of classes; 0 takes what the source has. When set, a source with
    # another number is an anomaly.
    classes: int = 0
    # Output shards; 0 chooses them from the size of the data.
    train_shards: int = 0
    eval_shards: int = 0
    # Seed of the global shuffle, recorded in the artifact.
    seed: int = 0
    # Part of all images that may be quarantined before the run stops; `max_bad_images` may be in any
    # case, up to a quarter of all.
    max_bad_fraction: float = 0.01
    max_bad_images: int = 10
    # A class may have no image in the evaluation split. A class folder without images, and evaluation
    # images of classes that the training split lacks, are left out then.
    allow_missing_classes: bool = False
    # Images of more pixels are quarantined before they are decoded.
    max_pixels: int = 100_000_000
    # "curated" imports our schema with the classes of the source; "infer" lets
    # SchemaGen make one; anything else is the path of a schema.pbtxt.
    schema: str = "curated"
    # A source that grows: with {SPAN} in `source` (such as /data/flowers/span-{SPAN}) the newest `spans`
    # spans are one data set, a rolling window.
    spans: int = 1
    # Most that a span may differ from the one before it: of labels and formats the largest
    # difference of a value's share (L-infinity), of heights and widths the Jensen-Shannon divergence,
    # 0..1 both; 1 asks nothing.
    max_label_drift: float = 0.3
    max_size_drift: float = 0.4
    max_format_drift: float = 0.3
    # The same between a span's train and eval splits, for all three.
    max_skew: float = 0.6


@dataclasses.dataclass(frozen=True)
class Evaluate:
    """Test protocols and the thresholds that bless a model."""

    protocols: tuple[str, ...] = ("center", "ten_crop")
    # The protocol that thresholds are checked on.
    protocol: str = "center"
    # Highest top-1 and top-5 error, 0..1, of a model that may be pushed.
    max_top1_error: float = 0.9
    max_top5_error: float = 0.9
    # A candidate may be worse than the latest blessed model by this much top-1; 1 compares with none.
    max_top1_increase: float = 0.0
    # Metrics for every class as well.
    per_class: bool = True


@dataclasses.dataclass(frozen=True)
class Serve:
    """Where the model goes and under which name it answers."""

    model_name: str = "resnet"
    # Folder of versions in TF Serving's layout; "" is <pipeline root>/serving/<model_name>.
    directory: str = ""
    # Address that the server listens to: 0.0.0.0 lets other machines in.
    host: str = "127.0.0.1"
    rest_port: int = 8501
    grpc_port: int = 8500
    # The newest versions that serve together.
    num_versions: int = 2
    # LABEL=VERSION, such as stable=1764000000,canary=1764086400: exactly these versions serve then.
    labels: tuple[str, ...] = ()
    # Requests that share a run of the model, 0 for none, and how long one waits for others.
    max_batch_size: int = 0
    batch_timeout_micros: int = 0
    # For Prometheus, under /monitoring/prometheus/metrics.
    metrics: bool = True
    # Who serves a blessed model before it is pushed, and must answer as the Evaluator did: "embedded",
    # an image of TensorFlow Serving for docker (tensorflow/serving:2.20.0), or "none".
    validator: str = "embedded"
    # Images of the evaluation split that are asked for.
    validator_images: int = 16
    # Most milliseconds of one image (99th percentile) and megabytes of the server; 0 asks nothing.
    max_latency_ms: float = 0.0
    max_memory_mb: int = 0
    # Hours that a pushed version is a canary before it can be stable (docs/serving.md); 0: it serves at once.
    canary_hours: float = 0.0
    # The rest is for containers (`python -m pipeline.serving_files`): TensorFlow Serving with its version
    # (2.20.0-gpu with gpus), how many servers, and what each gets.
    image: str = "tensorflow/serving:2.20.0"
    min_replicas: int = 2
    max_replicas: int = 6
    cpu: int = 2
    memory: str = "4Gi"
    gpus: int = 0


@dataclasses.dataclass(frozen=True)
class Beam:
    """How and where the heavy steps run: ingestion, statistics, Transform, evaluation (docs/beam.md)."""

    # "direct" (this machine), "flink", "spark" or "dataflow".
    runner: str = "direct"
    # direct: worker processes, 1 stays in this one; flink: parallelism; dataflow: most machines.
    workers: int = 1
    # Flink's HOST:PORT or [local]; Spark's spark://HOST:PORT or local[N].
    master: str = ""
    # Release of the Flink cluster; Beam has a job server for 1.19, 1.20, 2.0, 2.1 and 2.2.
    flink_version: str = "1.20"
    # Beam's job server (Flink, Spark): its jar, or HOST:PORT of one that runs; "" lets Beam download it.
    job_server: str = ""
    # Who runs Python for Flink and Spark: loopback (this process, for a cluster on this machine),
    # external:HOST:PORT (a pool of workers beside each task manager), process:COMMAND or docker:IMAGE.
    environment: str = "loopback"
    # Asks Flink to start the failed part of a job again this often, so many seconds later; a cluster may
    # hold to its own restart-strategy (docs/beam.md).
    retries: int = 3
    # Longer than the 20 seconds for which a Python worker is kept, or the restart is handed a dead one.
    retry_seconds: float = 25.0
    # Local folders are the same ones on every machine of the cluster.
    shared_paths: bool = False
    # Dataflow; `temp_location` is gs://BUCKET/FOLDER, `image` the one of our Dockerfile.
    project: str = ""
    region: str = ""
    temp_location: str = ""
    image: str = ""
    # Further arguments of every Beam job.
    args: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Metadata:
    """The store of ML Metadata: what ran, on what, with what result."""

    # "sqlite" (a file below `root`), "mysql" or "postgresql" (a server that several machines share).
    kind: str = "sqlite"
    host: str = "127.0.0.1"
    # 0 is the usual one: 3306, 5432.
    port: int = 0
    database: str = "resnet_tfx"
    user: str = "resnet_tfx"
    # Environment variable that holds the password: no file of ours ever does.
    password_env: str = "RESNET_TFX_METADATA_PASSWORD"


@dataclasses.dataclass(frozen=True)
class Schedule:
    """When Airflow and Kubeflow start a run, and how they try again."""

    # Minute, hour, day of month, month, day of week, in UTC: Sundays at 03:00.
    cron: str = "0 3 * * 0"
    # First day on which a run may start (Airflow).
    start: str = "2026-01-01"
    # A failed step is tried again this often, so many minutes later.
    retries: int = 2
    retry_minutes: float = 5.0
    # A step that takes longer is stopped and counts as failed; 0 waits for ever.
    timeout_hours: float = 0.0


@dataclasses.dataclass(frozen=True)
class Kubeflow:
    """Kubeflow Pipelines v2: where it is and what a step may use."""

    # Address of the API, such as http://localhost:8080.
    host: str = ""
    namespace: str = "kubeflow"
    experiment: str = "resnet-tfx"
    # The image of our Dockerfile, as the cluster pulls it.
    image: str = ""
    # What single steps need, such as "Trainer cpu=16 memory=64G gpu=4"; "*" is every other step.
    resources: tuple[str, ...] = ("* cpu=2 memory=8G",)
    # Label of the nodes' accelerators, which gpu= asks for.
    accelerator: str = "nvidia.com/gpu"


@dataclasses.dataclass(frozen=True)
class Config:
    """All settings of one pipeline."""

    name: str = "resnet-digits"
    preset: str = "digits"
    # Everything a run writes, except what `serve.directory` names.
    root: str = "runs"
    # Pipeline root: the artifacts, on any file system that TensorFlow reads (gs://BUCKET/FOLDER); "" is
    # <root>/<name>/artifacts.
    artifacts: str = ""
    cache: bool = True
    # Components that run although nothing has changed.
    no_cache: tuple[str, ...] = ()
    data: Data = Data()
    transform: Transform = Transform()
    model: Model = Model()
    train: Train = Train()
    tune: Tune = Tune()
    evaluate: Evaluate = Evaluate()
    serve: Serve = Serve()
    beam: Beam = Beam()
    metadata: Metadata = Metadata()
    schedule: Schedule = Schedule()
    kubeflow: Kubeflow = Kubeflow()

    def check(self) -> None:
        """Finds what cannot run before anything heavy starts.

        Raises:
          ConfigError: the first setting that is wrong, and how to mend it.
        """
        kinds = ("digits", "ilsvrc", "folder", "tfds")
        _one_of("data.kind", self.data.kind, kinds)
        if not re.fullmatch(r"[\w.-]{1,200}", self.name) or self.name in (".", ".."):
            raise ConfigError(
                f"name={self.name!r}: must be letters, digits, '_', '-' and '.', 200 at most, because a "
                "folder and a DAG have this name."
            )
        if "://" in self.root:
            raise ConfigError(
                f"root={self.root}: must be a folder of this machine, for its metadata and logs; "
                "what is heavy can go elsewhere with --set artifacts=gs://BUCKET/FOLDER."
            )
        _check_folder("root", self.root)
        _check_folder("artifacts", self.artifacts)
        _check_folder("train.checkpoint_dir", self.train.checkpoint_dir)
        _check_folder("serve.directory", self.serve.directory)
        if self.data.kind not in ("digits", "tfds") and not self.data.source:
            raise ConfigError(
                f"data.source is empty: name the {self.data.kind} images with --set data.source=FOLDER."
            )
        if not 0 <= self.data.max_bad_fraction <= 1:
            raise ConfigError(f"data.max_bad_fraction={self.data.max_bad_fraction}: must be from 0 to 1.")
        own = self.data.schema not in ("curated", "infer")
        if own and "://" not in self.data.schema and not os.path.isfile(self.data.schema):
            raise ConfigError(
                f"data.schema={self.data.schema}: must be curated, infer or the path of a schema.pbtxt."
            )
        for name in ("train_shards", "eval_shards", "classes", "max_bad_images"):
            if getattr(self.data, name) < 0:
                raise ConfigError(f"data.{name}={getattr(self.data, name)}: must be 0 or more.")
        if not 0 <= self.data.seed <= settings.MAX_SEED:
            raise ConfigError(f"data.seed={self.data.seed}: must be from 0 to {settings.MAX_SEED}.")
        if not 1 <= self.data.max_pixels <= 100_000_000:
            raise ConfigError(
                f"data.max_pixels={self.data.max_pixels}: must be from 1 to 100000000, the most that "
                "evaluation and serving take."
            )
        if self.data.spans < 1:
            raise ConfigError(f"data.spans={self.data.spans}: must be 1 or more.")
        for name in ("max_label_drift", "max_size_drift", "max_format_drift", "max_skew"):
            if not 0 < getattr(self.data, name) <= 1:
                raise ConfigError(
                    f"data.{name}={getattr(self.data, name)}: must be above 0 and at most 1 (asks nothing)."
                )
        if not 0 < self.data.holdout < 1:
            raise ConfigError(f"data.holdout={self.data.holdout}: must be between 0 and 1.")
        try:
            settings.check(self.transform, self.model, self.train, self.tune)
        except ValueError as error:
            raise ConfigError(str(error)) from error
        if self.model.ensemble and (self.train.init_from or self.train.warm_start or self.tune.enabled):
            raise ConfigError(
                "model.ensemble: an ensemble is not trained; set train.init_from=, train.warm_start=false "
                "and tune.enabled=false."
            )
        if not self.evaluate.protocols:
            raise ConfigError("evaluate.protocols is empty: name at least one, such as center.")
        for protocol in self.evaluate.protocols:
            _one_of("evaluate.protocols", protocol, settings.PROTOCOLS)
        _one_of("evaluate.protocol", self.evaluate.protocol, self.evaluate.protocols)
        for name in ("max_top1_error", "max_top5_error"):
            if not 0 < getattr(self.evaluate, name) <= 1:
                raise ConfigError(
                    f"evaluate.{name}={getattr(self.evaluate, name)}: must be above 0 and at most 1, which "
                    "lets every model pass."
                )
        if not -1 <= self.evaluate.max_top1_increase <= 1:  # nor NaN, which every comparison would pass
            raise ConfigError(
                f"evaluate.max_top1_increase={self.evaluate.max_top1_increase}: must be from -1 to 1, which "
                "compares with none."
            )
        _check_numbers(to_dict(self), "")
        _check_metadata(self.metadata)
        _check_schedule(self.schedule)
        unknown = set(self.no_cache) - set(graph.nodes(self))
        if unknown:
            raise ConfigError(
                f"no_cache={', '.join(sorted(unknown))}: must name nodes of this pipeline: "
                f"{', '.join(graph.nodes(self))}."
            )
        from pipeline.config import beam_arguments, serve_check  # they import this module

        beam_arguments.check(self)
        serve_check.check(self.serve, self.artifacts)


def _check_folder(name: str, path: str) -> None:
    whole = path if not path or "://" in path else os.path.abspath(os.path.expanduser(path))
    if set(whole) & set("[]*?\\"):
        raise ConfigError(
            f"{name}={path}: {whole} has one of the characters [ ] * ? \\, which TensorFlow and TFX take for "
            "a pattern: name another folder."
        )


def _check_numbers(tree: dict[str, Any], where: str) -> None:
    """Refuses counts that are a slip of the pen; what may be larger has a check of its own."""
    for name, value in tree.items():
        if isinstance(value, dict):
            _check_numbers(value, f"{name}.")
        elif type(value) is int and value > settings.MAX_NUMBER and name != "seed":
            raise ConfigError(f"{where}{name}={value}: must be at most {settings.MAX_NUMBER}.")


def _check_metadata(metadata: Metadata) -> None:
    _one_of("metadata.kind", metadata.kind, ("sqlite", "mysql", "postgresql"))
    if not 0 <= metadata.port <= 65535:
        raise ConfigError(f"metadata.port={metadata.port}: must be from 1 to 65535, or 0 for the usual one.")
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
        raise ConfigError(f"schedule.start={schedule.start}: must be a day such as 2026-01-31.") from None
    for name in ("retries", "retry_minutes", "timeout_hours"):
        # More is longer than Python's dates go.
        if not 0 <= getattr(schedule, name) <= 1_000_000:
            raise ConfigError(f"schedule.{name}={getattr(schedule, name)}: must be from 0 to 1000000.")


def _one_of(name: str, value: str, valid: Iterable[str]) -> None:
    if value not in valid:
        raise ConfigError(f"{name}={value}: must be one of {', '.join(valid)}.")


def to_dict(config: Any) -> dict[str, Any]:
    """Plain JSON form of a configuration or of one section."""
    return json.loads(json.dumps(dataclasses.asdict(config)))


def from_dict(tree: dict[str, Any]) -> Config:
    """The configuration that `to_dict` was made from."""
    return _build(Config, tree, "")


def read(path: str) -> Config:
    """The configuration in a JSON file, as `--print-config` prints it; not checked yet.

    Raises:
      ConfigError: there is none.
    """
    try:
        with open(path, "rb") as file:
            text = file.read(_MOST_BYTES + 1)
        if len(text) > _MOST_BYTES:
            raise ConfigError(f"it is longer than {_MOST_BYTES:,} bytes.")
        # Some editors put a mark in front of the text.
        tree = json.loads(text.decode("utf-8-sig"), object_pairs_hook=_once)
        if not isinstance(tree, dict):
            raise ConfigError("it must be an object, {...}, with names and sections.")
        return from_dict(tree)
    except (OSError, ValueError, OverflowError, RecursionError) as error:
        raise ConfigError(
            f"{path} cannot be read as a configuration, which is JSON as --print-config prints it: {error}"
        ) from error


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of JSON; the last of two values would win without a word."""
    tree = dict(pairs)
    if len(tree) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ConfigError(f"{twice} is there twice in one section; keep one.")
    return tree


def digest(*parts: Any) -> str:
    """Short stable hash of JSON values."""
    text = json.dumps(parts, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def assign(config: Config, assignments: Iterable[str]) -> Config:
    """Applies `section.field=value` strings (`name=`, `root=` and `cache=` have no section).

    Values are JSON or plain words: `train.epochs=3`, `data.source=/data`,
    `train.boundaries=[30,60]`, `evaluate.protocols=center,ten_crop`.

    Raises:
      ConfigError: unknown name, or a value that does not fit the field's type.
    """
    for assignment in assignments:
        key, sep, value = assignment.partition("=")
        if not sep:
            raise ConfigError(f"--set {assignment}: must be section.field=value, such as train.epochs=3.")
        config = _assign(config, key.strip().split("."), value, key.strip())
    return config


def _assign(node: Any, path: list[str], value: str, key: str) -> Any:
    name, rest = path[0], path[1:]
    hints = typing.get_type_hints(type(node))
    if name not in hints:
        raise ConfigError(_unknown(name, f"--set {key}", hints))
    if dataclasses.is_dataclass(hints[name]):
        if not rest:
            fields = ", ".join(typing.get_type_hints(hints[name]))
            raise ConfigError(f"--set {key}: {name} is a section; name one of its fields: {fields}.")
        return dataclasses.replace(node, **{name: _assign(getattr(node, name), rest, value, key)})
    if rest:
        raise ConfigError(f"--set {key}: {name} is a value and has no field {rest[0]}.")
    return dataclasses.replace(node, **{name: _parse(hints[name], value, key)})


def _unknown(name: str, key: str, valid: Iterable[str]) -> str:
    valid = list(valid)
    near = difflib.get_close_matches(name, valid, n=1)
    hint = f" Did you mean {near[0]}?" if near else ""
    return f"{key}: there is no {name}.{hint} Valid here: {', '.join(valid)}."


_NAMES = {bool: "true or false", int: "a whole number", float: "a number", str: "a text"}


def _parse(kind: Any, text: str, key: str) -> Any:
    if kind is str:
        return _text(text, f"--set {key}")
    if typing.get_origin(kind) is tuple:
        items = text.strip().removeprefix("[").removesuffix("]").removeprefix("(").removesuffix(")")
        parts = [p.strip().strip("\"'") for p in items.split(",") if p.strip()]
        return tuple(_parse(typing.get_args(kind)[0], p, key) for p in parts)
    try:
        if kind is bool:
            return {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}[
                text.strip().lower()
            ]
        return kind(text.replace("_", ""))
    except (KeyError, ValueError):
        raise ConfigError(f"--set {key}={text}: must be {_NAMES[kind]}.") from None


def _build(kind: Any, tree: dict[str, Any], where: str) -> Any:
    hints = typing.get_type_hints(kind)
    values = {}
    for name, value in tree.items():
        if name not in hints:
            raise ConfigError(_unknown(name, f"{where}{name}", hints))
        values[name] = _value(hints[name], value, f"{where}{name}")
    return kind(**values)


def _value(hint: Any, value: Any, key: str) -> Any:
    if dataclasses.is_dataclass(hint) and isinstance(value, dict):
        return _build(hint, value, f"{key}.")
    if typing.get_origin(hint) is tuple and isinstance(value, list):
        return tuple(_value(typing.get_args(hint)[0], item, key) for item in value)
    if hint is float and type(value) is int:
        return float(value)
    if type(value) is not hint:
        raise ConfigError(f"{key}={json.dumps(value)}: must be {_NAMES.get(hint, 'a list or a section')}.")
    return _text(value, key) if hint is str else value


def _text(value: str, key: str) -> str:
    # Bytes of a path that are no UTF-8 come as lone surrogates, which no protocol buffer takes.
    if "\0" in value or any("\ud800" <= character <= "\udfff" for character in value):
        raise ConfigError(f"{key}={value!a}: must be UTF-8 text; rename what has this name, or link to it.")
    return value
