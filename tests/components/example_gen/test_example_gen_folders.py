"""Class folders and tars of them: names, misplaced images, spellings of the source."""

import glob
import os

import pytest

from components.example_gen import ingest_summary, source
from components.example_gen.errors import SourceError
from components.example_gen.settings import Data
from components.example_gen.writing import index, shards
from tests.components.example_gen.test_example_gen import (
    contents,
    ingest,
    properties,
    quarantine,
    read,
    two_classes,
)
from tests.helpers import data


def test_another_spelling_of_the_source_is_the_same_input(tmp_path, monkeypatch):
    folder = data.class_folders(
        str(tmp_path / "in"), {"train": two_classes(4), "val": two_classes(2)}
    )
    first = properties(Data(kind="folder", source=folder))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    for spelling in (f"{folder}/", "in", "./in/", "~/in", f"{folder}/../in"):
        assert properties(Data(kind="folder", source=spelling)) == first


def test_a_source_that_is_a_pattern_is_refused(tmp_path):
    folder = data.class_folders(str(tmp_path / "in [1]"), {"train": two_classes(2)})
    with pytest.raises(SourceError, match=r"in \[1\] has one of the characters \[ \] \* \? "):
        source.check(Data(kind="folder", source=folder))


def test_misplaced_images_are_quarantined(tmp_path):
    splits = {"train": two_classes(6), "val": two_classes(3, 500)}
    folder = data.class_folders(str(tmp_path / "in"), splits)
    misplaced = {
        "train/loose.jpg": data.jpeg(1),
        "train/README": b"about",
        "train/ant/sub/2.JPG": data.jpeg(2),
        "train/ant/sub/.hidden.jpg": b"",
        "train/ant/sub/Thumbs.db": b"thumbs",
        "val/bee/x/y/3.png": data.png(3),
    }
    flat = {
        f"{split}/{name}/{file}": content
        for split, classes in splits.items()
        for name, images in classes.items()
        for file, content in images.items()
    }
    for path, content in misplaced.items():
        os.makedirs(os.path.dirname(os.path.join(folder, path)), exist_ok=True)
        with open(os.path.join(folder, path), "wb") as stream:
            stream.write(content)
    whole = {f"./{path}": b for path, b in {**flat, **misplaced}.items()}
    (tmp_path / "one.tar").write_bytes(data.tar_bytes(whole))
    os.mkdir(tmp_path / "tars")
    for split in splits:
        inner = {
            p.removeprefix(f"./{split}/"): b
            for p, b in whole.items()
            if p.startswith(f"./{split}/")
        }
        (tmp_path / "tars" / f"{split}.tar").write_bytes(data.tar_bytes(inner))
    for number, place in enumerate((folder, tmp_path / "one.tar", tmp_path / "tars")):
        uri = ingest(
            tmp_path / str(number), kind="folder", source=str(place), max_bad_fraction=0.5
        ).uri
        prefix = ["train/", "val/"] if number == 1 else ["", ""]
        bad = {n: item["reason"] for n, item in quarantine(uri, "train").items()}
        assert bad == {
            f"{prefix[0]}loose.jpg": "lies in no class folder",
            f"{prefix[0]}ant/sub/2.JPG": "lies deeper than <split>/<class>/<file>: move it up",
        }
        assert list(quarantine(uri, "eval")) == [f"{prefix[1]}bee/x/y/3.png"]
        assert (len(read(uri, "train")), len(read(uri, "eval"))) == (12, 6)
        assert ingest_summary.read_summary(uri)["classes"] == ["ant", "bee"]


def test_a_name_that_is_not_utf8_is_quarantined(tmp_path):
    folder = data.class_folders(
        str(tmp_path / "in"), {"train": two_classes(6), "val": two_classes(2, 500)}
    )
    with open(os.fsencode(folder) + b"/train/ant/caf\xe9.jpg", "wb") as stream:
        stream.write(data.jpeg(1))
    fields = {"kind": "folder", "source": folder, "max_bad_fraction": 0.5}
    uri = ingest(tmp_path, **fields).uri
    assert (
        quarantine(uri, "train")["ant/caf\\xe9.jpg"]["reason"] == "its name is not UTF-8: rename it"
    )
    assert len(read(uri, "train")) == 12
    first = properties(Data(**fields))
    os.utime(f"{folder}/val/bee/1.jpg", (1, 1))
    assert properties(Data(**fields))["input_fingerprint"] != first["input_fingerprint"]
    # Another folder: the classes of a source are looked up once a process.
    fields["source"] = folder = data.class_folders(
        str(tmp_path / "other"), {"train": two_classes(2)}
    )
    os.makedirs(os.fsencode(folder) + b"/train/caf\xe9")
    with pytest.raises(SourceError, match=r"class caf\\xe9 of .* is not UTF-8: rename it"):
        source.check(Data(**fields))


