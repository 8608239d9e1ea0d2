"""Candidates on a real server: what is blessed, and what is not, with the reason."""

import dataclasses
import json
import os
import pathlib
import shutil
import stat
import subprocess
import sys
import threading
import time

import keras
import numpy as np
import pytest
import tensorflow as tf
from tfx.types import artifact_utils, standard_artifacts

from components.serving_validator import checks, component, model_server
from models.export import export, protocols
from models.network import architecture
from models.pixels import augmentation
from models.settings import Transform
from tests.helpers import data, warm

LABELS = ("ant", "bee", "cat")
SETTINGS = Transform(size=24, test_shorter_side=28)
EMBEDDED = {
    "server": "embedded",
    "images": 4,
    "seconds": 60.0,
    "max_latency_ms": 0.0,
    "max_memory_mb": 0,
}


def network(seed):
    keras.utils.set_random_seed(seed)
    constants = augmentation.Constants(
        pixel_mean=np.full([24, 24, 3], 120, np.float32),
        channel_mean=np.full([3], 120, np.float32),
        covariance=np.eye(3, dtype=np.float32),
        labels=LABELS,
        class_counts=(1,) * 3,
    )
    net = architecture.cifar_resnet(8, classes=3)
    kernel, bias = net.get_layer("logits").get_weights()
    # Probabilities between 0 and 1, all bits of which depend on the image.
    net.get_layer("logits").set_weights([kernel / 1000, bias])
    return protocols.network(net, SETTINGS, constants)


def example(encoded):
    feature = tf.train.Feature(bytes_list=tf.train.BytesList(value=[encoded]))
    features = tf.train.Features(feature={"image/encoded": feature})
    return tf.train.Example(features=features).SerializeToString()


EXAMPLES = [example(data.jpeg(seed, 30 + seed, 40)) for seed in range(6)]


@pytest.fixture(scope="module")
def candidate(tmp_path_factory):
    path = str(tmp_path_factory.mktemp("candidate") / "Format-Serving")
    export.export(network(0), path, None, ("center", "ten_crop"))
    return path


@pytest.fixture
def warmed(monkeypatch, tmp_path_factory):
    """Servers need not wait for TensorFlow; their memory is not that of a real one."""
    monkeypatch.setattr(sys, "executable", warm.executable(tmp_path_factory.mktemp("python")))


@pytest.fixture(scope="module")
def started(candidate):
    with model_server.running(candidate, "embedded", 60) as found:
        yield found


def test_a_candidate_that_is_served_as_evaluated_is_blessed(candidate, started):
    report = checks.check(started, EXAMPLES, checks.expected(candidate, EXAMPLES), checks.Limits())
    assert report.reasons == ()
    assert report.images == 6
    assert 0 < report.median_ms <= report.p99_ms
    assert 200 < report.memory_mb < 10_000


def test_other_probabilities_than_the_evaluators_are_seen_on_both_protocols(
    started, candidate, tmp_path
):
    other = str(tmp_path / "other")
    export.export(network(1), other, None, ("center",))
    report = checks.check(started, EXAMPLES, checks.expected(other, EXAMPLES), checks.Limits())
    assert [reason.split(" answers")[0] for reason in report.reasons] == ["REST", "gRPC", "top_k"]
    assert "for 6 of 6 images, by up to 0." in report.reasons[0]
    # One unit in the last place is enough.
    wanted = checks.expected(candidate, EXAMPLES)
    wanted[2] = np.nextafter(wanted[2], np.float32(1))
    reasons = checks.check(started, EXAMPLES, wanted, checks.Limits()).reasons
    assert [reason.split(", by up to")[0] for reason in reasons] == [
        f"{protocol} answers other probabilities than the evaluator for 1 of 6 images"
        for protocol in ("REST", "gRPC")
    ]


def test_limits_of_time_and_memory(candidate, started):
    wanted = checks.expected(candidate, EXAMPLES)
    reasons = checks.check(started, EXAMPLES, wanted, checks.Limits(0.001, 100)).reasons
    assert len(reasons) == 2
    assert "above serve.max_latency_ms=0.001" in reasons[0]
    assert "above serve.max_memory_mb=100" in reasons[1]


def test_without_a_center_crop_the_served_signature_is_the_reference(warmed, tmp_path):
    path = str(tmp_path / "model")
    export.export(network(0), path, None, ("ten_crop",))
    assert component.validate(path, EXAMPLES[:2], EMBEDDED).reasons == ()


