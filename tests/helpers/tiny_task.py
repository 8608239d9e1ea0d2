"""A classification task small enough to train in seconds: stripes of four directions, as JPEG
TFRecords.

Run as a script it trains on it: `python tiny_task.py ARGUMENTS.json [STEP_TO_DIE_AT]`.
"""

import csv
import io
import json
import os
import signal
import sys
import types

import keras
import numpy as np
import tensorflow as tf
from PIL import Image

from models import train
from models.training import callbacks

SIZE, CLASSES = 16, 4
LABELS = ("across", "down", "falling", "rising")
TRAIN, EVAL = 64, 22
CONFIG = {
    "transform": {
        "size": SIZE,
        "crop": "pad",
        "pad": 2,
        "colour": 0.05,
        "test_shorter_side": SIZE,
        "flip": False,
    },
    "model": {"family": "cifar", "depth": 8, "shortcut": "A"},
    "train": {
        "batch_size": 16,
        "epochs": 3,
        "learning_rate": 0.05,
        "schedule": "cosine",
        "shuffle_buffer": 100,
        "seed": 1,
    },
    "protocols": ["center"],
    "code": "ignored",
}


def jpeg(label, rng):
    """Stripes: horizontal, vertical and both diagonals, with noise."""
    rows, columns = np.mgrid[:SIZE, :SIZE]
    direction = [rows, columns, rows + columns, rows - columns][label]
    phase = rng.uniform(0, 2 * np.pi)
    waves = 128 + 90 * np.sin(direction * 2 * np.pi / 5 + phase)
    pixels = waves[..., None] + rng.normal(0, 20, [SIZE, SIZE, 3])
    buffer = io.BytesIO()
    Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(buffer, "JPEG", quality=95)
    return buffer.getvalue()


def write_records(folder, total, seed, shards=2):
    """TFRecords of `total` examples, labels in turn; returns their glob pattern."""
    os.makedirs(folder)
    rng = np.random.default_rng(seed)
    examples = []
    for number in range(total):
        label = number % CLASSES
        feature = {
            "image/encoded": tf.train.Feature(
                bytes_list=tf.train.BytesList(value=[jpeg(label, rng)])
            ),
            "image/class/label": tf.train.Feature(int64_list=tf.train.Int64List(value=[label])),
        }
        examples.append(
            tf.train.Example(features=tf.train.Features(feature=feature)).SerializeToString()
        )
    for shard in range(shards):
        with tf.io.TFRecordWriter(f"{folder}/data-{shard:05d}-of-{shards:05d}") as writer:
            for example in examples[shard::shards]:
                writer.write(example)
    return f"{folder}/*"


def write_transform_graph(folder, mean=128, labels=LABELS):
    """The analysis of Transform, with constants that are near the data's own."""
    assets = os.path.join(folder, "transform_fn", "assets")
    os.makedirs(assets)
    np.savez(
        os.path.join(assets, "augmentation.npz"),
        pixel_mean=np.full([SIZE, SIZE, 3], mean, np.float32),
        channel_mean=np.full([3], mean, np.float32),
        covariance=np.eye(3, dtype=np.float32) * 4000,
        labels=np.array(labels),
        class_counts=np.full([CLASSES], TRAIN // CLASSES),
        settings=np.array(json.dumps(CONFIG["transform"])),
    )
    return folder


def arguments(root, name="run", data=None, **changes):
    """What TFX hands to `run_fn`, as JSON; `section__field=value` changes the configuration."""
    data = data or make_data(os.path.join(root, "data"))
    config = json.loads(json.dumps(CONFIG))
    for key, value in changes.items():
        section, _, field = key.partition("__")
        if field:
            config[section][field] = value
        else:
            config[section] = value
    return {
        **data,
        "serving_model_dir": os.path.join(root, name, "serving"),
        "model_run_dir": os.path.join(root, name, "logs"),
        "hyperparameters": None,
        "custom_config": config,
    }


def make_data(folder):
    return {
        "train_files": [write_records(f"{folder}/train", TRAIN, seed=0)],
        "eval_files": [write_records(f"{folder}/eval", EVAL, seed=1)],
        "transform_graph_path": write_transform_graph(f"{folder}/transform"),
    }


def fn_args(values):
    return types.SimpleNamespace(**values)


def network(values):
    """The exported network."""
    path = os.path.join(values["serving_model_dir"], "assets.extra", "model.keras")
    return keras.models.load_model(path, compile=False)


def weights(values):
    return network(values).get_weights()


def summary(values):
    with open(os.path.join(values["model_run_dir"], "summary.json")) as file:
        return json.load(file)


def history(values):
    with open(os.path.join(values["model_run_dir"], "history.csv")) as file:
        return list(csv.DictReader(file))


class Stopped(BaseException):
    """A training has come to the step at which it was to stop."""


def stop_at(monkeypatch, step):
    """Lets trainings end at the beginning of a step, as if they were killed."""
    begin = callbacks.Follow.on_train_batch_begin

    def follow(self, batch, logs=None):
        begin(self, batch, logs)
        if self.run.steps_done == step:
            raise Stopped

    monkeypatch.setattr(callbacks.Follow, "on_train_batch_begin", follow)


def die_at(step):
    """kill -9 of this process at the beginning of a step."""
    follow = callbacks.Follow.on_train_batch_begin

    def begin(self, batch, logs=None):
        follow(self, batch, logs)
        if self.run.steps_done == step:
            os.kill(os.getpid(), signal.SIGKILL)

    callbacks.Follow.on_train_batch_begin = begin


if __name__ == "__main__":
    with open(sys.argv[1]) as file:
        values = json.load(file)
    if len(sys.argv) > 2:
        die_at(int(sys.argv[2]))
    train.run_fn(fn_args(values))
