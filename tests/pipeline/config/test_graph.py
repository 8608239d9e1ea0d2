"""The graph as schedulers know it, and a run in several processes."""

import dataclasses
import hashlib
import itertools
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from components import code_digest
from components.example_gen import source
from models.weights.named import catalogue, download
from pipeline import local_runner, node
from pipeline.config import graph, presets, validity
from pipeline.config.options import assign, from_dict, read
from pipeline.config.settings import Config, ConfigError, to_dict
from pipeline.pipeline import create_pipeline
from tests.helpers import weight_server

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize(
    "settings",
    [
        [],
        ["data.schema=infer"],
        ["tune.enabled=true", "train.warm_start=true"],
        ["transform.shorter_side=40", "tune.enabled=true"],
        ["train.warm_start=true", "evaluate.max_top1_increase=1"],
        ["serve.validator=none"],
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


def test_every_cached_component_tells_the_cache_what_code_it_runs(tmp_path):
    config = assign(Config(root=str(tmp_path)), ["tune.enabled=true"])
    nodes = {
        n.id: json.dumps(n.exec_properties, default=str) for n in create_pipeline(config).components
    }
    code = {
        "ExampleGen": "components.example_gen.component components.example_gen.sources.ilsvrc",
        "ExampleValidator": "components.data_validation.component",
        "Transform": "models.preprocessing",
        "Tuner": "models.tune",
        "Trainer": "models.train",
        "Evaluator": "components.evaluator.component",
        "Report": "components.report.component",
    }
    for name, modules in code.items():
        assert code_digest.digest(*modules.split()) in nodes[name], name


def test_settings_of_serving_reach_the_validator_and_the_pusher(tmp_path):
    settings = [
        "serve.validator=tensorflow/serving:2.20.0",
        "serve.validator_images=3",
        "serve.max_latency_ms=20",
        "serve.max_memory_mb=900",
        "serve.canary_hours=2",
    ]
    nodes = {
        n.id: n for n in create_pipeline(assign(Config(root=str(tmp_path)), settings)).components
    }
    assert json.loads(nodes["ServingValidator"].exec_properties["settings"]) == {
        "server": "tensorflow/serving:2.20.0",
        "images": 3,
        "seconds": 300.0,
        "max_latency_ms": 20.0,
        "max_memory_mb": 900,
        "code": code_digest.digest(
            "components.serving_validator.component", "serving.server.__main__"
        ),
    }
    canary = json.loads(nodes["Pusher"].exec_properties["canary"])
    file = str(tmp_path / "resnet-digits" / "serving" / "models.config")
    assert canary == {"hours": 2.0, "model_config_file": file, "model_name": "resnet"}


def test_a_schema_of_ones_own_that_was_edited_is_another_one(tmp_path):
    """TFX's cache goes by the properties of a node: SchemaGen must not be taken from it."""
    path = tmp_path / "schema.pbtxt"
    config = assign(Config(root=str(tmp_path)), [f"data.schema={path}"])

    def properties(limit):
        path.write_text(
            f'feature {{ name: "image/height" type: INT int_domain {{ max: {limit} }} }}'
        )
        return {n.id: dict(n.exec_properties) for n in create_pipeline(config).components}

    first, again, edited = properties(100), properties(100), properties(200)
    assert first == again
    assert [name for name in first if first[name] != edited[name]] == ["SchemaGen"]
    with open(edited["SchemaGen"]["schema_file"]) as file:
        assert "max: 200" in file.read()


def test_the_source_is_looked_at_once(tmp_path, monkeypatch):
    """Else a span that comes between two looks has classes that the rest of the graph does not
    know.
    """
    looks, parts = [], source.parts
    monkeypatch.setattr(source, "parts", lambda data: looks.append(data) or parts(data))
    create_pipeline(Config(root=str(tmp_path)))
    assert len(looks) == 1


def test_a_start_that_cannot_be_read_is_named(tmp_path):
    config = assign(Config(root=str(tmp_path)), ["train.init_from=s3://bucket/model"])
    with pytest.raises(
        source.SourceError, match=r"train\.init_from .* cannot be read: .*s3://bucket/model"
    ):
        create_pipeline(config)


def test_the_trainer_knows_a_named_start_by_its_contents_and_not_by_its_place(
    tmp_path, monkeypatch
):
    config = assign(Config(root=str(tmp_path)), [f"train.init_from={weight_server.NAME}"])

    def trainer(folder, content):
        """Its properties where the cache is `folder`; what was put there is not downloaded."""
        monkeypatch.setenv("RESNET_TFX_CACHE", str(tmp_path / folder))
        known = weight_server.entry("http://127.0.0.1:1/tiny.pth", content)
        monkeypatch.setitem(catalogue.ENTRIES, known.name, known)
        place = Path(download.place(known))
        place.parent.mkdir(parents=True)
        place.write_bytes(content)
        [found] = [n for n in create_pipeline(config).components if n.id == "Trainer"]
        return dict(found.exec_properties)

    here, elsewhere, other = trainer("a", b"w"), trainer("b", b"w"), trainer("c", b"other")
    assert here == elsewhere and here["custom_config"] != other["custom_config"]
    told = json.loads(here["custom_config"])
    assert told["start"] == [hashlib.sha256(b"w").hexdigest()]
    assert told["train"]["init_from"] == weight_server.NAME


def test_a_named_start_that_cannot_be_had_is_said_before_anything_runs(
    tmp_path, monkeypatch, capfd
):
    """Where a person sees it, and where a scheduler compiles the run."""
    monkeypatch.setenv("RESNET_TFX_CACHE", str(tmp_path / "cache"))
    with weight_server.serving() as server:
        known = weight_server.entry(f"{server.address}/gone.pth", b"w")
        monkeypatch.setitem(catalogue.ENTRIES, known.name, known)
        settings = [f"root={tmp_path}/runs", f"train.init_from={known.name}"]
        config = assign(presets.get("digits"), settings)
        message = rf"{known.name} cannot be downloaded from {known.address} \(404 Not Found\)"
        with pytest.raises(source.SourceError, match=message):
            create_pipeline(config)
        capfd.readouterr()
        assert local_runner.run(config) == (2, {})
        seen = capfd.readouterr()
    assert f"put that file there as {download.place(known)}" in seen.out
    assert f"{known.name}: downloading" in seen.out and not seen.err


def test_the_graph_needs_no_tensorflow():
    code = (
        "import sys, pipeline.config.options, pipeline.config.graph; "
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
        ({"train": 3}, "train=3: train is a section; name one of its fields: batch_size, "),
        ({"cache": 1}, "cache=1: must be true or false"),
        ({"evaluate": {"protocols": [1]}}, "evaluate.protocols=1: must be a list, each a text"),
    ],
)
def test_a_wrong_configuration_file_is_said_in_a_sentence(tree, sentence):
    with pytest.raises(ConfigError) as error:
        from_dict(tree, typed=True)
    assert sentence in str(error.value)


def test_a_whole_number_is_a_number():
    assert from_dict({"train": {"momentum": 0}}, typed=True).train.momentum == 0.0


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        (["no_cache=Trainr"], "no_cache=Trainr: must name nodes of this pipeline: ExampleGen, "),
        (["schedule.cron=weekly"], "must have five fields"),
        (["name=my flowers"], "name='my flowers': must be letters, digits"),
        (["name=a/b"], "name='a/b': must be letters, digits"),
        (["name=.."], "name='..': must be letters, digits"),
        (["name="], "name='': must be letters, digits"),
        (["schedule.start=yesterday"], "schedule.start=yesterday: must be a day such as"),
        (
            ["schedule.retries=-1"],
            "schedule.retries=-1: must be a whole number, at least 0 and at most 1,000,000.",
        ),
        (["metadata.kind=oracle"], "metadata.kind=oracle: must be one of sqlite, mysql"),
        (["metadata.kind=postgresql"], "MySQL or MariaDB server with metadata.kind=mysql"),
        (["metadata.kind=mysql", "metadata.host="], "metadata.host is empty: mysql needs it"),
        (["data.spans=0"], "data.spans=0: must be a whole number, at least 1 and"),
        (["data.max_skew=0"], "data.max_skew=0: must be a number, above 0 and at most 1."),
        (["train.init_from=timm:resnet9"], "train.init_from=timm:resnet9 is no known name; choose"),
        (
            ["train.init_from=torchvision:resnet50", "model.depth=18"],
            "train.init_from=torchvision:resnet50 is a network with model.depth=50",
        ),
    ],
)
def test_settings_that_cannot_run_are_found_early(settings, sentence):
    with pytest.raises(ConfigError) as error:
        validity.check(assign(Config(), settings))
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
    assert "11 nodes for run first" in out
    status, out, error = command("run", "--node", "StatisticsGen")
    assert status == 1
    assert error == [
        "StatisticsGen failed: the nodes before it have no results in this run; run them first"
    ]
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
    from pipeline.config import metadata

    config = assign(Config(root=str(tmp_path)), ["metadata.kind=mysql"])
    monkeypatch.setenv(config.metadata.password_env, "open sesame")
    graph_text = str(create_pipeline(config).metadata_connection_config)
    assert "sesame" not in graph_text + json.dumps(dataclasses.asdict(config))
    assert metadata.connection(config).mysql.password == "open sesame"
    monkeypatch.delenv(config.metadata.password_env)
    with pytest.raises(
        ConfigError, match="needs the password of resnet_tfx in the environment variable"
    ):
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
    from pipeline.local import dag

    with pytest.raises(ConfigError, match=sentence):
        dag.prepare(assign(Config(root=str(tmp_path)), [setting]))


