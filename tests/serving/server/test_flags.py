"""TensorFlow Serving's command line is taken as it is."""

import subprocess
import sys
from pathlib import Path

import grpc
import numpy as np
import pytest
import tensorflow as tf
from tensorflow_serving.apis import get_model_status_pb2, predict_pb2

from serving.server import flags
from serving.server.running.servable import Servable
from serving.server.server_config import Batching, ModelSettings, ServerSettings, SettingsError
from serving.server.versions.manager import Manager, load_servable, session_config
from tests.helpers.backends import EMBEDDED, Stubs, remote
from tests.helpers.serving_models import png, publish

ROOT = Path(__file__).parents[3]
# All that `tensorflow_model_server --help` lists, with a value for each.
THEIRS = {
    "port": "8500",
    "grpc_socket_path": "",
    "rest_api_port": "8501",
    "rest_api_num_threads": "4",
    "rest_api_timeout_in_ms": "30000",
    "rest_api_enable_cors_support": "false",
    "enable_batching": "true",
    "allow_version_labels_for_unavailable_models": "false",
    "batching_parameters_file": "{batching}",
    "enable_per_model_batching_parameters": "false",
    "model_config_file_poll_wait_seconds": "0",
    "model_name": "m",
    "model_base_path": "{base}",
    "num_load_threads": "1",
    "num_unload_threads": "1",
    "max_num_load_retries": "5",
    "load_retry_interval_micros": "60000000",
    "file_system_poll_wait_seconds": "1",
    "flush_filesystem_caches": "true",
    "tensorflow_session_parallelism": "0",
    "tensorflow_session_config_file": "{session}",
    "tensorflow_intra_op_parallelism": "2",
    "tensorflow_inter_op_parallelism": "2",
    "use_alts_credentials": "false",
    "ssl_config_file": "{ssl}",
    "platform_config_file": "",
    "per_process_gpu_memory_fraction": "0.5",
    "saved_model_tags": "serve",
    "grpc_channel_arguments": "grpc.max_connection_age_ms=2000",
    "grpc_max_threads": "8",
    "enable_model_warmup": "true",
    "num_request_iterations_for_warmup": "0",
    "version": "false",
    "monitoring_config_file": "{monitoring}",
    "remove_unused_fields_from_bundle_metagraph": "true",
    "prefer_tflite_model": "false",
    "num_tflite_pools": "2",
    "num_tflite_interpreters_per_pool": "1",
    "enable_signature_method_name_check": "false",
    "xla_cpu_compilation_enabled": "false",
    "xla_gpu_compilation_enabled": "false",
    "enable_profiler": "true",
    "thread_pool_factory_config_file": "",
    "mixed_precision": "",
    "skip_initialize_tpu": "false",
    "enable_grpc_healthcheck_service": "true",
    "enable_serialization_as_tensor_content": "false",
}
NO_EFFECT = {
    "num_load_threads",
    "num_unload_threads",
    "flush_filesystem_caches",
    "platform_config_file",
    "grpc_max_threads",
    "remove_unused_fields_from_bundle_metagraph",
    "prefer_tflite_model",
    "num_tflite_pools",
    "num_tflite_interpreters_per_pool",
    "enable_signature_method_name_check",
    "xla_cpu_compilation_enabled",
    "xla_gpu_compilation_enabled",
    "enable_profiler",
    "thread_pool_factory_config_file",
    "mixed_precision",
    "skip_initialize_tpu",
}
PEM = '"-----BEGIN X-----\\n-----END X-----\\n"'


@pytest.fixture
def files(tmp_path):
    """Configuration files by name, and the folder of versions."""
    texts = {
        "batching": "max_batch_size { value: 8 }",
        "session": "allow_soft_placement: true intra_op_parallelism_threads: 7",
        "ssl": f"server_key: {PEM} server_cert: {PEM}",
        "monitoring": "prometheus_config { enable: true }",
    }
    for name, text in texts.items():
        (tmp_path / name).write_text(text)
    (tmp_path / "base").mkdir()
    return {name: tmp_path / name for name in [*texts, "base"]}


def parse(files, *arguments):
    return flags.parse([f"--model_base_path={files['base']}", *arguments])


