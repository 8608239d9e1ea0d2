"""The `tfx` command: ours in front, upstream's behind."""

import os
import re
import subprocess
import sys

import pytest
from click.testing import CliRunner

from pipeline import cli

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
TFX = os.path.join(os.path.dirname(sys.executable), "tfx")


def test_the_console_script_of_the_tfx_wheel_is_ours():
    done = subprocess.run(
        [TFX, "run", "create", "--help"], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert "--pipeline_path" in done.stdout


def test_help_does_not_wait_for_tensorflow():
    done = subprocess.run([TFX, "--help"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0
    assert all(name in done.stdout for name in ("pipeline", "run", "template"))
    assert done.stderr == ""


def test_the_version_is_said():
    done = subprocess.run([TFX, "--version"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0
    assert re.fullmatch(r"ResNet-TFX \d+\.\d+\.\d+, TFX 1\.21\.0\n", done.stdout)


def test_local_runs_are_asked_for_without_upstream(tmp_path):
    command = [TFX, "run", "list", "--engine=local", "--pipeline_name=mine"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=120)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"No run of mine is known below {tmp_path}/runs")


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["--preset=imagenette3"], "no such preset. Valid: digits"),
        (["--set", "train.epoch=1"], "Did you mean epochs?"),
        (["--preset=folder"], "data.source is empty"),
    ],
)
def test_a_wrong_word_is_one_sentence(arguments, part, tmp_path):
    command = [TFX, "run", "create", f"--pipeline_path={ROOT}/pipeline/local_runner.py", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=60)
    assert done.returncode == 2
    assert part in done.stderr
    assert "Traceback" not in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert not os.listdir(tmp_path)


def test_a_missing_source_is_one_sentence(tmp_path):
    command = [sys.executable, "-m", "pipeline.local_runner", "--preset=imagenet",
               "--set", f"data.source={tmp_path}/none"]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=120)
    assert done.returncode == 2
    assert "none" in done.stdout
    assert "Traceback" not in done.stdout + done.stderr


def test_an_engine_of_a_cluster_is_refused_with_the_command_to_use(tmp_path):
    path = tmp_path / "p.py"
    path.write_text("")
    arguments = ["run", "create", f"--pipeline_path={path}", "--engine=vertex"]
    done = CliRunner().invoke(cli.cli_group, arguments)
    assert done.exit_code == 2
    assert "tfx pipeline create --engine=vertex" in done.output


def test_neither_path_nor_name(tmp_path):
    done = CliRunner().invoke(cli.cli_group, ["run", "create"])
    assert done.exit_code == 2
    assert "--pipeline_path=FILE" in done.output
    done = CliRunner().invoke(cli.cli_group, ["run", "create", f"--pipeline_path={tmp_path}/no.py"])
    assert "there is no such file" in done.output