def test_an_export_that_only_python_runs_is_not_blessed(warmed, tmp_path):
    """A tf.Module around a Keras 3 model: it loads everywhere, and predicts in no Session."""
    net = network(0)
    module = tf.Module()
    module.model = net.model

    def scores(image_bytes):
        images = tf.map_fn(
            lambda encoded: tf.image.resize(tf.io.decode_jpeg(encoded, channels=3), [24, 24]),
            image_bytes,
            fn_output_signature=tf.TensorSpec([24, 24, 3]),
        )
        return tf.nn.softmax(module.model(images))

    def encoded(examples):
        return tf.io.parse_example(
            examples, {"image/encoded": tf.io.FixedLenFeature([], tf.string)}
        )["image/encoded"]

    spec = tf.TensorSpec([None], tf.string, name="image_bytes")
    module.serve = tf.function(
        lambda image_bytes: {"probabilities": scores(image_bytes)}, input_signature=[spec]
    )
    module.evaluate = tf.function(
        lambda examples: {"center": scores(encoded(examples))},
        input_signature=[tf.TensorSpec([None], tf.string, name="examples")],
    )
    path = str(tmp_path / "model")
    tf.saved_model.save(
        module, path, {"serving_default": module.serve, "evaluate": module.evaluate}
    )
    reasons = component.validate(path, EXAMPLES[:2], EMBEDDED).reasons
    assert "REST refuses an image of the evaluation split: " in reasons[0]
    assert "Could not find variable" in reasons[0]


def test_the_server_ends_with_a_run_that_is_killed(candidate):
    code = (
        "import sys, time; from components.serving_validator import model_server as server\n"
        "with server.running(sys.argv[1], 'embedded', 60) as found: "
        "print(found.pid, flush=True); time.sleep(600)"
    )
    run = subprocess.Popen(
        [sys.executable, "-c", code, candidate], stdout=subprocess.PIPE, text=True
    )
    with run:
        command = pathlib.Path(f"/proc/{run.stdout.readline().strip()}/cmdline")
        assert b"serving.server" in command.read_bytes()
        run.kill()
    end = time.monotonic() + 30
    # Of a process that nobody has waited for, an empty file is left.
    while command.exists() and command.read_bytes() and time.monotonic() < end:
        time.sleep(0.1)
    assert not (command.exists() and command.read_bytes())


def test_a_candidate_that_does_not_load_is_not_blessed(candidate, tmp_path):
    path = str(tmp_path / "model")
    shutil.copytree(candidate, path)
    os.remove(os.path.join(path, "variables", "variables.data-00000-of-00001"))
    [reason] = component.validate(path, EXAMPLES[:1], EMBEDDED).reasons
    assert reason.startswith("the server has ended: Version 1 of candidate cannot be served: ")


def test_the_model_is_loaded_here_while_the_server_starts(warmed, candidate, monkeypatch):
    loading = threading.Event()
    expected, wait = checks.expected, model_server._wait

    def load(*args):
        loading.set()
        return expected(*args)

    def started(*args):
        assert loading.wait(60)
        wait(*args)

    monkeypatch.setattr(checks, "expected", load)
    monkeypatch.setattr(model_server, "_wait", started)
    assert component.validate(candidate, EXAMPLES[:2], EMBEDDED).reasons == ()


DOCKER = """#!{python}
import os, sys
arguments = sys.argv[1:]
assert arguments[:2] == ["run", "--rm"] and arguments[-1] == "tensorflow/serving:2.20.0", arguments
pairs = dict(zip([f"{{a}}{{i}}" for i, a in enumerate(arguments)], arguments[1:]))
ports = dict(v.removeprefix("127.0.0.1:").split(":")[::-1] for k, v in pairs.items() if k.startswith("-p"))
[volume] = [v for k, v in pairs.items() if k.startswith("-v")]
[name] = [v.removeprefix("MODEL_NAME=") for k, v in pairs.items() if k.startswith("-e")]
base, inside, mode = volume.split(":")
assert (inside, mode) == (f"/models/{{name}}", "ro")
flags = [f"--model_name={{name}}", f"--model_base_path={{base}}", f"--rest_api_port={{ports['8501']}}"]
os.chdir({root!r})
os.execv({python!r}, [{python!r}, "-m", "serving.server", *flags, f"--port={{ports['8500']}}"])
"""


