"""Drift and skew: how a span differs from the one before it, and its train from its eval split.

TFDV measures: of labels and formats the largest difference of a value's share (L-infinity), of
heights and widths the Jensen-Shannon divergence of their quantiles. Equal-width histograms, TFDV's
default, see noise in small spans and let one huge image hide a change.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from typing import Any, NamedTuple, TypeAlias

import tensorflow_data_validation as tfdv
from tensorflow_data_validation import constants
from tensorflow_metadata.proto.v0 import schema_pb2, statistics_pb2
from tfx_bsl.public.proto import slicing_spec_pb2

from components import files
from components.example_gen.settings import Data
from components.example_gen.writing.shards import SOURCE_FORMAT, SPAN

# The setting of the data that limits each feature's drift.
_DRIFT = {
    "image/class/synset": "max_label_drift",
    SOURCE_FORMAT: "max_format_drift",
    "image/height": "max_size_drift",
    "image/width": "max_size_drift",
}
_SKEW = dict.fromkeys(_DRIFT, "max_skew")
_NUMBERS = ("image/height", "image/width")
_REPORT = "spans.json"
_STATISTICS = "FeatureStats.pb"
_EVAL = "eval"

Statistics: TypeAlias = statistics_pb2.DatasetFeatureStatisticsList


class Span(NamedTuple):
    """The statistics of a span's two splits."""

    train: Statistics
    eval: Statistics


def limits(data: Data) -> dict[str, float]:
    """The limits among the settings of the data."""
    return {name: getattr(data, name) for name in sorted({*_DRIFT.values(), *_SKEW.values()})}


def slicing() -> slicing_spec_pb2.SlicingConfig:
    """Makes TFDV measure every span by itself as well."""
    return slicing_spec_pb2.SlicingConfig(
        slicing_specs=[slicing_spec_pb2.SlicingSpec(feature_keys=[SPAN])]
    )


def overall(statistics: Statistics) -> statistics_pb2.DatasetFeatureStatistics:
    """The statistics of all examples, whatever spans they are from."""
    named = [d for d in statistics.datasets if d.name == constants.DEFAULT_SLICE_KEY]
    return (named or statistics.datasets)[0]


def by_span(statistics: Statistics) -> dict[int, Statistics]:
    """The statistics of every span, the oldest first; none for a source without spans."""
    found = {}
    for dataset in statistics.datasets:
        if dataset.name.startswith(f"{SPAN}_"):
            one = Statistics(datasets=[dataset])
            # TFDV compares the slices that have this name.
            one.datasets[0].name = constants.DEFAULT_SLICE_KEY
            found[int(dataset.name.removeprefix(f"{SPAN}_"))] = one
    return dict(sorted(found.items()))


def drift(
    new: Statistics, old: Statistics, limit: Mapping[str, float]
) -> tuple[dict[str, float], list[str]]:
    """Compares a span with an older one.

    Args:
      limit: of `limits`.

    Returns:
      The distance of every feature, 0..1, and what is above its limit, such as "image/width by 0.5
      (...)".
    """
    return _compare(_DRIFT, limit, "drift_comparator", statistics=new, previous_statistics=old)


def skew(
    train: Statistics, evaluation: Statistics, limit: Mapping[str, float]
) -> tuple[dict[str, float], list[str]]:
    """Compares the splits of a span; as `drift`."""
    return _compare(
        _SKEW, limit, "skew_comparator", statistics=train, serving_statistics=evaluation
    )


