"""Pushing: whole versions, rising numbers, and none twice."""

import json
import os
import shutil
import subprocess
import time

import pytest
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2
from tfx.components.pusher import executor as tfx_pusher
from tfx.proto import pusher_pb2
from tfx.types import standard_artifacts as sa
from tfx.utils import proto_utils

from components import code_digest, pushed
from components.pusher import component as pusher
from components.pusher import identity
from models.weights import pretrained
from serving.server import textproto
from serving.server.server_config import ModelSettings
from tests.helpers import warm


def saved(path, value=1.0):
    module = tf.Module()
    module.weight = tf.Variable(tf.fill([300, 300], value))
    module.call = tf.function(
        lambda x: x * module.weight[0, 0], input_signature=[tf.TensorSpec([None])]
    )
    tf.saved_model.save(module, str(path), {"serving_default": module.call})
    return str(path)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    return saved(folder / "one"), saved(folder / "two", 2.0)


def shown(folder):
    return [name for name in os.listdir(folder) if not name.startswith(".")]


def answer(path):
    loaded = tf.saved_model.load(path)
    return (
        next(iter(loaded.signatures["serving_default"](tf.constant([1.0])).values())).numpy().item()
    )


def test_copies_are_equal_and_other_weights_are_not(models, tmp_path):
    one, two = models
    shutil.copytree(one, tmp_path / "copy")
    assert pushed.checksums(one) == pushed.checksums(str(tmp_path / "copy"))
    assert pushed.checksums(one) != pushed.checksums(two)


def test_the_same_model_is_pushed_once_and_another_one_after_it(models, tmp_path):
    folder, (one, two) = str(tmp_path / "serving"), models
    first = pusher.push(one, folder)
    assert pusher.push(one, folder) == first
    assert shown(folder) == [os.path.basename(first)]
    second = pusher.push(two, folder)
    third = pusher.push(one, folder)
    assert pretrained.versions(folder) == [third, second, first]
    assert [answer(path) for path in (first, second, third)] == [1.0, 2.0, 1.0]


def test_versions_rise_although_the_clock_was_wrong(models, tmp_path):
    future = str(int(time.time()) + 10**6)
    shutil.copytree(models[1], tmp_path / future)
    assert int(os.path.basename(pusher.push(models[0], str(tmp_path)))) == int(future) + 1


def test_two_pushes_at_once_are_two_whole_versions(tmp_path):
    """Of two pipelines with one folder: no file of a version is of the other's."""
    folder, models = str(tmp_path / "serving"), ["a" * 9, "b" * 9]
    for model in models:
        (tmp_path / model).mkdir()
        for name in ("saved_model.pb", *map(str, range(300))):
            (tmp_path / model / name).write_text(model)
    code = "import sys; from components.pusher import component; print('ready', flush=True); "
    code += "input(); component.push(*sys.argv[1:])"
    runs = [
        subprocess.Popen(
            [*warm.python(), "-c", code, str(tmp_path / model), folder],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )
        for model in models
    ]  # fmt: skip
    assert [run.stdout.readline() for run in runs] == [b"ready\n"] * 2
    for run in runs:
        run.stdin.write(b"\n")
        run.stdin.flush()
    assert [run.wait(60) for run in runs] == [0, 0]
    for run in runs:
        run.communicate()
    files = [
        filter(os.path.isfile, (tmp_path / "serving" / version).iterdir())
        for version in shown(folder)
    ]
    found = [{path.read_text() for path in version} for version in files]
    assert sorted(found, key=sorted) == [{model} for model in models]


def test_what_a_killed_push_left_is_removed_and_never_a_version(models, tmp_path, monkeypatch):
    def killed(source, target):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(os, "rename", killed)
        with pytest.raises(KeyboardInterrupt):
            pusher.push(models[0], str(tmp_path))
    assert [name for name in os.listdir(tmp_path) if name.startswith(".pushing-")]
    assert pretrained.versions(str(tmp_path)) == []
    version = pusher.push(models[0], str(tmp_path))
    assert sorted(os.listdir(tmp_path)) == [".push.lock", os.path.basename(version)]


def test_what_a_killed_push_left_in_an_object_store_is_removed(models, tmp_path, monkeypatch):
    copy, folder = tf.io.gfile.copy, f"ram://{tmp_path.name}"

    def killed(source, target, overwrite):
        if target.endswith("saved_model.pb"):
            raise KeyboardInterrupt
        copy(source, target, overwrite)

    future = int(time.time()) + 10**6
    with monkeypatch.context() as patch:
        patch.setattr(tf.io.gfile, "copy", killed)
        for number in (5, 7, future):  # the last one may be a push that goes on
            with pytest.raises(KeyboardInterrupt):
                pushed.copy(models[0], f"{folder}/{number}")
    pushed.copy(models[1], f"{folder}/6")
    assert pretrained.versions(folder) == [f"{folder}/6"]
    version = pusher.push(models[0], folder)
    left = {name.strip("/") for name in tf.io.gfile.listdir(folder)}
    assert left == {"6", os.path.basename(version), str(future)}
    assert pretrained.versions(folder) == [version, f"{folder}/6"]


def test_an_object_store_gets_the_model_file_last(models, monkeypatch):
    """By it a version is known to be whole: folders cannot be renamed there."""
    written = []
    copy = tf.io.gfile.copy
    monkeypatch.setattr(
        tf.io.gfile, "copy", lambda a, b, overwrite: (written.append(b), copy(a, b, overwrite))
    )
    version = pusher.push(models[0], "ram://serving")
    assert written[-1] == f"{version}/saved_model.pb"
    assert pretrained.versions("ram://serving") == [version]
    assert pushed.checksums(version) == pushed.checksums(models[0])
    assert pusher.push(models[0], "ram://serving") == version


