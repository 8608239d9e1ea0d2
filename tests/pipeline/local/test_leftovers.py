"""What killed runs leave is gone after the start of the next one, and nothing else is."""

import os
import signal
import subprocess
import sys
import tempfile

import ml_metadata
import pytest
from ml_metadata.proto import metadata_store_pb2

from components.example_gen import component
from pipeline.config import metadata, presets
from pipeline.config.options import assign
from pipeline.config.paths import Paths
from pipeline.local import dag, leftovers, temporary
from pipeline.local.terminal_view import View

RUNNING, CANCELED = metadata_store_pb2.Execution.RUNNING, metadata_store_pb2.Execution.CANCELED


def run(config, root, *names):
    nodes = dag.Nodes(dag.compiled(config, ""), config, View(str(root / "log")))
    return [nodes.run(name) for name in names]


def test_executions_that_a_stopped_run_left_open_are_closed(tmp_path, monkeypatch, capfd):
    config = assign(presets.digits(), [f"root={tmp_path}"])
    run(config, tmp_path, "SchemaGen")

    def stopped(artifact, *_):
        os.makedirs(os.path.join(artifact.uri, "Split-train"))
        os.makedirs(os.path.join(os.path.dirname(artifact.uri), "beam-temp-shards-1"))
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(component, "_finish", stopped)
        run(config, tmp_path, "ExampleGen")
    store = ml_metadata.MetadataStore(metadata.connection(config))
    [kind] = [one.id for one in store.get_execution_types() if one.name.endswith("ImageExampleGen")]
    [other] = store.put_executions(
        [metadata_store_pb2.Execution(type_id=kind, last_known_state=RUNNING)]
    )
    [stopped_one] = [
        one for one in store.get_executions() if one.last_known_state == RUNNING and one.id != other
    ]
    folder = os.path.join(Paths(config).artifacts, "ExampleGen", "examples")
    assert sorted(os.listdir(folder)) == [str(stopped_one.id), "beam-temp-shards-1"]

    assert run(config, tmp_path, "SchemaGen") == ["cached"]

    states = {one.id: one.last_known_state for one in store.get_executions()}
    assert states[stopped_one.id] == CANCELED
    assert states[other] == RUNNING, "It is of no run of this pipeline."
    assert os.listdir(folder) == []
    system = os.path.join(Paths(config).artifacts, "ExampleGen", ".system", "executor_execution")
    assert str(stopped_one.id) not in os.listdir(system)
    assert os.listdir(os.path.join(Paths(config).artifacts, "SchemaGen", "schema")) == ["1"]
    assert run(config, tmp_path, "ExampleGen") == ["done"]
    assert leftovers.close(config) == 0


def test_a_server_of_metadata_is_left_alone(tmp_path):
    """Another machine may run there: no connection is made at all."""
    assert (
        leftovers.close(assign(presets.digits(), [f"root={tmp_path}", "metadata.kind=mysql"])) == 0
    )


def test_temporary_files_of_a_killed_run_go_with_the_next(tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    code = "import os, sys, tempfile; from pipeline.local import temporary\n"
    code += "with temporary.folder(sys.argv[1]): tempfile.mkstemp(); os.kill(os.getpid(), 9)"
    done = subprocess.run([sys.executable, "-c", code, "/runs/a"])
    assert done.returncode == -signal.SIGKILL
    [left] = os.listdir(tmp_path)
    assert len(os.listdir(tmp_path / left)) == 1
    with temporary.folder("/runs/b"):
        assert left in os.listdir(tmp_path), "It is of another pipeline, which may be running."
    with temporary.folder("/runs/a"):
        assert tempfile.gettempdir() == os.environ["TMPDIR"] == str(tmp_path / left)
        assert os.listdir(tmp_path / left) == []
        assert os.stat(tmp_path / left).st_mode & 0o77 == 0
    assert os.listdir(tmp_path) == []
    assert tempfile.gettempdir() == os.environ["TMPDIR"] == str(tmp_path)


def test_a_link_in_the_place_of_the_folder_is_not_followed(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "file").touch()
    with temporary.folder("/runs/a"):
        name = os.path.basename(tempfile.gettempdir())
    (tmp_path / "tmp" / name).symlink_to(tmp_path / "kept")
    with temporary.folder("/runs/a"):
        assert os.path.basename(tempfile.gettempdir()) != name
    assert (tmp_path / "kept" / "file").exists()
