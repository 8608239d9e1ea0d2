"""A source that grows: which spans a run takes, what it makes of them, when it runs again."""

import collections
import glob
import json
import os
from dataclasses import replace

import pytest
import tensorflow as tf
from tfx.components.example_gen import utils
from tfx.types import standard_artifacts

from components.example_gen import component, ingest_summary, marks, source
from components.example_gen.errors import SourceError
from components.example_gen.settings import Data
from tests.components.example_gen.test_example_gen import (
    FNAPI,
    _context,
    found_classes,
    found_labels,
    ingest,
    properties,
    quarantine,
    two_classes,
)
from tests.helpers import data

MARKED = "span-{SPAN}"


def _config(root, **fields):
    return Data(**{"kind": "folder", "source": os.path.join(str(root), MARKED), **fields})


def _span(root, name, count=4, held=2, **classes):
    """Class folders of a span: ant and bee, and `classes`; images differ from span to span."""
    start = 10 * sum(map(ord, name))
    splits = {"train": {**two_classes(count, start), **classes}}
    if held:
        splits["val"] = two_classes(held, start + 500)
    return data.class_folders(os.path.join(str(root), name), splits)


def _examples(uri, split):
    """(span, file name) -> features of every example."""
    found = {}
    for record in tf.data.TFRecordDataset(sorted(glob.glob(f"{uri}/Split-{split}/*"))):
        feature = tf.train.Example.FromString(record.numpy()).features.feature
        span = feature["image/span"].int64_list.value[0]
        found[span, feature["image/filename"].bytes_list.value[0].decode()] = feature
    return found


@pytest.mark.parametrize(
    "pattern, names, expected",
    [
        ("s-{SPAN}", ["s-2", "s-10", "s-9.part", "s-", "t-11"], [(2, None), (10, None)]),
        ("{SPAN:2}", ["01", "1", "07", "100"], [(1, None), (7, None)]),
        ("s{SPAN}-v{VERSION}", ["s1-v2", "s1-v10", "s3-v1"], [(1, 10), (3, 1)]),
        (
            "{YYYY}-{MM}-{DD}",
            ["2026-01-31", "1999-12-01", "2026-1-31"],
            [
                (utils.date_to_span_number(1999, 12, 1), None),
                (utils.date_to_span_number(2026, 1, 31), None),
            ],
        ),
    ],
)
def test_marks_are_those_of_tfx(tmp_path, pattern, names, expected):
    for name in names:
        (tmp_path / name).mkdir()
    found = marks.find([str(tmp_path / pattern)])
    assert [(span.number, span.version) for span in found] == expected
    for span in found:
        assert os.path.isdir(span.fill(str(tmp_path / pattern)))


def test_marks_that_name_no_span_are_refused(tmp_path):
    for pattern in ("{VERSION}", "{SPAN}/{SPAN}", "{YYYY}-{MM}", "{SPAN}-{YYYY}-{MM}-{DD}"):
        with pytest.raises(
            SourceError, match=r"must have one \{SPAN\}, or \{YYYY\}, \{MM\} and \{DD\} once"
        ):
            marks.find([str(tmp_path / pattern)])
    for name in ("s3", "s03", "2026-02-30"):
        (tmp_path / name).mkdir()
    with pytest.raises(SourceError, match=r"s0?3 and .*/s0?3 are both span 3: rename one"):
        marks.find([str(tmp_path / "s{SPAN}")])
    with pytest.raises(SourceError, match="2026-02-30 names a day that does not exist"):
        marks.find([str(tmp_path / "{YYYY}-{MM}-{DD}")])


def test_a_number_that_tfx_cannot_hold_is_refused(tmp_path):
    _span(tmp_path, "span-20261126030000")
    with pytest.raises(
        SourceError, match=r"has the number 20261126030000, and 2147483647 is the largest"
    ):
        source.spans(_config(tmp_path))


def test_the_newest_spans_are_taken_whatever_their_numbers(tmp_path):
    for name in ("span-2", "span-10", "span-3", "span-11.part"):
        _span(tmp_path, name)
    for count, expected in ((1, [10]), (2, [3, 10]), (3, [2, 3, 10]), (9, [2, 3, 10])):
        assert source.spans(_config(tmp_path, spans=count)) == expected
    assert source.spans(Data(kind="folder", source=str(tmp_path / "span-2"))) == []


