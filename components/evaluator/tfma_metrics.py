"""Top-k accuracy for TFMA, counted as training counts it.

TFMA wraps Keras' metrics. They take a network with equal scores for one that is always in the top
five, and one without finite scores for one that says class 0, and they cost a TensorFlow call for
every class.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import apache_beam as beam
import numpy as np
from tensorflow_model_analysis.metrics import metric_types
from tensorflow_model_analysis.utils import util

# The rank of an example with a score that is not finite: right for no k.
_NEVER = 1 << 62
_Total = tuple[int, int]


class TopKAccuracy(metric_types.Metric):
    """Part of the examples whose label is among the k best scores; ties count against the label.

    Args:
      k: 1 or more.
      name: of the metric.
    """

    def __init__(self, k: int, name: str) -> None:
        super().__init__(_computations, k=k, name=name)


metric_types.register_metric(TopKAccuracy)


def _computations(
    k: int,
    name: str,
    model_names: Sequence[str] | None = None,
    output_names: Sequence[str] | None = None,
    example_weighted: bool = False,
    **_: Any,
) -> list[metric_types.MetricComputation]:
    """A count for every model and output; TFMA calls this."""
    made = []
    for model in model_names or [""]:
        for output in output_names or [""]:
            key = metric_types.MetricKey(
                name=name, model_name=model, output_name=output, example_weighted=example_weighted
            )
            made.append(
                metric_types.MetricComputation([key], [_Rank(model, output)], _Count(key, k))
            )
    return made


class _Rank(metric_types.Preprocessor):
    """Extracts of an example -> how many scores are at least the label's; nothing without any.

    TFMA calls it before the examples are sliced: what goes on is one number and not all scores.
    """

    def __init__(self, model: str, output: str) -> None:
        super().__init__(name=f"rank of the label, model {model!r}, output {output!r}")
        self._place = model, output

    def process(self, extracts: Any) -> Iterator[int]:
        extracts = util.StandardExtracts(extracts)
        scores = np.asarray(extracts.get_predictions(*self._place), np.float64).reshape(-1)
        label = int(np.asarray(extracts.get_labels(*self._place)).reshape(-1)[0])
        if scores.size:  # a baseline need not have every output (components.evaluator.loading)
            yield int(np.sum(scores >= scores[label])) if np.isfinite(scores).all() else _NEVER


class _Count(beam.CombineFn):
    """Ranks -> {key: accuracy}; the accumulator is (right, all)."""

    def __init__(self, key: metric_types.MetricKey, k: int) -> None:
        super().__init__()
        self._key = key
        self._k = k

    def create_accumulator(self) -> _Total:
        return 0, 0

    def add_input(self, total: _Total, rank: int) -> _Total:
        return total[0] + (rank <= self._k), total[1] + 1

    def merge_accumulators(self, totals: Iterable[_Total]) -> _Total:
        right, count = zip(*totals, strict=True)
        return sum(right), sum(count)

    def extract_output(self, total: _Total) -> dict[metric_types.MetricKey, float]:
        right, count = total
        return {self._key: right / count if count else float("nan")}
