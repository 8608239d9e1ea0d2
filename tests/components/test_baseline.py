"""Which pushed model a candidate is compared with, and how it reaches the Evaluator."""

import os
import shutil

import pytest
import tensorflow as tf
from tfx.types import standard_artifacts

from components import baseline, pushed


def saved(path, labels=("a", "b"), protocols=("center",), value=1.0):
    """A SavedModel with an `evaluate` signature; `value` makes it another model."""
    module = tf.Module()
    module.weight = tf.Variable(value)
    module.evaluate = tf.function(
        lambda examples: {
            name: module.weight * tf.ones([tf.size(examples), len(labels)]) for name in protocols
        },
        input_signature=[tf.TensorSpec([None], tf.string, "examples")],
    )
    tf.saved_model.save(module, str(path), {"evaluate": module.evaluate})
    with open(os.path.join(path, "assets", "labels.txt"), "w") as file:
        file.write("".join(f"{label}\n" for label in labels))
    return str(path)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    both = ("center", "ten_crop")
    return {
        "old": saved(folder / "old"),
        "new": saved(folder / "new", value=2.0),
        "three classes": saved(folder / "three", labels=("a", "b", "c")),
        "two protocols": saved(folder / "two", protocols=both),
        "three protocols": saved(folder / "all", protocols=(*both, "multi_scale")),
    }


def found(models, folder, candidate, **versions):
    """Name of the version that `candidate` is compared with; versions are v1="old", v2=..."""
    for number, name in versions.items():
        shutil.copytree(models[name], folder / number.removeprefix("v"))
    version = baseline.newest_comparable(str(folder), models[candidate])
    return version and os.path.relpath(version, folder)


def test_none_when_nothing_was_pushed(models, tmp_path):
    assert found(models, tmp_path / "missing", "new") == ""
    assert found(models, tmp_path, "new") == ""


def test_the_newest_version_counts_by_number(models, tmp_path):
    assert found(models, tmp_path, "new", v9="old", v10="old") == "10"


def test_the_candidates_own_copy_is_passed_over(models, tmp_path):
    assert found(models, tmp_path, "new", v1="old", v2="new") == "1"


def test_a_candidate_that_serves_no_longer_is_compared_with_the_one_that_does(models, tmp_path):
    assert found(models, tmp_path, "old", v1="old", v2="new") == "2"


def test_other_classes_are_passed_over(models, tmp_path):
    assert found(models, tmp_path, "new", v1="old", v2="three classes") == "1"


def test_a_baseline_needs_the_candidates_protocols(models, tmp_path):
    assert found(models, tmp_path, "two protocols", v1="old") == ""
    assert found(models, tmp_path, "two protocols", v2="three protocols") == "2"


def test_a_single_protocol_is_not_compared_with_several(models, tmp_path):
    assert found(models, tmp_path, "new", v1="two protocols") == ""


def test_what_is_no_whole_version_is_passed_over(models, tmp_path):
    shutil.copytree(models["old"], tmp_path / "labels")
    (tmp_path / "7" / "variables").mkdir(parents=True)
    assert found(models, tmp_path, "new", v1="old") == "1"


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("assets/labels.txt", None),
        ("saved_model.pb", b""),
        ("saved_model.pb", b"\xff\xff"),
        ("assets/labels.txt", b"\xff"),
    ],
)
def test_another_tools_model_and_a_damaged_one_are_passed_over(models, tmp_path, caplog, file, content):
    shutil.copytree(models["old"], tmp_path / "2")
    if content is None:
        (tmp_path / "2" / file).unlink()
    else:
        (tmp_path / "2" / file).write_bytes(content)
    assert found(models, tmp_path, "new", v1="old") == "1"
    assert f"no whole model of this project: {tmp_path / '2'}" in caplog.text


def model_at(path):
    artifact = standard_artifacts.Model()
    artifact.uri = str(path)
    return artifact


def execute(candidate, serving, target, **properties):
    output = model_at(target)
    baseline.BaselineExecutor().Do(
        {"candidate": [model_at(candidate)]}, {"model": [output]}, {"serving": str(serving), **properties}
    )
    return output


def test_without_a_driver_the_executor_looks_itself(models, tmp_path):
    shutil.copytree(models["new"], tmp_path / "candidate" / "Format-Serving")
    shutil.copytree(models["old"], tmp_path / "serving" / "3")
    output = execute(tmp_path / "candidate", tmp_path / "serving", tmp_path / "out")
    assert pushed.digest(str(tmp_path / "out" / "Format-Serving")) == pushed.digest(models["old"])
    assert output.get_string_custom_property("version").endswith("serving/3")
    assert not baseline.is_empty(output)


def test_what_the_driver_found_is_what_is_copied(models, tmp_path):
    """A version that is pushed between driver and executor must not be taken: the cache knows the other."""
    shutil.copytree(models["old"], tmp_path / "serving" / "3")
    shutil.copytree(models["three classes"], tmp_path / "serving" / "4")
    output = execute(
        tmp_path, tmp_path / "serving", tmp_path / "out", version=str(tmp_path / "serving" / "3")
    )
    assert pushed.digest(str(tmp_path / "out" / "Format-Serving")) == pushed.digest(models["old"])
    none = execute(tmp_path, tmp_path / "serving", tmp_path / "none", version="none")
    assert baseline.is_empty(none)
    assert not baseline.is_empty(output)
