"""User stories on photographs: one's own class folders, and the ILSVRC archives."""

import contextlib
import json
import os
import socket
import subprocess
import sys
import tarfile

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from components.example_gen.ingest_summary import read_summary
from models import preprocessing
from serving.client import Client
from tests.helpers.runs import ROOT, artifact, run, serving, state, versions

pytestmark = pytest.mark.e2e
ILSVRC = os.path.join(os.path.dirname(ROOT), "shared", "data", "ilsvrc2012-10")


def shapes(folder, classes=("bar", "disc", "frame"), count=40):
    """Class folders of drawn shapes, 200 to 400 pixels, PNG and JPEG."""
    rng = np.random.default_rng(0)
    for number, name in enumerate(classes):
        os.makedirs(os.path.join(folder, "train", name))
        for i in range(count):
            height, width = rng.integers(200, 400, 2)
            y, x = np.mgrid[:height, :width] / [[[height]], [[width]]] - 0.5
            shape = [np.abs(y) < 0.1, x**2 + y**2 < 0.12, (np.abs(x) > 0.35) | (np.abs(y) > 0.35)][
                number
            ]
            pixels = np.where(shape[..., None], rng.integers(150, 255, 3), rng.integers(0, 100, 3))
            noisy = np.clip(pixels + rng.normal(0, 10, pixels.shape), 0, 255).astype(np.uint8)
            Image.fromarray(noisy).save(
                os.path.join(folder, "train", name, f"{i}.{'png' if i % 4 else 'jpg'}")
            )


def test_own_folders_rescaled_tuned_and_trained_on_two_devices(tmp_path):
    shapes(tmp_path / "photos")
    status, output = run(
        tmp_path, f"data.source={tmp_path}/photos", "data.schema=infer", "data.holdout=0.25",
        "transform.size=32", "transform.shorter_side=48", "transform.scale_min=36", "transform.scale_max=48",
        "transform.test_shorter_side=40", "model.family=cifar", "model.depth=8", "model.shortcut=A",
        "train.epochs=6", "train.batch_size=16", "train.scale_lr=false", "train.learning_rate=0.05",
        "train.cpu_devices=2", "tune.enabled=true", "tune.trials=2", "tune.epochs=1", "tune.examples=64",
        "evaluate.max_top1_error=0.6", "evaluate.protocols=center", "serve.validator=none",
        preset="folder",
    )  # fmt: skip
    assert status == 0
    for node in (
        "ExampleGen",
        "StatisticsGen",
        "SchemaGen",
        "Transform",
        "Tuner",
        "Trainer",
        "Pusher",
    ):
        assert state(output, node) == "✓", node
    assert "Blessed" in output
    assert len(versions(tmp_path, "resnet-folder")) == 1
    with open(
        os.path.join(artifact(tmp_path, "Trainer", "model_run", "resnet-folder"), "summary.json")
    ) as file:
        assert json.load(file)["replicas"] == 2
    constants = preprocessing.load_constants(
        artifact(tmp_path, "Transform", "transform_graph", "resnet-folder")
    )
    assert constants.labels == ("bar", "disc", "frame")
    assert sum(constants.class_counts) < 120


@pytest.mark.shared_data
@pytest.mark.skipif(not os.path.isdir(ILSVRC), reason=f"no real images at {ILSVRC}")
def test_ilsvrc_archives_to_a_served_prediction(tmp_path):
    status, output = run(
        tmp_path, f"data.source={ILSVRC}", "data.classes=10", "name=ilsvrc", "model.depth=18",
        "transform.size=32", "transform.test_shorter_side=36", "transform.analyze_fraction=0.2",
        "train.epochs=2", "train.batch_size=64", "train.precision=float32", "train.warmup_epochs=0.2",
        "evaluate.max_top1_error=0.75", "evaluate.max_top5_error=0.35",
        "serve.validator=none",
        preset="imagenet",
    )  # fmt: skip
    assert status == 0
    assert "6,000 train, 500 eval, 0 quarantined" in output
    assert "Blessed" in output
    with tarfile.open(os.path.join(ILSVRC, "ILSVRC2012_img_val.tar")) as archive:
        image = archive.extractfile(archive.next()).read()
    (tmp_path / "val.jpg").write_bytes(image)
    with server(serving(tmp_path, "ilsvrc")) as url:
        client = Client(url, "resnet")
        example = tf.train.Example()
        example.features.feature["image/encoded"].bytes_list.value.append(image)
        [served] = client.predict([image])
        [evaluated] = client.predict([example.SerializeToString()], "evaluate")
        assert served == evaluated["center"]
        done = subprocess.run(
            [sys.executable, "-m", "serving.client", str(tmp_path / "val.jpg"), f"--url={url}", "--top=1"],
            cwd=ROOT, capture_output=True, text=True, timeout=60,
        )  # fmt: skip
    assert done.returncode == 0, done.stderr
    labels = read_summary(artifact(tmp_path, "ExampleGen", "examples", "ilsvrc"))["labels"]
    assert labels[int(np.argmax(served))] in done.stdout


@contextlib.contextmanager
def server(models):
    """A server of the newest version in `models`, ready."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    process = subprocess.Popen(
        [sys.executable, "-m", "serving.server", f"--model_base_path={models}",
         f"--rest_api_port={port}", "--port=0"],
        cwd=ROOT, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert "is ready" in process.stdout.readline()
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        assert process.wait(30) == 0
