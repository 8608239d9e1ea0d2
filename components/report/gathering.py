"""What a report says besides the answers of the model, read from the artifacts of the run."""

from __future__ import annotations

import csv
import hashlib
import importlib.metadata
import json
import os
import platform
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import tensorflow as tf
import tensorflow_data_validation as tfdv
from tensorflow_metadata.proto.v0 import anomalies_pb2, statistics_pb2

from components import code_version, files
from components.data_validation import drift
from components.evaluator import evaluation
from components.example_gen import ingest_summary
from components.serving_validator import component as serving_validator

SPLITS = ("train", "eval")
_PACKAGES = ("tensorflow", "keras", "tfx", "tensorflow-model-analysis", "apache-beam", "numpy")
_SIZES = ("image/height", "image/width")
_SYNSET, _FORMAT = "image/class/synset", "image/format"
# Bad images of a split that are listed.
_LISTED = 50


class Sources(NamedTuple):
    """Where the parts of a report come from.

    Attributes:
      examples, statistics, anomalies, model_run, evaluation: folders of artifacts.
      serving: folder of the ServingValidator's blessing; "" where there was none.
      baseline: folder of the pushed version that the candidate was compared with; "" for none.
      baseline_note: which versions were passed over, and why.
      pushed: folder of the version that was pushed; "" for none.
      fingerprint: TFX's, of the files of the source.
      settings: of components.report.component.Spec.
      seconds: of the run's nodes: `node`, `seconds`, `state`; empty where nobody knows them.
    """

    examples: str
    statistics: str
    anomalies: str
    model_run: str
    evaluation: str
    serving: str
    baseline: str
    baseline_note: str
    pushed: str
    fingerprint: str
    settings: Mapping[str, Any]
    seconds: Sequence[Mapping[str, Any]] = ()


def verdict(sources: Sources) -> dict[str, Any]:
    """Whether the model was blessed, served and pushed, and why not; the bounds; the baseline."""
    blessed, reasons = evaluation.verdict(sources.evaluation)
    serving = serving_validator.read(sources.serving) if sources.serving and blessed else None
    asked = sources.settings["config"]["evaluate"]
    return {
        "blessed": blessed,
        "reasons": reasons,
        "served": None if serving is None else not serving.reasons,
        "serving_reasons": [] if serving is None else list(serving.reasons),
        "serving": serving_validator.describe(sources.serving) if serving else "",
        "pushed_version": os.path.basename(sources.pushed),
        "pushed_to": sources.pushed,
        "images": evaluation.example_count(sources.evaluation),
        "protocol": asked["protocol"],
        "bounds": {key: value for key, value in asked.items() if key.startswith("max_")},
        "baseline": os.path.basename(sources.baseline),
        "baseline_note": sources.baseline_note,
    }


def training(model_run: str) -> dict[str, Any]:
    """`history`, a row of numbers an epoch (none of a network that was not trained here), and
    `summary` of models.train.
    """
    summary = json.loads(files.read(os.path.join(model_run, "summary.json")))
    path = os.path.join(model_run, "history.csv")
    text = files.read(path).decode() if files.is_file(path) else ""
    rows = csv.DictReader(text.splitlines())
    history = [{key: float(value) for key, value in row.items()} for row in rows]
    return {"history": history, "summary": summary}


def left_out(examples: str) -> dict[str, Any]:
    """By split, which images ingestion put aside, converted or left out; and which pictures are
    there twice.
    """
    summary = ingest_summary.read_summary(examples)
    splits = {}
    for split, figures in summary["splits"].items():
        lines = files.read(ingest_summary.quarantine_path(examples, split)).decode().splitlines()
        listed = [json.loads(line) for line in lines[:_LISTED]]
        splits[split] = {
            "quarantined": figures["quarantined"],
            "converted": figures["converted"],
            "left_out": figures["left_out"]["count"],
            "left_out_names": [files.one_line(name) for name in figures["left_out"]["names"]],
            "bad_images": [
                {key: files.one_line(str(item[key])) for key in ("name", "source", "reason")}
                for item in listed
            ],
        }
    return {"splits": splits, "duplicates": summary["duplicates"]}


def data(sources: Sources) -> dict[str, Any]:
    """Images, classes, sizes and formats of each split; anomalies and drift."""
    summary = ingest_summary.read_summary(sources.examples)
    splits = {}
    for split in SPLITS:
        figures = summary["splits"][split]
        found = tfdv.load_stats_binary(
            os.path.join(sources.statistics, f"Split-{split}", "FeatureStats.pb")
        )
        features = {"/".join(f.path.step): f for f in drift.overall(found).features}
        splits[split] = {
            "images": figures["examples"],
            "bytes": figures["bytes"],
            "class_counts": _counts(features, _SYNSET),
            "formats": _counts(features, _FORMAT),
            "sizes": {name.removeprefix("image/"): _size(features[name]) for name in _SIZES},
        }
    return {
        "kind": summary["kind"],
        "classes": len(summary["classes"]),
        "spans": summary["spans"],
        "splits": splits,
        "anomalies": _anomalies(sources.anomalies),
        "drift": drift.read_report(sources.anomalies),
        "drift_text": drift.describe(sources.anomalies),
    }


def _counts(
    features: Mapping[str, statistics_pb2.FeatureNameStatistics], name: str
) -> dict[str, int]:
    """How often each value of a text occurs."""
    buckets = features[name].string_stats.rank_histogram.buckets
    return {files.one_line(bucket.label): int(bucket.sample_count) for bucket in buckets}


def _size(feature: statistics_pb2.FeatureNameStatistics) -> dict[str, float]:
    """Smallest, median, mean and largest, in pixels."""
    numbers = feature.num_stats
    return {
        "smallest": numbers.min,
        "median": numbers.median,
        "mean": numbers.mean,
        "largest": numbers.max,
    }


def _anomalies(folder: str) -> list[str]:
    """A sentence for each anomaly that the validator noted and let pass."""
    found = []
    for split in SPLITS:
        path = os.path.join(folder, f"Split-{split}", "SchemaDiff.pb")
        anomalies = anomalies_pb2.Anomalies.FromString(files.read(path))
        for name, info in sorted(anomalies.anomaly_info.items()):
            found.append(f"{split}, {name}: {info.description}")
    return found


def code() -> dict[str, Any]:
    """`commit` ("" outside of a checkout), `changed` (whether files differ from it), `release`."""
    commit, changed = code_version.commit()
    return {"commit": commit, "changed": changed, "release": code_version.release()}


def environment() -> dict[str, Any]:
    """Versions and devices of the process that writes the report."""
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": {name: importlib.metadata.version(name) for name in _PACKAGES},
        "devices": [_device(device) for device in tf.config.list_physical_devices()],
        "cores": len(os.sched_getaffinity(0)),
    }


def _device(device: tf.config.PhysicalDevice) -> str:
    details = tf.config.experimental.get_device_details(device)
    name = details.get("device_name", "")
    return f"{device.device_type} {name}".strip()


def fingerprint(sources: Sources) -> str:
    """sha256 of the places, sizes and times of the source's files, hexadecimal; "" where TFX has
    noted none.
    """
    if not sources.fingerprint:
        return ""
    return hashlib.sha256(sources.fingerprint.encode()).hexdigest()
