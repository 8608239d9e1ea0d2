"""requirements/bootstrap.sh where something is there already that is no whole environment."""

import os
import shutil
import subprocess

import pytest

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
UV = os.path.join(ROOT, ".uv", "bin", "uv")
pytestmark = pytest.mark.skipif(not os.path.exists(UV), reason="needs .uv: make env")


@pytest.fixture
def checkout(tmp_path):
    """A folder with the script, an empty lock and uv; with a blank in its path."""
    folder = tmp_path / "a checkout"
    (folder / "requirements").mkdir(parents=True)
    shutil.copy(f"{ROOT}/requirements/bootstrap.sh", folder / "requirements")
    (folder / "requirements" / "empty.lock").touch()
    (folder / ".uv" / "bin").mkdir(parents=True)
    os.symlink(UV, folder / ".uv" / "bin" / "uv")
    return folder


def bootstrap(folder):
    """What it says; it goes as far as the project, which is not there."""
    done = subprocess.run(
        ["requirements/bootstrap.sh", "empty"],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=120,
    )
    return done.stdout + done.stderr


@pytest.mark.parametrize("left", ["nothing", "folders", "a dead link"])
def test_an_environment_without_a_python_is_made_anew(checkout, left):
    python = checkout / ".venv" / "bin" / "python"
    if left != "nothing":
        python.parent.mkdir(parents=True)
    if left == "a dead link":
        python.symlink_to("/nowhere/python3.11")
        (checkout / ".venv" / "pyvenv.cfg").write_text("home = /nowhere\n")
    assert "Installing requirements/empty.lock" in bootstrap(checkout)
    version = subprocess.run([python, "--version"], capture_output=True, text=True)
    assert version.stdout.startswith("Python 3.11.")


def test_an_environment_of_another_python_is_left_alone(checkout):
    python = checkout / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text("#!/bin/sh\necho '(3, 12)'\n")
    python.chmod(0o755)
    assert (
        bootstrap(checkout)
        == ".venv has another Python than 3.11: remove it (rm -r .venv) and run this again.\n"
    )
    assert "3, 12" in python.read_text()
