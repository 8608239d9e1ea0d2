"""The schema of our examples, and an ExampleValidator that stops the run.

TFX's ExampleValidator writes anomalies down and goes on. Ours raises, so that
nothing is trained on data that is not what the schema says, and it also looks
for what a schema cannot say: a class without any example, an empty split.
"""

import json
import logging
import os
from collections.abc import Mapping, Sequence

import tensorflow as tf
import tensorflow_data_validation as tfdv
from google.protobuf import text_format
from tensorflow_metadata.proto.v0 import anomalies_pb2, schema_pb2, statistics_pb2
from tfx.components.example_validator import executor as example_validator
from tfx.dsl.component.experimental.annotations import InputArtifact, OutputArtifact, Parameter
from tfx.dsl.component.experimental.decorators import component
from tfx.types import artifact_utils, standard_artifacts
from tfx.utils import io_utils

from components import files
from components.data_validation import drift
from components.example_gen.writing.shards import ORIGINAL, SOURCE_FORMAT, SPAN

SPLITS = ("train", "eval")
_SYNSET = "image/class/synset"
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


@component
def ImageExampleValidator(
    statistics: InputArtifact[standard_artifacts.ExampleStatistics],
    schema: InputArtifact[standard_artifacts.Schema],
    anomalies: OutputArtifact[standard_artifacts.ExampleAnomalies],
    code: Parameter[str],
    limits: Parameter[str] = "",
    accepted: Parameter[str] = "",
    allow_missing: Parameter[bool] = False,
) -> None:
    """Validates every split, leaves what TFX's ExampleValidator leaves, and raises when it found
    something.

    Args:
      statistics: with `stats_options(spans=True)` for a source that grows.
      schema: of SchemaGen.
      anomalies: those of each split, and what was measured of the newest span.
      code: the digest of this module, for the cache.
      limits: of `drift.limits`, as JSON, for a source that grows.
      accepted: folder that outlives the runs, for the statistics of the spans that have passed.
      allow_missing: classes may have no example in the eval split.

    Raises:
      DataError: the anomalies, one sentence each; or how a span differs.
    """
    anomalies.split_names, anomalies.span = statistics.split_names, statistics.span
    wanted = io_utils.SchemaReader().read(io_utils.get_only_uri_in_dir(schema.uri))
    present = artifact_utils.decode_split_names(statistics.split_names)
    found = [f"split {s!r} is missing" for s in SPLITS if s not in present]
    splits = {}
    for split in present:
        stats = splits[split] = tfdv.load_stats_binary(
            os.path.join(artifact_utils.get_split_uri([statistics], split), "FeatureStats.pb")
        )
        differing = tfdv.validate_statistics(stats, _with_ours(wanted, stats))
        folder = artifact_utils.get_split_uri([anomalies], split)
        files.make_dirs(folder)
        files.write(
            os.path.join(folder, example_validator.DEFAULT_FILE_NAME),
            differing.SerializeToString(),
        )
        allowed = split == "eval" and allow_missing
        told = describe(differing, stats, wanted, _MEND.get(split, ""), allowed)
        found += [f"split {split!r}: {text}" for text in told]
    if found:
        raise DataError("The data does not fit the schema: " + "; ".join(found) + ".")
    anomalies.set_json_value_custom_property(
        example_validator.ARTIFACT_PROPERTY_BLESSED_KEY,
        dict.fromkeys(present, example_validator.BLESSED_VALUE),
    )
    if limits:
        train, evaluation = splits["train"], splits["eval"]
        check_spans(train, evaluation, json.loads(limits), accepted, anomalies.uri)


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
        drifts: dict[str, float] = {}
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
        measured = {"span": number, "previous": previous, "drift": drifts, "skew": skews}
        drift.write_report(report, measured)
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
    if not any(f.name == _SYNSET and f.WhichOneof("domain_info") for f in schema.feature):
        return []
    seen = {
        bucket.label
        for feature in dataset.features
        if "/".join(feature.path.step) == _SYNSET
        for bucket in feature.string_stats.rank_histogram.buckets
    }
    return [name for name in tfdv.get_domain(schema, _SYNSET).value if name not in seen]
