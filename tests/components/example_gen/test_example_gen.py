"""The executor on real Beam: every source, quirks, quarantine, shuffling, resuming."""

import collections
import glob
import json
import os
from dataclasses import replace

import apache_beam as beam
import numpy as np
import pytest
import tensorflow as tf
from tfx.orchestration import data_types
from tfx.types import standard_artifacts

from components.example_gen import component, ingest_summary, source
from components.example_gen.errors import SourceError, TooManyBadError
from components.example_gen.settings import Data
from components.example_gen.writing import index, shards
from models.pixels import decoding
from tests.helpers import data

SHARED = os.path.join(
    os.path.dirname(__file__), "..", "..", "..", "..", "shared", "data", "ilsvrc2012-10"
)
FNAPI = ["--runner=FnApiRunner"]


def properties(config):
    """Execution properties as TFX's driver makes them."""
    generator = component.example_gen(config)
    info = data_types.PipelineInfo("p", "r")
    return generator.DRIVER_CLASS(None).resolve_exec_properties(
        dict(generator.exec_properties), info, data_types.ComponentInfo("t", "i", info)
    )


def found_classes(config):
    return list(source.classes_of(source.parts(config)))


def found_labels(config):
    return list(source.labels_of(source.parts(config)))


def _context(args):
    # Given as `beam_pipeline_args`, TFX would pack itself into an sdist for the workers: a second a
    # run.
    return component.ImageExampleGen_Executor.Context(
        make_beam_pipeline_fn=lambda: beam.Pipeline(argv=list(args))
    )


def ingest(root, args=FNAPI, execution=1, **fields):
    """Runs driver and executor; returns the artifact."""
    artifact = standard_artifacts.Examples()
    artifact.uri = os.path.join(str(root), "ImageExampleGen", "examples", str(execution))
    os.makedirs(artifact.uri, exist_ok=True)
    component.ImageExampleGen_Executor(_context(args)).Do(
        {}, {"examples": [artifact]}, properties(Data(**fields))
    )
    return artifact


def read(uri, split):
    """All examples of a split in stored order, as dicts."""
    keys = {"encoded": b"", "format": b"", "filename": b"", "height": 0, "width": 0, "channels": 0}
    keys |= {"class/label": 0, "class/synset": b""}
    spec = {
        f"image/{k}": tf.io.FixedLenFeature([], tf.int64 if v == 0 else tf.string)
        for k, v in keys.items()
    }
    paths = sorted(glob.glob(os.path.join(uri, f"Split-{split}", "*")))
    records = [r.numpy() for r in tf.data.TFRecordDataset(paths)]
    for record in records:  # exactly the features of the contract
        assert set(tf.train.Example.FromString(record).features.feature) - {
            "image/original"
        } == set(spec)
    spec["image/original"] = tf.io.FixedLenFeature([], tf.string, "")
    return [{k: v.numpy() for k, v in tf.io.parse_single_example(r, spec).items()} for r in records]


def _file(path):
    with open(path, "rb") as stream:
        return stream.read()


def contents(uri, split):
    return {e["image/filename"].decode(): e for e in read(uri, split)}


def quarantine(uri, split):
    with open(ingest_summary.quarantine_path(uri, split)) as stream:
        return {item["name"]: item for item in map(json.loads, stream)}


def test_ilsvrc_bytes_labels_and_features(tmp_path):
    wnids = ["n00000030", "n00000010", "n00000020"]
    train = {
        w: {f"{w}_{i}.JPEG": data.jpeg(10 * c + i) for i in range(5)} for c, w in enumerate(wnids)
    }
    val = [(w, data.jpeg(500 + i)) for i, w in enumerate([*wnids, *wnids[::-1]])]
    order = ["n00000020", "n00000030", "n00000010"]
    folder = data.ilsvrc(str(tmp_path / "in"), train, val, order)
    uri = ingest(tmp_path, kind="ilsvrc", source=folder).uri
    label = {"n00000010": 0, "n00000020": 1, "n00000030": 2}
    found = contents(uri, "train")
    assert {n: e["image/encoded"] for n, e in found.items()} == {
        n: b for w in train.values() for n, b in w.items()
    }
    for name, example in found.items():
        assert example["image/class/synset"].decode() == name.split("_")[0]
        assert example["image/class/label"] == label[name.split("_")[0]]
        assert (example["image/height"], example["image/width"], example["image/channels"]) == (
            48,
            64,
            3,
        )
        assert example["image/format"] == b"JPEG"
    found = contents(uri, "eval")
    assert len(found) == 6
    for number, (wnid, image) in enumerate(val, 1):
        example = found[f"ILSVRC2012_val_{number:08d}.JPEG"]
        assert example["image/encoded"] == image and example["image/class/label"] == label[wnid]
    report = ingest_summary.read_summary(uri)
    assert report["classes"] == sorted(wnids) and report["labels"][0] == "name of n00000010"
    assert ingest_summary.describe(report) == "15 train, 6 eval, 0 quarantined, 0 MB"
    assert _file(os.path.join(uri, "synsets.txt")).decode().split() == sorted(wnids)


