"""Errors and verdicts of a real TFMA run on scores that are known, against counting by hand."""

import io
import json

import numpy as np
import pytest
import rich.console
import tensorflow as tf
import tensorflow_model_analysis as tfma
from tensorflow_model_analysis.proto import config_pb2

from components.evaluator import evaluation, loading, metric_table, predictions
from components.pusher import component as pusher
from pipeline.local import summary

CLASSES, EXAMPLES = 12, 57
LABELS = np.random.default_rng(0).integers(0, CLASSES, EXAMPLES)


def scores(seed, right):
    """[EXAMPLES, CLASSES]; a part `right` of the labels has the highest score."""
    rng = np.random.default_rng(seed)
    values = rng.random([EXAMPLES, CLASSES]).astype(np.float32)
    values[np.arange(EXAMPLES), LABELS] += rng.random(EXAMPLES) < right
    return values


def counted(values, k):
    """Error by sorting; where scores are equal, the label comes last."""
    wrong = 0
    for row, label in zip(values, LABELS, strict=True):
        order = sorted(range(CLASSES), key=lambda c: (-row[c], c == label))
        wrong += not np.isfinite(row).all() or label not in order[:k]
    return wrong / EXAMPLES


def analysed(folder, candidate, baseline=None, **bounds):
    """Folder of the evaluation of a model that answers with given scores, {protocol: values}."""
    bounds = {"max_top1_error": 0.5, "max_top5_error": 0.5, "max_top1_increase": 0.0, **bounds}
    config = evaluation.eval_config(list(candidate), next(iter(candidate)), CLASSES, **bounds)
    config.model_specs[0].name = tfma.CANDIDATE_KEY
    if baseline:
        config.model_specs.add().CopyFrom(config.model_specs[0])
        config.model_specs[1].name, config.model_specs[1].is_baseline = tfma.BASELINE_KEY, True
    folder.mkdir(exist_ok=True)
    write(str(folder / "data"))
    models = []
    for name, values in ((tfma.CANDIDATE_KEY, candidate), (tfma.BASELINE_KEY, baseline)):
        if values:
            path = saved(str(folder / name), values)
            models.append(
                loading.custom_eval_shared_model(
                    path, model_name=name, eval_config=config, rubber_stamp=not baseline
                )
            )
    asked = models if baseline else models[0]
    with predictions.written_to(str(folder / "out")):
        extractors = predictions.custom_extractors(config, asked)
    tfma.run_model_analysis(
        asked,
        config,
        data_location=str(folder / "data"),
        output_path=str(folder / "out"),
        extractors=extractors,
    )
    return str(folder / "out")


def name_of(row):
    return f"bee/ä {row}.jpg"


def write(path):
    """The examples: a row of the scores and its label each."""
    with tf.io.TFRecordWriter(path) as writer:
        for row, label in enumerate(LABELS):
            number = {"row": [row], evaluation.LABEL: [label]}
            feature = {
                name: tf.train.Feature(int64_list=tf.train.Int64List(value=value))
                for name, value in number.items()
            }
            name = tf.train.BytesList(value=[name_of(row).encode()])
            feature["image/filename"] = tf.train.Feature(bytes_list=name)
            writer.write(
                tf.train.Example(features=tf.train.Features(feature=feature)).SerializeToString()
            )


def saved(path, values):
    module = tf.Module()
    row = {"row": tf.io.FixedLenFeature([], tf.int64)}
    module.evaluate = tf.function(
        lambda examples: {
            name: tf.gather(tf.constant(table), tf.io.parse_example(examples, row)["row"])
            for name, table in values.items()
        },
        input_signature=[tf.TensorSpec([None], tf.string, "examples")],
    )
    tf.saved_model.save(module, path, {"evaluate": module.evaluate})
    return path


