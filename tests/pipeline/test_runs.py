"""Commands on runs, where nothing was run, and the comparison of two models on the same images."""

import math

import ml_metadata
import numpy as np
import pytest
from ml_metadata.proto import metadata_store_pb2 as mlmd

from components.report import counting
from pipeline import runs
from pipeline.config import options, presets
from pipeline.config.settings import to_dict
from pipeline.local import history


def test_where_nothing_was_run_it_is_said(tmp_path, capsys):
    for command in (["list"], ["show", "last"], ["diff", "last", "last"], ["lineage"]):
        assert runs.main(["--set", f"root={tmp_path}/none", *command]) == 2
        output = capsys.readouterr()
        assert output.out == "" and str(tmp_path) in output.err
        assert output.err.count("\n") == 1


@pytest.mark.parametrize("seed", range(5))
def test_models_are_compared_on_the_images_that_both_have_seen(seed):
    rng = np.random.default_rng(seed)
    first = {(f"{i}.jpg", i % 3): bool(rng.random() < 0.8) for i in range(60)}
    second = {(f"{i}.jpg", i % 3): bool(rng.random() < 0.7) for i in range(20, 80)}
    one, other, both, chance = counting.paired(first, second)
    assert both == 40
    keys = [(f"{i}.jpg", i % 3) for i in range(20, 60)]
    assert one == sum(first[key] and not second[key] for key in keys)
    assert other == sum(second[key] and not first[key] for key in keys)
    # The coin of the sign test: twice the smaller tail.
    total = one + other
    tail = sum(math.comb(total, k) for k in range(min(one, other) + 1)) / 2**total
    assert chance == pytest.approx(min(1.0, 2 * tail))


def test_equal_models_are_not_told_apart():
    same = {("a.jpg", 0): True, ("b.jpg", 0): False}
    assert counting.paired(same, same) == (0, 0, 2, 1.0)


def test_settings_of_an_earlier_release_are_shown():
    tree = to_dict(presets.get("cifar10"))
    tree["train"] |= {"epochs": 3, "gone": True}
    changed = [(one["setting"], one["value"]) for one in options.changes(tree)]
    assert changed == [("train.epochs", 3), ("train.gone", True)]


def test_a_version_is_that_of_its_folder():
    config = mlmd.ConnectionConfig()
    config.fake_database.SetInParent()
    store = ml_metadata.MetadataStore(config)
    kind = store.put_artifact_type(mlmd.ArtifactType(name="PushedModel"))
    for folder in ("/serving/resnet", "/serving/resnet-2"):
        artifact = mlmd.Artifact(type_id=kind, uri=f"/artifacts{folder}")
        artifact.custom_properties["pushed_version"].string_value = "17"
        artifact.custom_properties["pushed_destination"].string_value = f"{folder}/17"
        store.put_artifacts([artifact])
    assert history.pushed(store, "17", "/serving/resnet").uri == "/artifacts/serving/resnet"
    assert history.pushed(store, "17", "/serving/resnet-2").uri == "/artifacts/serving/resnet-2"
    assert history.pushed(store, "17", "/serving") is None