def _quirky(folder, good, seed=0):
    """Class folders with one of each quirk and bad file, and `good` plain images a split."""
    special = {**data.convertible(), **data.bad(), **data.plain()}
    images = {f"{n}.JPEG": b for n, b in special.items()}
    images |= {
        f"good{i}.JPEG": data.jpeg(i, 16, 16) for i in range(good - len(data.convertible()) - 7)
    }
    half = dict(list(images.items())[::2])
    other = {n: b for n, b in images.items() if n not in half}
    fine = {"1.jpg": data.jpeg(1)}
    return data.class_folders(
        folder, {"train": {"a": half, "b": other}, "val": {"a": fine, "b": fine}}
    )


def test_one_percent_bad_is_quarantined_exactly(tmp_path):
    uri = ingest(
        tmp_path, kind="folder", source=_quirky(str(tmp_path / "in"), 693), max_pixels=10**6
    ).uri
    bad = quarantine(uri, "train")
    assert {os.path.basename(n) for n in bad} == {f"{n}.JPEG" for n in data.bad()}
    assert all(
        item["source"] == str(tmp_path / "in" / "train") and item["reason"] for item in bad.values()
    )
    found = contents(uri, "train")
    figures = ingest_summary.read_summary(uri)["splits"]["train"]
    assert len(found) == figures["examples"] == 693 and figures["quarantined"] == 7
    assert figures["converted"] == 1 and figures["deep"] == 1
    assert figures["deepest"] == 257 * int(data.pixels(7, channels=1).max())
    for name, original in data.convertible().items():
        example = found.get(f"a/{name}.JPEG") or found[f"b/{name}.JPEG"]
        assert (example["image/encoded"] != original) == (name == "gif")
        assert example["image/original"] == (original if name == "gif" else b"")
    for example in found.values():
        decoded = decoding.decode(tf.constant(example["image/encoded"]))
        assert decoded.shape == [example[f"image/{k}"] for k in ("height", "width")] + [3]
        assert example["image/channels"] in (1, 3)


def test_ten_percent_bad_stops_and_the_list_survives(tmp_path):
    source = _quirky(str(tmp_path / "in"), 63)
    fields = {"kind": "folder", "source": source, "max_pixels": 10**6, "max_bad_images": 6}
    with pytest.raises(TooManyBadError) as error:
        ingest(tmp_path, **fields)
    message = str(error.value)
    assert (
        "7 of 72 images cannot be used (7 of 70 in train; 9.7%, and data.max_bad_fraction allows"
        " 1.0%, data.max_bad_images 6)" in message
    )
    assert message.endswith(
        ": mend or remove them, or let them pass with --set data.max_bad_fraction=0.098."
    )
    path = message.split("all are listed in ")[1].split(": mend")[0]
    with open(path) as stream:
        assert len(stream.readlines()) == 7
    assert not glob.glob(str(tmp_path / "ImageExampleGen/examples/1/*"))
    # Allowed: the shards that are there are used.
    before = {p: os.stat(p).st_ino for p in glob.glob(os.path.dirname(path) + "/data/*")}
    uri = ingest(tmp_path, execution=2, **{**fields, "max_bad_fraction": 0.098}).uri
    inodes = {os.stat(p).st_ino for p in glob.glob(uri + "/Split-*/*")}
    assert before and inodes == set(before.values())
    assert len(read(uri, "train")) == 63 and not os.path.exists(
        os.path.dirname(os.path.dirname(path))
    )


def test_shards_are_even_shuffled_and_follow_the_seed(tmp_path):
    folder = data.small_ilsvrc(str(tmp_path / "in"), classes=4, per_class=50)

    def order(name, **fields):
        fields |= {"kind": "ilsvrc", "source": folder, "train_shards": 5, "eval_shards": 2}
        uri = ingest(tmp_path / name, **fields).uri
        return uri, [e["image/filename"].decode() for e in read(uri, "train")]

    uri, first = order("a")
    paths = sorted(glob.glob(uri + "/Split-train/*"))
    assert [os.path.basename(p) for p in paths] == [
        f"data_tfrecord-{i:05d}-of-00005" for i in range(5)
    ]
    assert {sum(1 for _ in tf.data.TFRecordDataset(p)) for p in paths} == {40}
    for path in paths:  # four classes of 50: a shuffled shard of 40 has some of each
        labels = [tf.train.Example.FromString(r.numpy()) for r in tf.data.TFRecordDataset(path)]
        count = collections.Counter(
            e.features.feature["image/class/label"].int64_list.value[0] for e in labels
        )
        assert len(count) == 4 and max(count.values()) <= 22
    position = {name: i for i, name in enumerate(first)}
    ranks = [position[name] for name in sorted(first)]
    assert abs(np.corrcoef(ranks, range(200))[0, 1]) < 0.25
    _, again = order("b")
    _, other = order("c", seed=1)
    assert first == again and first != other and sorted(first) == sorted(other)
    assert ingest_summary.read_summary(uri)["seed"] == 0