def described(classes=12, **bounds):
    """Metrics of a configuration: {name: its thresholds over all examples}."""
    bounds = {"max_top1_error": 0.25, "max_top5_error": 0.125, "max_top1_increase": 1.0, **bounds}
    config = evaluation.eval_config(("center", "ten_crop"), "ten_crop", classes, **bounds)
    return {
        json.loads(metric.config)["name"]: [one.threshold for one in metric.per_slice_thresholds]
        for spec in config.metrics_specs
        for metric in spec.metrics
        if metric.config
    }


@pytest.mark.parametrize("classes", [2, 5, 6, 1000])
def test_the_best_five_are_measured_where_there_are_more(classes):
    found = set(described(classes))
    top5 = {"center_top5", "ten_crop_top5"}
    assert found & top5 == (top5 if classes > 5 else set())
    assert found == {
        f"{protocol}_{key}"
        for protocol in ("center", "ten_crop")
        for key, metric in metric_table.METRICS.items()
        if classes >= metric.least_classes
    }


def test_bounds_are_those_of_the_protocol_that_decides():
    found = described(max_top1_increase=0.0625)
    assert found["center_top1"] == found["center_top5"] == []
    [top1], [top5] = found["ten_crop_top1"], found["ten_crop_top5"]
    assert top1.value_threshold.lower_bound.value == 0.75
    assert top5.value_threshold.lower_bound.value == 0.875
    # As many more errors as are allowed are allowed, whatever floating point makes of the
    # difference.
    allowed = top1.change_threshold.absolute.value
    assert -0.0625 - 1e-8 < allowed < -0.0625
    assert top1.change_threshold.direction == config_pb2.MetricDirection.HIGHER_IS_BETTER
    assert not top5.HasField("change_threshold")
    [without] = described(max_top1_increase=1.0)["ten_crop_top1"]
    assert not without.HasField("change_threshold")


def test_a_model_that_is_as_good_as_the_baseline_is_blessed(tmp_path):
    values = scores(1, 0.6)
    folder = analysed(
        tmp_path, {"center": values}, {"center": values.copy()}, max_top1_increase=0.0
    )
    assert evaluation.verdict(folder) == (True, [])


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    values = {"center": scores(1, 0.6), "ten_crop": scores(2, 0.8)}
    return values, analysed(tmp_path_factory.mktemp("two"), values)


def test_errors_are_those_counted_by_hand(two):
    values, folder = two
    found = evaluation.errors(folder)
    assert sorted(found) == ["center", "ten_crop"]
    for name, errors in found.items():
        assert errors["top1"] == pytest.approx(counted(values[name], 1))
        assert errors["top5"] == pytest.approx(counted(values[name], 5))
    assert evaluation.example_count(folder) == EXAMPLES


def rows_of(folder):
    """(model, protocol, file) -> row of the predictions."""
    rows = predictions.read(folder).to_pylist()
    found = {(row["model"], row["protocol"], row["file"]): row for row in rows}
    assert len(found) == len(rows)
    return found


def test_predictions_are_the_scores_of_every_image(two):
    values, folder = two
    found = rows_of(folder)
    assert len(found) == 2 * EXAMPLES
    for protocol, scores in values.items():
        for number, label in enumerate(LABELS):
            row = found["candidate", protocol, name_of(number)]
            assert row["label"] == label
            np.testing.assert_array_equal(row["probabilities"], scores[number])
            best = sorted(range(CLASSES), key=lambda c: -scores[number][c])[:5]
            assert row["top"] == best
            np.testing.assert_array_equal(row["top_probabilities"], scores[number][best])
    errors = evaluation.errors(folder)
    for name in values:
        ranks = [row["rank"] for (_, protocol, _), row in found.items() if protocol == name]
        for key, k in (("top1", 1), ("top5", 5)):
            assert errors[name][key] == pytest.approx(np.mean([not 1 <= r <= k for r in ranks]))


