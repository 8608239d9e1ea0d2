"""A run that is told to end says so and leaves nothing temporary."""

import os
import signal
import subprocess

import pytest

from tests.helpers.runs import command

pytestmark = pytest.mark.e2e


def test_sigterm_is_like_ctrl_c(tmp_path):
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    run = subprocess.Popen(
        command(), cwd=tmp_path, env=os.environ | {"TMPDIR": str(temporary)},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    with run:
        seen = ""
        for line in run.stdout:
            seen += line
            if "epoch 1/" in line:
                break
        os.kill(run.pid, signal.SIGTERM)
        seen += run.stdout.read()
    assert run.returncode == 130, seen
    assert "Interrupted. Run the same command again to continue." in seen
    assert not os.listdir(temporary)
