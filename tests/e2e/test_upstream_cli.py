"""Upstream's own `tfx pipeline ...` and `tfx run ...` keep working."""

import fcntl
import os
import subprocess
import sys

import pytest

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
TFX = os.path.join(os.path.dirname(sys.executable), "tfx")


@pytest.mark.e2e
def test_pipeline_create_list_and_delete(tmp_path):
    env = {**os.environ, "LOCAL_HOME": str(tmp_path / "home")}

    def tfx(*arguments):
        done = subprocess.run(
            [TFX, *arguments], cwd=tmp_path, env=env, capture_output=True, text=True, timeout=300
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    path = os.path.join(ROOT, "pipeline", "local_runner.py")
    out = tfx("pipeline", "create", "--engine=local", f"--pipeline_path={path}")
    assert 'Pipeline "resnet-digits" created successfully' in out
    # Its `run create` reaches our runner, which finds the pipeline busy: no need to run it all.
    lock = tmp_path / "runs" / "resnet-digits" / "lock"
    lock.parent.mkdir(parents=True, exist_ok=True)
    with open(lock, "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        command = [TFX, "run", "create", "--engine=local", "--pipeline_name=resnet-digits"]
        done = subprocess.run(
            command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=300
        )
    assert "another run of this pipeline is active" in done.stdout
    assert "resnet-digits" in tfx("pipeline", "list", "--engine=local")
    assert "deleted successfully" in tfx(
        "pipeline", "delete", "--engine=local", "--pipeline_name=resnet-digits"
    )
