"""A metadata store that is lost, damaged or another one than that of the artifacts."""

import os
import subprocess
import sys

import pytest

from pipeline.config import metadata, presets
from pipeline.config.options import assign
from pipeline.config.paths import Paths
from pipeline.config.settings import ConfigError
from pipeline.local import dag
from pipeline.local.terminal_view import View

NODES = ("ExampleGen", "SchemaGen")


@pytest.fixture
def ingest(capfd):
    """Runs the first nodes of the digits; returns how each ended, and the shards of the training
    split.
    """

    def run(root, *settings):
        config = assign(presets.digits(), [f"root={root}", *settings])
        nodes = dag.Nodes(dag.compiled(config, ""), config, View(str(root / "log")))
        states = [nodes.run(name) for name in NODES]
        [examples] = nodes.outputs["ExampleGen"]["examples"]
        return states, sorted(os.listdir(os.path.join(examples.uri, "Split-train")))

    return run


def test_what_a_lost_store_has_left_is_no_part_of_the_next_run(tmp_path, ingest):
    _, shards = ingest(tmp_path, "data.train_shards=3")
    assert len(shards) == 3
    os.remove(Paths(assign(presets.digits(), [f"root={tmp_path}"])).metadata)
    states, shards = ingest(tmp_path, "data.train_shards=2")
    assert states == ["done", "done"]
    assert len(shards) == 2, shards


def test_two_stores_do_not_share_artifacts(tmp_path, ingest):
    shared = f"artifacts={tmp_path}/shared"
    _, shards = ingest(tmp_path / "a", shared)
    with pytest.raises(
        ConfigError, match=r"artifacts=.*/shared: this metadata store does not know"
    ):
        ingest(tmp_path / "b", shared)
    assert ingest(tmp_path / "a", shared) == (["cached", "cached"], shards)


@pytest.mark.parametrize("damage", [b"\x07" * 5000, b"SQLite format 3\0" + b"\x07" * 5000])
def test_a_damaged_store_is_named(tmp_path, damage):
    config = assign(presets.digits(), [f"root={tmp_path}"])
    path = Paths(config).metadata
    os.makedirs(os.path.dirname(path))
    with open(path, "wb") as file:
        file.write(damage)
    with pytest.raises(ConfigError, match=r"metadata\.sqlite cannot be used: .*remove it") as error:
        metadata.check(config)
    assert "CREATE TABLE" not in str(error.value)


def test_a_locked_store_is_not_called_damaged(tmp_path):
    config = assign(presets.digits(), [f"root={tmp_path}"])
    path = Paths(config).metadata
    os.makedirs(os.path.dirname(path))
    metadata.check(config)
    code = "import sqlite3, sys; c = sqlite3.connect(sys.argv[1], isolation_level=None); "
    code += "c.execute('begin exclusive'); print('locked', flush=True); input()"
    holder = subprocess.Popen(
        [sys.executable, "-c", code, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with holder:
        assert holder.stdout.readline() == "locked\n"
        with pytest.raises(ConfigError, match=r"metadata\.sqlite is locked by another process"):
            metadata.check(config)
        holder.communicate("\n")
    metadata.check(config)
