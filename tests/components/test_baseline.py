"""Which model a candidate is compared with."""

import os

import pytest
import tensorflow as tf
from tfx.components.evaluator import constants
from tfx.types import standard_artifacts

from components.baseline import LatestComparableModel


def saved(folder, labels=("a", "b"), protocols=("center",)):
    """A SavedModel with an `evaluate` signature in an artifact folder."""
    module = tf.Module()
    module.evaluate = tf.function(
        lambda examples: {name: tf.ones([tf.size(examples), len(labels)]) for name in protocols},
        input_signature=[tf.TensorSpec([None], tf.string, "examples")],
    )
    path = os.path.join(folder, "Format-Serving")
    tf.saved_model.save(module, path, {"evaluate": module.evaluate})
    with open(os.path.join(path, "assets", "labels.txt"), "w") as file:
        file.write("".join(f"{label}\n" for label in labels))
    return str(folder)


def model(number, uri):
    artifact = standard_artifacts.Model()
    artifact.id, artifact.uri = number, uri
    return artifact


def blessing(number, of, blessed=True):
    artifact = standard_artifacts.ModelBlessing()
    artifact.id = number
    artifact.set_int_custom_property(constants.ARTIFACT_PROPERTY_CURRENT_MODEL_ID_KEY, of)
    artifact.set_int_custom_property(constants.ARTIFACT_PROPERTY_BLESSED_KEY, int(blessed))
    return artifact


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    same = {i: model(i, saved(folder / str(i))) for i in (1, 2, 3)}
    return {
        **same,
        4: model(4, saved(folder / "4", labels=("a", "b", "c"))),
        5: model(5, saved(folder / "5", protocols=("center", "ten_crop"))),
        6: model(6, str(folder / "gone")),
        7: model(7, saved(folder / "7", protocols=("center", "ten_crop", "multi_scale"))),
    }


def resolve(models, candidate, blessings):
    found = LatestComparableModel().resolve_artifacts(
        None, {"model": list(models.values()), "model_blessing": blessings, "candidate": [models[candidate]]}
    )
    return [m.id for m in found["model"]], [b.id for b in found["model_blessing"]]


def test_none_when_nothing_is_blessed(models):
    assert resolve(models, 1, []) == ([], [])
    assert resolve(models, 1, [blessing(10, 2, blessed=False)]) == ([], [])


def test_the_candidate_is_not_its_own_baseline(models):
    assert resolve(models, 1, [blessing(10, 1)]) == ([], [])


def test_the_latest_blessing_counts(models):
    assert resolve(models, 3, [blessing(10, 1), blessing(11, 2)]) == ([2], [11])
    assert resolve(models, 3, [blessing(12, 1), blessing(11, 2)]) == ([1], [12])


@pytest.mark.parametrize("other", [4, 6])
def test_other_classes_or_a_model_that_is_gone_are_passed_over(models, other):
    assert resolve(models, 3, [blessing(10, 1), blessing(11, other)]) == ([1], [10])


def test_a_baseline_needs_the_candidates_protocols(models):
    assert resolve(models, 5, [blessing(10, 1)]) == ([], [])
    assert resolve(models, 5, [blessing(10, 7)]) == ([7], [10])


def test_a_single_protocol_is_not_compared_with_several(models):
    assert resolve(models, 1, [blessing(10, 5)]) == ([], [])
