"""Presets and `--set`: what can be said, and what a wrong word answers."""

import dataclasses
import json
import os
import pathlib
import re
import runpy
import subprocess
import sys
import typing

import pytest

from models import fields, settings
from pipeline import local_runner
from pipeline.config import presets, validity
from pipeline.config.options import assign, from_dict, read
from pipeline.config.settings import Config, ConfigError, to_dict


@pytest.mark.parametrize("name", presets.PRESETS)
def test_every_preset_round_trips_and_checks(name):
    config = presets.get(name)
    assert from_dict(to_dict(config)) == config
    assert config.preset == name
    validity.check(assign(config, ["data.source=/somewhere"]))


def test_assign_parses_by_type():
    config = assign(
        Config(),
        [
            "train.epochs=3", "train.learning_rate=1e-2", "tune.enabled=true", "name=mine",
            "train.boundaries=[1,2.5]", "evaluate.protocols=center", "data.source=/a=b",
        ],
    )  # fmt: skip
    assert config.train.epochs == 3
    assert config.train.learning_rate == 0.01
    assert config.tune.enabled is True
    assert config.name == "mine"
    assert config.train.boundaries == (1.0, 2.5)
    assert config.evaluate.protocols == ("center",)
    assert config.data.source == "/a=b"


@pytest.mark.parametrize(
    ("assignment", "part"),
    [
        ("train.epoch=3", "Did you mean epochs?"),
        ("trian.epochs=3", "Did you mean train?"),
        ("train=3", "is a section"),
        ("train.epochs.x=3", "has no field x"),
        ("train.epochs=three", "must be a whole number"),
        ("train.learning_rate=fast", "must be a number"),
        ("tune.enabled=perhaps", "must be true or false"),
        ("train.epochs", "must be section.field=value"),
        ("train..epochs=3", "must be section.field=value"),
        ("=3", "must be section.field=value"),
    ],
)
def test_wrong_assignments_say_what_is_right(assignment, part):
    with pytest.raises(ConfigError, match=part.replace("?", r"\?")):
        assign(Config(), [assignment])


def test_every_wrong_word_is_said():
    with pytest.raises(ConfigError) as error:
        assign(Config(), ["train.epochs=x", "train.schedule=y", "serve.cpu=0", "train.epoch=1"])
    epochs, schedule, unknown, cpu = str(error.value).splitlines()
    assert epochs == "train.epochs=x: must be a whole number, at least 0 and at most 1,000,000."
    names = ", ".join(typing.get_args(settings.Schedule))
    assert schedule == f"train.schedule=y: must be one of {names}."
    assert unknown.startswith("train.epoch: there is no epoch. Did you mean epochs? Valid here: ")
    assert cpu == "serve.cpu=0: must be a whole number, at least 1 and at most 1,000,000,000."


def test_every_field_says_what_it_is_for():
    for kind in (Config, *(type(getattr(Config(), name)) for name in SECTIONS)):
        for name, (default, values, text) in fields.explain(kind).items():
            assert json.loads(default) == json.loads(json.dumps(getattr(kind(), name)))
            assert values and re.fullmatch(r"[^a-z].*[.!]", text, re.DOTALL), (kind, name)


def test_unknown_names_list_the_valid_ones():
    with pytest.raises(ConfigError) as error:
        assign(Config(), ["serve.nonsense=1"])
    for field in dataclasses.fields(Config().serve):
        assert field.name in str(error.value)
    with pytest.raises(ConfigError, match="imagenet_paper"):
        presets.get("imagenet21k")


@pytest.mark.parametrize(
    "assignment",
    [
        "data.kind=zip", "data.holdout=0", "data.max_bad_fraction=2", "transform.crop=middle",
        "transform.test_shorter_side=8", "train.batch_size=0", "train.epochs=1", "train.schedule=never",
        "evaluate.max_top1_error=1.1", "evaluate.max_top5_error=0", "evaluate.protocols=",
        "evaluate.protocol=ten_crops",
        "evaluate.protocols=twelve_crop", "beam.workers=0", "evaluate.max_top1_increase=nan",
        "evaluate.max_top1_increase=5", "evaluate.max_top1_increase=-2",
        "data.seed=4294967295", "train.seed=1700000000000000000", "tune.seed=4294967295",
        "train.boundaries=nan", "schedule.timeout_hours=1e300", "serve.model_name=..", f"name={'n' * 201}",
    ],
)  # fmt: skip
def test_check_refuses_what_cannot_run(assignment):
    with pytest.raises(ConfigError):
        validity.check(assign(presets.get("digits"), [assignment]))


SECTIONS = [
    field.name
    for field in dataclasses.fields(Config)
    if dataclasses.is_dataclass(getattr(Config(), field.name))
]
HUGE = 10**20
COUNTS = [
    f"{section.name}.{field.name}"
    for section in dataclasses.fields(Config)
    if dataclasses.is_dataclass(section.default) and section.name != "kubeflow"
    for field in dataclasses.fields(section.default)
    if typing.get_type_hints(type(section.default))[field.name] is int
]


