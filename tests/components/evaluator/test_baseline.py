"""Which pushed model a candidate is compared with, and how it reaches the Evaluator."""

import os
import shutil

import pytest
import tensorflow as tf
from tfx.orchestration.portable import data_types
from tfx.types import channel_utils, standard_artifacts

from components import pushed
from components.evaluator import baseline, comparable
from components.pusher import component as pusher


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
        "ten crop": saved(folder / "ten", protocols=("ten_crop",)),
    }


def look(models, folder, candidate, protocol="center", **versions):
    """What `candidate` is compared with; versions are v1="old", v2=..."""
    for number, name in versions.items():
        shutil.copytree(models[name], folder / number.removeprefix("v"))
    return comparable.newest_comparable(str(folder), models[candidate], protocol)


def found(models, folder, candidate, protocol="center", **versions):
    """Its name."""
    version = look(models, folder, candidate, protocol, **versions).path
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


@pytest.mark.parametrize(
    ("candidate", "served"), [("new", "two protocols"), ("two protocols", "old")]
)
def test_the_protocol_that_decides_is_enough_to_compare(models, tmp_path, candidate, served):
    assert found(models, tmp_path, candidate, v1=served) == "1"


def test_a_version_without_the_protocol_that_decides_is_not_passed_over_in_silence(
    models, tmp_path
):
    with pytest.raises(
        ValueError, match=r"compared with .*/2, which was exported with evaluate.protocols=ten_"
    ):
        found(models, tmp_path, "new", v1="old", v2="ten crop")
    assert look(models, tmp_path, "new", protocol="") == (
        "",
        "no comparison is asked for (evaluate.max_top1_increase=1)",
    )


def test_what_was_passed_over_is_said(models, tmp_path):
    note = "passed over version 2 (it has other classes)"
    assert look(models, tmp_path, "new", v1="old", v2="three classes") == (
        str(tmp_path / "1"),
        note,
    )


def test_all_that_was_passed_over_is_said_newest_first(models, tmp_path):
    versions = {"v1": "old", "v2": "three classes", "v3": "new", "v4": "three classes"}
    version, note = look(models, tmp_path, "new", **versions)
    other = "it has other classes"
    assert (version, note) == (
        str(tmp_path / "1"),
        f"passed over version 4 ({other}); version 2 ({other})",
    )
    shutil.rmtree(tmp_path / "1")
    assert look(models, tmp_path, "new") == ("", note)


def test_protocols_that_cannot_be_compared_are_said_with_what_to_set(models, tmp_path):
    shutil.copytree(models["two protocols"], tmp_path / "3")
    with pytest.raises(ValueError) as caught:
        look(models, tmp_path, "new", protocol="multi_scale")
    assert (
        str(caught.value)
        == f"The candidate cannot be compared with {tmp_path / '3'}, which was exported with"
        " evaluate.protocols=center,ten_crop: set evaluate.protocol (now multi_scale) to one"
        " that both have, or evaluate.max_top1_increase=1 to push without comparison."
    )


def test_a_model_without_the_signature_is_passed_over(models, tmp_path):
    tf.saved_model.save(tf.Module(), str(tmp_path / "5"))
    shutil.copytree(
        os.path.join(models["old"], "assets"), tmp_path / "5" / "assets", dirs_exist_ok=True
    )
    note = "passed over version 5 (no whole model of this project: it has no signature evaluate)"
    assert look(models, tmp_path, "new", v1="old") == (str(tmp_path / "1"), note)


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (KeyError(), "KeyError"),
        (ValueError("One.\nTwo."), "One"),
        (ValueError("v1.5 is old"), "v1.5 is old"),
    ],
)
def test_an_error_is_said_in_a_line(error, line):
    assert comparable._first_line(error) == line


