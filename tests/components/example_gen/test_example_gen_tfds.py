"""TFDS data sets that are prepared on disk, against what TFDS itself reads."""

import glob
import os
import shutil
import subprocess
import sys
from dataclasses import replace

import pytest
import tensorflow_datasets as tfds

from components.example_gen import component, ingest_summary, names, source
from components.example_gen.errors import SourceError
from components.example_gen.settings import Data
from components.example_gen.writing import index
from tests.components.example_gen.test_example_gen import (
    contents,
    found_classes,
    ingest,
    properties,
    quarantine,
)
from tests.helpers import data

COUNT = 30


class TinyBirds(tfds.core.GeneratorBasedBuilder):
    """Two classes that are not in alphabetical order; one broken and one PNG image."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        features = {
            "image": tfds.features.Image(),
            "label": tfds.features.ClassLabel(names=["wren", "auk"]),
            "file_name": tfds.features.Text(),
        }
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _split_generators(self, dl_manager):
        return {"train": self._examples(0, COUNT), "test": self._examples(100, 10)}

    def _generate_examples(self, *args):
        raise NotImplementedError

    def _examples(self, start, count):
        for i in range(start, start + count):
            yield i, {"image": _file(i), "label": i % 2, "file_name": f"bird_{i}"}


def _file(i):
    path = os.path.join(os.environ["TINY_BIRDS"], f"{i}")
    with open(path, "wb") as stream:
        stream.write(data.png(i) if i == 4 else data.truncated(i) if i == 5 else data.jpeg(i))
    return path


@pytest.fixture(scope="module")
def birds(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tfds")
    os.environ["TINY_BIRDS"] = str(tmp_path_factory.mktemp("files"))
    # Several files, as large data sets have.
    config = tfds.download.DownloadConfig(num_shards=3)
    TinyBirds(data_dir=str(folder)).download_and_prepare(download_config=config)
    return str(folder)


def _config(birds, **fields):
    return {
        "kind": "tfds",
        "tfds_name": "tiny_birds",
        "source": birds,
        "max_bad_fraction": 0.1,
        **fields,
    }


def test_records_equal_those_of_tfds(birds, tmp_path):
    uri = ingest(tmp_path, **_config(birds)).uri
    builder = tfds.builder_from_directory(os.path.join(birds, "tiny_birds", "1.0.0"))
    decoders = {"image": tfds.decode.SkipDecoding()}
    for split, name, count in (("train", "train", COUNT - 1), ("eval", "test", 10)):
        found = contents(uri, split)
        assert len(found) == count
        for record in tfds.as_numpy(builder.as_dataset(split=name, decoders=decoders)):
            file = record["file_name"].decode()
            if file == "bird_5":
                continue
            assert found[file]["image/class/label"] == 1 - record["label"]  # of the sorted names
            assert found[file]["image/class/synset"].decode() == ["wren", "auk"][record["label"]]
            assert found[file]["image/encoded"] == record["image"]
    (bad,) = quarantine(uri, "train").values()
    assert "cut off" in bad["reason"] and "tiny_birds-train" in bad["source"]
    report = ingest_summary.read_summary(uri)
    assert report["classes"] == report["labels"] == found_classes(Data(**_config(birds)))
    assert report["classes"] == ["auk", "wren"]


def test_the_usual_data_dir(birds, tmp_path, monkeypatch):
    """Without data.source the data set is looked for where TFDS keeps it."""
    monkeypatch.setenv("TFDS_DATA_DIR", birds)
    named, usual = _config(birds), _config("")
    source.check(Data(**usual))
    assert found_classes(Data(**usual)) == ["auk", "wren"]
    assert source.find(Data(**usual)) == source.find(Data(**named))
    assert properties(Data(**usual)) == properties(Data(**named))
    monkeypatch.delenv("TFDS_DATA_DIR")
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(SourceError, match=f"not prepared in {tmp_path}/tensorflow_datasets: run"):
        source.find(Data(**usual))
    os.symlink(birds, tmp_path / "tensorflow_datasets")
    assert found_classes(Data(**usual)) == ["auk", "wren"]


def test_holdout_knows_the_labels_in_the_records(birds):
    where = source.find(Data(**_config(birds, eval_split="holdout")))
    labels = index.labels(index.build(where, "train"), where, where.classes())
    assert sorted(labels) == [0] * (COUNT // 2) + [1] * (COUNT // 2)
    fields = _config(birds, eval_split="holdout", holdout=0.001)
    tables = component._Run(properties(Data(**fields))).tables()
    held = index.labels(tables["eval"], where, where.classes())
    assert sorted(held) == [0, 1] and tables["train"].num_rows == COUNT - 2


def test_slices_that_overlap_are_told(birds, tmp_path):
    fields = _config(birds, train_split="train[:20]", eval_split="train[10:]")
    found = ingest_summary.read_summary(ingest(tmp_path, **fields).uri)["duplicates"]
    assert found["train_and_eval"]["count"] == 10 and found["two_classes"]["count"] == 0
    assert all(
        name.startswith(("eval: bird_1", "train: bird_1"))
        for name in found["train_and_eval"]["names"][0]
    )


def test_slices_and_holdout(birds, tmp_path):
    fields = _config(birds, train_split="train[:20]", eval_split="train[20:]", max_bad_fraction=0.2)
    uri = ingest(tmp_path / "slices", **fields).uri
    train, rest = contents(uri, "train"), contents(uri, "eval")
    assert (
        len(train) + len(rest) == COUNT - 1 and len(rest) in (9, 10) and not set(train) & set(rest)
    )
    uri = ingest(tmp_path / "holdout", **_config(birds, eval_split="holdout", holdout=0.3)).uri
    held = contents(uri, "eval")
    assert 0 < len(held) < 20 and len(held) + len(contents(uri, "train")) == COUNT - 1


def test_errors_say_what_to_do(birds, tmp_path):
    config = Data(**_config(birds))
    source.check(config)
    with pytest.raises(SourceError, match=r"not prepared in .* run `tfds build imagenette"):
        source.check(replace(config, tfds_name="imagenette"))
    with pytest.raises(SourceError, match="has no split valid; it has train, test"):
        source.check(replace(config, eval_split="valid"))
    with pytest.raises(SourceError, match=r"data\.tfds_name must name"):
        source.check(replace(config, tfds_name=""))


def _copied(birds, tmp_path):
    """A copy of the data set, and its first file."""
    copy = tmp_path / "copy"
    shutil.copytree(birds, copy)
    return str(copy), sorted(glob.glob(str(copy / "tiny_birds" / "1.0.0" / "*train*")))[0]


def test_a_truncated_file_is_an_error(birds, tmp_path):
    copy, path = _copied(birds, tmp_path)
    os.truncate(path, os.path.getsize(path) - 10)
    where = source.find(Data(**_config(copy)))
    with pytest.raises(SourceError, match="is truncated at byte"):
        list(where.groups("train", names.ignore))


_SPOTS = """
import numpy as np
import tensorflow_datasets as tfds

