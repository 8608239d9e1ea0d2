"""`python -m pipeline.serving_files`: one section of the configuration makes every file."""

import dataclasses
import re
import shlex
from pathlib import Path

import pytest
import yaml

from pipeline import serving_files
from pipeline.config import presets, validity
from pipeline.config import settings as config_module
from pipeline.config.options import assign
from pipeline.config.settings import ConfigError
from pipeline.local import summary
from serving.deploy import tensorflow_serving, texts
from serving.deploy.tensorflow_serving import Deployment


def changed(*settings):
    return assign(presets.get("digits"), [f"serve.{setting}" for setting in settings])


def files(*settings):
    """All texts of a configuration by path, without their first line."""
    return {path: text.split("\n", 1)[1] for path, text in written(*settings).items()}


def written(*settings):
    config = changed("directory=/models/resnet", *settings)
    validity.check(config)
    return texts.files(serving_files.deployment(config), "a command")


def test_the_command_writes_every_file_with_itself_in_the_first_line(tmp_path, capsys):
    arguments = ["--set", "serve.directory=/models/resnet", "--out", str(tmp_path)]
    assert serving_files.main(arguments) == 0
    made = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    assert made == set(written())
    for path in made:
        text = (tmp_path / path).read_text()
        again = re.match("# Written by: python -m pipeline.serving_files (.*)\n", text)[1]
        assert shlex.split(again) == arguments
    assert (
        "Embedded server: python -m serving.server --model_name=resnet" in capsys.readouterr().out
    )


def test_defaults_are_the_same_on_both_sides():
    assert serving_files.deployment(changed("directory=/models/resnet")) == Deployment()


def test_without_a_directory_it_is_the_runs():
    config = presets.get("digits")
    made = serving_files.deployment(config)
    assert made.directory == str(Path("runs/resnet-digits/serving/resnet").absolute())
    bucket = assign(config, ["artifacts=gs://bucket/folder"])
    assert serving_files.deployment(bucket).directory == "gs://bucket/folder/serving/resnet"


@pytest.mark.parametrize(
    ("setting", "before", "after", "names"),
    [
        ("rest_port=9501", "8501", "9501", "compose tensorflow-serving"),
        ("grpc_port=9500", "8500", "9500", "compose tensorflow-serving"),
        ("model_name=net", "resnet", "net", "models compose tensorflow-serving kserve"),
        ("image=b/c:2.21.0", "2.20.0", "2.21.0", "compose tensorflow-serving kserve"),
        (
            "cpu=8",
            "_intra_op_parallelism=2",
            "tensorflow_intra_op_parallelism=8",
            "compose tensorflow-serving",
        ),
        ("cpu=8", "cpu: '2'", "cpu: '8'", "tensorflow-serving kserve"),
        ("memory=8Gi", "4Gi", "8Gi", "tensorflow-serving kserve"),
        ("memory=8Gi", "memory: 4g", "memory: 8g", "compose"),
        ("min_replicas=3", "minReplicas: 2", "minReplicas: 3", "tensorflow-serving kserve"),
        ("max_replicas=9", "maxReplicas: 6", "maxReplicas: 9", "tensorflow-serving kserve"),
        ("num_versions=1", "num_versions: 2", "num_versions: 1", "models tensorflow-serving"),
        ("host=10.0.0.1", "127.0.0.1:8501:", "10.0.0.1:8501:", "compose"),
        ("gpus=2", "nothing of this", "nvidia", "compose tensorflow-serving kserve"),
    ],
)
def test_a_setting_has_one_value_in_all_files(setting, before, after, names):
    found = set()
    for path, text in files(setting).items():
        # The folder and the product keep their names.
        text = text.replace("/models/resnet", "").replace("resnet-tfx", "")
        assert not re.search(rf"(?<![\d.]){re.escape(before)}", text), path
        if re.search(rf"(?<![\w.]){re.escape(after)}", text):
            found.add(Path(path).stem)
    assert found == set(names.split())


def test_batching_labels_and_metrics_reach_files_and_flags():
    assert not any("enable_batching" in text for text in files().values())
    new = files(
        "max_batch_size=12", "batch_timeout_micros=500", "metrics=false", "labels=stable=4,canary=5"
    )
    assert "value: 12" in new["tensorflow_serving/batching_parameters.txt"]
    assert re.search(r'key: "canary"\s+value: 5', new["tensorflow_serving/models.config"])
    for path in ("tensorflow_serving/compose.yaml", "kubernetes/tensorflow-serving.yaml"):
        assert "--enable_batching=true" in new[path]
        assert "--batching_parameters_file=/config/batching_parameters.txt" in new[path]
        assert "--monitoring_config_file" not in new[path] and "prometheus.io" not in new[path]
    made = serving_files.deployment(changed("max_batch_size=12", "gpus=1"))
    assert made.batching.allowed_batch_sizes == (1, 2, 4, 8, 12)
    made.batching.validate()
    made = serving_files.deployment(changed("max_batch_size=1", "gpus=1"))
    assert made.batching.allowed_batch_sizes == (1,)


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("model_name=", "must be a name without / and :"),
        ("model_name=a/b", "must be a name without / and :"),
        ("host=example.org", "must be an address of this machine"),
        ("rest_port=0", "must be a whole number, at least 1 and at most 65,535."),
        ("grpc_port=65536", "must be a whole number, at least 1 and at most 65,535."),
        ("grpc_port=8501", "serve.rest_port is the same"),
        ("num_versions=0", "must be a whole number, at least 1 and"),
        ("max_batch_size=-1", "must be a whole number, at least 0 and"),
        ("batch_timeout_micros=-1", "must be a whole number, at least 0 and"),
        ("min_replicas=0", "must be a whole number, at least 1 and"),
        ("max_replicas=1", "must be 2 (serve.min_replicas) or more"),
        ("cpu=0", "must be a whole number, at least 1 and"),
        ("gpus=-1", "must be a whole number, at least 0 and"),
        ("memory=4GB", "must be a number with Mi or Gi"),
        ("image=tensorflow/serving", "must name a version"),
        ("image=tensorflow/serving:latest", "must name a version"),
        ("labels=stable", "must be a list of LABEL=VERSION"),
        ("labels=stable=new", "must be a list of LABEL=VERSION"),
        ("labels=stable=1,stable=2", "must be a list of LABEL=VERSION"),
        ("labels=a/b=1", "must be a list of LABEL=VERSION"),
    ],
)
def test_what_no_server_takes_is_refused_in_one_sentence(setting, words):
    with pytest.raises(ConfigError) as caught:
        validity.check(changed(setting))
    assert words in str(caught.value)
    assert str(caught.value).startswith(f"serve.{setting.partition('=')[0]}=")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "setting",
    [
        "host=::1",
        "host=localhost",
        "image=registry:5000/a/b:2.21",
        "memory=512Mi",
        "labels=a=0,b=1764000000",
    ],
)
def test_what_a_server_takes_is_let_through(setting):
    validity.check(changed(setting))