def damaged(version, file, how):
    path = version / file
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data[: len(data) // 2] if how == "cut" else data)
    if how == "missing":
        path.unlink()


DATA, INDEX = "variables/variables.data-00000-of-00001", "variables/variables.index"


@pytest.mark.parametrize(
    ("file", "how"),
    [(file, how) for file in (DATA, INDEX) for how in ("missing", "cut", "changed")]
    + [("saved_model.pb", "changed"), ("assets.extra/sha256sums", "changed")],
)
def test_a_damaged_version_is_passed_over_with_a_sentence(models, tmp_path, file, how):
    first = pusher.push(models["old"], str(tmp_path))
    second = pusher.push(models["ten crop"], str(tmp_path))
    damaged(tmp_path / second, file, how)
    version, note = look(models, tmp_path, "new")
    assert version == first
    assert note.startswith(f"passed over version {os.path.basename(second)} (")
    # That it is a copy of the candidate, but for the damage, is no reason to push nothing.
    assert pusher.push(models["ten crop"], str(tmp_path)) not in (first, second)


@pytest.mark.parametrize("file", [DATA, INDEX])
def test_a_damaged_version_without_checksums_is_noticed(models, tmp_path, file):
    shutil.copytree(models["old"], tmp_path / "2")
    damaged(tmp_path / "2", file, "cut")
    version, note = look(models, tmp_path, "new", v1="old")
    assert version == str(tmp_path / "1")
    assert note.startswith("passed over version 2 (it is damaged: ")


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
def test_another_tools_model_and_a_damaged_one_are_passed_over(models, tmp_path, file, content):
    shutil.copytree(models["old"], tmp_path / "2")
    if content is None:
        (tmp_path / "2" / file).unlink()
    else:
        (tmp_path / "2" / file).write_bytes(content)
    version, note = look(models, tmp_path, "new", v1="old")
    assert version == str(tmp_path / "1")
    assert note.startswith("passed over version 2 (no whole model of this project: ")


def model_at(path):
    artifact = standard_artifacts.Model()
    artifact.uri = str(path)
    return artifact


def execute(candidate, serving, target, **properties):
    output = model_at(target)
    baseline.Baseline_Executor().Do(
        {"candidate": [model_at(candidate)]},
        {"model": [output]},
        {"serving": str(serving), "protocol": "center", **properties},
    )
    return output


def test_without_a_driver_the_executor_looks_itself(models, tmp_path):
    shutil.copytree(models["new"], tmp_path / "candidate" / "Format-Serving")
    shutil.copytree(models["old"], tmp_path / "serving" / "3")
    output = execute(tmp_path / "candidate", tmp_path / "serving", tmp_path / "out")
    assert pushed.checksums(str(tmp_path / "out" / "Format-Serving")) == pushed.checksums(
        models["old"]
    )
    assert output.get_string_custom_property("version").endswith("serving/3")
    assert not baseline.is_empty(output)


def test_what_the_driver_found_is_what_is_copied(models, tmp_path):
    """A version that is pushed between driver and executor must not be taken: the cache knows the
    other.
    """
    shutil.copytree(models["old"], tmp_path / "serving" / "3")
    shutil.copytree(models["three classes"], tmp_path / "serving" / "4")
    output = execute(
        tmp_path, tmp_path / "serving", tmp_path / "out", version=str(tmp_path / "serving" / "3")
    )
    assert pushed.checksums(str(tmp_path / "out" / "Format-Serving")) == pushed.checksums(
        models["old"]
    )
    none = execute(tmp_path, tmp_path / "serving", tmp_path / "none", version="none")
    assert baseline.is_empty(none)
    assert not baseline.is_empty(output)


def test_the_driver_looks_before_the_cache_and_says_what_it_found(models, tmp_path):
    shutil.copytree(models["new"], tmp_path / "candidate" / "Format-Serving")
    serving, driver = tmp_path / "serving", baseline.BaselineDriver(None)

    def looked():
        info = data_types.ExecutionInfo(
            input_dict={"candidate": [model_at(tmp_path / "candidate")]},
            exec_properties={"serving": str(serving), "protocol": "center"},
        )
        properties = driver.run(info).exec_properties
        assert sorted(properties) == ["note", "version"]
        return properties["version"].string_value, properties["note"].string_value

    assert looked() == ("none", "")
    shutil.copytree(models["three classes"], serving / "4")
    assert looked() == ("none", "passed over version 4 (it has other classes)")
    shutil.copytree(models["old"], serving / "3")
    assert looked() == (str(serving / "3"), "passed over version 4 (it has other classes)")


def test_what_was_found_is_noted_beside_the_copy(models, tmp_path):
    shutil.copytree(models["old"], tmp_path / "serving" / "3")
    version = str(tmp_path / "serving" / "3")
    for name, properties, expected in (
        ("a", {"version": version, "note": "a note"}, (version, "a note")),
        ("b", {"version": version}, (version, "")),
        ("c", {"version": "none", "note": "a note"}, ("", "a note")),
    ):
        output = execute(tmp_path, tmp_path / "serving", tmp_path / name, **properties)
        noted = [output.get_string_custom_property(key) for key in ("version", "note")]
        assert tuple(noted) == expected
        assert os.path.exists(tmp_path / name / "Format-Serving" / "saved_model.pb") == bool(
            expected[0]
        )


def test_components_hand_their_settings_on():
    model, graph = standard_artifacts.Model(), standard_artifacts.TransformGraph()
    channels = channel_utils.as_channel([model]), channel_utils.as_channel([graph])
    made = baseline.Baseline(candidate=channels[0], serving="a folder", protocol="center")
    assert made.spec.inputs["candidate"] is channels[0]
    assert {name: made.exec_properties[name] for name in ("serving", "protocol")} == {
        "serving": "a folder",
        "protocol": "center",
    }
    settings = {"serving": "a folder", "network": "{}", "transform": "{}"}
    start = baseline.WarmStart(transform_graph=channels[1], **settings)
    assert start.spec.inputs["transform_graph"] is channels[1]
    assert start.exec_properties == settings
    for component in (made, start):
        assert component.outputs["model"].type is standard_artifacts.Model