class Spots(tfds.core.GeneratorBasedBuilder):
    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        features = {"image": tfds.features.Image(), "label": tfds.features.ClassLabel(num_classes=2)}
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples()}

    def _generate_examples(self):
        for i in range(4):
            yield i, {"image": np.full((8, 8, 3), i, np.uint8), "label": i % 2}
"""


def test_tfds_has_all_that_its_command_needs(tmp_path):
    (tmp_path / "spots.py").write_text(_SPOTS)
    command = [os.path.join(os.path.dirname(sys.executable), "tfds"), "build", "spots.py"]
    subprocess.run(
        [*command, f"--data_dir={tmp_path}"], cwd=tmp_path, check=True, capture_output=True
    )
    config = Data(kind="tfds", tfds_name="spots", source=str(tmp_path))
    assert found_classes(config) == ["0", "1"]
    # A data set of TFDS's own looks for its place in the package.
    assert tfds.builder("cifar10", data_dir=str(tmp_path)).code_path


@pytest.mark.parametrize("holdout", [False, True])
def test_a_changed_bit_is_found(birds, tmp_path, holdout):
    copy, path = _copied(birds, tmp_path)
    with open(path, "r+b") as stream:
        whole = stream.read()
        # Key, three lengths and a tag; then the label.
        stream.seek(whole.index(b"label") + 11)
        stream.write(bytes([whole[stream.tell()] ^ 1]))
    split = {"eval_split": "holdout"} if holdout else {}
    uri = ingest(tmp_path, **_config(copy, **split)).uri
    found = [
        item["reason"] for split in ("train", "eval") for item in quarantine(uri, split).values()
    ]
    assert sorted(found)[-1] == "the record in the data set is damaged: its checksum differs"
    assert len(found) == 2  # and the image that is damaged in any case
    with open(path, "r+b") as stream:
        stream.write(bytes([whole[0] ^ 1]))
    with pytest.raises(SourceError, match="is damaged at byte 0: prepare"):
        list(source.find(Data(**_config(copy))).groups("train", names.ignore))
