"""The compiled pipeline, and its steps run as Kubeflow runs them: from digits to a model that
answers.
"""

import copy
import json
import os
import shutil

import numpy as np
import pytest
import tensorflow as tf
import yaml
from google.protobuf import json_format
from kfp import compiler, components
from kfp.pipeline_spec import pipeline_spec_pb2

from components.example_gen.sources import digits
from pipeline import kubeflow_runner
from pipeline.config import graph, presets
from pipeline.config.options import assign
from pipeline.kubeflow import node_launcher, pipeline_spec
from tests.helpers import data
from tests.helpers.kubeflow_pods import Launcher

RESOURCES = "Trainer cpu=16 memory=64Gi gpu=4,* cpu=500m memory=8G"
pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    home = tmp_path_factory.mktemp("kubeflow")
    settings = [
        f"root={home}",
        # A bucket in real life, which this machine does not have.
        f"artifacts={home}/bucket",
        "kubeflow.image=registry/resnet:1",
        f"kubeflow.resources={RESOURCES}",
        "train.epochs=2",
        "evaluate.protocols=center",
        "evaluate.max_top1_error=0.95",
        "evaluate.max_top5_error=0.95",
        "evaluate.max_top1_increase=0.99",
        "no_cache=Transform",
    ]
    return assign(presets.get("digits"), settings)


@pytest.fixture(scope="module")
def spec(config):
    return pipeline_spec.specification(config)


@pytest.fixture(scope="module")
def launcher(config, spec):
    return Launcher(spec, os.path.join(config.root, "pods"))


@pytest.fixture(scope="module")
def first(launcher):
    return launcher.run()


def test_the_sdk_reads_it_and_writes_it_again(spec, tmp_path):
    path, again = str(tmp_path / "pipeline.yaml"), str(tmp_path / "again.yaml")
    with open(path, "w") as file:
        file.write(pipeline_spec.text(spec))
    compiler.Compiler().compile(components.load_component_from_file(path), again)
    with open(again) as file:
        read = yaml.safe_load(file)
    assert set(read["root"]["dag"]["tasks"]) == set(spec["root"]["dag"]["tasks"])
    assert read["deploymentSpec"] == spec["deploymentSpec"]


def test_the_back_end_can_run_it(config, spec):
    json_format.ParseDict(
        spec, pipeline_spec_pb2.PipelineSpec()
    )  # strict: an unknown field is an error
    assert spec["schemaVersion"] == "2.1.0"
    for executor in spec["deploymentSpec"]["executors"].values():
        assert list(executor) == ["container"], "The back end has no resolvers."
        assert "lifecycle" not in executor["container"], "The back end runs no hooks."
        assert executor["container"]["image"] == "registry/resnet:1"
        assert "--runner=FnApiRunner" in executor["container"]["args"]
    tasks = spec["root"]["dag"]["tasks"]
    assert set(tasks) == set(graph.nodes(config))
    for name, task in tasks.items():
        assert task["retryPolicy"]["maxRetryCount"] == 2
        assert task["retryPolicy"]["backoffDuration"] == "300s"
        outside = ("ExampleGen", "Baseline", "Pusher", "Transform")
        assert task["cachingOptions"] == {"enableCache": name not in outside}


def test_resources_are_in_the_fields_that_the_back_end_reads(launcher):
    assert launcher.container("Trainer")["resources"] == {
        "resourceCpuLimit": "16",
        "resourceMemoryLimit": "64Gi",
        "accelerator": {"resourceType": "nvidia.com/gpu", "resourceCount": "4"},
    }
    evaluator = launcher.container("Evaluator")["resources"]
    assert (evaluator["resourceCpuLimit"], evaluator["resourceMemoryLimit"]) == ("500m", "8G")
    assert "accelerator" not in evaluator


def test_the_time_limit_is_that_of_all_tries():
    config = assign(presets.get("digits"), ["schedule.timeout_hours=2", "schedule.retry_minutes=1"])
    assert pipeline_spec._retries(config)["backoffMaxDuration"] == f"{3 * 2 * 3600 + 2 * 60}s"
    assert (
        pipeline_spec._retries(assign(config, ["schedule.timeout_hours=0", "schedule.retries=0"]))
        == {}
    )