def test_settings_that_do_not_fit_are_refused(tmp_path):
    _span(tmp_path, "span-1")
    plain = str(tmp_path / "span-1")
    for fields, message in (
        ({"source": plain, "spans": 2}, r"data\.spans=2 needs a source that grows"),
        ({"kind": "tfds"}, r"data\.kind=tfds has no spans"),
        ({"train_split": "t{SPAN}"}, "take those of the splits out"),
        ({"source": plain, "train_split": "t{SPAN}"}, "must both have the marks"),
        (
            {"source": str(tmp_path / "other-{SPAN}")},
            "There is no span .*other-{SPAN}: put the first one there",
        ),
    ):
        with pytest.raises(SourceError, match=message):
            source.check(_config(tmp_path, **fields))


def test_a_span_that_lacks_a_part_is_named(tmp_path):
    _span(tmp_path, "span-1")
    _span(tmp_path, "span-2", held=0)
    for count in (1, 2):
        with pytest.raises(
            SourceError, match=r"Span 2 \(.*span-2\) lacks val, which span 1 has: copy it, or"
        ):
            source.check(_config(tmp_path, spans=count))
    source.check(_config(tmp_path, spans=2, eval_split="holdout"))
    (tmp_path / "span-3" / "val").mkdir(parents=True)
    with pytest.raises(SourceError, match=r"Span 3 is not whole: .*span-3 has no train/ folder"):
        source.check(_config(tmp_path, spans=2))


def test_classes_are_those_of_the_window(tmp_path):
    _span(tmp_path, "span-1", wasp={"1.jpg": data.jpeg(1)})
    _span(tmp_path, "span-2", cat={"1.jpg": data.jpeg(2)})
    _span(tmp_path, "span-4")
    assert found_classes(_config(tmp_path)) == ["ant", "bee"]
    assert found_classes(_config(tmp_path, spans=2)) == ["ant", "bee", "cat"]
    assert found_classes(_config(tmp_path, spans=3)) == ["ant", "bee", "cat", "wasp"]


def test_a_window_is_one_shuffled_data_set_that_knows_its_spans(tmp_path):
    cats = {f"{i}.png": data.png(i) for i in range(3)}
    folders = {
        1: _span(tmp_path, "span-1"),
        2: _span(tmp_path, "span-2"),
        5: _span(tmp_path, "span-5", cat=cats),
    }
    with open(f"{folders[5]}/train/bee/bad.jpg", "wb") as stream:
        stream.write(data.truncated())
    fields = _config(tmp_path, spans=2, train_shards=2, max_bad_fraction=0.1)
    artifact = ingest(tmp_path / "out", **vars(fields))
    found = _examples(artifact.uri, "train")
    assert collections.Counter(span for span, _ in found) == {2: 8, 5: 11}
    assert collections.Counter(span for span, _ in _examples(artifact.uri, "eval")) == {2: 4, 5: 4}
    for (span, name), feature in found.items():
        label = ["ant", "bee", "cat"].index(os.path.dirname(name))
        assert feature["image/class/label"].int64_list.value == [label]
        with open(f"{folders[span]}/train/{name}", "rb") as stream:
            png = name.startswith("cat/")
            assert feature["image/encoded"].bytes_list.value == [stream.read()]
        assert feature["image/source_format"].bytes_list.value == [b"PNG" if png else b"JPEG"]
    for path in glob.glob(f"{artifact.uri}/Split-train/*"):
        spans = [tf.train.Example.FromString(r.numpy()) for r in tf.data.TFRecordDataset(path)]
        assert {e.features.feature["image/span"].int64_list.value[0] for e in spans} == {2, 5}
    assert quarantine(artifact.uri, "train")["bee/bad.jpg"]["span"] == 5
    report = ingest_summary.read_summary(artifact.uri)
    assert report["spans"] == [2, 5] and report["span"] == 5 == artifact.get_int_custom_property(
        "span"
    )
    assert report["source"] == str(tmp_path / MARKED) and report["classes"] == ["ant", "bee", "cat"]
    assert ingest_summary.describe(report).endswith("spans 2, 5")


def test_a_held_out_image_stays_so_as_spans_come_and_go(tmp_path):
    for number in range(1, 4):
        _span(tmp_path, f"span-{number}", count=20, held=0)
    fields = {"holdout": 0.3, "spans": 2}
    window = set(_examples(ingest(tmp_path / "a", **vars(_config(tmp_path, **fields))).uri, "eval"))
    _span(tmp_path, "span-4", count=20, held=0)
    later = set(_examples(ingest(tmp_path / "b", **vars(_config(tmp_path, **fields))).uri, "eval"))
    assert {span for span, _ in window} == {2, 3} and {span for span, _ in later} == {3, 4}
    assert {k for k in window if k[0] == 3} == {k for k in later if k[0] == 3}


