"""The wheel and the image's lock are enough: a container has no source tree and no other package."""

import csv
import importlib.metadata
import json
import os
import re
import subprocess
import sys
import venv
import zipfile

import pytest

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))
PACKAGES = ("components", "models", "pipeline", "serving")

# Compiles the pipeline and imports all that it names: executors, functions of the user, metrics of
# TFMA.
PROGRAM = """
import importlib, json, os, re, sys
from pipeline.config import presets
from pipeline.kubeflow import node_launcher, pipeline_spec
from pipeline.config.options import assign
from serving import server
from tfx.orchestration.kubeflow.v2.container import kubeflow_v2_run_executor

settings = [f"root={os.getcwd()}", "kubeflow.image=i:1", "tune.enabled=true", "train.warm_start=true"]
spec = pipeline_spec.specification(assign(presets.get("digits"), settings))
text = json.dumps(spec).replace("\\\\", "")
named = set(re.findall(r'"([a-z_0-9.]+\\.[A-Z]\\w+)"', text))
named |= set(re.findall(r'"((?:components|models|pipeline)\\.[a-z_.]+)"', text))
found = {}
for path in sorted(named):
    try:
        module = importlib.import_module(path)
    except ModuleNotFoundError:
        module = importlib.import_module(path.rpartition(".")[0])
        getattr(module, path.rpartition(".")[2])
    found[path] = module.__file__
print(json.dumps([sys.path, {**found, "server": server.__file__, "node": node_launcher.__file__}]))
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    [name] = os.listdir(folder)
    return os.path.join(folder, name)


def test_every_file_of_the_packages_is_in_the_wheel(wheel):
    with zipfile.ZipFile(wheel) as file:
        packed = set(file.namelist())
    for package in PACKAGES:
        for folder, _, names in os.walk(os.path.join(ROOT, package)):
            if os.path.basename(folder) == "__pycache__":
                continue
            paths = {os.path.relpath(os.path.join(folder, name), ROOT) for name in names}
            # Those in pipeline/compat have other places in the wheel: below.
            assert paths <= packed or folder.endswith("pipeline/compat"), paths - packed
    assert {"tfx_bsl/arrow/sql_util.py", "tfx/tools/cli/cli_main/__init__.py"} <= packed
    assert not [name for name in packed if name.startswith(("tests/", "benchmarks/", "docs/"))]


def test_all_that_the_pipeline_names_is_importable_in_the_image(wheel, tmp_path):
    home = tmp_path / "environment"
    venv.create(home, with_pip=False)
    [packages] = home.glob("lib/python*/site-packages")
    _link_locked(os.path.join(ROOT, "requirements", "base.lock"), packages)
    with zipfile.ZipFile(wheel) as file:
        ours = [name for name in file.namelist() if name.split("/")[0] in PACKAGES]
        file.extractall(packages, ours)
    done = subprocess.run(
        [home / "bin" / "python", "-I", "-c", PROGRAM],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    searched, found = json.loads(done.stdout.splitlines()[-1])
    assert ROOT not in searched
    ours = {
        path: file
        for path, file in found.items()
        if path.split(".")[0] in (*PACKAGES, "server", "node")
    }
    assert all(file.startswith(str(packages)) for file in ours.values()), ours
    expected = {
        "components.example_gen.component.ImageExampleGen_Executor",
        "components.evaluator.baseline.Baseline_Executor",
        "components.evaluator.component.Executor",
        "components.pusher.component.Pusher_Executor",
        "components.report.component.Executor",
        "components.evaluator.tfma_metrics",
        "models.preprocessing.preprocessing_fn",
        "models.train.run_fn",
        "models.tune.tuner_fn",
        "tfx.components.statistics_gen.executor.Executor",
    }
    assert expected <= set(found), expected - set(found)


def _link_locked(lock, folder):
    """Links into `folder` what the lock's packages own of this environment, and nothing else."""
    with open(lock) as file:
        names = re.findall(r"^([a-z0-9][a-z0-9._-]*)(?:\[.*?\])?==", file.read(), re.M)
    locked = {_normal(name) for name in names}
    owned = {_normal(d.name): (d, _files(d)) for d in importlib.metadata.distributions()}
    foreign = {
        path.split("/")[0]
        for name, (_, paths) in owned.items()
        if name not in locked
        for path in paths
    }
    for found, paths in (owned[name] for name in locked):
        # A folder that a foreign package shares, such as google/, is linked one level down.
        parts = {
            "/".join(path.split("/")[: 2 if path.split("/")[0] in foreign else 1]) for path in paths
        }
        for part in parts:
            target = folder / part
            if not target.is_symlink():
                target.parent.mkdir(exist_ok=True)
                target.symlink_to(found.locate_file(part))


def _files(distribution):
    """Paths that a package owns in site-packages; `files` would parse every hash as well."""
    record = distribution.read_text("RECORD") or ""
    paths = [row[0] for row in csv.reader(record.splitlines())]
    return [path for path in paths if not path.startswith("..") and not path.endswith(".pyc")]


def _normal(name):
    return re.sub(r"[-_.]+", "-", name).lower()