def test_predictions_of_both_models_stand_side_by_side(tmp_path):
    new, old = scores(1, 0.6), scores(2, 0.8)
    found = rows_of(analysed(tmp_path, {"center": new, "ten_crop": old}, {"center": old}))
    for model, protocol, values in (
        ("candidate", "center", new),
        ("candidate", "ten_crop", old),
        ("baseline", "center", old),
    ):
        for number in range(EXAMPLES):
            row = found.pop((model, protocol, name_of(number)))
            np.testing.assert_array_equal(row["probabilities"], values[number])
    assert not found, "The baseline has no other protocol."


def test_predictions_that_are_not_there_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"predictions\.parquet .*--no-cache Evaluator"):
        predictions.read(str(tmp_path))


def test_errors_of_each_class_add_up(two):
    values, folder = two
    for name in values:
        by_class = evaluation.per_class(folder, name)
        numbers = np.bincount(LABELS, minlength=CLASSES)
        assert sorted(by_class) == sorted(set(LABELS))
        total = sum(error * numbers[label] for label, error in by_class.items())
        assert total / EXAMPLES == pytest.approx(counted(values[name], 1))


def test_a_single_protocol_with_ties_and_scores_that_are_no_numbers(tmp_path):
    values = scores(3, 1.0)
    values[:10] = 0.25  # says nothing: all wrong
    values[10:15, 3] = np.nan
    values[15:20, 3] = np.inf
    folder = analysed(tmp_path, {"center": values})
    found = evaluation.errors(folder)["center"]
    assert found["top1"] == pytest.approx(20 / EXAMPLES) == pytest.approx(counted(values, 1))
    assert found["top5"] == pytest.approx(20 / EXAMPLES) == pytest.approx(counted(values, 5))
    ranks = [row["rank"] for row in rows_of(folder).values()]
    assert sorted(ranks) == [0] * 10 + [1] * (EXAMPLES - 20) + [CLASSES] * 10
    assert evaluation.verdict(folder) == (True, [])


def test_a_single_protocol_against_a_baseline(tmp_path):
    new, old = scores(1, 0.6), scores(2, 0.8)
    folder = analysed(tmp_path, {"center": new}, {"center": old})
    assert evaluation.errors(folder)["center"]["top1"] == pytest.approx(counted(new, 1))
    assert evaluation.errors(folder, "baseline")["center"]["top1"] == pytest.approx(counted(old, 1))
    assert not evaluation.verdict(folder)[0]


def test_a_model_that_is_never_right_passes_where_nothing_is_asked(tmp_path):
    nothing = {"max_top1_error": 1.0, "max_top5_error": 1.0, "max_top1_increase": 1.0}
    folder = analysed(tmp_path, {"center": np.zeros_like(scores(1, 0.6))}, **nothing)
    assert evaluation.verdict(folder) == (True, [])
    assert evaluation.errors(folder)["center"]["top5"] == 1


def test_a_bound_that_is_missed_is_said_so(tmp_path):
    folder = analysed(tmp_path, {"center": scores(1, 0.6)}, max_top1_error=0.1, max_top5_error=0.9)
    blessed, [reason] = evaluation.verdict(folder)
    assert not blessed
    error = counted(scores(1, 0.6), 1)
    assert (
        reason
        == f"center top-1 error is {error:.2%}, the bound is 10.00% (evaluate.max_top1_error)"
    )


def test_a_model_that_is_worse_than_the_baseline_is_said_so(tmp_path):
    new, old = scores(1, 0.6), scores(2, 0.8)
    both = {"center": new, "ten_crop": new}, {"center": old, "ten_crop": old}
    folder = analysed(tmp_path, *both)
    blessed, [reason] = evaluation.verdict(folder)
    assert not blessed
    assert reason.startswith(
        f"center top-1 error is {counted(new, 1):.2%}, the blessed model has {counted(old, 1):.2%}"
    )
    assert evaluation.errors(folder, "baseline")["ten_crop"]["top1"] == pytest.approx(
        counted(old, 1)
    )
    assert evaluation.errors(folder)["ten_crop"]["top1"] == pytest.approx(counted(new, 1))


