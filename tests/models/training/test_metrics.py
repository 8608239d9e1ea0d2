"""Errors that training and validation report."""

import numpy as np
import pytest

from models.training import metrics


def test_metrics_leave_out_rows_of_weight_zero():
    logits = np.array(
        [[3.0, 0, 0, 0, 0, 0], [3.0, 2.9, 2.8, 2.7, 2.6, 0], [3.0, 0, 0, 0, 0, 0]], np.float32
    )
    found = {}
    for metric in metrics.metrics(classes=6):
        metric.update_state(np.array([0, 5, 1]), logits, sample_weight=np.array([1.0, 1.0, 0.0]))
        found[metric.name] = float(metric.result())
    assert found["top1_error"] == 0.5 and found["top5_error"] == 0.5


def errors(logits, label, classes):
    found = {}
    for metric in metrics.metrics(classes):
        metric.update_state(np.array([label]), np.array([logits], np.float32))
        found[metric.name] = float(metric.result())
    return found["top1_error"], found["top5_error"]


@pytest.mark.parametrize(
    ("logits", "expected"),
    [
        (np.zeros(10), (1, 1)),
        (np.r_[1.0, np.zeros(9)], (0, 0)),
        (np.r_[1.0, 1.0, np.zeros(8)], (1, 0)),
        (np.r_[np.ones(5), np.zeros(5)], (1, 0)),
        (np.r_[np.ones(6), np.zeros(4)], (1, 1)),
        (np.r_[4.0, 5.0, 6.0, 7.0, 8.0, np.zeros(5)], (1, 0)),
        (np.r_[4.0, 5.0, 6.0, 7.0, 8.0, 9.0, np.zeros(4)], (1, 1)),
        (np.full(10, np.nan), (1, 1)),
        (np.r_[1.0, np.nan, np.zeros(8)], (1, 1)),
        (np.r_[np.inf, np.zeros(9)], (1, 1)),
    ],
)
def test_ties_and_infinities_are_errors(logits, expected):
    assert errors(logits, 0, classes=10) == expected