def test_the_executor_finds_the_window_where_no_driver_runs(tmp_path):
    for number in (1, 3):
        _span(tmp_path, f"span-{number}")
    config = _config(tmp_path, spans=2)
    with_driver = ingest(tmp_path / "a", **vars(config))
    artifact = standard_artifacts.Examples()
    artifact.uri = str(tmp_path / "b" / "ImageExampleGen" / "examples" / "1")
    os.makedirs(artifact.uri)
    exec_properties = {
        k: v for k, v in component.example_gen(config).exec_properties.items() if v is not None
    }
    component.ImageExampleGen_Executor(_context(FNAPI)).Do(
        {}, {"examples": [artifact]}, exec_properties
    )
    assert ingest_summary.read_summary(artifact.uri) == ingest_summary.read_summary(with_driver.uri)
    for split in ("train", "eval"):
        assert _examples(artifact.uri, split) == _examples(with_driver.uri, split)
    assert artifact.get_int_custom_property("span") == 3


def test_the_cache_key_follows_the_window_alone(tmp_path):
    for number in (1, 2, 4):
        _span(tmp_path, f"span-{number}")
    config = _config(tmp_path, spans=2)
    first = properties(config)
    assert [number for number, *_ in json.loads(first["window"])] == [2, 4]
    assert (first["span"], first["version"]) == (4, None)
    assert properties(config) == first
    os.utime(tmp_path / "span-1" / "train" / "ant" / "0.jpg", (1, 1))
    assert properties(config) == first
    assert properties(replace(config, spans=1))["input_fingerprint"] != first["input_fingerprint"]
    os.utime(tmp_path / "span-2" / "val" / "ant" / "0.jpg", (1, 1))
    touched = properties(config)
    assert touched["input_fingerprint"] != first["input_fingerprint"]
    _span(tmp_path, "span-3")
    assert json.loads(properties(config)["window"])[0][0] == 3
    assert properties(config)["input_fingerprint"] != touched["input_fingerprint"]


def test_ilsvrc_spans_share_a_kit_or_have_their_own(tmp_path):
    for number, classes in ((1, 2), (2, 3)):
        data.small_ilsvrc(str(tmp_path / f"span-{number}"), classes, per_class=4, val_per_class=2)
    config = _config(tmp_path, kind="ilsvrc", spans=2)
    assert found_labels(config) == [f"name of n{1000 + 7 * i:08d}" for i in range(3)]
    found = _examples(ingest(tmp_path / "out", **vars(config)).uri, "eval")
    assert collections.Counter(span for span, _ in found) == {1: 4, 2: 6}
    kit = "ILSVRC2012_devkit_t12.tar.gz"
    os.remove(tmp_path / "span-1" / kit)
    with pytest.raises(SourceError, match=f"Span 1 is not whole: .* lacks {kit}"):
        source.check(config)
    os.replace(tmp_path / "span-2" / kit, tmp_path / kit)
    assert found_classes(config) == [f"n{1000 + 7 * i:08d}" for i in range(3)]


def test_tars_and_versions(tmp_path):
    for name, classes in (("2-v1", "ab"), ("2-v2", "abc"), ("3-v1", "ab")):
        images = {f"train/{c}/{i}.jpg": data.jpeg(i, 16, 16) for c in classes for i in range(4)}
        (tmp_path / f"{name}.tar").write_bytes(data.tar_bytes(images))
    config = _config(tmp_path, source=str(tmp_path / "{SPAN}-v{VERSION}.tar"), spans=5)
    assert found_classes(config) == ["a", "b", "c"]
    assert properties(config)["version"] == 1
    found = _examples(ingest(tmp_path / "out", **vars(config)).uri, "train")
    assert collections.Counter(span for span, _ in found) == {2: 9, 3: 6}


def test_remote_spans(tmp_path):
    """ram:// is a file system of TensorFlow's, as gs:// is."""
    remote = f"ram://{tmp_path.name}"
    for number in (1, 9, 10):
        for split in ("train", "val"):
            for name in ("ant", "bee", *(["cat"] if number == 9 else [])):
                tf.io.gfile.makedirs(f"{remote}/span-{number}/{split}/{name}")
                with tf.io.gfile.GFile(
                    f"{remote}/span-{number}/{split}/{name}/1.jpg", "wb"
                ) as file:
                    file.write(data.jpeg(number))
    config = _config(tmp_path, source=f"{remote}/{MARKED}", spans=2)
    assert source.spans(config) == [9, 10] and found_classes(config) == ["ant", "bee", "cat"]
    first = properties(config)
    assert properties(config) == first