@pytest.mark.parametrize("name", COUNTS)
def test_no_count_is_without_a_bound(name):
    with pytest.raises(
        ConfigError, match=rf"{name}={HUGE}: must be a whole number, at least .* and at most "
    ):
        validity.check(assign(presets.get("digits"), [f"{name}={HUGE}"]))


def test_a_device_without_an_end_is_no_configuration():
    with pytest.raises(
        ConfigError, match=r"/dev/zero cannot be read .* longer than 1,048,576 bytes"
    ):
        read("/dev/zero")


@pytest.mark.parametrize(
    ("content", "part"),
    [
        (b"[]", "must be an object"),
        (b"null", "must be an object"),
        (b"", "JSON as --print-config prints it"),
        (b"[" * 100_000, "cannot be read as a configuration"),
        (b'{"train": {"learning_rate": ' + b"9" * 400 + b"}}", "cannot be read as a configuration"),
        (b'{"name": "a", "train": {"epochs": 3}, "train": {"seed": 1}}', "train is there twice"),
        (b'{"trian": {}}', ": trian: there is no trian. Did you mean train"),
        (b'{"root": "a\\u0000b"}', "root=.a.*0000b.: must be UTF-8 text"),
        (b'{"data": {"source": "\\udcff"}}', "data.source=.*udcff.: must be UTF-8 text"),
    ],
)
def test_a_file_that_is_no_configuration_is_named(tmp_path, content, part):
    file = tmp_path / "my.json"
    file.write_bytes(content)
    with pytest.raises(ConfigError, match=part) as error:
        read(str(file))
    assert str(file) in str(error.value)


def test_a_file_may_begin_with_a_byte_order_mark(tmp_path):
    file = tmp_path / "my.json"
    file.write_text(json.dumps(to_dict(presets.get("cifar10"))), encoding="utf-8-sig")
    assert read(str(file)) == presets.get("cifar10")


def test_a_path_of_other_bytes_is_refused():
    with pytest.raises(ConfigError, match=r"^root=.*must be UTF-8 text"):
        assign(Config(), ["root=" + os.fsdecode(b"/data/\xff")])


@pytest.mark.parametrize("name", ["root", "artifacts", "train.checkpoint_dir", "serve.directory"])
@pytest.mark.parametrize("path", ["/runs [1]", "runs/*", "gs://bucket/a?", r"a\b"])
def test_folders_that_would_be_patterns_are_refused(name, path):
    with pytest.raises(ConfigError, match=r"^root=|take for a pattern: name another folder"):
        validity.check(assign(Config(), [f"{name}={path}"]))


def test_a_relative_folder_is_looked_at_from_where_the_run_starts(tmp_path, monkeypatch):
    (tmp_path / "old [1]").mkdir()
    monkeypatch.chdir(tmp_path / "old [1]")
    with pytest.raises(ConfigError, match=r"root=runs: .*old \[1\]/runs has one of the characters"):
        validity.check(Config())


def test_a_source_is_asked_for():
    with pytest.raises(ConfigError, match=r"data\.source is empty"):
        validity.check(presets.get("imagenet"))


def test_configuration_does_not_import_tensorflow():
    code = (
        "import sys, pipeline.local_runner as r; "
        "r.parse(['--preset=imagenet', '--set', 'data.source=/x']); "
        "heavy = {'tensorflow', 'tfx', 'apache_beam', 'keras'} & set(sys.modules); "
        "sys.exit(str(heavy) if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_every_setting_is_explained_with_its_value(capsys):
    with pytest.raises(SystemExit) as done:
        local_runner.parse(["--preset=cifar10", "--set=train.epochs=7", "--explain"])
    assert done.value.code == 0
    shown = capsys.readouterr().out
    assert max(map(len, shown.splitlines())) <= 100
    assert "\n  train.epochs=7\n      Passes over the training split; 0 only exports" in shown
    assert "at least 0 and at most 1,000,000]" in shown and "\n  transform.crop=pad\n" in shown
    names = re.findall(r"^  ([\w.]+)=", shown, re.MULTILINE)
    tree = to_dict(Config())
    sections = {name: value for name, value in tree.items() if isinstance(value, dict)}
    assert names == [
        *(name for name in tree if name not in sections),
        *(f"{name}.{field}" for name, fields in sections.items() for field in fields),
    ]


def test_one_setting_or_a_section_is_explained(capsys):
    with pytest.raises(SystemExit):
        local_runner.parse(["--explain", "train.epochs"])
    assert re.findall(r"^  ([\w.]+)=", capsys.readouterr().out, re.MULTILINE) == ["train.epochs"]
    with pytest.raises(SystemExit):
        local_runner.parse(["--explain=beam"])
    names = re.findall(r"^  ([\w.]+)=", capsys.readouterr().out, re.MULTILINE)
    assert names == [f"beam.{name}" for name in to_dict(Config())["beam"]]
    with pytest.raises(ConfigError, match=r"--explain train.epoch: .* Did you mean train.epochs"):
        local_runner.parse(["--explain", "train.epoch"])


def test_the_page_of_settings_is_written_by_its_command():
    docs = pathlib.Path(__file__).parents[3] / "docs"
    made = runpy.run_path(str(docs / "settings_table.py"))["page"]()
    assert (docs / "settings.md").read_text() == made, (
        "python docs/settings_table.py docs/settings.md"
    )
