"""Settings that are paths: all of them are known, and become whole for processes elsewhere."""

import dataclasses

from pipeline.config import paths, presets
from pipeline.config.options import assign

SETTINGS = (
    "root=runs", "artifacts=gs://bucket/a", "data.source=~/photos", "data.schema=my.pbtxt",
    "model.ensemble=a,/b,gs://c", "train.init_from=w.pth", "train.checkpoint_dir=ck", "serve.directory=../s",
    "beam.job_server=jobs/server.jar",
)  # fmt: skip


def test_every_path_becomes_absolute_and_what_is_none_stays(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/me")
    made = paths.absolute(assign(presets.get("folder"), SETTINGS))
    here = str(tmp_path)
    assert paths.settings(made) == {
        "root": (f"{here}/runs",),
        "artifacts": ("gs://bucket/a",),
        "data.source": ("/home/me/photos",),
        "data.schema": (f"{here}/my.pbtxt",),
        "model.ensemble": (f"{here}/a", "/b", "gs://c"),
        "train.init_from": (f"{here}/w.pth",),
        "train.checkpoint_dir": (f"{here}/ck",),
        "serve.directory": (f"{tmp_path.parent}/s",),
        "beam.job_server": (f"{here}/jobs/server.jar",),
    }
    plain = assign(
        presets.get("folder"),
        [
            "data.schema=infer",
            "beam.job_server=localhost:8099",
            "train.init_from=torchvision:resnet50",
        ],
    )
    assert paths.settings(plain) == {"root": ("runs",)}
    assert paths.absolute(plain) == dataclasses.replace(plain, root=f"{here}/runs")
