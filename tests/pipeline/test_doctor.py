"""What the doctor says of machines that are not as they should be."""

import os
import shutil
import socket
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

from pipeline import doctor
from pipeline.config import presets
from pipeline.config.options import assign

ROOT = Path(__file__).resolve().parents[2]


def made(folder, shebang=sys.executable):
    """A virtual environment as far as the doctor looks."""
    (folder / "bin").mkdir(parents=True)
    (folder / "pyvenv.cfg").write_text("home = /usr/bin\n")
    (folder / "bin" / "tfx").write_text(f"#!{shebang}\nimport tfx\n")
    return folder


def test_an_environment_that_is_whole_is_good(tmp_path):
    assert doctor.environment(made(tmp_path / "venv")).state == "good"


def test_an_environment_that_was_moved_is_made_anew(tmp_path):
    folder = made(tmp_path / "venv", "/gone/.venv/bin/python")
    found = doctor.environment(folder)
    assert found.state == "bad"
    assert "/gone/.venv/bin/python" in found.found and f"rm -r {folder}" in found.mend


def test_an_environment_that_is_half_made_is_said(tmp_path, monkeypatch):
    monkeypatch.setattr(doctor, "_PROJECT", tmp_path)
    folder = made(tmp_path / ".venv")
    assert doctor.environment(folder).found.endswith("is half made")
    (folder / ".installed-dev").touch()
    assert doctor.environment(folder).state == "good"
    (folder / "bin" / "tfx").unlink()
    assert doctor.environment(folder).state == "bad"
    assert doctor.environment(tmp_path / "none").state == "warning"


def test_packages_are_compared_with_the_lock_that_is_nearest(tmp_path):
    numpy, keras = metadata.version("numpy"), metadata.version("keras")
    lock = f"numpy=={numpy} \\\n    --hash=sha256:0\nKeras=={keras}\ntensorflow=={{}}\n"
    (tmp_path / "base.lock").write_text(lock.format("1.0") + "no-such.package==3\n")
    found = doctor.packages(tmp_path)
    assert found.state == "bad"
    assert found.found.startswith("2 differ from the lock: tensorflow ")
    assert "no-such-package is missing instead of 3" in found.found
    (tmp_path / "gpu.lock").write_text(lock.format("1.0"))
    assert doctor.packages(tmp_path).state == "warning"
    (tmp_path / "dev.lock").write_text(lock.format(metadata.version("tensorflow")))
    assert doctor.packages(tmp_path).state == "good"


def test_a_processor_without_avx_and_little_memory_are_bad():
    assert doctor.processor({"sse4_2"}).state == "bad"
    assert doctor.processor({"avx", "avx2"}).state == "good"
    assert doctor.memory(1e9).state == "bad"
    assert doctor.memory(64e9).state == "good"


def test_gpus_that_tensorflow_does_not_use_are_said():
    assert doctor.graphics([], []).state == "good"
    assert doctor.graphics(["NVIDIA H100, 550.54, 81559 MiB"], ["GPU:0"]).found.startswith("NVIDIA")
    found = doctor.graphics(["NVIDIA T4, 550.54, 15360 MiB"], [])
    assert found.state == "warning" and "make env SET=gpu" in found.mend
    assert doctor.graphics([], "it cannot be imported: none").state == "bad"


def test_data_disks_and_ports_are_those_of_the_settings(tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        settings = [
            f"root={tmp_path}/runs",
            f"data.source={tmp_path}/none",
            f"serve.rest_port={port}",
        ]
        config = assign(presets.get("folder"), settings)
        rest, _ = doctor.ports(config)
    assert rest.state == "warning" and f"127.0.0.1:{port} (serve.rest_port)" in rest.found
    assert "is not a folder" in doctor.data(config).found
    assert all(one.state == "good" for one in doctor.disk(config))
    large = tmp_path / "none" / "train" / "a" / "1.jpg"
    large.parent.mkdir(parents=True)
    with open(large, "wb") as file:
        file.truncate(2 * shutil.disk_usage(tmp_path).total)  # a hole
    assert any(one.state == "bad" and "TMPDIR" in one.mend for one in doctor.disk(config))
    assert doctor.data(presets.get("digits")).state == "good"


def test_a_named_start_is_here_or_says_what_it_takes(tmp_path, monkeypatch):
    monkeypatch.setenv("RESNET_TFX_CACHE", str(tmp_path))
    config = assign(presets.get("folder"), ["train.init_from=keras:resnet50"])
    [found] = doctor.weights(config)
    file = "resnet50_weights_tf_dim_ordering_tf_kernels.h5"
    assert found.state == "warning" and "98 MiB from https://storage.googleapis" in found.found
    assert f"{tmp_path}/keras/{file}: its MD5 is 2cb95161c4" in found.mend
    (tmp_path / "keras").mkdir()
    (tmp_path / "keras" / file).write_bytes(b"")
    [found] = doctor.weights(config)
    assert found.state == "good" and file in found.found
    assert not list(doctor.weights(assign(config, ["train.init_from=net.pth"])))


@pytest.mark.parametrize("packages", [True, False])
def test_it_runs_where_nothing_is_installed(packages):
    """Without its packages it says so; with them it takes the options of a run."""
    done = subprocess.run(
        [sys.executable, *([] if packages else ["-S"]), "-m", "pipeline.doctor",
         "--set", "train.epoch=3"],
        cwd=ROOT, env={"PATH": os.environ["PATH"]}, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.stderr == "" and done.returncode == 1
    assert "✓ Python        3.11" in done.stdout
    if packages:
        assert "✗ settings      train.epoch" in done.stdout
        assert "✓ packages" in done.stdout
    else:
        assert "✗ packages" in done.stdout and "is missing instead of" in done.stdout
        assert "✗ settings      they cannot be read: No module named" in done.stdout
