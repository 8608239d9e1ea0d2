"""Numbers of a report: what the Evaluator saw of every image, counted."""

from __future__ import annotations

import collections
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from scipy import stats

from components.evaluator import evaluation, predictions
from components.evaluator.metric_table import METRICS

COLUMNS = ("file", "label", "model", "protocol", "top", "top_probabilities", "rank")
BINS = 15
# Confused pairs that are listed.
_PAIRS = 30


def first_synonyms(names: Sequence[str]) -> list[str]:
    """The first of ImageNet's synonyms, where no other class has it too."""
    first = [name.split(",")[0] for name in names]
    times = collections.Counter(first)
    return [name if times[short] > 1 else short for name, short in zip(names, first, strict=True)]


class Answers(NamedTuple):
    """What a model said of n images under one protocol, ordered by file and label.

    Attributes:
      files: names [n].
      labels: int32 [n].
      ranks: of the label, int32 [n], from 1; 0 where the scores are not finite.
      top: the best classes [n, k], best first.
      probabilities: theirs, float64 [n, k].
    """

    files: np.ndarray
    labels: np.ndarray
    ranks: np.ndarray
    top: np.ndarray
    probabilities: np.ndarray

    @property
    def finite(self) -> np.ndarray:
        """Which images have an answer, bool [n]."""
        return self.ranks > 0


def answers(table: pa.Table, protocol: str, model: str = "candidate") -> Answers:
    """The rows of a model and protocol.

    Args:
      table: with COLUMNS, of components.evaluator.predictions.

    Raises:
      ValueError: there are none.
    """
    chosen = pc.and_(pc.equal(table["model"], model), pc.equal(table["protocol"], protocol))
    rows = table.filter(chosen).sort_by([("file", "ascending"), ("label", "ascending")])
    count = rows.num_rows
    if not count:
        raise ValueError(f"{predictions.FILE} has nothing of the {model} under {protocol}.")

    def lists(name: str) -> np.ndarray:
        return (
            rows[name].combine_chunks().flatten().to_numpy(zero_copy_only=False).reshape(count, -1)
        )

    return Answers(
        rows["file"].to_numpy(),
        rows["label"].to_numpy(),
        rows["rank"].to_numpy(),
        lists("top"),
        lists("top_probabilities").astype(np.float64),
    )


def wilson(wrong: int, images: int) -> list[float]:
    """The 95 % interval of Wilson's for a share, [low, high]; [0, 1] of no images."""
    if not images:
        return [0.0, 1.0]
    found = stats.binomtest(wrong, images).proportion_ci(method="wilson")
    return [float(found.low), float(found.high)]


def errors(folder: str, protocols: Sequence[str]) -> list[dict[str, Any]]:
    """A row for each protocol and metric that was measured.

    Args:
      folder: of a ModelEvaluation artifact.
      protocols: in the order of the rows.

    Returns:
      `protocol`, `metric` (key of METRICS), `title`, `value`, `interval` (of an error, else None),
      `baseline` and `baseline_interval` (None where nothing was compared).
    """
    images = evaluation.example_count(folder)
    new, old = evaluation.errors(folder), evaluation.errors(folder, "baseline")
    rows = []
    for protocol in protocols:
        for key, metric in METRICS.items():
            value = new.get(protocol, {}).get(key, math.nan)
            before = old.get(protocol, {}).get(key, math.nan)
            if math.isnan(value):
                continue
            rows.append(
                {
                    "protocol": protocol,
                    "metric": key,
                    "title": metric.title,
                    "value": value,
                    "interval": _interval(value, images, metric.error),
                    "baseline": None if math.isnan(before) else before,
                    "baseline_interval": _interval(before, images, metric.error),
                }
            )
    return rows


def _interval(value: float, images: int, error: bool) -> list[float] | None:
    return wilson(round(value * images), images) if error and not math.isnan(value) else None


def classes(found: Answers, names: Sequence[str]) -> list[dict[str, Any]]:
    """A row for each class, the highest top-1 error first; classes without images come last.

    Returns:
      `label`, `name`, `images`, `wrong`, `error` (None of no images), `interval`, `taken_for` (the
      name of the most frequent wrong answer, "" for none) and `times`.
    """
    number = len(names)
    images = np.bincount(found.labels, minlength=number)
    wrong = np.bincount(found.labels[found.ranks != 1], minlength=number)
    most = {actual: (names[other], times) for actual, other, times in reversed(pairs(found))}
    rows = []
    for label, name in enumerate(names):
        count, missed = int(images[label]), int(wrong[label])
        taken_for, times = most.get(label, ("", 0))
        rows.append(
            {
                "label": label,
                "name": name,
                "images": count,
                "wrong": missed,
                "error": missed / count if count else None,
                "interval": wilson(missed, count),
                "taken_for": taken_for,
                "times": times,
            }
        )
    return sorted(rows, key=lambda row: -1 if row["error"] is None else row["error"], reverse=True)


