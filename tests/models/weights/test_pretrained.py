"""Finding trained networks, and what is known of them."""

import hashlib
import os
import shutil
import subprocess
import sys

import keras
import numpy as np
import pytest

from models.export import export, protocols
from models.network import architecture
from models.pixels import augmentation
from models.settings import Model, Transform
from models.weights import pretrained

NET = Model("cifar", 8, shortcut="A")
TRANSFORM = Transform(size=12, crop="pad", pad=1, test_shorter_side=12)


def network(seed=0):
    keras.utils.set_random_seed(seed)
    rng = np.random.default_rng(seed)
    constants = augmentation.Constants(
        pixel_mean=rng.uniform(90, 150, [12, 12, 3]).astype(np.float32),
        channel_mean=np.float32([110, 120, 130]),
        covariance=np.eye(3, dtype=np.float32),
        labels=("n01", "n02"),
        class_counts=(7, 8),
    )
    return protocols.network(architecture.build(NET, 2), TRANSFORM, constants)


@pytest.fixture(scope="module")
def pushed(tmp_path_factory):
    """A pushed model of three versions, of which the last is unfinished; and its newest network."""
    folder = tmp_path_factory.mktemp("pushed")
    newest = network(1)
    export.export(newest, str(folder / "10"), ["one", "two"], ["center"])
    shutil.copytree(folder / "10", folder / "9")
    (folder / "11").mkdir()
    (folder / "12.part").mkdir()
    return folder, newest


def test_the_newest_version_is_found_without_tensorflow(pushed, tmp_path):
    folder = pushed[0]
    file = tmp_path / "net.pth"
    file.write_bytes(b"")
    code = (
        "import sys; from models.weights import pretrained\n"
        "print(*map(pretrained.resolve, sys.argv[1:]), sep='\\n');"
        "sys.exit(any(name in sys.modules for name in ('tensorflow', 'keras')))"
    )
    places = [str(folder), str(folder / "9"), str(file)]
    done = subprocess.run(
        [sys.executable, "-c", code, *places], capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines() == [str(folder / "10"), str(folder / "9"), str(file)]


def test_places_without_a_model_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"nowhere does not exist; give a pushed model's folder"):
        pretrained.resolve(str(tmp_path / "nowhere"))
    (tmp_path / "1").mkdir()
    with pytest.raises(ValueError, match="holds no pushed model") as error:
        pretrained.resolve(str(tmp_path))
    assert "\n" not in str(error.value)


def test_a_pushed_model_comes_with_what_it_was_trained_with(pushed):
    folder, newest = pushed
    found = pretrained.load(str(folder))
    assert found.settings == NET and found.transform == TRANSFORM
    for name, value in vars(newest.constants).items():
        np.testing.assert_array_equal(getattr(found.constants, name), value)
    images = np.random.default_rng(0).normal(0, 50, [3, 12, 12, 3]).astype(np.float32)
    np.testing.assert_array_equal(found.model(images), newest.model(images))
    contents = b"".join(value.tobytes() for value in newest.model.get_weights())
    assert found.digest == hashlib.sha256(contents).hexdigest()


def test_a_keras_file_knows_only_its_network(pushed):
    path = pushed[0] / "10" / "assets.extra" / "model.keras"
    found = pretrained.load(str(path))
    assert found.constants is None and found.transform is None and found.settings == NET
    assert found.digest == pretrained.load(str(pushed[0])).digest


@pytest.mark.parametrize(
    "settings",
    [
        Model("cifar", 8, shortcut="A"),
        Model("cifar", 8, shortcut="B"),
        Model("cifar", 8, shortcut="C"),
        Model("cifar", 14, residual=False),
        Model("imagenet", 18, shortcut="A", pool="caffe"),
        Model("imagenet", 18, shortcut="C"),
        Model("imagenet", 50),
        Model("imagenet", 50, variant="v1.5", shortcut="A"),
    ],
    ids=str,
)
def test_settings_are_read_from_the_network(settings):
    assert pretrained.describe(architecture.build(settings, 3)) == settings
    keras.backend.clear_session()


def test_an_ensemble_is_refused(tmp_path):
    export.export(
        [network(1), network(2)], str(tmp_path / "1"), None, ["center"], members=["a", "b"]
    )
    with pytest.raises(ValueError, match="is an ensemble, and one network is needed"):
        pretrained.load(str(tmp_path))


def test_folders_that_lack_the_network_are_refused(pushed, tmp_path):
    shutil.copytree(pushed[0] / "10", tmp_path / "1")
    os.remove(tmp_path / "1" / "assets.extra" / "augmentation.npz")
    assert pretrained.load(str(tmp_path)).constants is None
    os.remove(tmp_path / "1" / "assets.extra" / "model.keras")
    with pytest.raises(
        ValueError, match=r"model\.keras does not exist; give the folder of a model"
    ):
        pretrained.load(str(tmp_path))


def test_keras_files_of_others_are_refused(tmp_path):
    path = str(tmp_path / "net.keras")
    inputs = keras.Input([4])
    keras.Model(inputs, keras.layers.Dense(2)(inputs), name="mine").save(path)
    with pytest.raises(
        ValueError, match=r"The network mine is none of models\.network\.architecture"
    ):
        pretrained.load(path)
    # Code in a file is not run.
    mark = str(tmp_path / "ran")
    runs = keras.layers.Lambda(lambda x: (open(mark, "w").close(), x)[1])
    keras.Model(inputs, runs(inputs), name="code").save(path)
    os.remove(mark)
    with pytest.raises(ValueError, match=r"net\.keras cannot be loaded as a \.keras file") as error:
        pretrained.load(path)
    assert not os.path.exists(mark) and "\n" not in str(error.value)
    with open(path, "wb") as file:
        file.write(b"nothing")
    with pytest.raises(ValueError, match=r"net\.keras cannot be loaded"):
        pretrained.load(path)