def test_the_container_of_tensorflow_serving(warmed, candidate, tmp_path, monkeypatch):
    """docker is a stand-in here, which reads the command as docker does and starts the embedded
    server.
    """
    root = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    docker = tmp_path / "docker"
    docker.write_text(DOCKER.format(python=sys.executable, root=root))
    docker.chmod(docker.stat().st_mode | stat.S_IXUSR)
    settings = {**EMBEDDED, "server": "tensorflow/serving:2.20.0"}
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    report = component.validate(candidate, EXAMPLES[:2], settings)
    assert (report.reasons, report.memory_mb) == ((), 0)
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(
        model_server.StartError,
        match=r"docker is not on the PATH, and .*; set serve.validator=embedded",
    ):
        component.validate(candidate, EXAMPLES[:2], settings)


@pytest.mark.parametrize("end", ["exit 125", "kill -9 $$"])
def test_where_no_server_runs_there_is_no_verdict(candidate, tmp_path, monkeypatch, end):
    """It would come from the cache, when docker has been started or there is memory again."""
    docker = tmp_path / "bin" / "docker"
    docker.parent.mkdir()
    docker.write_text(f"#!/bin/sh\necho Cannot connect to the Docker daemon. >&2\n{end}\n")
    docker.chmod(docker.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{docker.parent}{os.pathsep}{os.environ['PATH']}")
    inputs, outputs = artifacts(tmp_path, candidate, blessed=1)
    settings = {**EMBEDDED, "server": "tensorflow/serving:2.20.0"}
    with pytest.raises(
        model_server.StartError, match="the server has ended: Cannot connect to the Docker daemon"
    ):
        component.ServingValidator_Executor().Do(
            inputs, outputs, {"settings": json.dumps(settings)}
        )
    assert not (tmp_path / "blessing").exists()


def artifacts(tmp_path, candidate, blessed):
    model, examples = standard_artifacts.Model(), standard_artifacts.Examples()
    evaluated, blessing = standard_artifacts.ModelBlessing(), standard_artifacts.InfraBlessing()
    model.uri, evaluated.uri, blessing.uri = (
        str(tmp_path / name) for name in ("model", "evaluated", "blessing")
    )
    shutil.copytree(candidate, os.path.join(model.uri, "Format-Serving"))
    evaluated.set_int_custom_property("blessed", blessed)
    examples.uri, examples.split_names = (
        str(tmp_path / "examples"),
        artifact_utils.encode_split_names(["eval"]),
    )
    os.makedirs(tmp_path / "examples" / "Split-eval")
    with tf.io.TFRecordWriter(
        str(tmp_path / "examples" / "Split-eval" / "data-00000-of-00001")
    ) as writer:
        for record in EXAMPLES:
            writer.write(record)
    inputs = {"model": [model], "examples": [examples], "model_blessing": [evaluated]}
    return inputs, {"blessing": [blessing]}


def test_the_component_blesses_with_tfx_own_marks(candidate, tmp_path):
    inputs, outputs = artifacts(tmp_path, candidate, blessed=1)
    component.ServingValidator_Executor().Do(inputs, outputs, {"settings": json.dumps(EMBEDDED)})
    [blessing] = outputs["blessing"]
    assert blessing.get_int_custom_property("blessed") == 1
    assert os.path.exists(os.path.join(blessing.uri, "INFRA_BLESSED"))
    assert component.read(blessing.uri).images == 4
    assert "4 images served bit for bit as evaluated" in component.describe(blessing.uri)


def test_what_the_evaluator_refused_is_not_served(candidate, tmp_path):
    inputs, outputs = artifacts(tmp_path, candidate, blessed=0)
    component.ServingValidator_Executor().Do(
        inputs, outputs, {"settings": json.dumps({**EMBEDDED, "server": "none such"})}
    )
    [blessing] = outputs["blessing"]
    assert blessing.get_int_custom_property("blessed") == 0
    assert os.path.exists(os.path.join(blessing.uri, "INFRA_NOT_BLESSED"))
    assert (
        component.describe(blessing.uri)
        == "not to be pushed: the Evaluator has not blessed the model"
    )


def test_a_report_is_read_as_it_was_written(tmp_path):
    blessing = standard_artifacts.InfraBlessing()
    blessing.uri = str(tmp_path / "b")
    report = checks.Report(("slow",), 3, 1.5, 2.5, 100.0)
    component._write(blessing, report)
    assert component.read(blessing.uri) == report
    assert dataclasses.asdict(report)["reasons"] == ("slow",)