def test_what_decides_is_compared_although_the_other_protocols_differ(tmp_path):
    new, old = scores(1, 0.6), scores(2, 0.8)
    one, both = {"center": new}, {"ten_crop": scores(3, 0.9), "center": old}
    folders = (
        analysed(tmp_path / "a", one, both),
        analysed(tmp_path / "b", {**one, "ten_crop": new}, {"center": old}),
    )
    for folder in folders:
        assert evaluation.errors(folder, "baseline")["center"]["top1"] == pytest.approx(
            counted(old, 1)
        )
        assert evaluation.errors(folder)["center"]["top1"] == pytest.approx(counted(new, 1))
        blessed, [reason] = evaluation.verdict(folder)
        assert not blessed
        assert reason.startswith(
            f"center top-1 error is {counted(new, 1):.2%}, the blessed model has "
        )
    assert np.isnan(evaluation.errors(folders[1], "baseline")["ten_crop"]["top1"])
    assert evaluation.errors(folders[1])["ten_crop"]["top1"] == pytest.approx(counted(new, 1))


def test_what_no_baseline_has_stops_no_candidate_that_is_better(tmp_path):
    new, old = scores(2, 0.9), scores(1, 0.6)
    folder = analysed(tmp_path, {"center": new, "ten_crop": old}, {"center": old})
    assert evaluation.verdict(folder) == (True, [])


@pytest.mark.parametrize(("classes", "top5"), [(5, False), (6, True)])
def test_five_of_five_classes_say_nothing(classes, top5):
    config = evaluation.eval_config(["center"], "center", classes, 0.5, 0.5, 0.0)
    assert ("center_top5" in str(config)) == top5


@pytest.mark.parametrize("increase", [0.0, 0.05, -0.05])
def test_a_model_may_be_worse_by_exactly_what_is_allowed(tmp_path, increase):
    """And not by one image more, as floats that count images are not exact."""
    values = np.zeros((EXAMPLES, CLASSES), np.float32)
    values[np.arange(EXAMPLES), LABELS] = 1

    def wrong(number):
        return {"center": np.where(np.arange(EXAMPLES)[:, None] < number, -values, values)}

    more = round(increase * EXAMPLES)
    asked = {"max_top1_increase": more / EXAMPLES, "max_top1_error": 1.0, "max_top5_error": 1.0}
    assert evaluation.verdict(analysed(tmp_path / "a", wrong(10 + more), wrong(10), **asked))[0]
    assert not evaluation.verdict(analysed(tmp_path / "b", wrong(11 + more), wrong(10), **asked))[0]


def test_a_metric_is_a_line_of_the_table(tmp_path, monkeypatch):
    """A metric of Keras is measured, pushed along and shown; against its closed form."""
    monkeypatch.setitem(
        metric_table.METRICS,
        "loss",
        metric_table.Metric(
            "cross_entropy",
            "cross-entropy",
            {},
            "SparseCategoricalCrossentropy",
            error=False,
        ),
    )
    values = scores(3, 0.6)
    values /= values.sum(axis=1, keepdims=True)
    other = np.full_like(values, 1 / CLASSES)
    folder = analysed(tmp_path, {"center": values, "ten_crop": other})
    loss = -np.mean(np.log(values[np.arange(EXAMPLES), LABELS]))
    found = evaluation.errors(folder)
    assert found["center"]["loss"] == pytest.approx(loss, rel=1e-5)
    assert found["ten_crop"]["loss"] == pytest.approx(np.log(CLASSES), rel=1e-5)
    assert found["center"]["top1"] == pytest.approx(counted(values, 1))
    pushed = pusher.measured(folder, "center")["protocols"]["ten_crop"]
    assert pushed["cross_entropy"] == pytest.approx(np.log(CLASSES), rel=1e-5)
    shown = rich.console.Console(width=100, file=io.StringIO())
    shown.print(summary.table(folder, ["center", "ten_crop"]))
    lines = shown.file.getvalue().splitlines()
    assert " ".join(lines[1].split()).endswith("top-5 error cross-entropy")
    assert lines[3].split()[-1] == f"{np.log(CLASSES):.4g}"
