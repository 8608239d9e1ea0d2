"""The CIFAR-10 script that needs no TensorFlow, here on the backend that is installed."""

import csv
import io
import tarfile

import keras
import numpy as np
import pytest
from PIL import Image

from benchmarks import jax_cifar
from models.settings import Model
from tests.helpers.data import jpeg

IMAGES = np.random.default_rng(0).normal(0, 50, (300, 8, 10, 3)).astype(np.float32)


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tree")
    for split, count in (("train", 20), ("test", 3)):
        for number, name in enumerate(("cat", "bird")):
            (folder / split / name).mkdir(parents=True)
            for index in range(count):
                data = jpeg(100 * number + index, 32, 32)
                (folder / split / name / f"{index:04d}.jpg").write_bytes(data)
    return folder


def test_a_tar_and_a_folder_are_read_alike(tree, tmp_path):
    with tarfile.open(tmp_path / "tree.tar.gz", "w:gz") as tar:
        tar.add(tree, ".")
    (images, labels), (others, other_labels) = (
        jax_cifar.read(str(source), ("train",)) for source in (tree, tmp_path / "tree.tar.gz")
    )
    assert images.shape == (40, 32, 32, 3) and labels.tolist() == [0] * 20 + [1] * 20  # bird, cat
    np.testing.assert_array_equal(images, others)
    np.testing.assert_array_equal(labels, other_labels)
    np.testing.assert_array_equal(images[21], np.asarray(Image.open(io.BytesIO(jpeg(1, 32, 32)))))


def test_a_missing_split_is_named(tree):
    with pytest.raises(FileNotFoundError, match="no val/CLASS"):
        jax_cifar.read(str(tree), ("val",))


def test_every_crop_is_a_window_of_its_own_padded_image():
    crops = jax_cifar.augment(IMAGES, np.random.default_rng(1))
    assert crops.dtype == np.float32 and crops.shape == IMAGES.shape
    seen, mirrors = set(), 0
    for image, crop in zip(IMAGES, crops, strict=True):
        padded = np.pad(image, ((4, 4), (4, 4), (0, 0)))
        windows = {
            (y, x, mirror): padded[y : y + 8, x : x + 10][:, :: -1 if mirror else 1]
            for y in range(9)
            for x in range(9)
            for mirror in (False, True)
        }
        fits = [key for key, window in windows.items() if (window == crop).all()]
        assert len(fits) == 1
        seen.add(fits[0][:2])
        mirrors += fits[0][2]
    # Of 81 places 300 draws hit 79 in the mean; mirrors are 150 with a deviation of 8.7.
    assert len(seen) > 70 and {y for y, _ in seen} == {x for _, x in seen} == set(range(9))
    assert 110 < mirrors < 190


def test_passes_show_every_image_once_and_depend_on_the_seed_alone():
    labels = np.arange(300)
    batches, again, other = (
        jax_cifar.Batches(IMAGES, labels, 0.0, 32, 9, seed) for seed in (0, 0, 1)
    )
    first = np.concatenate([batches[index][1] for index in range(9)])
    assert len(set(first)) == 9 * 32  # 9 full batches a pass, 12 images left out
    np.testing.assert_array_equal(batches[3][0], again[3][0])
    assert (batches[0][1] != other[0][1]).any()
    batches.on_epoch_end()
    second = np.concatenate([batches[index][1] for index in range(9)])
    assert len(set(second)) == 9 * 32 and (first != second).any()


def rates(warm_up, errors):
    """Learning rate of 8 chunks of 8000 steps, given their training errors."""
    network = keras.Sequential([keras.layers.Dense(1)])
    network.compile(keras.optimizers.SGD())
    recipe = jax_cifar.Recipe("/dev/null", 64_000, 8_000, 128, warm_up)
    recipe.set_model(network)
    found = []
    for epoch, error in enumerate(errors):
        recipe.on_epoch_begin(epoch)
        recipe.on_test_begin()
        found.append(float(network.optimizer.learning_rate))
        recipe.on_epoch_end(epoch, {"loss": 1.0, "accuracy": 1 - error, "val_accuracy": 0.0})
    return found


def test_the_rate_falls_at_32k_and_48k_steps():
    expected = [0.1] * 4 + [0.01] * 2 + [0.001] * 2
    np.testing.assert_allclose(rates(False, [0.9] * 8), expected)
    np.testing.assert_allclose(rates(True, [0.9, 0.85] + [0.7] * 6), [0.01] * 3 + expected[3:])


def test_a_short_training_writes_its_history(tree, tmp_path):
    out = tmp_path / "history.csv"
    model = Model(family="cifar", depth=8, shortcut="A")
    jax_cifar.train(str(tree), model, 4, 0, str(out), batch=8)
    [row] = csv.DictReader(out.read_text().splitlines())
    assert row["step"] == "4" and float(row["learning_rate"]) == 0.1
    assert 0 <= float(row["train_error"]) <= 1 and float(row["loss"]) > 0
    with pytest.raises(ValueError, match=r"multiple of 400.*1000"):
        jax_cifar.train(str(tree), model, 1000, 0, str(out))