def confusion(found: Answers) -> list[tuple[int, int, int]]:
    """Label, best class and number of images, of all that occur, in this order; without images
    whose scores are not finite.
    """
    both = np.stack([found.labels, found.top[:, 0]], axis=1)[found.finite]
    seen, times = np.unique(both, axis=0, return_counts=True)
    return [(int(a), int(b), int(n)) for (a, b), n in zip(seen, times, strict=True)]


def pairs(found: Answers) -> list[tuple[int, int, int]]:
    """The wrong ones of `confusion`, the most frequent first."""
    wrong = [one for one in confusion(found) if one[0] != one[1]]
    return sorted(wrong, key=lambda one: (-one[2], one[0], one[1]))


def most_confused(found: Answers, names: Sequence[str]) -> list[dict[str, Any]]:
    """The first of `pairs`: `actual`, `answered`, `times`, and their `share` of the class."""
    images = np.bincount(found.labels, minlength=len(names))
    return [
        {
            "actual": names[actual],
            "answered": names[answered],
            "times": times,
            "share": times / int(images[actual]),
        }
        for actual, answered, times in pairs(found)[:_PAIRS]
    ]


def reliability(found: Answers, bins: int = BINS) -> dict[str, Any]:
    """How often an answer is right, by its probability, in bins of equally many images.

    Images whose scores are not finite are left out; where images have one probability, the order of
    their files decides.

    Returns:
      `images`; `bins`: `images`, `confidence` (mean), `accuracy` and `interval` of each; and
      `expected_calibration_error`, the mean of their distances, weighted by the images.
    """
    confidence = found.probabilities[found.finite, 0]
    right = (found.ranks == 1)[found.finite]
    order = np.argsort(confidence, kind="stable")
    rows, distance = [], 0.0
    for part in np.array_split(order, min(bins, len(order))) if len(order) else []:
        mean, accuracy = float(confidence[part].mean()), float(right[part].mean())
        distance += len(part) / len(order) * abs(accuracy - mean)
        interval = wilson(int(right[part].sum()), len(part))
        rows.append(
            {"images": len(part), "confidence": mean, "accuracy": accuracy, "interval": interval}
        )
    return {
        "images": len(order),
        "bins": rows,
        "expected_calibration_error": distance if rows else None,
    }


def mistakes(found: Answers, number: int) -> np.ndarray:
    """Rows of the wrong answers with the highest probabilities, the highest first."""
    wrong = np.flatnonzero(found.finite & (found.top[:, 0] != found.labels))
    return wrong[np.argsort(-found.probabilities[wrong, 0], kind="stable")][:number]


def least_certain(found: Answers, number: int) -> np.ndarray:
    """Rows of the answers with the lowest probabilities, the lowest first."""
    rows = np.flatnonzero(found.finite)
    return rows[np.argsort(found.probabilities[rows, 0], kind="stable")][:number]


def right(evaluation_uri: str, protocol: str) -> dict[tuple[str, int], bool]:
    """Whether a candidate's best answer was right, by file and label of every image.

    Args:
      evaluation_uri: folder of a ModelEvaluation artifact.
      protocol: that was measured.

    Raises:
      FileNotFoundError: it has no predictions.
      ValueError: the protocol was not measured.
    """
    found = answers(predictions.read(evaluation_uri, COLUMNS), protocol)
    keys = zip(found.files.tolist(), found.labels.tolist(), strict=True)
    return dict(zip(keys, (found.ranks == 1).tolist(), strict=True))


def paired(
    first: Mapping[tuple[str, int], bool], second: Mapping[tuple[str, int], bool]
) -> tuple[int, int, int, float]:
    """Compares two models on the images that both have seen (of `right`).

    Returns:
      How many are right with the first alone, with the second alone; how many images both have
      seen; and the two-sided probability of the exact McNemar test.
    """
    both = first.keys() & second.keys()
    one = sum(first[key] and not second[key] for key in both)
    other = sum(second[key] and not first[key] for key in both)
    chance = stats.binomtest(one, one + other).pvalue if one + other else 1.0
    return one, other, len(both), float(chance)