def test_every_flag_of_tensorflow_serving_is_taken(files, caplog):
    arguments = [f"--{name}={value.format(**files)}" for name, value in THEIRS.items()]
    with caplog.at_level("WARNING", "serving.server"):
        settings = flags.parse(arguments)
    settings.validate()
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == len(NO_EFFECT)
    assert {line.split()[0].removeprefix("--") for line in said} == NO_EFFECT
    assert all(line.endswith(" has no effect here.") for line in said)
    assert settings.models == (ModelSettings("m", files["base"]),)
    assert settings.batching == Batching(max_batch_size=8)
    assert settings.load_retry_interval_micros == 60_000_000
    assert settings.metrics_path == "/monitoring/prometheus/metrics"
    assert settings.channel_options() == [("grpc.max_connection_age_ms", 2000)]
    config = session_config(settings)
    assert (config.intra_op_parallelism_threads, config.inter_op_parallelism_threads) == (2, 2)
    assert config.allow_soft_placement and config.gpu_options.per_process_gpu_memory_fraction == 0.5


def test_flags_that_are_not_given_are_not_spoken_of(files, caplog):
    with caplog.at_level("WARNING", "serving.server"):
        assert parse(files) == ServerSettings((ModelSettings("resnet", files["base"]),))
    assert caplog.records == []


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("", True),
        *[(f"={text}", True) for text in ("true", "True", "TRUE", "t", "1")],
        *[(f"={text}", False) for text in ("false", "False", "f", "0")],
    ],
)
def test_booleans(files, text, value):
    assert (
        parse(files, f"--rest_api_enable_cors_support{text}").rest_api_enable_cors_support is value
    )
    assert bool(parse(files, f"--enable_batching{text}").batching) is value


@pytest.mark.parametrize("text", ["yes", "", "2", "tru", "on"])
def test_what_is_no_boolean(files, text, capsys):
    with pytest.raises(SystemExit) as caught:
        parse(files, f"--enable_batching={text}")
    assert caught.value.code == 2
    assert "argument --enable_batching: must be true or false" in capsys.readouterr().err


def test_a_negative_interval_is_none(files):
    settings = parse(files, "--load_retry_interval_micros=-1")
    settings.validate()
    assert settings.load_retry_interval_micros == -1


@pytest.mark.parametrize("flag", ["--version", "--version=true"])
def test_version(flag):
    done = subprocess.run(
        [sys.executable, "-m", "serving.server", flag],
        cwd=ROOT,
        text=True,
        capture_output=True,
        timeout=60,
    )
    first, second = done.stdout.splitlines()
    assert (done.returncode, done.stderr) == (0, "")
    assert first.startswith("TensorFlow ModelServer: ")
    assert second == f"TensorFlow Library: {tf.__version__}"


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--grpc_channel_arguments=a=1,b"], "--grpc_channel_arguments 'b': must be NAME=VALUE."),
        (["--per_process_gpu_memory_fraction=1.5"], "must be 0 to 1."),
        (
            ["--tensorflow_intra_op_parallelism=-1"],
            "--tensorflow_intra_op_parallelism -1: must be 0 or more.",
        ),
        (["--use_alts_credentials", "--ssl_config_file={ssl}"], "name one of them"),
        (["--ssl_config_file={monitoring}"], "is no SSLConfig in protobuf's text format"),
        (["--ssl_config_file={base}/none"], "cannot be read"),
        (
            ["--tensorflow_session_config_file={monitoring}"],
            "is no ConfigProto in protobuf's text format",
        ),
    ],
)
def test_what_does_not_fit_is_one_sentence(files, arguments, text):
    with pytest.raises(SettingsError) as caught:
        settings = parse(files, *(argument.format(**files) for argument in arguments))
        settings.validate()
        session_config(settings)
    assert text in str(caught.value)


def test_a_certificate_without_its_key(files):
    files["ssl"].write_text('server_cert: "-----BEGIN X-----"')
    with pytest.raises(SettingsError, match="server_key must be the text of a PEM file"):
        parse(files, f"--ssl_config_file={files['ssl']}")


@pytest.fixture(scope="module")
def dense(exports, tmp_path_factory):
    base = tmp_path_factory.mktemp("dense")
    publish(exports / "dense", base, 7)
    return ModelSettings("dense", base)


def status(stubs, model="dense"):
    request = get_model_status_pb2.GetModelStatusRequest()
    request.model_spec.name = model
    return stubs.model.GetModelStatus(request, timeout=10)


def certificate(folder):
    """PEM texts of a key and of a certificate of localhost."""
    paths = [folder / "key.pem", folder / "cert.pem"]
    command = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "rsa:2048",
        "-nodes",
        "-days",
        "2",
        "-subj",
        "/CN=localhost",
    ]
    command += ["-addext", "subjectAltName=DNS:localhost", "-keyout", paths[0], "-out", paths[1]]
    subprocess.run(command, check=True, capture_output=True)
    return [path.read_text() for path in paths]


