"""The same bytes in train and in eval, or in two classes: told, with names."""

import io
import json
import os

import numpy as np
from PIL import Image

from components.example_gen import ingest_summary
from components.example_gen.writing import duplicates
from tests.components.example_gen.test_example_gen import ingest, two_classes
from tests.helpers import data


def _listed(uri):
    with open(os.path.join(uri, duplicates.LIST)) as stream:
        return [{(i["split"], i["class"], i["name"]) for i in json.loads(line)} for line in stream]


def test_the_same_image_in_train_and_eval_or_in_two_classes(tmp_path):
    splits = {"train": two_classes(20), "val": two_classes(5, 500)}
    train, val = splits["train"], splits["val"]
    val["ant"]["again.jpg"] = train["ant"]["3.jpg"]
    train["bee"]["also.jpg"] = train["ant"]["5.jpg"]
    val["bee"]["both.jpg"] = train["ant"]["7.jpg"]
    train["ant"]["copy.jpg"] = train["ant"]["9.jpg"]  # the same class and split: no harm
    # Converted: the same bytes of another format.
    train["ant"]["scan.png"] = val["ant"]["scan.png"] = data.png(77)
    uri = ingest(
        tmp_path, kind="folder", source=data.class_folders(str(tmp_path / "in"), splits)
    ).uri
    found = ingest_summary.read_summary(uri)["duplicates"]
    assert found["train_and_eval"]["count"] == 3 and found["two_classes"]["count"] == 2
    expected = [
        {("train", "ant", "ant/3.jpg"), ("eval", "ant", "ant/again.jpg")},
        {("train", "ant", "ant/5.jpg"), ("train", "bee", "bee/also.jpg")},
        {("train", "ant", "ant/7.jpg"), ("eval", "bee", "bee/both.jpg")},
        {("train", "ant", "ant/scan.png"), ("eval", "ant", "ant/scan.png")},
    ]
    assert sorted(_listed(uri), key=sorted) == sorted(expected, key=sorted)
    assert ["eval: ant/again.jpg", "train: ant/3.jpg"] in found["train_and_eval"]["names"]
    assert ["train: ant/5.jpg", "train: bee/also.jpg"] in found["two_classes"]["names"]
    line = ingest_summary.describe(ingest_summary.read_summary(uri))
    assert "3 the same in train and eval (eval: " in line and "2 the same in two classes (" in line


def test_nothing_is_said_of_images_that_differ(tmp_path):
    folder = data.class_folders(
        str(tmp_path / "in"), {"train": two_classes(9), "val": two_classes(3, 500)}
    )
    uri = ingest(tmp_path, kind="folder", source=folder).uri
    assert ingest_summary.read_summary(uri)["duplicates"] == {
        "train_and_eval": {"count": 0, "names": []}, "two_classes": {"count": 0, "names": []}
    }  # fmt: skip
    assert _listed(uri) == [] and "the same" not in ingest_summary.describe(
        ingest_summary.read_summary(uri)
    )


def _with_comment(image, text):
    """The JPEG with a comment that no decoder looks at, where no sample is taken."""
    at = image.rindex(b"\xff\xda")  # before the scan
    comment = b"\xff\xfe" + (len(text) + 2).to_bytes(2, "big") + text
    return image[:at] + comment + image[at:]


def test_a_sample_that_is_equal_proves_nothing(tmp_path):
    """Of the same size, start, middle and end."""
    noise = np.random.default_rng(0).integers(0, 256, (200, 200, 3), np.uint8)
    out = io.BytesIO()
    Image.fromarray(noise).save(out, "JPEG", quality=95)
    start, end = 3000 * b"a", 3000 * b"c"
    one, two = (_with_comment(out.getvalue(), start + text + end) for text in (b"x", b"y"))
    assert len(one) == len(two) and one != two and duplicates.key(one) == duplicates.key(two)
    splits = {"train": two_classes(4), "val": two_classes(2, 500)}
    splits["train"]["ant"]["x.jpg"] = splits["val"]["ant"]["x.jpg"] = one
    splits["val"]["ant"]["y.jpg"] = two
    uri = ingest(
        tmp_path, kind="folder", source=data.class_folders(str(tmp_path / "in"), splits)
    ).uri
    assert _listed(uri) == [{("train", "ant", "ant/x.jpg"), ("eval", "ant", "ant/x.jpg")}]


def test_of_very_many_images_all_are_counted_and_few_are_listed(tmp_path, monkeypatch):
    monkeypatch.setattr(duplicates, "_LISTED", 2)
    same = data.jpeg(1)
    splits = {"train": two_classes(4), "val": two_classes(4, 500)}
    for split in ("train", "val"):
        splits[split]["ant"] |= {f"blank{i}.jpg": same for i in range(9)}
        splits[split]["bee"] |= {f"p{i}.jpg": data.jpeg(800 + i) for i in range(2)}
    splits["val"]["bee"]["blank.jpg"] = same
    uri = ingest(
        tmp_path, kind="folder", source=data.class_folders(str(tmp_path / "in"), splits)
    ).uri
    found = ingest_summary.read_summary(uri)["duplicates"]
    assert found["train_and_eval"]["count"] == 3 and found["two_classes"]["count"] == 1
    listed = _listed(uri)
    assert len(listed) == 2 and max(map(len, listed)) <= 3