def test_what_is_no_file_is_quarantined_and_never_opened(tmp_path):
    folder = data.class_folders(
        str(tmp_path / "in"), {"train": two_classes(6), "val": two_classes(2, 500)}
    )
    os.symlink("gone.jpg", f"{folder}/train/ant/link.jpg")
    os.symlink("circle.jpg", f"{folder}/train/ant/circle.jpg")
    os.symlink("1.jpg", f"{folder}/train/ant/good.jpg")
    os.mkfifo(f"{folder}/train/bee/pipe.jpg")
    os.mkfifo(f"{folder}/train/pipe.jpg")
    fields = {"kind": "folder", "source": folder, "max_bad_fraction": 0.5}
    uri = ingest(tmp_path, **fields).uri
    reasons = {name: item["reason"] for name, item in quarantine(uri, "train").items()}
    assert reasons.pop("pipe.jpg") == "lies in no class folder"
    assert sorted(reasons) == ["ant/circle.jpg", "ant/link.jpg", "bee/pipe.jpg"]
    assert set(reasons.values()) == {"a link to nothing, a pipe or a device, and no file"}
    assert contents(uri, "train")["ant/good.jpg"]["image/encoded"] == data.jpeg(1, 16, 16)
    first = properties(Data(**fields))["input_fingerprint"]
    os.link(f"{folder}/train/ant/1.jpg", f"{folder}/train/ant/gone.jpg")
    assert properties(Data(**fields))["input_fingerprint"] != first
    assert len(read(ingest(tmp_path, execution=2, **fields).uri, "train")) == 15


def test_a_class_of_two_lines_is_refused(tmp_path):
    folder = data.class_folders(str(tmp_path / "in"), {"train": {"a\nb": {}, "c": {}}})
    with pytest.raises(SourceError, match=r"class 'a\\nb' of .* has a line break: rename it"):
        source.check(Data(kind="folder", source=folder))


def test_the_cache_key_follows_names(tmp_path):
    folder = data.class_folders(
        str(tmp_path / "in"), {"train": two_classes(3), "val": two_classes(2, 500)}
    )
    config, key = Data(kind="folder", source=folder), "input_fingerprint"
    first = properties(config)[key]
    # Another label, the same bytes: all times, sizes and counts stay as they are.
    os.replace(f"{folder}/train/ant/1.jpg", f"{folder}/train/bee/9.jpg")
    second = properties(config)[key]
    os.replace(f"{folder}/train/bee/9.jpg", f"{folder}/train/ant/1.jpg")
    assert second != first == properties(config)[key]


def test_shards_of_single_files_are_of_the_wanted_size(tmp_path, monkeypatch):
    folder = data.class_folders(str(tmp_path / "in"), {"train": two_classes(300)})
    where = source.find(Data(kind="folder", source=folder))
    table = index.build(where, "train")
    total = sum(os.path.getsize(p) for p in glob.glob(f"{folder}/train/*/*"))
    monkeypatch.setattr(shards, "_SHARD_BYTES", total // 20)
    assert abs(shards.shard_count(table, 0) - 20) <= 1
    assert shards.shard_count(table, 7) == 7


def test_folders_and_their_tars_are_equal(tmp_path):
    splits = {"train": two_classes(6), "val": two_classes(3, 500)}
    folder = data.class_folders(str(tmp_path / "folders"), splits)
    (tmp_path / "tars").mkdir()
    whole = {}
    for split, classes in splits.items():
        flat = {
            f"{name}/{file}": b for name, images in classes.items() for file, b in images.items()
        }
        (tmp_path / "tars" / f"{split}.tar").write_bytes(data.tar_bytes(flat))
        whole |= {f"./{split}/{path}": b for path, b in flat.items()}
    (tmp_path / "one.tar").write_bytes(data.tar_bytes(whole))
    uris = [
        ingest(tmp_path / str(i), kind="folder", source=str(s)).uri
        for i, s in enumerate((folder, tmp_path / "tars", tmp_path / "one.tar"))
    ]
    for split, count in (("train", 12), ("eval", 6)):
        first = contents(uris[0], split)
        assert len(first) == count and first["bee/1.jpg"]["image/class/label"] == 1
        assert first == contents(uris[1], split) == contents(uris[2], split)


def test_classes_that_train_lacks_are_quarantined(tmp_path):
    splits = {"train": two_classes(4), "val": {**two_classes(4), "wasp": {"1.jpg": data.jpeg(1)}}}
    folder = data.class_folders(str(tmp_path / "in"), splits)
    uri = ingest(tmp_path, kind="folder", source=folder, max_bad_fraction=0.2).uri
    assert len(read(uri, "eval")) == 8
    assert (
        quarantine(uri, "eval")["wasp/1.jpg"]["reason"]
        == "its class wasp is not in the training split"
    )
