"""A whole run whose artifacts and models are behind a URL: everything goes through TensorFlow's
file systems.

file:// stands in for gs://: our code takes it for remote, TensorFlow reads it. Beam needs an
extra for a bucket; here it gets `FileUrls`.
"""

import glob
import os
import re

import pytest
import tensorflow as tf
from apache_beam.io.localfilesystem import LocalFileSystem

from pipeline import local_runner
from pipeline.config import validity
from pipeline.config.options import assign
from pipeline.config.presets import get
from tests.helpers import data

pytestmark = pytest.mark.e2e


class FileUrls(LocalFileSystem):
    """Found by Beam because it is a subclass; `file:` is a link in the working folder."""

    @classmethod
    def scheme(cls):
        return "file"


def test_only_small_files_stay_in_the_root(tmp_path, capfd, monkeypatch):
    monkeypatch.chdir(tmp_path)
    os.symlink("/", "file:")
    source = data.small_ilsvrc(str(tmp_path / "in"), classes=3, per_class=12, val_per_class=6)
    bucket = f"file://{tmp_path}/bucket"
    config = assign(
        get("digits"),
        [
            "data.kind=ilsvrc", f"data.source=file://{source}", "data.classes=3", "name=remote",
            "root=runs", f"artifacts={bucket}/artifacts", f"serve.directory={bucket}/serving",
            "train.epochs=1", "train.warmup_epochs=0", "train.batch_size=12", "train.warm_start=true",
            "transform.shorter_side=40", "evaluate.max_top1_error=1", "evaluate.max_top5_error=1",
            "evaluate.protocols=center",
        ],
    )  # fmt: skip
    validity.check(config)
    status, _ = local_runner.run(config)
    output = capfd.readouterr().out
    assert status == 0, output
    [version] = tf.io.gfile.listdir(f"{bucket}/serving")
    loaded = tf.saved_model.load(f"{bucket}/serving/{version}")
    assert loaded.signatures["serving_tensor"](tf.zeros([2, 32, 32, 3]))["probabilities"].shape == (
        2,
        3,
    )
    assert {"ExampleGen", "Trainer", "schema"} <= set(os.listdir(tmp_path / "bucket" / "artifacts"))
    kept = [
        os.path.relpath(p, "runs/remote")
        for p in glob.glob("runs/**", recursive=True)
        if os.path.isfile(p)
    ]
    assert re.search(r"✓ Report +[\d.]+ s +report\.html$", output, re.M), "No part is missing."
    assert re.search(rf"^Report +{bucket}/artifacts/Report/.*/report\.html$", output, re.M)
    small = ("logs/", "deployment/")
    assert all(p.startswith(small) or p in ("metadata.sqlite", "lock") for p in kept), kept
    status, _ = local_runner.run(config)
    output = capfd.readouterr().out
    assert status == 0, output
    assert "✓" not in output, "all of it is cached"
