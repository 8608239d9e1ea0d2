"""The one graph that every runner executes."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Sequence
from typing import Any

import tensorflow as tf
from google.protobuf import text_format
from tensorflow_metadata.proto.v0 import schema_pb2
from tfx import types

# Not by way of tfx.v1: it imports the clients of Google's cloud AI, a fifth of all import time.
from tfx.components import SchemaGen, StatisticsGen, Trainer, Transform, Tuner
from tfx.components.schema_gen.import_schema_gen.component import ImportSchemaGen
from tfx.dsl.components.base import base_node
from tfx.orchestration.pipeline import Pipeline
from tfx.proto import trainer_pb2, transform_pb2

from components import code_digest, files
from components.data_validation import component as data_validation
from components.data_validation import drift
from components.evaluator import baseline, evaluation
from components.evaluator import component as evaluator
from components.example_gen import component, source
from components.example_gen.settings import Data
from components.example_gen.sources import kinds
from components.pusher import component as pusher
from components.report import component as reporter
from components.serving_validator import component as serving_validator
from models.weights import pretrained
from models.weights.named import catalogue, download
from pipeline.config import beam_arguments, commands, metadata, options
from pipeline.config.paths import Paths
from pipeline.config.settings import Config, ConfigError, digest, to_dict

# Longest start of the server that tries a candidate, its warm-up included.
_SERVER_SECONDS = 300.0


def create_pipeline(config: Config) -> Pipeline:
    """From images to a pushed model and a report; nothing runs yet.

    Raises:
      SourceError: the data source is not what `config.data` says.
      ConfigError: the artifacts' place cannot be written.
    """
    paths = Paths(config)
    data = kinds.of(config.data.kind).prepared(config.data, paths.embedded)
    # Looked for once: a span that comes in the meantime would have other classes.
    parts = source.check(data)
    classes = source.classes_of(parts)
    if config.data.classes not in (0, len(classes)):
        raise source.SourceError(
            f"{data.source} has {len(classes)} classes and data.classes says"
            f" {config.data.classes}: mend the source, or say --set data.classes=0 to take what is"
            " there."
        )
    return Pipeline(
        pipeline_name=config.name,
        pipeline_root=paths.artifacts,
        components=_components(config, paths, data, parts),
        enable_cache=config.cache,
        # Whoever runs a node puts the password in (pipeline.config.metadata).
        metadata_connection_config=metadata.connection(config, secret=False),
        beam_pipeline_args=beam_arguments.arguments(config.beam),
    )


def _components(
    config: Config, paths: Paths, data: Data, parts: Sequence[source.Part]
) -> list[base_node.BaseNode]:
    classes = source.classes_of(parts)
    examples = component.example_gen(data, parts).with_id("ExampleGen")
    validation = _validation(config, paths, data, examples.outputs["examples"], classes)
    first, second, gate = validation
    schema, statistics = (second, first) if config.data.schema == "infer" else (first, second)
    # Pixels are never materialised unless the scale stage is on: training
    # reads ExampleGen's bytes and draws its crops from the TransformGraph.
    materialize = config.transform.shorter_side > 0
    transform = Transform(
        examples=examples.outputs["examples"],
        schema=schema.outputs["schema"],
        preprocessing_fn="models.preprocessing.preprocessing_fn",
        splits_config=transform_pb2.SplitsConfig(
            analyze=["train"], transform=["train", "eval"] if materialize else []
        ),
        materialize=materialize,
        custom_config={
            "transform": to_dict(config.transform),
            "code": code_digest.digest("models.preprocessing"),
        },
        disable_statistics=True,
        # Its analyzer measures all in one pass and keeps no partial results.
        disable_analyzer_cache=True,
    )
    # Nothing is learnt from data that the validator has not let pass.
    transform.add_upstream_node(gate)
    inputs = {
        "examples": (
            transform.outputs["transformed_examples"]
            if materialize
            else examples.outputs["examples"]
        ),
        "transform_graph": transform.outputs["transform_graph"],
        "train_args": trainer_pb2.TrainArgs(splits=["train"]),
        "eval_args": trainer_pb2.EvalArgs(splits=["eval"]),
    }
    learning = {
        "transform": to_dict(config.transform),
        **_starting_points(config),
    }
    warm_start = None
    if config.train.warm_start:
        warm_start = baseline.WarmStart(
            transform_graph=transform.outputs["transform_graph"],
            serving=paths.serving,
            network=json.dumps(to_dict(config.model), sort_keys=True),
            transform=json.dumps(to_dict(config.transform), sort_keys=True),
        )
        inputs["base_model"] = warm_start.outputs["model"]
    tuner = None
    if config.tune.enabled:
        tuner = Tuner(
            tuner_fn="models.tune.tuner_fn",
            custom_config={
                **learning,
                "tune": to_dict(config.tune),
                "code": code_digest.digest("models.tune"),
            },
            **inputs,
        )
    trained_by = "models.ensemble" if config.model.ensemble else "models.train"
    trainer = Trainer(
        run_fn=f"{trained_by}.run_fn",
        hyperparameters=tuner.outputs["best_hyperparameters"] if tuner else None,
        custom_config={
            **learning,
            "code": code_digest.digest(trained_by),
            # What `top_k` answers with: "goldfish" rather than n01443537.
            # A window that comes later may have classes that are not among them.
            "names": dict(zip(classes, source.labels_of(parts), strict=True)),
            "protocols": list(config.evaluate.protocols),
            # Outlives the execution id, so that a killed training continues, on other devices too;
            # models.training.arguments decides what a checkpoint fits.
            "checkpoint_dir": config.train.checkpoint_dir or paths.checkpoints,
        },
        **inputs,
    )
    model = trainer.outputs["model"]
    asked = config.evaluate.max_top1_increase < 1
    compared = baseline.Baseline(
        candidate=model, serving=paths.serving, protocol=config.evaluate.protocol if asked else ""
    )
    judge = evaluator.Evaluator(
        examples=examples.outputs["examples"],
        example_splits=["eval"],
        model=model,
        # Where nothing is asked of the comparison, the old model is not evaluated again.
        baseline_model=compared.outputs["model"] if asked else None,
        eval_config=evaluation.eval_config(
            classes=len(classes), **dataclasses.asdict(config.evaluate)
        ),
    )
    serve = config.serve
    validator = None
    if serve.validator != "none":
        settings = {
            "server": serve.validator,
            "images": serve.validator_images,
            "seconds": _SERVER_SECONDS,
            "max_latency_ms": serve.max_latency_ms,
            "max_memory_mb": serve.max_memory_mb,
            "code": code_digest.digest(serving_validator.__name__, "serving.server.__main__"),
        }
        validator = serving_validator.ServingValidator(
            model=model,
            model_blessing=judge.outputs["blessing"],
            examples=examples.outputs["examples"],
            settings=json.dumps(settings, sort_keys=True),
        )
    canary = pusher.Canary(serve.canary_hours, paths.model_config, serve.model_name)
    push = pusher.Pusher(
        model=model,
        model_blessing=judge.outputs["blessing"],
        evaluation=judge.outputs["evaluation"],
        infra_blessing=validator.outputs["blessing"] if validator else None,
        directory=paths.serving,
        protocol=config.evaluate.protocol,
        canary=json.dumps(dataclasses.asdict(canary)) if serve.canary_hours else "",
    )
    report = reporter.Report(
        {
            "examples": examples.outputs["examples"],
            "statistics": statistics.outputs["statistics"],
            "anomalies": gate.outputs["anomalies"],
            "model_run": trainer.outputs["model_run"],
            "baseline": compared.outputs["model"],
            "evaluation": judge.outputs["evaluation"],
            "pushed_model": push.outputs["pushed_model"],
            **({"serving": validator.outputs["blessing"]} if validator else {}),
        },
        _told(config),
    )
    nodes = [warm_start, tuner, trainer, compared, judge, validator, push, report]
    return [examples, *validation, transform, *(node for node in nodes if node)]


def _told(config: Config) -> dict[str, Any]:
    """What the report says of the settings."""
    # It is of this run alone, and the next one should not repeat it.
    config = dataclasses.replace(config, no_cache=())
    return {
        "config": to_dict(config),
        "changed": options.changes(to_dict(config)),
        "commands": commands.after(config),
    }


def _starting_points(config: Config) -> dict[str, Any]:
    """Settings of model and training, with the exact version of every model that they start from.

    A folder of pushed models gets new versions: the cache has to see which one is meant.
    """
    model, train = to_dict(config.model), to_dict(config.train)
    start = config.train.init_from
    try:
        model["ensemble"] = [pretrained.resolve(path) for path in config.model.ensemble]
        if catalogue.is_name(start):
            # The name stays: a step on another machine has the file in another place, or gets it.
            contents: list[Any] = [download.fetch(start).sha256]
        else:
            train["init_from"] = pretrained.resolve(start) if start else ""
            contents = _state(train["init_from"])
    except ValueError as error:
        raise source.SourceError(str(error)) from error
    except tf.errors.OpError as error:
        raise source.SourceError(
            f"train.init_from or model.ensemble cannot be read: {files.reason(error)}."
        ) from error
    return {"model": model, "train": train, "start": contents}


def _state(path: str) -> list[int]:
    """Files are replaced under the same name."""
    file = os.stat(path) if path and os.path.isfile(path) else None
    return [file.st_size, file.st_mtime_ns] if file else []


def _validation(
    config: Config, paths: Paths, data: Data, examples: types.BaseChannel, classes: Sequence[str]
) -> list[base_node.BaseNode]:
    """Schema, statistics and the gate; the node that makes the schema comes first if it can."""
    growing = source.has_spans(data)
    if config.data.schema == "infer":
        statistics = StatisticsGen(
            examples=examples,
            stats_options=data_validation.stats_options(
                len(classes), data_validation.bytes_schema(), spans=growing
            ),
        )
        schema = SchemaGen(statistics=statistics.outputs["statistics"], infer_feature_shape=True)
        nodes = [statistics, schema]
    else:
        schema = ImportSchemaGen(
            schema_file=_schema_file(paths, _schema_text(config.data.schema, classes))
        ).with_id("SchemaGen")
        statistics = StatisticsGen(
            examples=examples,
            schema=schema.outputs["schema"],
            stats_options=data_validation.stats_options(len(classes), spans=growing),
        )
        nodes = [schema, statistics]
    gate = data_validation.ImageExampleValidator(
        statistics=statistics.outputs["statistics"],
        schema=schema.outputs["schema"],
        code=code_digest.digest(data_validation.__name__),
        limits=json.dumps(drift.limits(data)) if growing else "",
        accepted=os.path.join(paths.spans, source.key(data)) if growing else "",
        allow_missing=data.allow_missing_classes,
    ).with_id("ExampleValidator")
    return [*nodes, gate]


def _schema_text(setting: str, classes: Sequence[str]) -> str:
    """The schema that `data.schema` names; SourceError: it cannot be read, or is none."""
    if setting == "curated":
        return text_format.MessageToString(data_validation.curated_schema(classes))
    try:
        with tf.io.gfile.GFile(setting) as file:
            text = file.read()
        text_format.Parse(text, schema_pb2.Schema())
    except (tf.errors.OpError, text_format.ParseError, UnicodeDecodeError) as error:
        raise source.SourceError(
            f"data.schema={setting} cannot be read as the text of a TensorFlow Metadata schema: "
            f"{files.reason(error)}."
        ) from error
    return text


def _schema_file(paths: Paths, text: str) -> str:
    """Writes a schema once; the name says what is in it, as TFX's cache looks at the name alone."""
    path = os.path.join(paths.schemas, f"{digest(text)}.pbtxt")
    try:
        if not files.is_file(path):
            files.make_dirs(paths.schemas)
            files.write(path, text)
    except (OSError, tf.errors.OpError) as error:
        # Of a bucket without rights, of one that is not there, of a file system that TensorFlow has
        # not.
        raise ConfigError(
            f"artifacts={paths.artifacts}: {paths.schemas} cannot be written:"
            f" {files.reason(error)}."
        ) from error
    return path
