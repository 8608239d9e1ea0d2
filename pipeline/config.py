"""The configuration of a run: one tree of frozen dataclasses, `Config`.

A configuration starts from a preset (`pipeline.presets`) and is changed with
`section.field=value` assignments. Unknown names and values of the wrong type
are errors that say what would be right. No TensorFlow import here.
"""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
import json
import os
import typing
from collections.abc import Iterable
from typing import Any

from models import settings
from models.settings import Model, Train, Transform, Tune

__all__ = [
    "Beam",
    "Config",
    "ConfigError",
    "Data",
    "Evaluate",
    "Model",
    "Serve",
    "Train",
    "Transform",
    "Tune",
    "assign",
    "from_dict",
    "to_dict",
]


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
    # Part of a split that may be quarantined before the run stops.
    max_bad_fraction: float = 0.01
    # Images of more pixels are quarantined before they are decoded.
    max_pixels: int = 100_000_000
    # "curated" imports our schema with the classes of the source; "infer" lets
    # SchemaGen make one; anything else is the path of a schema.pbtxt.
    schema: str = "curated"


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
    host: str = "127.0.0.1"
    rest_port: int = 8501


@dataclasses.dataclass(frozen=True)
class Beam:
    """How the heavy steps run."""

    # Arguments of every Beam job. FnApiRunner is in-process and downloads nothing.
    args: tuple[str, ...] = ("--runner=FnApiRunner",)
    # Worker processes on this machine; 1 stays in process.
    workers: int = 1


@dataclasses.dataclass(frozen=True)
class Config:
    """All settings of one pipeline."""

    name: str = "resnet-digits"
    preset: str = "digits"
    # Everything a run writes, except what `serve.directory` names.
    root: str = "runs"
    cache: bool = True
    data: Data = Data()
    transform: Transform = Transform()
    model: Model = Model()
    train: Train = Train()
    tune: Tune = Tune()
    evaluate: Evaluate = Evaluate()
    serve: Serve = Serve()
    beam: Beam = Beam()

    def check(self) -> None:
        """Finds what cannot run before anything heavy starts.

        Raises:
          ConfigError: the first setting that is wrong, and how to mend it.
        """
        kinds = ("digits", "ilsvrc", "folder", "tfds")
        _one_of("data.kind", self.data.kind, kinds)
        if not self.name or "/" in self.name:
            raise ConfigError(f"name={self.name!r}: must be a word that can name a folder.")
        if "://" in self.root:
            raise ConfigError(
                f"root={self.root}: must be a folder of this machine, for its metadata and logs; "
                "models can go elsewhere with --set serve.directory=gs://BUCKET/FOLDER."
            )
        if self.data.kind not in ("digits", "tfds") and not self.data.source:
            raise ConfigError(
                f"data.source is empty: name the {self.data.kind} images with --set data.source=FOLDER."
            )
        if not 0 <= self.data.max_bad_fraction <= 1:
            raise ConfigError(f"data.max_bad_fraction={self.data.max_bad_fraction}: must be from 0 to 1.")
        if self.data.schema not in ("curated", "infer") and not os.path.isfile(self.data.schema):
            raise ConfigError(
                f"data.schema={self.data.schema}: must be curated, infer or the path of a schema.pbtxt."
            )
        for name in ("train_shards", "eval_shards", "seed", "classes"):
            if getattr(self.data, name) < 0:
                raise ConfigError(f"data.{name}={getattr(self.data, name)}: must be 0 or more.")
        if not 1 <= self.data.max_pixels <= 100_000_000:
            raise ConfigError(
                f"data.max_pixels={self.data.max_pixels}: must be from 1 to 100000000, the most that "
                "evaluation and serving take."
            )
        if not 0 < self.data.holdout < 1:
            raise ConfigError(f"data.holdout={self.data.holdout}: must be between 0 and 1.")
        try:
            settings.check(self.transform, self.model, self.train, self.tune)
        except ValueError as error:
            raise ConfigError(str(error)) from error
        if self.model.ensemble and (self.train.init_from or self.tune.enabled):
            raise ConfigError(
                "model.ensemble: an ensemble is not trained; set train.init_from= and tune.enabled=false."
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
        if self.beam.workers < 1:
            raise ConfigError(f"beam.workers={self.beam.workers}: must be 1 or more.")


def _one_of(name: str, value: str, valid: Iterable[str]) -> None:
    if value not in valid:
        raise ConfigError(f"{name}={value}: must be one of {', '.join(valid)}.")


def to_dict(config: Any) -> dict[str, Any]:
    """Plain JSON form of a configuration or of one section."""
    return json.loads(json.dumps(dataclasses.asdict(config)))


def from_dict(tree: dict[str, Any]) -> Config:
    """The configuration that `to_dict` was made from."""
    return _build(Config, tree, "")


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
        raise ConfigError(_unknown(name, key, hints))
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
    return f"--set {key}: there is no {name}.{hint} Valid here: {', '.join(valid)}."


def _parse(kind: Any, text: str, key: str) -> Any:
    if kind is str:
        return text
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
        names = {bool: "true or false", int: "a whole number", float: "a number"}
        raise ConfigError(f"--set {key}={text}: must be {names.get(kind, kind)}.") from None


def _build(kind: Any, tree: dict[str, Any], where: str) -> Any:
    hints = typing.get_type_hints(kind)
    values = {}
    for name, value in tree.items():
        if name not in hints:
            raise ConfigError(_unknown(name, f"{where}{name}", hints))
        hint = hints[name]
        if dataclasses.is_dataclass(hint):
            value = _build(hint, value, f"{where}{name}.")
        elif typing.get_origin(hint) is tuple:
            value = tuple(value)
        values[name] = value
    return kind(**values)
