"""The schema of our examples, and an ExampleValidator that stops the run.

TFX's ExampleValidator writes anomalies down and goes on. Ours raises, so that
nothing is trained on data that is not what the schema says, and it also looks
for what a schema cannot say: a class without any example, an empty split.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping, Sequence
from typing import Any

import tensorflow as tf
import tensorflow_data_validation as tfdv
from google.protobuf import text_format
from tensorflow_metadata.proto.v0 import anomalies_pb2, schema_pb2, statistics_pb2
from tfx import types
from tfx.components.example_validator import executor as example_validator
from tfx.dsl.components.base import base_component, base_executor, executor_spec
from tfx.types import artifact_utils, component_spec, standard_artifacts, standard_component_specs
from tfx.utils import io_utils, json_utils

from components import code_digest, files
from components.data_validation import drift
from components.example_gen.writing.shards import ORIGINAL, SOURCE_FORMAT, SPAN

SPLITS = ("train", "eval")
_SYNSET = "image/class/synset"
_LIMITS, _ACCEPTED, _ALLOW_MISSING = "limits", "accepted", "allow_missing"
# What can be done about a class without examples in a split.
_MEND = {
    "train": "put images of it there that can be used, or take the class out",
    "eval": (
        "put images of it there (a part that is held out needs two of a class), or go on without"
        " them with --set data.allow_missing_classes=true"
    ),
}
_CURATED = os.path.join(os.path.dirname(__file__), "image_schema.pbtxt")


class DataError(ValueError):
    """The data is not what the schema says."""


def curated_schema(classes: Sequence[str]) -> schema_pb2.Schema:
    """Our schema with the label range and the class names of a data set.

    Args:
      classes: class names (ImageNet: wnids) in label order.
    """
    schema = text_format.Parse(tf.io.gfile.GFile(_CURATED).read(), schema_pb2.Schema())
    label = tfdv.get_feature(schema, "image/class/label")
    label.int_domain.max = len(classes) - 1
    tfdv.set_domain(schema, _SYNSET, schema_pb2.StringDomain(name="synsets", value=classes))
    return schema


def stats_options(
    classes: int, schema: schema_pb2.Schema | None = None, spans: bool = False
) -> tfdv.StatsOptions:
    """Statistics that keep a bucket for every class and leave image bytes alone.

    Args:
      classes: number of classes.
      schema: only where no schema channel goes into StatisticsGen.
      spans: measures every span by itself as well.
    """
    return tfdv.StatsOptions(
        schema=schema,
        num_rank_histogram_buckets=max(1000, classes + 1),
        num_top_values=20,
        slicing_config=drift.slicing() if spans else None,
    )


def bytes_schema() -> schema_pb2.Schema:
    """Says which features hold images, and nothing else: no string statistics of bytes."""
    schema = schema_pb2.Schema()
    for name in ("image/encoded", ORIGINAL):
        schema.feature.add(name=name, type=schema_pb2.BYTES).image_domain.SetInParent()
    return schema


class ImageExampleValidatorExecutor(base_executor.BaseExecutor):
    """Validates every split, leaves what TFX's ExampleValidator leaves, and raises when it found
    something.
    """

    def Do(self, input_dict: Any, output_dict: Any, exec_properties: Any) -> None:
        """See the base class.

        Raises:
          DataError: the anomalies, one sentence each; or how a span differs.
        """
        statistics = artifact_utils.get_single_instance(
            input_dict[standard_component_specs.STATISTICS_KEY]
        )
        result = artifact_utils.get_single_instance(
            output_dict[standard_component_specs.ANOMALIES_KEY]
        )
        result.split_names, result.span = statistics.split_names, statistics.span
        schema = io_utils.SchemaReader().read(
            io_utils.get_only_uri_in_dir(
                artifact_utils.get_single_uri(input_dict[standard_component_specs.SCHEMA_KEY])
            )
        )
        present = artifact_utils.decode_split_names(statistics.split_names)
        found = [f"split {s!r} is missing" for s in SPLITS if s not in present]
        splits = {}
        for split in present:
            stats = splits[split] = tfdv.load_stats_binary(
                os.path.join(artifact_utils.get_split_uri([statistics], split), "FeatureStats.pb")
            )
            anomalies = tfdv.validate_statistics(stats, _with_ours(schema, stats))
            folder = artifact_utils.get_split_uri([result], split)
            files.make_dirs(folder)
            files.write(
                os.path.join(folder, example_validator.DEFAULT_FILE_NAME),
                anomalies.SerializeToString(),
            )
            allowed = split == "eval" and bool(exec_properties.get(_ALLOW_MISSING))
            told = describe(anomalies, stats, schema, _MEND.get(split, ""), allowed)
            found += [f"split {split!r}: {text}" for text in told]
        if found:
            raise DataError("The data does not fit the schema: " + "; ".join(found) + ".")
        result.set_json_value_custom_property(
            example_validator.ARTIFACT_PROPERTY_BLESSED_KEY,
            dict.fromkeys(present, example_validator.BLESSED_VALUE),
        )
        if exec_properties.get(_LIMITS):
            limits = json.loads(exec_properties[_LIMITS])
            accepted = exec_properties[_ACCEPTED]
            check_spans(splits["train"], splits["eval"], limits, accepted, result.uri)


def _with_ours(schema: schema_pb2.Schema, statistics: drift.Statistics) -> schema_pb2.Schema:
    """What ExampleGen adds of its own is fine, whoever wrote the schema."""
    added = {ORIGINAL: schema_pb2.BYTES}
    if drift.by_span(statistics):
        added |= {SPAN: schema_pb2.INT, SOURCE_FORMAT: schema_pb2.BYTES}
    found = schema_pb2.Schema()
    found.CopyFrom(schema)
    for name in added.keys() - {feature.name for feature in schema.feature}:
        found.feature.add(name=name, type=added[name], lifecycle_stage=schema_pb2.DEBUG_ONLY)
    return found


def check_spans(
    train: drift.Statistics,
    evaluation: drift.Statistics,
    limits: Mapping[str, float],
    accepted: str,
    report: str,
) -> None:
    """Lets the spans pass, and keeps their statistics, up to the first that differs too much.

    A span that has passed is looked at again only when its images have changed; all others are
    compared with the one before them, whatever runs they have been in: a refused one, one that came
    late.

    Args:
      train, evaluation: sliced statistics of the two splits.
      limits: of `drift.limits`.
      accepted: folder of the statistics of spans that have passed.
      report: folder for what was measured.

    Raises:
      DataError: a span lacks a split, differs from the one before it, or its splits differ, by more
        than a limit.
    """
    trained, evaluated, passed = (
        drift.by_span(train),
        drift.by_span(evaluation),
        drift.accepted(accepted),
    )
    found: list[str] = []
    for number in sorted({*trained, *evaluated}):
        if number not in trained or number not in evaluated:
            split = "evaluation" if number in trained else "training"
            found.append(f"span {number} has no {split} image that can be used")
            continue
        span = drift.Span(trained[number], evaluated[number])
        previous = max((n for n in (*passed, *trained) if n < number), default=None)
        drifts: dict[str, drift.Distance] = {}
        exceeded: list[str] = []
        if previous is None:
            logging.warning(
                "No span before span %d is known: there is nothing to compare it with.", number
            )
        else:
            before = (
                trained[previous] if previous in trained else drift.read(accepted, previous).train
            )
            drifts, exceeded = drift.drift(span.train, before, limits)
        skews, skewed = drift.skew(*span, limits)
        # The newest span is the last one.
        drift.write_report(report, number, previous, drifts, skews)
        if number in passed and drift.same(span, drift.read(accepted, number)):
            continue
        found += [f"span {number} differs from span {previous} in {text}" for text in exceeded]
        found += [f"the train and eval splits of span {number} differ in {text}" for text in skewed]
        if not found:
            drift.accept(accepted, number, span)
    if found:
        raise DataError(
            "The data has changed: "
            + "; ".join(found)
            + ": look at the new images and their quarantine, or raise the limit if the change is"
            " meant."
        )


def describe(
    anomalies: anomalies_pb2.Anomalies,
    statistics: statistics_pb2.DatasetFeatureStatisticsList,
    schema: schema_pb2.Schema,
    mend: str = "",
    allow_missing: bool = False,
) -> list[str]:
    """One sentence an anomaly of one split: TFDV's, then classes that vanished.

    Args:
      mend: what can be done about classes that vanished.
      allow_missing: says nothing of them.
    """
    dataset = drift.overall(statistics)
    if not dataset.num_examples:
        return ["has no examples"]
    found = [f"{name}: {info.description}" for name, info in sorted(anomalies.anomaly_info.items())]
    if anomalies.HasField("dataset_anomaly_info"):
        found.append(anomalies.dataset_anomaly_info.description)
    missing = [] if allow_missing else _vanished(dataset, schema)
    if missing:
        more = f" and {len(missing) - 5} more" if len(missing) > 5 else ""
        found.append(f"no example of class {', '.join(missing[:5])}{more}{': ' * bool(mend)}{mend}")
    return [text.rstrip(". ") for text in found]


def _vanished(
    dataset: statistics_pb2.DatasetFeatureStatistics, schema: schema_pb2.Schema
) -> list[str]:
    domain = tfdv.get_domain(schema, _SYNSET) if _has_domain(schema) else None
    if domain is None:
        return []
    seen = {
        bucket.label
        for feature in dataset.features
        if _name(feature) == _SYNSET
        for bucket in feature.string_stats.rank_histogram.buckets
    }
    return [name for name in domain.value if name not in seen]


def _has_domain(schema: schema_pb2.Schema) -> bool:
    return any(f.name == _SYNSET and f.WhichOneof("domain_info") for f in schema.feature)


def _name(feature: statistics_pb2.FeatureNameStatistics) -> str:
    return feature.name or "/".join(feature.path.step)


class ImageExampleValidatorSpec(component_spec.ComponentSpec):
    """TFX's, with the limits of drift (JSON), the folder of the spans that have passed, and a
    licence.

    The licence: classes may be missing in the eval split (1). `code` is for the cache.
    """

    PARAMETERS = {
        **standard_component_specs.ExampleValidatorSpec.PARAMETERS,
        _LIMITS: component_spec.ExecutionParameter(type=str, optional=True),
        _ACCEPTED: component_spec.ExecutionParameter(type=str, optional=True),
        _ALLOW_MISSING: component_spec.ExecutionParameter(type=int, optional=True),
        "code": component_spec.ExecutionParameter(type=str),
    }
    INPUTS = standard_component_specs.ExampleValidatorSpec.INPUTS
    OUTPUTS = standard_component_specs.ExampleValidatorSpec.OUTPUTS


class ImageExampleValidator(base_component.BaseComponent):
    """ExampleValidator that stops the run on anomalies, drift and skew.

    Args:
      statistics: channel; with `stats_options(spans=True)` for a source that grows.
      schema: channel.
      limits: of `drift.limits`, for a source that grows.
      accepted: folder that outlives the runs, for the statistics of the spans that have passed.
      allow_missing: classes may have no example in the eval split.
    """

    SPEC_CLASS = ImageExampleValidatorSpec
    EXECUTOR_SPEC = executor_spec.ExecutorClassSpec(ImageExampleValidatorExecutor)

    def __init__(
        self,
        statistics: types.BaseChannel,
        schema: types.BaseChannel,
        limits: Mapping[str, float] | None = None,
        accepted: str = "",
        allow_missing: bool = False,
    ) -> None:
        optional: dict[str, Any] = {_ALLOW_MISSING: 1} if allow_missing else {}
        if limits:
            optional |= {_LIMITS: json.dumps(limits, sort_keys=True), _ACCEPTED: accepted}
        spec = ImageExampleValidatorSpec(
            statistics=statistics,
            schema=schema,
            exclude_splits=json_utils.dumps([]),
            code=code_digest.digest(__name__),
            anomalies=types.Channel(type=standard_artifacts.ExampleAnomalies),
            **optional,
        )
        super().__init__(spec=spec)
