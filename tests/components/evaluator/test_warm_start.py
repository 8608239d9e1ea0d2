"""Which pushed version a training starts from."""

import os

import keras
import numpy as np
import pytest

from components.evaluator import comparable
from components.pusher import component as pusher
from models.export import export, protocols
from models.network import architecture
from models.pixels.augmentation import Constants
from models.settings import Model, Transform

MODEL, SETTINGS = Model("cifar", 8, shortcut="A"), Transform(size=16, crop="pad", test_shorter_side=16)


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
    found = comparable.newest_same_network(str(tmp_path), Model("cifar", 20, shortcut="A"), SETTINGS)
    assert found.path == ""
    assert found.note.startswith(
        f"passed over version {os.path.basename(version)} (train.init_from={version} is a"
    )
