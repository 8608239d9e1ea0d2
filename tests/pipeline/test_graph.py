"""The graph as schedulers know it, and a run in several processes."""

import dataclasses
import itertools
import json
import os
import subprocess
import sys

import pytest

from pipeline import graph, node
from pipeline.config import Config, ConfigError, assign, from_dict, read, to_dict
from pipeline.pipeline import create_pipeline


@pytest.mark.parametrize(
    "settings",
    [
        [],
        ["data.schema=infer"],
        ["tune.enabled=true", "train.warm_start=true"],
        ["transform.shorter_side=40", "tune.enabled=true"],
        ["train.warm_start=true", "evaluate.max_top1_increase=1"],
    ],
    ids=lambda settings: ",".join(settings) or "default",
)
def test_the_graph_is_what_tfx_builds(settings, tmp_path):
    config = assign(Config(root=str(tmp_path)), settings)
    pipeline = create_pipeline(config)
    built = {n.id: {up.id for up in n.upstream_nodes} for n in pipeline.components}
    said = graph.nodes(config)
    assert {name: set(upstream) for name, upstream in said.items()} == built
    for (number, name), other in itertools.product(enumerate(said), said):
        assert other not in said[name] or list(said).index(other) < number


def test_the_graph_needs_no_tensorflow():
    code = (
        "import sys, pipeline.options, pipeline.graph; "
        "print([m for m in ('tensorflow', 'tfx', 'numpy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_configuration_file_is_read_back(tmp_path):
    config = assign(
        Config(), ["train.boundaries=3,4", "kubeflow.resources=Trainer gpu=1", "no_cache=Trainer"]
    )
    path = tmp_path / "c.json"
    path.write_text(json.dumps(to_dict(config)))
    assert read(str(path)) == config


@pytest.mark.parametrize(
    ("tree", "sentence"),
    [
        ({"train": {"epochs": "3"}}, 'train.epochs="3": must be a whole number'),
        ({"train": {"epoch": 3}}, "Did you mean epochs"),
        ({"train": 3}, "train=3: must be"),
        ({"cache": 1}, "cache=1: must be true or false"),
        ({"evaluate": {"protocols": [1]}}, "evaluate.protocols=1: must be a text"),
    ],
)
def test_a_wrong_configuration_file_is_said_in_a_sentence(tree, sentence):
    with pytest.raises(ConfigError) as error:
        from_dict(tree)
    assert sentence in str(error.value)


def test_a_whole_number_is_a_number():
    assert from_dict({"train": {"momentum": 0}}).train.momentum == 0.0


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        (["no_cache=Trainr"], "no_cache=Trainr: must name nodes of this pipeline: ExampleGen, "),
        (["schedule.cron=weekly"], "must have five fields"),
        (["schedule.start=yesterday"], "schedule.start=yesterday: must be a day such as"),
        (["schedule.retries=-1"], "schedule.retries=-1: must be 0 or more"),
        (["metadata.kind=oracle"], "metadata.kind=oracle: must be one of sqlite, mysql, postgresql"),
        (["metadata.kind=mysql", "metadata.host="], "metadata.host is empty: mysql needs it"),
        (["data.spans=0"], "data.spans=0: must be 1 or more"),
        (["data.max_skew=0"], "data.max_skew=0.0: must be above 0"),
    ],
)
def test_settings_that_cannot_run_are_found_early(settings, sentence):
    with pytest.raises(ConfigError) as error:
        assign(Config(), settings).check()
    assert sentence in str(error.value)


def test_a_node_without_its_inputs_or_without_a_run_says_so(tmp_path, capfd):
    config = Config(root=str(tmp_path / "runs"))
    file, ir = str(tmp_path / "config.json"), str(tmp_path / "graphs" / "run.pb")
    with open(file, "w") as stream:
        json.dump(to_dict(config), stream)

    def command(*args):
        status = node.main([*args, "--ir", ir])
        seen = capfd.readouterr()
        assert "Traceback" not in seen.out + seen.err
        return status, seen.out, seen.err.strip().splitlines()[-1:]

    status, _, error = command("run", "--node", "Trainer")
    assert status == 2
    assert "cannot be read as a configuration" in error[0]
    status, out, error = command("compile", "--config", file, "--run-id", "first")
    assert (status, error) == (0, [])
    assert "9 nodes for run first" in out
    status, out, error = command("run", "--node", "StatisticsGen")
    assert status == 1
    assert error == ["StatisticsGen failed: the nodes before it have no results in this run; run them first"]
    status, _, error = command("run", "--node", "Treiner")
    assert status == 2
    assert "has no node Treiner: it has ExampleGen," in error[0]
    status, out, error = command("run", "--node", "ExampleGen")
    assert (status, error) == (0, [])
    assert "1,437 train, 360 eval" in out
    status, out, _ = command("run", "--node", "SchemaGen")
    status, out, error = command("run", "--node", "StatisticsGen")
    assert (status, error) == (0, []), "the same run goes on after what failed was mended"
    assert os.path.exists(out.split("Full log: ")[1].splitlines()[0])


def test_passwords_are_not_written_down(tmp_path, monkeypatch):
    from pipeline import metadata

    config = assign(Config(root=str(tmp_path)), ["metadata.kind=postgresql"])
    monkeypatch.setenv(config.metadata.password_env, "open sesame")
    graph_text = str(create_pipeline(config).metadata_connection_config)
    assert "sesame" not in graph_text + json.dumps(dataclasses.asdict(config))
    assert metadata.connection(config).postgresql.password == "'open sesame'"
    monkeypatch.delenv(config.metadata.password_env)
    with pytest.raises(ConfigError, match="needs the password of resnet_tfx in the environment variable"):
        metadata.connection(config)


@pytest.mark.parametrize(
    ("setting", "sentence"),
    [
        ("artifacts=s3://bucket/a", r"artifacts=s3://bucket/a cannot be reached .*: \w"),
        (
            "serve.directory=s3://bucket/a",
            "serve.directory=s3://bucket/a cannot be reached .*'s3' not implemented",
        ),
    ],
)
def test_a_place_that_nothing_installed_can_reach_is_said(setting, sentence, tmp_path):
    from pipeline import local_dag

    with pytest.raises(ConfigError, match=sentence):
        local_dag.prepare(assign(Config(root=str(tmp_path)), [setting]))