def _compare(
    settings: Mapping[str, str],
    limit: Mapping[str, float],
    comparator: str,
    **statistics: Statistics,
) -> tuple[dict[str, float], list[str]]:
    schema = schema_pb2.Schema()
    for name, setting in settings.items():
        feature = schema.feature.add(name=name)
        if name in _NUMBERS:
            feature.type = schema_pb2.INT
            measure = getattr(feature, comparator).jensen_shannon_divergence
            measure.source.type = schema_pb2.HistogramSelection.QUANTILES
        else:
            feature.type = schema_pb2.BYTES
            measure = getattr(feature, comparator).infinity_norm
        measure.threshold = limit[setting]
    anomalies = tfdv.validate_statistics(schema=schema, **statistics)
    distances, exceeded = {}, []
    for info in anomalies.drift_skew_info:
        name = "/".join(info.path.step)
        measured = [*info.drift_measurements, *info.skew_measurements][0]
        distances[name] = measured.value
        if measured.value > measured.threshold:
            # TFDV names the value that differs most, where it is one of a few.
            said = anomalies.anomaly_info[name].description
            match = re.search(r"maximum difference is: (.*?)\.?$", said)
            most = f", most at {match[1]}" if match else ""
            kind = "Jensen-Shannon divergence" if name in _NUMBERS else "L-infinity"
            above = f"data.{settings[name]}={limit[settings[name]]:g}"
            exceeded.append(f"{name} by {measured.value:.3g} ({kind}{most}), above {above}")
    return distances, exceeded


def same(one: Span, other: Span) -> bool:
    """Whether two spans hold the same images, as far as what is measured tells."""
    return [_content(split) for split in one] == [_content(split) for split in other]


def _content(statistics: Statistics) -> list[Any]:
    """What TFDV counts exactly: quantiles and a mean's last digits differ from run to run."""
    [dataset] = statistics.datasets
    found: list[Any] = [dataset.num_examples]
    features = {"/".join(f.path.step): f for f in dataset.features}
    for name in _DRIFT:
        numbers, words = features[name].num_stats, features[name].string_stats
        found.append([numbers.min, numbers.max, round(numbers.mean, 6)])
        found.append(sorted((b.label, b.sample_count) for b in words.rank_histogram.buckets))
    return found


def accept(folder: str, number: int, span: Span) -> None:
    """Keeps the statistics of a span that has passed, for itself and for the spans after it."""
    target = _kept(folder, number)
    both = Statistics(datasets=[*span.train.datasets, *span.eval.datasets])
    # TFDV takes the one with its own name: the training split.
    both.datasets[1].name = _EVAL
    files.make_dirs(os.path.dirname(target))
    files.write(target, both.SerializeToString(deterministic=True))


def accepted(folder: str) -> list[int]:
    """Numbers of the spans that have passed."""
    paths = files.glob(os.path.join(folder, "span-*", _STATISTICS))
    names = (os.path.basename(os.path.dirname(path)).removeprefix("span-") for path in paths)
    return sorted(int(name) for name in names if name.isdigit())


def read(folder: str, number: int) -> Span:
    """What `accept` has kept."""
    train, evaluation = Statistics.FromString(files.read(_kept(folder, number))).datasets
    evaluation.name = constants.DEFAULT_SLICE_KEY
    return Span(Statistics(datasets=[train]), Statistics(datasets=[evaluation]))


def _kept(folder: str, number: int) -> str:
    return os.path.join(folder, f"span-{number}", _STATISTICS)


def write_report(folder: str, report: Mapping[str, Any]) -> None:
    """Writes what was measured beside the anomalies.

    Args:
      report: `span`; `previous`, the one before it or None; `drift` and `skew`, of feature.
    """
    files.write(os.path.join(folder, _REPORT), json.dumps(report, indent=2))


def read_report(folder: str) -> dict[str, Any] | None:
    """What `write_report` wrote: `span`, `previous`, `drift`, `skew`; None for a source without
    spans.
    """
    path = os.path.join(folder, _REPORT)
    return json.loads(files.read(path)) if files.is_file(path) else None


def describe(folder: str) -> str:
    """One line on the spans of an anomalies artifact; "" for a source without spans."""
    report = read_report(folder)
    if report is None:
        return ""
    skew = f"train against eval {max(report['skew'].values()):.2f}"
    if report["previous"] is None:
        return f"no span before span {report['span']} to compare it with, {skew}"
    largest: dict[str, float] = {}
    for name, value in report["drift"].items():
        kind = _DRIFT[name].removeprefix("max_").removesuffix("_drift")
        largest[kind] = max(value, largest.get(kind, 0.0))
    listed = ", ".join(f"{kind} {value:.2f}" for kind, value in sorted(largest.items()))
    return f"span {report['span']} against span {report['previous']}: {listed}, {skew}"
