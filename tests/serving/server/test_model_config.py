"""TensorFlow Serving's configuration files: several models, policies, labels, batching, metrics."""

import json
import time
import urllib.error
import urllib.request

import pytest

from serving.client import Client
from serving.server import textproto
from serving.server.server_config import Batching, ModelSettings, SettingsError
from tests.helpers.serving_models import png, publish
from tests.serving.server.test_server_process import Server, free_port, mistake

RED = png((255, 0, 0))


def write(path, text):
    path.write_text(text)
    return path


def version_of(server, where):
    """The version that answers at models/<where>, or the HTTP status of the refusal."""
    try:
        with urllib.request.urlopen(
            f"{server.url}/v1/models/{where}/metadata", timeout=10
        ) as answer:
            return json.load(answer)["model_spec"]["version"]
    except urllib.error.HTTPError as error:
        return error.code


def wait_for(condition, seconds=30):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "nothing happened"
        time.sleep(0.05)


def test_a_file_of_models_is_served_and_followed(exports, tmp_path):
    for name in ("dense", "image"):
        publish(exports / name, tmp_path / name, 1)
        publish(exports / name, tmp_path / name, 2)
    models = [
        ModelSettings(
            "dense", tmp_path / "dense", versions=(1, 2), labels={"stable": 1, "canary": 2}
        ),
        ModelSettings("image", tmp_path / "image"),
    ]
    file = write(tmp_path / "models.config", textproto.models_text(models))
    batching = write(
        tmp_path / "batching.txt", textproto.batching_text(Batching(batch_timeout_micros=1000))
    )
    monitoring = write(tmp_path / "monitoring.txt", textproto.monitoring_text("/metrics"))
    server = Server(
        None,
        f"--model_config_file={file}",
        "--model_config_file_poll_wait_seconds=0.1",
        "--enable_batching=true",
        f"--batching_parameters_file={batching}",
        f"--monitoring_config_file={monitoring}",
    )
    try:
        assert Client(server.url, "image").predict([RED]) == [[1.0, 0.0, 0.0]]
        assert [version_of(server, f"dense/labels/{name}") for name in ("stable", "canary")] == [
            "1",
            "2",
        ]
        assert (version_of(server, "dense"), version_of(server, "image")) == ("2", "2")
        assert version_of(server, "image/versions/1") == 404
        # A file with a mistake changes nothing; a good one does.
        write(file, "model_config_list {")
        time.sleep(0.5)
        assert version_of(server, "dense/labels/stable") == "1"
        write(
            file,
            textproto.models_text(
                [ModelSettings("dense", tmp_path / "dense", labels={"stable": 2})]
            ),
        )
        wait_for(lambda: version_of(server, "dense/labels/stable") == "2")
        assert version_of(server, "dense/labels/canary") == 400
        wait_for(lambda: version_of(server, "image") == 404)
        with urllib.request.urlopen(f"{server.url}/metrics", timeout=10) as answer:
            assert (
                b':tensorflow:serving:request_count{model_name="image",status="OK"} 1.0'
                in answer.read()
            )
    finally:
        status, _, errors = server.stop()
    assert status == 0
    assert "models.config is no ModelServerConfig in protobuf's text format" in errors
    assert "Traceback" not in errors


def test_files_that_cannot_be_used_are_one_sentence(exports, tmp_path):
    publish(exports / "dense", tmp_path / "m", 1)
    waiting = textproto.models_text([ModelSettings("m", tmp_path / "m", labels={"canary": 2})])
    cases = {
        "nothing": (None, "nothing cannot be read (No such file or directory)."),
        "torn": ("model_config_list {", "torn is no ModelServerConfig in protobuf's text format"),
        "other": ("custom_model_config {}", "other has no model_config_list"),
        "empty": ("model_config_list {}", "There is no model to serve"),
        "labels": (waiting, "mend version_labels, or let labels wait"),
    }
    for name, (text, sentence) in cases.items():
        if text is not None:
            write(tmp_path / name, text)
        lines = mistake(None, free_port(), f"--model_config_file={tmp_path / name}")
        assert sentence in lines[-1], lines
    batching = write(
        tmp_path / "batching", "max_batch_size { value: 4 } pad_variable_length_inputs: true"
    )
    base = tmp_path / "m"
    [line] = mistake(
        base, free_port(), "--enable_batching=true", f"--batching_parameters_file={batching}"
    )
    assert "pad_variable_length_inputs is not supported by this server; leave it out" in line
    [line] = mistake(base, free_port(), f"--batching_parameters_file={batching}")
    assert "has no effect without --enable_batching=true" in line
    [line] = mistake(None, free_port())
    assert "either --model_base_path FOLDER or --model_config_file FILE" in line


def test_what_is_written_is_read_as_it_was(tmp_path):
    models = (
        ModelSettings("a", tmp_path, versions=(3, 4), labels={"stable": 3}),
        ModelSettings("b", tmp_path, num_versions=2),
        ModelSettings("c", tmp_path, all_versions=True),
    )
    assert (
        textproto.read_models(write(tmp_path / "models", textproto.models_text(models))) == models
    )
    batching = Batching(8, 500, 3, 2, (1, 4, 8))
    assert (
        textproto.read_batching(write(tmp_path / "batching", textproto.batching_text(batching)))
        == batching
    )
    for path in ("/m", ""):
        text = textproto.monitoring_text(path)
        assert textproto.read_metrics_path(write(tmp_path / "monitoring", text)) == path


def test_the_documents_own_examples_are_read(tmp_path):
    """As TensorFlow Serving's guide writes them."""
    models = """
        model_config_list: {
          config: {
            name: 'first', base_path: '/tmp/my_model/'; model_platform: 'tensorflow'
            model_version_policy: { specific: { versions: 42 versions: 43 } }
            version_labels: { key: 'stable' value: 43 }
            version_labels: { key: 'canary' value: 43 }
          }
        }"""
    [model] = textproto.read_models(write(tmp_path / "models", models))
    assert (model.name, model.versions, model.labels) == (
        "first",
        (42, 43),
        {"stable": 43, "canary": 43},
    )
    batching = """
        max_batch_size { value: 128 }
        batch_timeout_micros { value: 0 }
        max_enqueued_batches { value: 1000000 }
        num_batch_threads { value: 8 }
        thread_pool_name { value: "shared" }"""
    assert textproto.read_batching(write(tmp_path / "b", batching)) == Batching(
        128, 0, 1_000_000, 8
    )
    monitoring = 'prometheus_config { enable: true, path: "/monitoring/prometheus/metrics" }'
    path = textproto.read_metrics_path(write(tmp_path / "m", monitoring))
    assert path == "/monitoring/prometheus/metrics"
    with pytest.raises(SettingsError, match="model_platform torch of x: must be tensorflow"):
        platform = "model_config_list { config { name: 'x' model_platform: 'torch' } }"
        textproto.read_models(write(tmp_path / "models", platform))