def test_every_field_has_an_effect():
    """A setting that changes neither a file nor a command line would be a promise not kept."""
    other = {bool: "false", int: "7", float: "7", str: "other", tuple: "a=1"}
    special = {
        "host": "0.0.0.0", "memory": "1Gi", "image": "a:1", "min_replicas": "1", "directory": "/elsewhere",
    }  # fmt: skip
    # tests/pipeline/config/test_graph.py: what the candidate's own server is asked, and how it is
    # pushed.
    elsewhere = ("validator", "validator_images", "max_latency_ms", "max_memory_mb", "canary_hours")
    for field in dataclasses.fields(config_module.Serve):
        if field.name in elsewhere:
            continue
        value = special.get(field.name, other[type(field.default)])
        settings = [f"{field.name}={value}"]
        base = ["max_batch_size=4"] if field.name == "batch_timeout_micros" else []
        assert files(*base) != files(*base, *settings), field.name


def test_mistakes_have_an_exit_status(tmp_path, capsys):
    assert serving_files.main(["--set", "serve.rest_port=0", "--out", str(tmp_path)]) == 2
    assert capsys.readouterr().err.startswith("serve.rest_port=0: must be")
    (tmp_path / "file").write_text("")
    assert serving_files.main(["--out", str(tmp_path / "file")]) == 1
    assert "cannot be written" in capsys.readouterr().err
    with pytest.raises(SystemExit) as caught:
        serving_files.main([])
    assert caught.value.code == 2
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_files_of_a_stored_configuration_are_the_same(tmp_path, capsys):
    from pipeline import local_runner

    with pytest.raises(SystemExit):
        local_runner.main(["--set", "serve.cpu=3", "--print-config"])
    stored = tmp_path / "config.json"
    stored.write_text(capsys.readouterr().out)
    for name, options in (("a", ["--set", "serve.cpu=3"]), ("b", ["--config", str(stored)])):
        assert serving_files.main([*options, "--out", str(tmp_path / name)]) == 0
    for path in (tmp_path / "a").rglob("*.yaml"):
        other = tmp_path / "b" / path.relative_to(tmp_path / "a")
        assert list(yaml.safe_load_all(path.read_text())) == list(
            yaml.safe_load_all(other.read_text())
        )


def test_the_summarys_commands_follow_the_settings(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    config = changed("rest_port=9501", "host=0.0.0.0", "model_name=net", "max_batch_size=4")
    serve = summary.serve_command(serving_files.deployment(config), "deployment")
    assert shlex.split(serve)[3:] == [
        "--model_name=net", "--model_base_path=runs/resnet-digits/serving/net", "--num_versions=2",
        "--rest_api_port=9501", "--host=0.0.0.0",
        "--monitoring_config_file=deployment/tensorflow_serving/monitoring.config", "--enable_batching=true",
        "--batching_parameters_file=deployment/tensorflow_serving/batching_parameters.txt",
    ]  # fmt: skip
    predict = summary.predict_command(config.serve)
    assert shlex.split(predict)[4:] == ["--model_name=net", "--url=http://127.0.0.1:9501"]
    assert (
        shlex.split(summary.predict_command(changed("host=::1").serve))[-1]
        == "--url=http://[::1]:8501"
    )


def test_with_a_canary_the_servers_follow_the_file_that_pushes_change():
    command = tensorflow_serving.embedded_command(
        serving_files.deployment(changed("canary_hours=24")), "deployment"
    )
    [flag] = [flag for flag in command if flag.startswith("--model_config_file=")]
    assert flag.endswith("runs/resnet-digits/serving/models.config")
    assert not [flag for flag in command if flag.startswith("--model_base_path")]


@pytest.mark.parametrize("place", ["serve.directory=gs://b/models", "artifacts=gs://b/runs"])
def test_a_canary_needs_a_folder_for_the_servers_file(place):
    config = assign(presets.get("digits"), ["serve.canary_hours=24", place])
    with pytest.raises(config_module.ConfigError, match=r"gs://b/.*mount the bucket"):
        validity.check(config)
    validity.check(assign(config, ["serve.directory=/mnt/models"]))
