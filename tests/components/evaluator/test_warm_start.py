"""Which pushed version a training starts from."""

import dataclasses
import json
import os

import keras
import numpy as np
import pytest
from tfx.types import standard_artifacts

from components import pushed
from components.evaluator import baseline, comparable
from components.pusher import component as pusher
from models.export import export, protocols
from models.network import architecture
from models.pixels.augmentation import Constants
from models.settings import Model, Transform

MODEL, SETTINGS = (
    Model("cifar", 8, shortcut="A"),
    Transform(size=16, crop="pad", test_shorter_side=16),
)


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """Folders of two networks that differ in their weights."""
    folders = []
    constants = Constants(
        pixel_mean=np.ones((16, 16, 3), np.float32),
        channel_mean=np.ones(3, np.float32),
        covariance=np.eye(3, dtype=np.float32),
        labels=("a", "b"),
        class_counts=(1, 1),
    )
    for seed in range(2):
        keras.utils.set_random_seed(seed)
        network = protocols.network(architecture.build(MODEL, 2, 0.0), SETTINGS, constants)
        folders.append(str(tmp_path_factory.mktemp("model") / "exported"))
        export.export(network, folders[-1], None, ["center"])
    return folders


@pytest.mark.parametrize(
    "file", ["assets.extra/model.keras", "assets.extra/augmentation.npz", "saved_model.pb"]
)
def test_a_damaged_version_is_no_start(exported, tmp_path, file):
    older, newer = (pusher.push(model, str(tmp_path)) for model in exported)
    assert comparable.newest_same_network(str(tmp_path), MODEL, SETTINGS) == (newer, "")
    path = os.path.join(newer, file)
    with open(path, "r+b") as stream:
        stream.seek(os.path.getsize(path) // 2)
        byte = stream.read(1)
        stream.seek(-1, os.SEEK_CUR)
        stream.write(bytes([byte[0] ^ 1]))
    note = f"passed over version {os.path.basename(newer)} (it is damaged: {file} has changed)"
    assert comparable.newest_same_network(str(tmp_path), MODEL, SETTINGS) == (older, note)


def test_another_network_is_no_start_and_is_said(exported, tmp_path):
    version = pusher.push(exported[0], str(tmp_path))
    found = comparable.newest_same_network(
        str(tmp_path), Model("cifar", 20, shortcut="A"), SETTINGS
    )
    assert found.path == ""
    assert found.note.startswith(
        f"passed over version {os.path.basename(version)} (train.init_from={version} is a"
    )


def start(folder, serving, model):
    """What the executor copies into an artifact."""
    output = standard_artifacts.Model()
    output.uri = str(folder)
    settings = {"network": dataclasses.asdict(model), "transform": dataclasses.asdict(SETTINGS)}
    properties = {name: json.dumps(value) for name, value in settings.items()}
    baseline.WarmStart_Executor().Do(
        {"transform_graph": [standard_artifacts.TransformGraph()]},
        {"model": [output]},
        {"serving": str(serving), **properties},
    )
    return output, tuple(output.get_string_custom_property(name) for name in ("version", "note"))


def test_the_start_is_copied_and_noted(exported, tmp_path):
    assert start(tmp_path / "none", tmp_path / "serving", MODEL)[1] == ("", "")
    version = pusher.push(exported[0], str(tmp_path / "serving"))
    output, noted = start(tmp_path / "some", tmp_path / "serving", MODEL)
    assert noted == (version, "") and not baseline.is_empty(output)
    assert pushed.checksums(str(tmp_path / "some" / "Format-Serving")) == pushed.checksums(
        exported[0]
    )
    output, (path, note) = start(
        tmp_path / "other", tmp_path / "serving", Model("cifar", 20, shortcut="A")
    )
    assert path == "" and "set model.depth=8" in note and baseline.is_empty(output)


def test_an_older_version_is_a_start_where_the_newer_ones_are_none(exported, tmp_path):
    first, second, third = (pusher.push(exported[number], str(tmp_path)) for number in (0, 1, 0))
    for version in (second, third):
        os.remove(os.path.join(version, "assets.extra", "augmentation.npz"))
    path, note = comparable.newest_same_network(str(tmp_path), MODEL, SETTINGS)
    assert path == first
    names = [os.path.basename(version) for version in (third, second)]
    why = "it is damaged: assets.extra/augmentation.npz is missing"
    assert note == f"passed over version {names[0]} ({why}); version {names[1]} ({why})"
    other = comparable.newest_same_network(
        str(tmp_path), Model("cifar", 20, shortcut="A"), SETTINGS
    )
    assert other.path == "" and other.note.count("; version ") == 2
    assert other.note.endswith("set model.depth=8)")
