"""The schema of our examples, and an ExampleValidator that stops the run.

TFX's ExampleValidator writes anomalies down and goes on. Ours raises, so that
nothing is trained on data that is not what the schema says, and it also looks
for what a schema cannot say: a class without any example, an empty split.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import tensorflow as tf
import tensorflow_data_validation as tfdv
from google.protobuf import text_format
from tensorflow_metadata.proto.v0 import anomalies_pb2, schema_pb2, statistics_pb2
from tfx import v1 as tfx
from tfx.components.example_validator import executor as example_validator
from tfx.dsl.components.base import executor_spec
from tfx.types import artifact_utils, standard_component_specs
from tfx.utils import io_utils

SPLITS = ("train", "eval")
_SYNSET = "image/class/synset"
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


def stats_options(classes: int, schema: schema_pb2.Schema | None = None) -> tfdv.StatsOptions:
    """Statistics that keep a bucket for every class and leave image bytes alone.

    Args:
      classes: number of classes.
      schema: only where no schema channel goes into StatisticsGen.
    """
    return tfdv.StatsOptions(
        schema=schema, num_rank_histogram_buckets=max(1000, classes + 1), num_top_values=20
    )


def bytes_schema() -> schema_pb2.Schema:
    """Says that `image/encoded` holds images, and nothing else: no string statistics of bytes."""
    return text_format.Parse(
        'feature { name: "image/encoded" type: BYTES image_domain {} }', schema_pb2.Schema()
    )


class ImageExampleValidatorExecutor(example_validator.Executor):
    """Runs ExampleValidator and raises when it found something."""

    def Do(self, input_dict: Any, output_dict: Any, exec_properties: Any) -> Any:
        """See the base class.

        Raises:
          DataError: the anomalies, one sentence each.
        """
        output = super().Do(input_dict, output_dict, exec_properties)
        statistics = artifact_utils.get_single_instance(input_dict[standard_component_specs.STATISTICS_KEY])
        schema = io_utils.SchemaReader().read(
            io_utils.get_only_uri_in_dir(
                artifact_utils.get_single_uri(input_dict[standard_component_specs.SCHEMA_KEY])
            )
        )
        present = artifact_utils.decode_split_names(statistics.split_names)
        found = [f"split {s!r} is missing" for s in SPLITS if s not in present]
        for split in present:
            stats = tfdv.load_stats_binary(
                os.path.join(artifact_utils.get_split_uri([statistics], split), "FeatureStats.pb")
            )
            uri = artifact_utils.get_split_uri(output_dict[standard_component_specs.ANOMALIES_KEY], split)
            anomalies = anomalies_pb2.Anomalies()
            anomalies.ParseFromString(
                tf.io.gfile.GFile(os.path.join(uri, example_validator.DEFAULT_FILE_NAME), "rb").read()
            )
            found += [f"split {split!r}: {text}" for text in describe(anomalies, stats, schema)]
        if found:
            raise DataError("The data does not fit the schema: " + "; ".join(found) + ".")
        return output


def describe(
    anomalies: anomalies_pb2.Anomalies,
    statistics: statistics_pb2.DatasetFeatureStatisticsList,
    schema: schema_pb2.Schema,
) -> list[str]:
    """One sentence an anomaly of one split: TFDV's, then classes that vanished."""
    dataset = statistics.datasets[0]
    if not dataset.num_examples:
        return ["has no examples"]
    found = [f"{name}: {info.description}" for name, info in sorted(anomalies.anomaly_info.items())]
    if anomalies.HasField("dataset_anomaly_info"):
        found.append(anomalies.dataset_anomaly_info.description)
    missing = _vanished(dataset, schema)
    if missing:
        more = f" and {len(missing) - 5} more" if len(missing) > 5 else ""
        found.append(f"no example of class {', '.join(missing[:5])}{more}")
    return [text.rstrip(". ") for text in found]


def _vanished(dataset: statistics_pb2.DatasetFeatureStatistics, schema: schema_pb2.Schema) -> list[str]:
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


class ImageExampleValidator(tfx.components.ExampleValidator):
    """ExampleValidator that stops the run on anomalies."""

    EXECUTOR_SPEC = executor_spec.ExecutorClassSpec(ImageExampleValidatorExecutor)
