"""Ensembles of pushed models, by TFX's arguments."""

import json
import os
import shutil
import types

import keras
import numpy as np
import pytest
import tensorflow as tf

from models import ensemble
from models.export import export, protocols
from models.network import architecture
from models.pixels import augmentation
from models.settings import Transform
from tests.helpers import data

LABELS = ("n01", "n02", "n03")
# Without n03: a class that came after the names were looked up is called as in the data.
NAMES = {"n01": "goldfish", "n02": "hen"}
PROTOCOLS = ["center", "ten_crop", "multi_scale"]


def constants(size, labels=LABELS):
    rng = np.random.default_rng(size)
    return augmentation.Constants(
        pixel_mean=rng.uniform(90, 150, [size, size, 3]).astype(np.float32),
        channel_mean=rng.uniform(90, 150, [3]).astype(np.float32),
        covariance=np.eye(3, dtype=np.float32),
        labels=labels,
        class_counts=(1,) * len(labels),
    )


def network(settings):
    """As it is before training, but that the first layer brings pixels to a spread of 1."""
    keras.utils.set_random_seed(settings.size)
    model = architecture.cifar_resnet(8, classes=3)
    model.get_layer("conv1_bn").moving_variance.assign(np.full([16], 6000.0))
    return protocols.network(model, settings, constants(settings.size))


NETWORKS = [
    network(Transform(size=24, test_shorter_side=28)),
    network(Transform(size=20, test_shorter_side=20, mean="channel")),
]
IMAGES = [data.jpeg(seed, 30, 40 + seed) for seed in range(3)] + [data.png(3), data.grey(4)]


@pytest.fixture(scope="module")
def pushed(tmp_path_factory):
    """Folder of the serving destinations of two pipelines, one of which has pushed twice."""
    folder = tmp_path_factory.mktemp("pushed")
    export.export(NETWORKS[1], str(folder / "first" / "9"), None, ["center"])
    export.export(NETWORKS[0], str(folder / "first" / "10"), None, ["center"])
    export.export(NETWORKS[1], str(folder / "second" / "3"), None, ["center"])
    return folder


def arguments(root, members, labels=LABELS, **config):
    assets = root / "graph" / "transform_fn" / "assets"
    os.makedirs(assets)
    augmentation.write_constants(
        str(assets / "augmentation.npz"), constants(8, labels), Transform()
    )
    return types.SimpleNamespace(
        transform_graph_path=str(root / "graph"),
        serving_model_dir=str(root / "serving"),
        model_run_dir=str(root / "run"),
        custom_config={"model": {"ensemble": [str(member) for member in members]}, **config},
    )


@pytest.fixture(scope="module")
def together(pushed, tmp_path_factory):
    """Folder with what `run_fn` has written for both."""
    root = tmp_path_factory.mktemp("together")
    members = [pushed / "first", pushed / "second" / "3"]
    ensemble.run_fn(arguments(root, members, protocols=PROTOCOLS, names=NAMES))
    return root


def test_the_newest_versions_are_averaged_each_with_its_own_crops(together):
    model = tf.saved_model.load(str(together / "serving"))
    examples = [
        tf.train.Example(
            features=tf.train.Features(
                feature={
                    "image/encoded": tf.train.Feature(bytes_list=tf.train.BytesList(value=[image]))
                }
            )
        ).SerializeToString()
        for image in IMAGES
    ]
    found = model.signatures["evaluate"](tf.constant(examples))
    predict = tf.function(
        lambda network: protocols.predict(network, tf.constant(IMAGES), PROTOCOLS)
    )
    parts = [predict(network) for network in NETWORKS]
    for name in PROTOCOLS:
        assert np.abs(parts[0][name] - parts[1][name]).max() > 0.02
        np.testing.assert_allclose(found[name], (parts[0][name] + parts[1][name]) / 2, atol=1e-6)


def test_members_and_parameters_are_noted(pushed, together):
    assert (together / "serving" / "assets" / "labels.txt").read_text().splitlines() == [
        "goldfish",
        "hen",
        "n03",
    ]
    members = [str(pushed / "first" / "10"), str(pushed / "second" / "3")]
    kept = json.loads((together / "serving" / "assets.extra" / "ensemble.json").read_text())
    summary = json.loads((together / "run" / "summary.json").read_text())
    assert kept == {"members": members} and summary["members"] == members
    # 7 convolutions and their batch normalisation, and a dense layer.
    convolutions = 9 * (3 * 16 + 2 * 16 * 16 + 16 * 32 + 32 * 32 + 32 * 64 + 64 * 64)
    assert summary["parameters"] == 2 * (convolutions + 4 * (3 * 16 + 2 * 32 + 2 * 64) + 65 * 3)
    assert summary["seconds"] > 0


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (("n01", "n02"), "first/10 has 3 classes where the data has 2"),
        (("n01", "n03", "n04"), "first/10 has class n02 as label 1 where the data has n03"),
    ],
)
def test_members_of_other_classes_are_refused(pushed, tmp_path, labels, message):
    with pytest.raises(ValueError, match=message):
        ensemble.run_fn(arguments(tmp_path, [pushed / "first"], labels))
    assert not (tmp_path / "serving").exists()


def test_members_that_are_ensembles_are_refused(pushed, together, tmp_path):
    with pytest.raises(ValueError, match="serving is an ensemble"):
        ensemble.run_fn(arguments(tmp_path, [pushed / "first", together / "serving"]))


def test_a_model_without_its_means_is_refused(pushed, tmp_path):
    path = shutil.copytree(pushed / "first" / "10", tmp_path / "old")
    os.remove(path / "assets.extra" / "augmentation.npz")
    with pytest.raises(ValueError, match="old does not say with which means and classes"):
        ensemble.run_fn(arguments(tmp_path, [path]))