def test_the_command_line_writes_a_file_or_one_sentence(config, tmp_path, capsys):
    source = digits.write(str(tmp_path))
    sets = ["data.kind=ilsvrc", f"data.source={source}", "data.schema=infer", "kubeflow.image=i:1"]
    options = [part for s in [*sets, f"root={tmp_path}"] for part in ("--set", s)]
    out = str(tmp_path / "pipeline.yaml")
    assert (
        kubeflow_runner.main(
            [*options, "--set", "artifacts=gs://bucket/a", "compile", "--out", out]
        )
        == 0
    )
    with open(out) as file:
        assert yaml.safe_load(file)["defaultPipelineRoot"] == "gs://bucket/a"
    assert f"data.source: {source}" in capsys.readouterr().err
    os.remove(out)
    # TensorFlow has no file system for s3:// and the curated schema is written there.
    options += ["--set", "data.schema=curated"]
    assert (
        kubeflow_runner.main(
            [*options, "--set", "artifacts=s3://bucket/a", "compile", "--out", out]
        )
        == 2
    )
    assert "artifacts=s3://bucket/a" in capsys.readouterr().err.splitlines()[-1]
    options += ["--set", "artifacts=gs://bucket/a"]
    for path in (str(tmp_path / "missing" / "pipeline.yaml"), str(tmp_path)):
        assert kubeflow_runner.main([*options, "compile", "--out", path]) == 2
        [told] = capsys.readouterr().err.splitlines()
        assert told.startswith(f"--out {path}: must be a file in a folder that exists")
    options += ["--set", "data.source=s3://bucket/in"]
    assert kubeflow_runner.main([*options, "compile", "--out", out]) == 2
    assert "data.source=s3://bucket/in cannot be read" in capsys.readouterr().err.splitlines()[-1]
    assert not os.path.exists(out)


def test_a_step_that_fails_says_why_in_its_last_line(capfd):
    call = {
        "inputs": {"parameterValues": {"serving": "/nowhere"}},
        "outputs": {"outputFile": "/nowhere/o.json"},
    }
    arguments = [
        "--executor_class_path=components.evaluator.baseline.Baseline_Executor",
        f"--json_serialized_invocation_args={json.dumps(call)}",
        (
            '--json_serialized_inputs_spec_args={"parameters": {"serving": {"parameterType":'
            ' "STRING"}}}'
        ),
    ]
    assert node_launcher.main(arguments) == 1
    assert (
        "components.evaluator.baseline.Baseline_Executor failed: "
        in capfd.readouterr().err.splitlines()[-1]
    )


def test_every_step_runs_and_the_pushed_model_answers(config, first):
    assert set(first.artifacts) == set(graph.nodes(config))
    assert first.artifacts["Evaluator"]["blessing"]["metadata"]["blessed"] == 1
    [version] = _pushed(config)
    model = tf.saved_model.load(version)
    from sklearn.datasets import load_digits

    scans, labels = load_digits(return_X_y=True)
    images = tf.constant([digits.jpeg(scan.reshape(8, 8)) for scan in scans[:64]])
    found = model.signatures["serving_default"](images)
    answers = next(v for v in found.values() if v.shape[-1] == 10)
    assert np.mean(np.argmax(answers, -1) == labels[:64]) > 0.3  # guessing is 0.1


def test_the_report_says_what_kubeflow_knows(config, first):
    """Nobody tells it there how long the steps took, and no driver has looked at the source."""
    folder = _folder(first, "Report", "report")
    with open(os.path.join(folder, "results.json")) as file:
        found = json.load(file)
    [version] = _pushed(config)
    assert found["problems"] == [] and found["components"] == []
    assert found["verdict"]["pushed_to"] == version
    assert found["verdict"]["serving"].startswith("16 images served bit for bit")
    assert found["fingerprint"] == ""
    with open(os.path.join(folder, "report.html"), encoding="utf-8") as file:
        page = file.read()
    assert "Components of this run" not in page and "Fingerprint" not in page


