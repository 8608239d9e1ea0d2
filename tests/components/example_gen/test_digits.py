"""The embedded data set: whole, deterministic, in ILSVRC's layout."""

import hashlib
import io
import os
import tarfile

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits

from components.example_gen import source
from components.example_gen.settings import Data
from components.example_gen.sources import devkit, digits
from tests.components.example_gen.test_example_gen import found_labels


def _hashes(folder):
    tars = [n for n in sorted(os.listdir(folder)) if n.endswith(".tar")]
    return [hashlib.sha256(open(os.path.join(folder, n), "rb").read()).hexdigest() for n in tars]


def _train(folder):
    with tarfile.open(os.path.join(folder, "ILSVRC2012_img_train.tar")) as outer:
        for member in outer:
            with tarfile.open(fileobj=io.BytesIO(outer.extractfile(member).read())) as inner:
                for image in inner:
                    yield member.name, image.name, inner.extractfile(image).read()


def test_archives_hold_every_scan_once_with_its_digit(tmp_path):
    folder = digits.write(str(tmp_path), 0)
    scans, truth = load_digits(return_X_y=True)
    train = list(_train(folder))
    assert len(train) == digits.TRAIN
    seen = set()
    for class_tar, name, data in train:
        row = int(name.split("_")[1].removesuffix(".JPEG"))
        seen.add(row)
        assert class_tar == f"n{truth[row]:08d}.tar"
        picture = np.asarray(
            Image.open(io.BytesIO(data)).resize((8, 8), Image.Resampling.BOX), float
        )
        assert picture.shape == (8, 8)
        assert np.corrcoef(picture.ravel(), scans[row])[0, 1] > 0.97
    rest = sorted(set(range(len(truth))) - seen)
    kit = devkit.load(os.path.join(folder, "ILSVRC2012_devkit_t12.tar.gz"))
    with tarfile.open(os.path.join(folder, "ILSVRC2012_img_val.tar")) as tar:
        val = {kit.wnid(m.name): 0 for m in tar}
        names = tar.getnames()
    assert len(names) == len(rest) == digits.EVAL and len(val) == 10
    # Stratified: every digit is a tenth of both, within one image a class.
    counts = np.bincount([int(kit.wnid(n)[1:]) for n in names], minlength=10)
    assert np.array_equal(counts, np.bincount(truth[rest], minlength=10))
    assert np.abs(counts - np.bincount(truth) * digits.EVAL / len(truth)).max() <= 1


def test_ids_are_not_in_the_order_of_the_wnids(tmp_path):
    for seed in range(3):
        kit = devkit.load(digits.write(str(tmp_path), seed) + "/ILSVRC2012_devkit_t12.tar.gz")
        wnids = [kit.wnids[i] for i in range(1, 11)]
        assert wnids != sorted(wnids) and sorted(wnids) == [digits.wnid(d) for d in range(10)]


def test_same_seed_same_bytes_and_no_second_writing(tmp_path):
    first = digits.write(str(tmp_path / "a"), 1)
    again = digits.write(str(tmp_path / "b"), 1)
    other = digits.write(str(tmp_path / "b"), 2)
    assert _hashes(first) == _hashes(again) != _hashes(other)
    before = os.stat(first + "/ILSVRC2012_img_train.tar").st_mtime_ns
    assert digits.write(str(tmp_path / "a"), 1) == first
    assert os.stat(first + "/ILSVRC2012_img_train.tar").st_mtime_ns == before
    assert os.listdir(tmp_path / "a") == [os.path.basename(first)]


def test_the_source_reads_it_as_any_ilsvrc(tmp_path):
    config = Data(kind="ilsvrc", source=digits.write(str(tmp_path)))
    source.check(config)
    assert found_labels(config) == list(digits.WORDS)
