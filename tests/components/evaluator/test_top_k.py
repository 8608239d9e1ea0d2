"""Top-k accuracy, computed as TFMA computes it, against counting by hand."""

import math

import numpy as np
import pytest
import tensorflow_model_analysis as tfma
from tensorflow_model_analysis.metrics import metric_types

from components.evaluator import tfma_metrics

SCORES = [
    [0.1, 0.5, 0.2, 0.2],
    [0.4, 0.3, 0.2, 0.1],
    [0.25, 0.25, 0.25, 0.25],
    [0.7, 0.1, 0.1, 0.1],
]
LABELS = [1, 1, 2, 0]


def measured(computation, examples):
    """The value of one computation, its accumulator taken apart and put together again."""
    [rank] = computation.preprocessors
    combiner = computation.combiner
    totals = []
    for extracts in examples:
        total = combiner.create_accumulator()
        for number in rank.process(extracts):
            total = combiner.add_input(total, number)
        totals.append(total)
    merged = combiner.merge_accumulators([combiner.create_accumulator(), *totals])
    return combiner.extract_output(merged)


def extracts(scores, label):
    return {tfma.PREDICTIONS_KEY: np.array(scores), tfma.LABELS_KEY: np.array([label])}


def accuracy(k, scores, labels):
    [computation] = tfma_metrics.TopKAccuracy(k, "a_top").computations()
    examples = [extracts(*one) for one in zip(scores, labels, strict=True)]
    [value] = measured(computation, examples).values()
    return value


@pytest.mark.parametrize(("k", "right"), [(1, 2), (2, 3), (3, 3), (4, 4)])
def test_labels_among_the_best_are_counted(k, right):
    """The third example's scores are all alike: its label is the last of the four."""
    assert accuracy(k, SCORES, LABELS) == right / 4


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_scores_that_are_not_finite_are_right_for_no_k(value):
    assert accuracy(10**9, [[1.0, value, 0.0], [1.0, 0.0, 0.0]], [0, 0]) == 0.5


def test_nothing_has_no_accuracy():
    assert math.isnan(accuracy(1, [], []))


def test_every_model_and_output_is_counted_by_its_own_scores():
    metric = tfma_metrics.TopKAccuracy(1, "a_top1")
    found = metric.computations(
        model_names=["new", "old"], output_names=["a", "b"], example_weighted=True
    )
    scores = {"new": {"a": [0.0, 1.0], "b": [1.0, 0.0]}, "old": {"a": [1.0, 0.0], "b": [0.0, 1.0]}}
    both = {tfma.PREDICTIONS_KEY: scores, tfma.LABELS_KEY: np.array([1])}
    values = {}
    for computation in found:
        [key] = computation.keys
        assert measured(computation, [both]) == {
            key: float(scores[key.model_name][key.output_name][1])
        }
        values[key.model_name, key.output_name] = key
    assert values == {
        (model, output): metric_types.MetricKey(
            name="a_top1", model_name=model, output_name=output, example_weighted=True
        )
        for model in ("new", "old")
        for output in ("a", "b")
    }


def test_models_without_names_are_counted_once():
    [computation] = tfma_metrics.TopKAccuracy(5, "a_top5").computations()
    assert computation.keys == [metric_types.MetricKey(name="a_top5", example_weighted=False)]


def test_preprocessors_of_two_outputs_are_told_apart():
    """TFMA runs those of one name once."""
    found = tfma_metrics.TopKAccuracy(1, "a").computations(
        model_names=["m", "n"], output_names=["a", "b"]
    )
    names = [one.preprocessors[0].name for one in found]
    assert len(set(names)) == 4
    assert any("model 'm', output 'a'" in name for name in names)


def test_the_metric_is_known_by_its_name():
    assert metric_types.registered_metrics()["TopKAccuracy"] is tfma_metrics.TopKAccuracy
    made = tfma_metrics.TopKAccuracy(5, "center_top5")
    assert made.get_config() == {"k": 5, "name": "center_top5"}