def test_sha256sum_knows_a_version_as_whole(models, tmp_path):
    version = pusher.push(models[0], str(tmp_path), {"examples": 2})
    check = ["sha256sum", "--check", "--quiet", "--strict", "assets.extra/sha256sums"]
    assert subprocess.run(check, cwd=version).returncode == 0
    with open(os.path.join(version, "notes.txt"), "w") as file:
        file.write("ours")
    assert pushed.damage(version) == ""
    os.remove(os.path.join(version, "variables", "variables.index"))
    assert pushed.damage(version) == "variables/variables.index is missing"


def test_what_was_measured_goes_along_and_makes_no_other_model(models, tmp_path):
    folder = str(tmp_path)
    measured = {"examples": 2, "protocol": "center", "protocols": {"center": {"top1_error": 0.5}}}
    version = pusher.push(models[0], folder, measured)
    with open(os.path.join(version, "assets.extra", "evaluation.json")) as file:
        assert json.load(file) == {**measured, "network": identity.of(models[0])}
    assert pusher.push(models[0], folder, {**measured, "examples": 3}) == version


def test_a_training_that_is_repeated_is_not_pushed_again(models, tmp_path):
    """As after a loss of the metadata: the network is the same, and its files are not."""
    folder, again = str(tmp_path / "serving"), saved(tmp_path / "again")
    assert pushed.checksums(again) != pushed.checksums(models[0])
    version = pusher.push(models[0], folder, {"examples": 2})
    assert pusher.push(again, folder, {"examples": 2}) == version
    with open(os.path.join(version, "saved_model.pb"), "ab") as file:
        file.write(b"damage")
    assert pusher.push(again, folder, {"examples": 2}) != version


@pytest.mark.parametrize("change", ["weights", "labels", "signatures", "code"])
def test_another_network_is_pushed(models, tmp_path, monkeypatch, change):
    folder, other = (
        str(tmp_path / "serving"),
        saved(tmp_path / "other", 2.0 if change == "weights" else 1.0),
    )
    version = pusher.push(models[0], folder, {"examples": 2})
    if change == "labels":
        (tmp_path / "other" / "assets" / "labels.txt").write_text("a")
    elif change == "signatures":
        path = tmp_path / "other" / "saved_model.pb"
        graph = saved_model_pb2.SavedModel.FromString(path.read_bytes())
        del graph.meta_graphs[0].signature_def["serving_default"]
        path.write_bytes(graph.SerializeToString())
    elif change == "code":
        monkeypatch.setattr(code_digest, "digest", lambda *modules: "newer")
    assert pusher.push(other, folder, {"examples": 2}) != version


def test_a_push_on_trial_is_the_canary_of_the_servers_file(models, tmp_path):
    folder, file = str(tmp_path / "serving" / "m"), tmp_path / "serving" / "models.config"
    canary = pusher.Canary(1.0, str(file), "m")
    other = ModelSettings("other", tmp_path)
    file.parent.mkdir()
    file.write_text(textproto.models_text([other]))
    numbers = []
    for model in (models[0], models[1], models[1]):
        version = int(os.path.basename(pusher.push(model, folder)))
        pusher.try_out(canary, folder, version)
        numbers.append(version)
    first, second, again = numbers
    assert second == again
    kept, tried = textproto.read_models(file)
    assert kept == other
    assert (tried.name, str(tried.base_path)) == ("m", folder)
    assert (tried.versions, tried.labels) == ((first, second), {"stable": first, "canary": second})


@pytest.mark.parametrize("blessed", [0, 1])
def test_a_push_is_recorded_as_tfxs_pusher_records_it(models, tmp_path, monkeypatch, blessed):
    monkeypatch.setattr(pusher, "measured", lambda *_: {})
    model, blessing, evaluation = (
        kind() for kind in (sa.Model, sa.ModelBlessing, sa.ModelEvaluation)
    )
    model.uri = str(tmp_path / "model")
    shutil.copytree(models[0], os.path.join(model.uri, "Format-Serving"))
    blessing.set_int_custom_property("blessed", blessed)
    inputs = {"model": [model], "model_blessing": [blessing], "evaluation": [evaluation]}
    records = [sa.PushedModel(), sa.PushedModel()]
    for record, name in zip(records, ("ours", "theirs"), strict=True):
        record.uri = str(tmp_path / f"record-{name}")
    folder = str(tmp_path / "serving")
    settings = {"directory": folder, "protocol": "center"}
    pusher.Pusher_Executor().Do(inputs, {"pushed_model": records[:1]}, settings)
    destination = pusher_pb2.PushDestination()
    destination.filesystem.base_directory = str(tmp_path / "theirs")
    settings = {"push_destination": proto_utils.proto_to_json(destination)}
    tfx_pusher.Executor().Do(inputs, {"pushed_model": records[1:]}, settings)
    ours, theirs = (dict(one.mlmd_artifact.custom_properties) for one in records)
    assert ours.keys() == theirs.keys() and ours["pushed"] == theirs["pushed"]
    if blessed:
        pushed_to = records[0].get_string_custom_property("pushed_destination")
        assert pushed_to == os.path.join(folder, os.path.basename(pushed_to))
        assert records[0].get_string_custom_property("pushed_version") in shown(folder)