def test_two_worker_processes_write_the_same_bytes(tmp_path):
    folder = data.small_ilsvrc(str(tmp_path / "in"), per_class=20)
    fields = {"kind": "ilsvrc", "source": folder, "train_shards": 4}
    one = ingest(tmp_path / "1", **fields).uri
    parallel = [*FNAPI, "--direct_running_mode=multi_processing", "--direct_num_workers=2"]
    two = ingest(tmp_path / "2", args=parallel, **fields).uri
    for path in glob.glob(one + "/Split-*/*"):
        assert _file(path) == _file(path.replace(one, two))


def test_a_killed_run_goes_on_and_takes_nothing_half_written(tmp_path):
    folder = data.small_ilsvrc(str(tmp_path / "in"), per_class=20)
    fields = {"kind": "ilsvrc", "source": folder, "train_shards": 4}
    expected = ingest(tmp_path / "whole", **fields).uri
    run = component._Run(properties(Data(**fields)))
    stage = tmp_path / "killed" / "ImageExampleGen" / "staging" / run.key()
    component._plan(str(stage), run)
    jobs = shards.jobs(str(stage))
    shards.write_shard(jobs[0], run.reading())
    kept = os.stat(jobs[0].shard).st_ino
    # Killed while writing one shard, and between another's rename and its report.
    (stage / "data" / "train-half.tmp").write_bytes(b"half")
    with open(jobs[1].shard, "wb") as stream:
        stream.write(b"not whole")
    uri = ingest(tmp_path / "killed", execution=2, **fields).uri
    names = sorted(glob.glob(expected + "/Split-*/*"))
    assert sorted(glob.glob(uri + "/Split-*/*")) == [n.replace(expected, uri) for n in names]
    for path in names:
        assert _file(path) == _file(path.replace(expected, uri))
    assert os.stat(glob.glob(uri + "/Split-train/*-00000-*")[0]).st_ino == kept
    assert not stage.exists()


def test_runs_that_fail_leave_no_more_than_one_does(tmp_path):
    """A disk is not filled by trying again, neither with the same data nor with mended ones."""
    folder = data.class_folders(
        str(tmp_path / "in"), {"train": two_classes(6), "val": two_classes(2, 500)}
    )
    fields = {"kind": "folder", "source": folder, "max_bad_images": 0}
    for execution in (1, 2, 3):
        (tmp_path / "in" / "train" / "ant" / "2.jpg").write_bytes(b"x" * execution)
        with pytest.raises(TooManyBadError):
            ingest(tmp_path, execution=execution, **fields)
        [stage] = (tmp_path / "ImageExampleGen" / "staging").iterdir()
        assert not list(stage.glob("*/*.tmp"))
        # What one that is killed, or whose disk is full, leaves of a shard.
        (stage / "data" / "train-data_tfrecord-00000-of-00001.0123456789ab.tmp").write_bytes(
            b"half"
        )
    os.remove(stage / "data" / "train-data_tfrecord-00000-of-00001")
    with pytest.raises(TooManyBadError):
        ingest(tmp_path, execution=4, **fields)
    assert not list(stage.glob("*/*.tmp"))


def two_classes(count, start=0):
    return {
        name: {f"{i}.jpg": data.jpeg(start + 1000 * c + i, 16, 16) for i in range(count)}
        for c, name in enumerate(("ant", "bee"))
    }


def test_an_empty_split_is_an_error(tmp_path):
    folder = data.class_folders(str(tmp_path / "in"), {"train": {"a": {}, "b": {}}})
    with pytest.raises(
        SourceError, match=r"class folders without an image of their own \(a, b\): put"
    ):
        ingest(tmp_path, kind="folder", source=folder)


