"""Upstream's own `tfx pipeline ...` and `tfx run ...` keep working."""

import fcntl
import os
import subprocess
import sys

import pytest
from click.testing import CliRunner

from pipeline import cli

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
TFX = os.path.join(os.path.dirname(sys.executable), "tfx")


@pytest.mark.e2e
def test_pipeline_create_list_and_delete(tmp_path, monkeypatch):
    monkeypatch.setenv("LOCAL_HOME", str(tmp_path / "home"))
    # The commands change it.
    monkeypatch.setenv("PATH", os.environ["PATH"])
    monkeypatch.chdir(tmp_path)

    def tfx(*arguments):
        return subprocess.run([TFX, *arguments], capture_output=True, text=True, timeout=300)

    path = os.path.join(ROOT, "pipeline", "local_runner.py")
    done = tfx("pipeline", "create", "--engine=local", f"--pipeline_path={path}")
    assert done.returncode == 0, done.stdout + done.stderr
    assert 'Pipeline "resnet-digits" created successfully' in done.stdout
    # Its `run create` reaches our runner, which finds the pipeline busy: no need to run it all.
    lock = tmp_path / "runs" / "resnet-digits" / "lock"
    lock.parent.mkdir(parents=True, exist_ok=True)
    with open(lock, "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        done = tfx("run", "create", "--engine=local", "--pipeline_name=resnet-digits")
    assert "another run of this pipeline is active" in done.stdout

    # What starts no process of ours needs none itself: TensorFlow takes seconds to import.
    def command(*arguments):
        done = CliRunner().invoke(cli.cli_group, ["pipeline", *arguments, "--engine=local"])
        assert done.exit_code == 0, done.output
        return done.output

    assert "resnet-digits" in command("list")
    assert "deleted successfully" in command("delete", "--pipeline_name=resnet-digits")
