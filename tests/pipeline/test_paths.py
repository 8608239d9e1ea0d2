"""Settings that are paths: all of them are known, and become whole for processes elsewhere."""

import dataclasses

import pytest

from pipeline import paths, presets
from pipeline.config import ConfigError, assign

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
    plain = assign(presets.get("folder"), ["data.schema=infer", "beam.job_server=localhost:8099"])
    assert paths.settings(plain) == {"root": ("runs",)}
    assert paths.absolute(plain) == dataclasses.replace(plain, root=f"{here}/runs")


@pytest.mark.parametrize("character", "[]*?\\")
@pytest.mark.parametrize("setting", ["root", "artifacts", "train.checkpoint_dir"])
def test_a_folder_that_is_a_pattern_is_refused(setting, character):
    config = assign(presets.digits(), [f"{setting}=/data/run{character}1"])
    with pytest.raises(ConfigError, match=f"^{setting}=/data/run.*which TFX takes for a pattern"):
        config.check()


def test_a_folder_that_is_made_in_such_a_place_is_refused(tmp_path, monkeypatch):
    (tmp_path / "run[1]").mkdir()
    monkeypatch.chdir(tmp_path / "run[1]")
    with pytest.raises(ConfigError, match=r"^root=.*/run\[1\]/runs/resnet-digits/artifacts has one of"):
        presets.digits().check()
