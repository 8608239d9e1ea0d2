"""What end-to-end tests share: running the command and reading what it left."""

import os
import re
import subprocess
import sys

from tests.helpers import warm

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
TFX = os.path.join(os.path.dirname(sys.executable), "tfx")


def command(*settings, preset="digits"):
    """`tfx run create --pipeline_path=... --preset=... --set ...`"""
    start = [TFX, "run", "create", f"--pipeline_path={ROOT}/pipeline/local_runner.py"]
    return [*start, *_options(settings, preset)]


def _options(settings, preset):
    return [f"--preset={preset}", *(part for s in settings for part in ("--set", s))]


def run(folder, *settings, preset="digits", fresh=False):
    """One run in `folder`; returns (exit status, what the person saw).

    A fresh one is started as a person does it, the others as `tests.helpers.warm` does.
    """
    quick = [*warm.python(), "-m", "pipeline.local_runner", *_options(settings, preset)]
    done = subprocess.run(
        command(*settings, preset=preset) if fresh else quick,
        cwd=folder, capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    print(done.stdout, done.stderr)
    assert done.stderr == "", "Nothing but the view may reach the terminal."
    return done.returncode, done.stdout


def state(output, node):
    """The mark before a component's name: ✓ done, · cached, ✗ failed; None when it did not run."""
    found = re.search(rf"^  (\S) {node} ", output, re.M)
    return found and found[1]


def serving(folder, name="resnet-digits"):
    """Folder of the pushed versions."""
    return os.path.join(folder, "runs", name, "serving", "resnet")


def versions(folder, name="resnet-digits"):
    """Pushed versions, oldest first."""
    base = serving(folder, name)
    return sorted(filter(str.isdigit, os.listdir(base))) if os.path.isdir(base) else []


def artifact(folder, node, key, name="resnet-digits"):
    """Folder of the newest artifact of a component."""
    base = os.path.join(folder, "runs", name, "artifacts", node, key)
    return os.path.join(base, max(os.listdir(base), key=int))
