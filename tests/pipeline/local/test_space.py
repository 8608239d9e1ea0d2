"""A full disk is called so, whatever library finds out."""

import os
import sqlite3

import pytest
import tensorflow as tf

from pipeline.config import metadata, presets, space
from pipeline.config.options import assign
from pipeline.config.paths import Paths
from pipeline.config.settings import Config, ConfigError, Model


def python():
    with open("/dev/full", "w") as file:
        file.write("x")
        file.flush()


def tensorflow():
    with tf.io.gfile.GFile("/dev/full", "w") as file:
        file.write("x" * 10_000)
        file.flush()


def sqlite():
    with sqlite3.connect(":memory:") as connection:
        connection.execute("create table t (text)")
        connection.execute("pragma max_page_count = 1")
        for _ in range(100):
            connection.execute("insert into t values (?)", ["x" * 1000])


def wrapped():
    try:
        python()
    except OSError as error:
        raise RuntimeError("Beam could not write a shard") from error


@pytest.mark.parametrize("fails", [python, tensorflow, sqlite, wrapped])
def test_a_full_disk_is_named_with_what_is_free_and_needed(tmp_path, fails):
    config = assign(presets.digits(), [f"root={tmp_path}"])
    with pytest.raises(Exception) as raised:
        fails()
    said = space.sentence(raised.value, config)
    assert said.startswith("The disk of /")
    assert " is full: " in said
    assert " MB are free there, and a whole run needs about 2" in said
    assert "run the same command again: it goes on where it stopped." in said


def test_other_errors_are_not_called_a_full_disk(tmp_path):
    config = assign(presets.digits(), [f"root={tmp_path}"])
    assert space.sentence(PermissionError(13, "Permission denied", "/a"), config) == ""


def test_a_store_on_a_full_disk_is_not_to_be_removed(tmp_path, monkeypatch):
    config = assign(presets.digits(), [f"root={tmp_path}"])
    os.makedirs(Paths(config).home)

    def full(*_):
        raise RuntimeError("database or disk is full query: UPDATE `Execution` SET `x` = 1")

    monkeypatch.setattr(metadata.ml_metadata, "MetadataStore", full)
    with pytest.raises(ConfigError) as raised:
        metadata.check(config)
    assert str(raised.value).startswith("The disk of /")
    assert "remove" not in str(raised.value)


def test_what_a_run_needs_grows_with_images_and_network(tmp_path):
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / "a.jpg").write_bytes(bytes(10**6))
    small = space.needed(Config(model=Model("cifar", 8)))
    assert space.needed(Config(model=Model(depth=50))) > small + 10 * 4 * 25e6
    there = assign(Config(model=Model("cifar", 8)), [f"data.source={tmp_path}"])
    assert space.needed(there) == small + 10**6
    assert space.needed(assign(there, ["transform.shorter_side=300"])) == small + 2 * 10**6


def test_the_networks_are_as_large_as_published():
    # torchvision's documentation, millions of parameters.
    for depth, millions in {18: 11.7, 34: 21.8, 50: 25.6, 101: 44.5, 152: 60.2}.items():
        config = Config(model=Model(depth=depth))
        weights = (space.needed(config) - space.needed(Config(model=Model("cifar", 0)))) / 40
        assert abs(weights / 1e6 / millions - 1) < 0.15