def test_a_pushed_version_is_the_next_runs_baseline(config, launcher, first):
    [version] = _pushed(config)
    # Another model than the candidate: the same, in a file that differs.
    other = os.path.join(os.path.dirname(version), "1")
    shutil.move(version, other)
    with open(os.path.join(other, "assets.extra", "another.txt"), "w") as file:
        file.write("another")
    second = _with_flink(launcher, "Baseline").run(["Baseline", "Evaluator"], given=first)
    assert second.artifacts["Baseline"]["model"]["metadata"]["version"] == other
    baseline = _folder(second, "Baseline", "model")
    assert os.path.exists(os.path.join(baseline, "Format-Serving", "saved_model.pb"))
    assert os.listdir(os.path.dirname(baseline)) == ["model"], (
        "The step's report went to the launcher."
    )
    blessing = second.artifacts["Evaluator"]["blessing"]["metadata"]
    assert blessing["baseline_model"] == baseline
    assert blessing["current_model"] == _folder(first, "Trainer", "model")
    assert blessing["blessed"] == 1, "No worse than itself."


def test_only_what_depends_on_nothing_outside_is_cached(launcher, first):
    again = launcher.run(["SchemaGen"], given=first)
    assert again.cached == ["SchemaGen"]
    assert again.artifacts["SchemaGen"] == first.artifacts["SchemaGen"]


def test_a_span_that_came_after_the_deployment_is_taken(tmp_path):
    settings = [
        f"data.source={tmp_path}/span-{{SPAN}}",
        f"root={tmp_path}",
        f"artifacts={tmp_path}/bucket",
        "kubeflow.image=i:1",
    ]
    _span(tmp_path, 1)
    spec = pipeline_spec.specification(assign(presets.get("folder"), settings))
    _span(tmp_path, 2)
    run = Launcher(spec, tmp_path / "pods").run(["ExampleGen"])
    with open(os.path.join(_folder(run, "ExampleGen", "examples"), "summary.json")) as file:
        assert json.load(file)["spans"] == [2]


def test_a_step_that_is_tried_again_starts_afresh(tmp_path):
    settings = [
        f"data.source={tmp_path}/span-{{SPAN}}",
        "data.spans=2",
        "data.train_shards=8",
        f"root={tmp_path}",
        f"artifacts={tmp_path}/bucket",
        "kubeflow.image=i:1",
    ]
    _span(tmp_path, 1)
    spec = pipeline_spec.specification(assign(presets.get("folder"), settings))
    launcher = Launcher(spec, tmp_path / "pods")
    # ExampleGen's shards are others when there is a new span; SchemaGen copies a file and replaces
    # none.
    run = launcher.run(["ExampleGen", "SchemaGen"], again=lambda: _span(tmp_path, 2))
    shards = os.listdir(os.path.join(_folder(run, "ExampleGen", "examples"), "Split-train"))
    assert sorted(shards) == [f"data_tfrecord-{i:05d}-of-00008" for i in range(8)]
    assert os.listdir(_folder(run, "SchemaGen", "schema")) == ["schema.pbtxt"]


def _span(folder, number):
    def images(start):
        return {f"{i}.jpg": data.jpeg(100 * number + start + i, 16, 16) for i in range(3)}

    splits = {
        "train": {"ant": images(0), "bee": images(10)},
        "val": {"ant": images(20), "bee": images(30)},
    }
    data.class_folders(os.path.join(str(folder), f"span-{number}"), splits)


def _with_flink(launcher, task):
    """The launcher, but the task is told of a Beam cluster; one that has no Beam job does not look
    for it.
    """
    changed = copy.copy(launcher)
    changed.spec = copy.deepcopy(launcher.spec)
    arguments = changed.container(task)["args"]
    arguments[arguments.index("--runner=FnApiRunner")] = "--runner=FlinkRunner"
    return changed


def _folder(run, task, key):
    return run.artifacts[task][key]["uri"]


def _pushed(config):
    folder = os.path.join(config.artifacts, "serving", "resnet")
    return sorted(os.path.join(folder, name) for name in os.listdir(folder) if name.isdigit())
