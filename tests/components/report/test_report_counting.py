"""Numbers of a report against other programs and naive loops."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import confusion_matrix

from components.evaluator import predictions
from components.report import counting
from components.report.counting import Answers
from tests.helpers.reports import Made

NAMES = [f"class {i}" for i in range(9)]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return Made(tmp_path_factory.mktemp("run") / "made", NAMES, 400)


@pytest.fixture(scope="module")
def answers(made):
    return counting.answers(predictions.read(made.path("evaluation")), "center")


def by_file(made):
    """The images in the order of their files' names."""
    order = sorted(range(len(made.files)), key=lambda number: made.files[number])
    return made.labels[order], made.scores["center"][order]


def few(labels, top, probabilities, ranks=None):
    labels, top = np.array(labels), np.array(top)
    if ranks is None:
        ranks = np.where(labels == top, 1, 2)
    files = np.array([f"{number}.jpg" for number in range(len(labels))])
    return Answers(files, labels, np.array(ranks), top[:, None], np.array(probabilities)[:, None])


def test_confusion_is_that_of_scikit_learn(made, answers):
    labels, scores = by_file(made)
    wanted = confusion_matrix(labels, scores.argmax(1), labels=range(len(NAMES)))
    found = np.zeros_like(wanted)
    for actual, answered, times in counting.confusion(answers):
        found[actual, answered] = times
    np.testing.assert_array_equal(found, wanted)
    np.fill_diagonal(wanted, 0)
    pairs = counting.pairs(answers)
    assert [times for *_, times in pairs] == sorted(wanted[wanted > 0].tolist(), reverse=True)
    assert counting.most_confused(answers, NAMES)[0]["times"] == wanted.max()


def test_errors_of_the_classes_are_those_of_a_loop(made, answers):
    labels, scores = by_file(made)
    rows = counting.classes(answers, NAMES)
    assert sorted(row["label"] for row in rows) == list(range(len(NAMES)))
    errors = [row["error"] for row in rows]
    assert errors == sorted(errors, reverse=True)
    for row in rows:
        own = [s.argmax() for s, label in zip(scores, labels, strict=True) if label == row["label"]]
        wrong = [answer for answer in own if answer != row["label"]]
        assert (row["images"], row["wrong"]) == (len(own), len(wrong))
        times = {NAMES[answer]: wrong.count(answer) for answer in wrong}
        assert row["times"] == max(times.values(), default=0) == times.get(row["taken_for"], 0)


def test_a_class_without_images_comes_last_and_has_no_error():
    last = counting.classes(few([0, 0, 1], [0, 1, 1], [0.9, 0.8, 0.7]), ["a", "b", "c"])[-1]
    assert last["name"] == "c" and last["error"] is None and last["interval"] == [0.0, 1.0]


@given(st.integers(1, 100_000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_intervals_are_wilsons_closed_form(case):
    wrong, images = case
    z, p = 1.959963984540054, wrong / images
    middle = (p + z * z / (2 * images)) / (1 + z * z / images)
    half = z / (1 + z * z / images) * math.sqrt(p * (1 - p) / images + (z / (2 * images)) ** 2)
    wanted = [max(0.0, middle - half), min(1.0, middle + half)]
    assert counting.wilson(wrong, images) == pytest.approx(wanted, abs=1e-9)


def test_errors_have_the_interval_of_their_count(made):
    rows = counting.errors(made.path("evaluation"), ["center", "ten_crop"])
    assert [(row["protocol"], row["metric"]) for row in rows] == [
        ("center", "top1"), ("center", "top5"), ("ten_crop", "top1"), ("ten_crop", "top5"),
    ]  # fmt: skip
    for row in rows:
        wrong = made.wrong(made.scores[row["protocol"]], int(row["metric"][-1]))
        assert row["value"] == pytest.approx(wrong.mean())
        assert row["interval"] == counting.wilson(int(wrong.sum()), len(wrong))
        assert row["baseline"] is None and row["baseline_interval"] is None


def test_what_a_baseline_measured_stands_beside_it(tmp_path):
    made = Made(tmp_path / "made", NAMES, 80, baseline=0.25)
    rows = counting.errors(made.path("evaluation"), ["center", "ten_crop"])
    compared = [(row["metric"], row["baseline"], row["baseline_interval"]) for row in rows]
    assert compared == [
        ("top1", 0.25, counting.wilson(20, 80)), ("top5", None, None),
        ("top1", None, None), ("top5", None, None),
    ]  # fmt: skip
    assert "its interval" in made.written()[1]


def naive_error(confidence, right, bins):
    """Equal-mass bins, one image after the other; the first bins have one more where it must be."""
    order = sorted(range(len(confidence)), key=lambda i: confidence[i])
    size, more = divmod(len(order), bins)
    total, at = 0.0, 0
    for number in range(bins):
        mine = order[at : at + size + (number < more)]
        at += len(mine)
        mean = sum(confidence[i] for i in mine) / len(mine)
        total += abs(mean - sum(right[i] for i in mine) / len(mine)) * len(mine)
    return total / len(order)


@pytest.mark.parametrize("bins", [1, 7, 15])
def test_the_calibration_error_is_that_of_a_loop(made, answers, bins):
    labels, scores = by_file(made)
    right = (scores.argmax(1) == labels).tolist()
    found = counting.reliability(answers, bins)
    wanted = naive_error(scores.max(1).astype(float).tolist(), right, bins)
    assert found["expected_calibration_error"] == pytest.approx(wanted)
    assert len(found["bins"]) == bins and found["images"] == len(labels)
    assert sum(one["images"] for one in found["bins"]) == len(labels)


def test_fewer_images_than_bins_have_a_bin_each():
    found = counting.reliability(few([0, 1, 1], [0, 1, 0], [0.5, 1.0, 0.75]))
    assert [one["confidence"] for one in found["bins"]] == [0.5, 0.75, 1.0]
    assert found["expected_calibration_error"] == pytest.approx((0.5 + 0.75 + 0) / 3)


def test_scores_that_are_not_finite_are_errors_and_no_answers():
    found = few([0, 1, 1], [0, 1, 0], [0.5, np.nan, 0.75], [1, 0, 2])
    assert counting.confusion(found) == [(0, 0, 1), (1, 0, 1)]
    assert counting.reliability(found)["images"] == 2
    assert {row["name"]: row["wrong"] for row in counting.classes(found, ["a", "b"])} == {
        "a": 0,
        "b": 2,
    }
    assert counting.mistakes(found, 5).tolist() == [2]
    assert counting.least_certain(found, 5).tolist() == [0, 2]
    nothing = few([0], [0], [np.nan], [0])
    assert counting.reliability(nothing)["expected_calibration_error"] is None


def test_galleries_begin_with_the_boldest_mistake_and_the_weakest_answer(made, answers):
    labels, scores = by_file(made)
    best, wrong = scores.max(1), scores.argmax(1) != labels
    bold, weak = counting.mistakes(answers, 12), counting.least_certain(answers, 12)
    np.testing.assert_allclose(best[bold], sorted(best[wrong], reverse=True)[:12])
    np.testing.assert_allclose(best[weak], sorted(best)[:12])


def test_a_protocol_without_predictions_is_named():
    with pytest.raises(ValueError, match=r"nothing of the candidate under multi_scale"):
        counting.answers(predictions.SCHEMA.empty_table(), "multi_scale")


def test_predictions_have_the_columns_that_are_counted():
    assert set(counting.COLUMNS) <= set(predictions.SCHEMA.names)
