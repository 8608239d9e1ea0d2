"""The held-out part: TFX's partition, with every class in train and eval."""

import collections

import numpy as np
import tensorflow as tf
from tfx.components.example_gen import base_example_gen_executor
from tfx.proto import example_gen_pb2

from components.example_gen import holdout
from tests.components.example_gen.test_example_gen import (
    contents,
    ingest,
    read,
    two_classes,
)
from tests.helpers import data


def test_holdout_is_the_partition_of_tfx(tmp_path):
    folder = data.class_folders(str(tmp_path / "in"), {"train": two_classes(100)})
    fields = {"kind": "folder", "source": folder, "holdout": 0.2}
    train, evaluation = (contents(ingest(tmp_path, **fields).uri, s) for s in ("train", "eval"))
    assert not set(train) & set(evaluation) and len(train) + len(evaluation) == 200
    assert 20 <= len(evaluation) <= 60
    config = example_gen_pb2.SplitConfig(partition_feature_name="image/filename")
    for name in [*train, *evaluation]:
        feature = tf.train.Feature(bytes_list=tf.train.BytesList(value=[name.encode()]))
        example = tf.train.Example(features=tf.train.Features(feature={"image/filename": feature}))
        bucket = base_example_gen_executor._PartitionFn(example, 2, [8000, 10_000], config)
        assert bucket == (name in evaluation)
    (tmp_path / "in" / "train" / "ant" / "new.jpg").write_bytes(data.jpeg(77))
    again = contents(ingest(tmp_path, execution=2, **fields).uri, "eval")
    assert set(again) - {"ant/new.jpg"} == set(evaluation)


def test_holdout_gives_every_class_both_splits(tmp_path):
    splits = {
        "train": {name: {f"{i}.jpg": data.jpeg(i, 16, 16) for i in range(4)} for name in "abcde"}
    }
    splits["train"]["pair"] = {"1.jpg": data.jpeg(1), "2.jpg": data.jpeg(2)}
    folder = data.class_folders(str(tmp_path / "in"), splits)
    for execution, part in enumerate((0.05, 0.95)):
        uri = ingest(tmp_path, execution=execution, kind="folder", source=folder, holdout=part).uri
        count = {
            split: collections.Counter(e["image/class/synset"].decode() for e in read(uri, split))
            for split in ("train", "eval")
        }
        assert set(count["train"]) == set(count["eval"]) == {*"abcde", "pair"}
        assert count["train"] + count["eval"] == collections.Counter(
            {**dict.fromkeys("abcde", 4), "pair": 2}
        )


def test_holdout_moves_the_smallest_hash_alone():
    names = [f"{i}.jpg" for i in range(40)]
    hashes = [holdout._hash(name) for name in names]
    alone = np.array([h % 10_000 >= 7000 for h in hashes])
    assert (holdout.assign(names, np.full(40, -1), 0.3) == alone).all()
    # Class 0: no image that the hash holds out; class 1: only such; class 2: the rest.
    labels = np.full(40, 2)
    labels[np.flatnonzero(~alone)[-5:]] = 0
    labels[np.flatnonzero(alone)[-3:]] = 1
    held = holdout.assign(names, labels, 0.3)
    for label in (0, 1):
        of_class = np.flatnonzero(labels == label)
        (moved,) = of_class[held[of_class] != alone[of_class]]
        assert hashes[moved] == min(hashes[i] for i in of_class)
    assert (held == alone)[labels == 2].all()
    # A class of one image keeps it in train.
    for name in names:
        assert not holdout.assign([name], np.array([5]), 0.3)[0]
