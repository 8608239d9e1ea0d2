"""Whether two runners have given the same outputs, job by job."""

from __future__ import annotations

import collections
import glob
import hashlib
import os
from typing import Any

import numpy as np
import tensorflow as tf
import tensorflow_data_validation as tfdv
from tfx.types import artifact_utils

from components.evaluator import evaluation
from models.pixels import augmentation

# Sums of many numbers in another order; parts of an image mean are in 0..255.
TOLERANCE = 1e-6


def compare(job: str, one: dict[str, Any], other: dict[str, Any]) -> str:
    """A sentence on whether the outputs of a job, artifacts by name, are equal."""
    return {
        "ExampleGen": _examples,
        "StatisticsGen": _statistics,
        "Transform": _transform,
        "Evaluator": _evaluation,
    }[job](one, other)


def records(job: str, outputs: dict[str, Any]) -> int:
    """Records that a job has read."""
    if job == "ExampleGen":
        return sum(_digests(outputs["examples"]).values())
    if job == "StatisticsGen":
        return sum(split.num_examples for split in _splits(outputs["statistics"]).values())
    if job == "Transform":
        return sum(_constants(outputs).class_counts)
    return evaluation.example_count(outputs["evaluation"].uri)


def shard_count(examples: Any) -> int:
    """Files of an Examples artifact."""
    return len(glob.glob(os.path.join(examples.uri, "Split-*", "*")))


def written(staging: str) -> int:
    """Shards that an ingestion has finished so far."""
    return len(glob.glob(os.path.join(staging, "*", "done", "*")))


def _digests(examples: Any) -> collections.Counter[tuple[str, bytes]]:
    found: collections.Counter[tuple[str, bytes]] = collections.Counter()
    for split in artifact_utils.decode_split_names(examples.split_names):
        files = sorted(glob.glob(os.path.join(examples.uri, f"Split-{split}", "*")))
        for record in tf.data.TFRecordDataset(files).as_numpy_iterator():
            found[split, hashlib.sha256(record).digest()] += 1
    return found


def _examples(one: dict[str, Any], other: dict[str, Any]) -> str:
    expected, got = _digests(one["examples"]), _digests(other["examples"])
    if expected == got:
        return "same records"
    return (
        f"{sum((expected - got).values())} records missing, {sum((got - expected).values())} too"
        " many"
    )


def _splits(statistics: Any) -> dict[str, Any]:
    found = {}
    for split in artifact_utils.decode_split_names(statistics.split_names):
        path = os.path.join(statistics.uri, f"Split-{split}", "FeatureStats.pb")
        found[split] = tfdv.load_stats_binary(path).datasets[0]
    return found


def _statistics(one: dict[str, Any], other: dict[str, Any]) -> str:
    expected, got = (
        {(s, *k): v for s, d in _splits(x["statistics"]).items() for k, v in _figures(d).items()}
        for x in (one, other)
    )
    if expected.keys() != got.keys():
        return f"different figures: {sorted(expected.keys() ^ got.keys())[:3]}"
    off = [
        key for key, value in expected.items() if not np.isclose(value, got[key], rtol=TOLERANCE)
    ]
    return (
        f"{len(off)} of {len(expected)} figures differ: {off[:3]}"
        if off
        else f"{len(expected)} figures"
    )


def _figures(dataset: Any) -> dict[tuple, float]:
    """All exact figures; quantiles are approximate by design and depend on the order."""
    found: dict[tuple, float] = {("", "examples"): dataset.num_examples}
    for feature in dataset.features:
        name = ".".join(feature.path.step)
        stats = feature.num_stats if feature.HasField("num_stats") else feature.string_stats
        if feature.HasField("bytes_stats"):
            stats = feature.bytes_stats
        for field in (
            "mean",
            "std_dev",
            "min",
            "max",
            "num_zeros",
            "unique",
            "avg_length",
            "avg_num_bytes",
        ):
            if hasattr(stats, field):
                found[name, field] = getattr(stats, field)
        for field in ("num_non_missing", "num_missing", "tot_num_values"):
            found[name, field] = getattr(stats.common_stats, field)
        for bucket in getattr(getattr(stats, "rank_histogram", None), "buckets", []):
            found[name, "rank", bucket.label] = bucket.sample_count
    return found


def _constants(outputs: dict[str, Any]) -> augmentation.Constants:
    pattern = os.path.join(outputs["transform_graph"].uri, "**", augmentation.CONSTANTS_FILE)
    [path] = glob.glob(pattern, recursive=True)
    return augmentation.read_constants(path)[0]


def _transform(one: dict[str, Any], other: dict[str, Any]) -> str:
    expected, got = _constants(one), _constants(other)
    if (expected.labels, expected.class_counts) != (got.labels, got.class_counts):
        return "different classes"
    names = ("pixel_mean", "channel_mean", "covariance")
    off = max(np.abs(getattr(expected, n) / getattr(got, n) - 1).max() for n in names)
    return f"mean and covariance to {off:.0e}" if off < TOLERANCE else f"different by {off:.1e}"


def _evaluation(one: dict[str, Any], other: dict[str, Any]) -> str:
    expected, got = one["evaluation"].uri, other["evaluation"].uri
    same = evaluation.errors(expected) == evaluation.errors(got)
    for protocol in evaluation.errors(expected):
        same = same and evaluation.per_class(expected, protocol) == evaluation.per_class(
            got, protocol
        )
    return "same errors, overall and a class" if same else "different errors"