def test_grpc_is_encrypted(dense, tmp_path):
    key, cert = certificate(tmp_path)
    (tmp_path / "ssl").write_text(
        f"server_key: {key!r} server_cert: {cert!r} custom_ca: {cert!r} client_verify: true"
    )
    with remote(EMBEDDED, [dense], ssl_config_file=tmp_path / "ssl") as stubs:
        with pytest.raises(grpc.RpcError) as caught:
            status(stubs)
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        own = (key.encode(), cert.encode())
        for secrets, good in (((cert.encode(), *own), True), ((cert.encode(),), False)):
            credentials = grpc.ssl_channel_credentials(*secrets)
            with grpc.secure_channel(f"localhost:{stubs.port}", credentials) as channel:
                if good:
                    assert Stubs(stubs.port, channel) and status(Stubs(stubs.port, channel))
                else:
                    with pytest.raises(grpc.RpcError):
                        status(Stubs(stubs.port, channel))


def test_grpc_on_a_socket_of_unix(dense, tmp_path):
    path = tmp_path / "socket"
    with (
        remote(EMBEDDED, [dense], grpc_socket_path=str(path)) as stubs,
        grpc.insecure_channel(f"unix:{path}") as channel,
    ):
        assert status(stubs) == status(Stubs(0, channel))


def test_numbers_as_one_piece(dense):
    request = predict_pb2.PredictRequest()
    request.model_spec.name = "dense"
    request.inputs["x"].CopyFrom(tf.make_tensor_proto([[1.0, 2.0]]))
    with remote(EMBEDDED, [dense], enable_serialization_as_tensor_content=True) as stubs:
        answer = stubs.prediction.Predict(request, timeout=10).outputs["y"]
    assert answer.tensor_content and not answer.float_val
    assert tf.make_ndarray(answer).tolist() == [[9.0, 12.0, 15.0]]


def test_options_of_the_grpc_server(dense):
    request = predict_pb2.PredictRequest()
    request.model_spec.name = "dense"
    request.inputs["x"].CopyFrom(tf.make_tensor_proto(np.zeros((1000, 2), np.float32)))
    arguments = "grpc.max_receive_message_length=1000"
    with (
        remote(EMBEDDED, [dense], grpc_channel_arguments=arguments) as stubs,
        pytest.raises(grpc.RpcError) as caught,
    ):
        stubs.prediction.Predict(request, timeout=10)
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


def test_a_graph_is_chosen_by_its_tags(dense, tmp_path):
    path = tmp_path / "m/1"
    builder = tf.compat.v1.saved_model.Builder(str(path))
    for number, tags in enumerate((["serve"], ["serve", "tpu"])):
        with tf.Graph().as_default(), tf.compat.v1.Session() as session:
            x = tf.compat.v1.placeholder(tf.float32, [None])
            signature = tf.compat.v1.saved_model.predict_signature_def({"x": x}, {"y": x + number})
            add = builder.add_meta_graph if number else builder.add_meta_graph_and_variables
            more = {} if number else {"sess": session}
            add(**more, tags=tags, signature_def_map={"serving_default": signature})
    builder.save()
    for tags, number in (("serve", 0.0), ("tpu,serve", 1.0)):
        settings = ServerSettings((ModelSettings("m", path.parent),), saved_model_tags=tags)
        servable = load_servable(settings)(path, 1)
        assert servable.run("serving_default", {"x": np.zeros(1, np.float32)})["y"].tolist() == [
            number
        ]
        servable.close()


def test_warm_up_requests_are_repeated(exports, monkeypatch):
    runs, run = [], Servable.run
    monkeypatch.setattr(Servable, "run", lambda *arguments: runs.append(1) or run(*arguments))
    settings = ServerSettings((), num_request_iterations_for_warmup=3)
    load_servable(settings)(exports / "image", 1).close()
    assert len(runs) == 3


def test_models_bring_their_own_batching(exports, tmp_path):
    for number, text in ((1, None), (2, "max_batch_size { value: 1 }")):
        publish(exports / "image", tmp_path / "m", number)
        if text:
            (tmp_path / f"m/{number}/batching_params.pbtxt").write_text(text)
    settings = ServerSettings(
        (ModelSettings("m", tmp_path / "m", 2),),
        batching=Batching(),
        enable_per_model_batching_parameters=True,
    )
    manager = Manager(settings)
    manager.start()
    assert manager.wait_first_look()
    images = {"image_bytes": np.array([png((1, 2, 3))] * 2, object)}
    with manager.use("m", 1) as servable:
        assert len(servable.run("serving_default", images)["probabilities"]) == 2
    with (
        manager.use("m", 2) as servable,
        pytest.raises(Exception, match="larger than maximum input batch size 1"),
    ):
        servable.run("serving_default", images)
    manager.stop()