def test_a_place_for_models_that_is_no_folder_is_said_at_the_start(tmp_path):
    from pipeline.local import dag

    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file", tmp_path / "file" / "models"):
        with pytest.raises(
            ConfigError, match=f"serve.directory={path}.* be written: {tmp_path}/file is none"
        ):
            dag.prepare(assign(Config(root=str(tmp_path)), [f"serve.directory={path}"]))
    dag.prepare(assign(Config(root=str(tmp_path)), [f"serve.directory={tmp_path}/new/models"]))
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_the_orchestrator_of_the_guide_runs_every_step_after_those_it_waits_for(tmp_path):
    guide = (ROOT / "CONTRIBUTING.md").read_text().split("## Add an orchestrator")[1]
    (tmp_path / "steps.py").write_text(guide.split("```python\n")[1].split("```")[0])
    config = assign(Config(), ["tune.enabled=true"])
    (tmp_path / "my.json").write_text(json.dumps(to_dict(config)))
    made = subprocess.run(
        [sys.executable, "steps.py", "my.json"],
        cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    (tmp_path / "steps.mk").write_text(made)
    plan = subprocess.run(
        ["make", "-n", "-f", "steps.mk"], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    commands = [line.split() for line in plan.stdout.splitlines() if line.startswith("python")]
    compiling, *running = [command[2:] for command in commands]
    assert compiling[:4] == ["pipeline.node", "compile", "--config", "my.json"]
    assert {tuple(command[:4]) for command in running} == {
        ("pipeline.node", "run", "--ir", "run.pb")
    }
    order = [command[-1] for command in running]
    assert sorted(order) == sorted(graph.nodes(config))
    for name, before in graph.nodes(config).items():
        assert all(order.index(one) < order.index(name) for one in before)