def test_span_reaches_the_artifact_and_the_latest_is_read(tmp_path):
    for span, classes in (("2", 3), ("10", 2)):
        data.small_ilsvrc(str(tmp_path / "in" / f"span-{span}"), classes)
    data.small_ilsvrc(str(tmp_path / "in"), 3)  # its devkit serves all spans
    report = ingest_summary.read_summary(
        ingest(
            tmp_path,
            kind="ilsvrc",
            source=str(tmp_path / "in"),
            train_split="span-{SPAN}/ILSVRC2012_img_train.tar",
            eval_split="span-{SPAN}/ILSVRC2012_img_val.tar",
            max_bad_fraction=1.0,
        ).uri
    )
    assert report["span"] == 10 and report["splits"]["train"]["examples"] == 16


def test_cache_key_follows_data_and_devkit(tmp_path):
    folder = data.small_ilsvrc(str(tmp_path / "in"))
    config = Data(kind="ilsvrc", source=folder)
    first = properties(config)
    assert properties(config) == first
    assert properties(replace(config, seed=1)) != first
    assert properties(replace(config, schema="infer")) == first  # not ours
    other = data.small_ilsvrc(str(tmp_path / "other"), val_per_class=5)
    os.replace(other + "/ILSVRC2012_devkit_t12.tar.gz", folder + "/ILSVRC2012_devkit_t12.tar.gz")
    assert properties(config)["input_fingerprint"] != first["input_fingerprint"]
    os.utime(folder + "/ILSVRC2012_img_val.tar", (1, 1))
    assert properties(config)["input_fingerprint"] != first["input_fingerprint"]


@pytest.mark.shared_data
def test_real_archives(tmp_path):
    if not os.path.isdir(SHARED):
        pytest.skip(f"no real images at {os.path.normpath(SHARED)}")
    import io
    import tarfile

    import scipy.io

    uri = ingest(tmp_path, kind="ilsvrc", source=SHARED).uri
    splits = ingest_summary.read_summary(uri)["splits"]
    assert (splits["train"]["examples"], splits["eval"]["examples"]) == (6000, 500)
    with tarfile.open(os.path.join(SHARED, "ILSVRC2012_devkit_t12.tar.gz")) as kit:
        files = {os.path.basename(m.name): kit.extractfile(m).read() for m in kit if m.isreg()}
    synsets = scipy.io.loadmat(io.BytesIO(files["meta.mat"]))["synsets"][:, 0]
    wnid = {int(s["ILSVRC2012_ID"][0, 0]): str(s["WNID"][0]) for s in synsets}
    truth = files["ILSVRC2012_validation_ground_truth.txt"].split()
    with tarfile.open(os.path.join(SHARED, "ILSVRC2012_img_train.tar")) as tar:
        order = sorted(name.removesuffix(".tar") for name in tar.getnames())
    found = contents(uri, "eval")
    right = 0
    for name, example in found.items():
        official = wnid[int(truth[int(name[15:23]) - 1])]
        right += example["image/class/label"] == order.index(official)
        assert example["image/class/synset"].decode() == official
    assert right == len(found) == 500


def test_remote_paths_go_through_tensorflow(tmp_path):
    """ram:// is a file system of TensorFlow's, as gs:// is."""
    local = data.small_ilsvrc(str(tmp_path / "in"))
    remote = f"ram://{os.path.basename(tmp_path)}"
    for name in os.listdir(local):
        tf.io.gfile.makedirs(f"{remote}/in")
        tf.io.gfile.copy(f"{local}/{name}", f"{remote}/in/{name}")
    folders = {"train/a/1.jpg": data.jpeg(1), "train/b/2.jpg": data.jpeg(2), "train/b/.hidden": b""}
    folders |= {"train/b/sub/3.jpg": data.jpeg(3), "train/b/sub/.hidden/4.jpg": b""}
    for path, content in folders.items():
        tf.io.gfile.makedirs(os.path.dirname(f"{remote}/folders/{path}"))
        with tf.io.gfile.GFile(f"{remote}/folders/{path}", "wb") as stream:
            stream.write(content)
    for kind, folder, count in (("ilsvrc", "in", 24), ("folder", "folders", 2)):
        where = source.find(Data(kind=kind, source=f"{remote}/{folder}"))
        table = index.build(where, "train")
        bad = [row["name"] for row in table.to_pylist() if row["reason"]]
        assert bad == (["b/sub/3.jpg"] if kind == "folder" else [])
        reading = shards.Reading(10**6, where.classes(), where)
        shards.plan(f"{remote}/{kind}", {"train": table}, {"train": 2}, 0)
        found = []
        for job in shards.jobs(f"{remote}/{kind}"):
            shards.write_shard(job, reading)
            assert job.finished()
            found += [r.numpy() for r in tf.data.TFRecordDataset(job.shard)]
        assert len(found) == count
    with pytest.raises(SourceError, match=r"lacks ILSVRC2012_img_train\.tar"):
        source.find(Data(kind="ilsvrc", source=f"{remote}/nowhere"))
