"""The production files: each is read by its own format's rules, and the embedded server runs with
them.
"""

import dataclasses
import json
import re
import shlex
import subprocess
import sys
import urllib.request

import grpc
import pytest
import yaml
from grpc_health.v1 import health_pb2, health_pb2_grpc
from kubernetes import client as kubernetes

from serving.client import Client
from serving.client.grpc_client import GrpcClient
from serving.deploy import tensorflow_serving, texts
from serving.deploy.tensorflow_serving import Deployment
from serving.server import textproto
from serving.server.server_config import Batching
from tests.helpers.client_servers import http_server, reply
from tests.helpers.serving_models import png, publish
from tests.serving.server.test_server_process import ROOT, Server, free_port

FULL = Deployment(
    model_name="My Model_2",
    directory="/srv/a folder/models",
    host="::1",
    rest_port=9001,
    grpc_port=9000,
    labels={"stable": 3, "canary": 5},
    batching=Batching(16, 2000, num_batch_threads=4, allowed_batch_sizes=(4, 16)),
    metrics_path="",
    image="registry:5000/serving:2.21.1-gpu@sha256:" + "a" * 64,
    min_replicas=1,
    max_replicas=1,
    cpu=4,
    memory="512Mi",
    gpus=2,
)
BUCKET = Deployment(directory="gs://bucket/models/resnet", host="0.0.0.0")
ALL = [Deployment(), FULL, BUCKET]


def written(deployment, folder):
    """The files of TensorFlow Serving in a folder, as the command writes them."""
    for path, text in texts.files(deployment, "a command").items():
        assert text.startswith("# Written by: a command\n")
        full = folder / path
        full.parent.mkdir(parents=True, exist_ok=True)
        full.write_text(text)
    return folder / "tensorflow_serving"


def documents(deployment, path):
    return list(yaml.safe_load_all(texts.files(deployment, "a command")[path]))


def objects(deployment):
    """Kubernetes objects by kind."""
    return {one["kind"]: one for one in documents(deployment, "kubernetes/tensorflow-serving.yaml")}


def service(deployment):
    [compose] = documents(deployment, "tensorflow_serving/compose.yaml")
    assert set(compose) == {"services"}
    return compose["services"][deployment.object_name]


def flags(arguments):
    return dict(flag.removeprefix("--").split("=", 1) for flag in arguments)


@pytest.mark.parametrize("deployment", ALL)
def test_text_protos_are_read_back(deployment, tmp_path):
    folder = written(deployment, tmp_path)
    [model] = textproto.read_models(folder / tensorflow_serving.MODELS)
    assert (model.name, dict(model.labels)) == (deployment.model_name, dict(deployment.labels))
    assert model.versions == tuple(sorted(deployment.labels.values()))
    if not deployment.labels:
        assert model.num_versions == deployment.num_versions
    assert (
        f'base_path: "{deployment.directory}"' in (folder / tensorflow_serving.MODELS).read_text()
    )
    batching = textproto.read_batching(folder / tensorflow_serving.BATCHING)
    assert batching == (deployment.batching or Batching(8, 1000, num_batch_threads=deployment.cpu))
    batching.validate()
    assert (
        textproto.read_metrics_path(folder / tensorflow_serving.MONITORING)
        == deployment.metrics_path
    )


def test_the_suggestion_for_a_gpu_is_read_back_too(tmp_path):
    (tmp_path / "gpu.txt").write_text(tensorflow_serving.batching_parameters(Deployment(gpus=1)))
    batching = textproto.read_batching(tmp_path / "gpu.txt")
    batching.validate()
    assert batching.max_batch_size == 64


@pytest.mark.parametrize("deployment", ALL)
def test_every_field_of_the_kubernetes_objects_is_known(deployment):
    """The client's models are generated from Kubernetes' own schema; an unknown field gets lost."""
    api = kubernetes.ApiClient()
    kinds = {
        "ConfigMap": "V1ConfigMap",
        "Deployment": "V1Deployment",
        "Service": "V1Service",
        "HorizontalPodAutoscaler": "V2HorizontalPodAutoscaler",
        "PodDisruptionBudget": "V1PodDisruptionBudget",
        "NetworkPolicy": "V1NetworkPolicy",
    }
    found = objects(deployment)
    assert list(found) == list(kinds)
    for kind, model in kinds.items():
        answer = type("Answer", (), {"data": json.dumps(found[kind])})
        assert api.sanitize_for_serialization(api.deserialize(answer, model)) == found[kind]
        name = found[kind]["metadata"]["name"]
        # What a Service, the strictest of them, takes.
        assert name == deployment.object_name and re.fullmatch("[a-z]([-a-z0-9]*[a-z0-9])?", name)


@pytest.mark.parametrize("deployment", ALL)
def test_kubernetes_objects_fit_together(deployment):
    found = objects(deployment)
    workload = found["Deployment"]["spec"]
    pod = workload["template"]
    labels = pod["metadata"]["labels"]
    assert workload["selector"]["matchLabels"] == labels
    assert found["Service"]["spec"]["selector"] == labels
    assert found["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"] == labels
    target = found["HorizontalPodAutoscaler"]["spec"]["scaleTargetRef"]
    assert target == {"apiVersion": "apps/v1", "kind": "Deployment", "name": deployment.object_name}
    [container] = pod["spec"]["containers"]
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert ports == {"rest": deployment.rest_port, "grpc": deployment.grpc_port}
    for port in found["Service"]["spec"]["ports"]:
        assert port["port"] == ports[port["targetPort"]]
    assert container["livenessProbe"]["grpc"]["port"] == deployment.grpc_port
    assert flags(container["args"])["enable_grpc_healthcheck_service"] == "true"
    volumes = {volume["name"]: volume for volume in pod["spec"]["volumes"]}
    mounts = {mount["mountPath"]: mount for mount in container["volumeMounts"]}
    assert {mount["name"] for mount in mounts.values()} == set(volumes)
    assert all(mount.get("readOnly") for path, mount in mounts.items() if path != "/tmp")
    assert (deployment.directory in mounts) == (not deployment.remote)
    assert volumes["config"]["configMap"]["name"] == found["ConfigMap"]["metadata"]["name"]
    for flag in container["args"]:
        name, _, value = flag.partition("=")
        if name.endswith("_file"):
            assert value.removeprefix(f"{tensorflow_serving.CONFIG}/") in found["ConfigMap"]["data"]


@pytest.mark.parametrize("deployment", ALL)
def test_pods_are_called_on_their_ports_and_call_nobody_but_a_bucket(deployment):
    found = objects(deployment)
    policy = found["NetworkPolicy"]["spec"]
    assert policy["podSelector"] == found["Deployment"]["spec"]["selector"]
    assert set(policy["policyTypes"]) == {"Ingress", "Egress"}
    [callers] = policy["ingress"]
    assert callers["from"] == [{"namespaceSelector": {}}]
    assert [port["port"] for port in callers["ports"]] == [
        deployment.rest_port,
        deployment.grpc_port,
    ]
    called = {
        (port["protocol"], port["port"]) for rule in policy["egress"] for port in rule["ports"]
    }
    bucket = {("UDP", 53), ("TCP", 53), ("TCP", 443), ("TCP", 80), ("TCP", 988)}
    assert called == (bucket if deployment.remote else set())


@pytest.mark.parametrize("deployment", ALL)
def test_pods_keep_apart_and_fill_no_disk(deployment):
    workload = objects(deployment)["Deployment"]["spec"]
    pod = workload["template"]["spec"]
    apart = pod["affinity"]["podAntiAffinity"]
    [preferred] = apart["preferredDuringSchedulingIgnoredDuringExecution"]
    others = {"labelSelector": workload["selector"], "topologyKey": "kubernetes.io/hostname"}
    assert preferred == {"weight": 100, "podAffinityTerm": others}
    [container] = pod["containers"]
    assert container["resources"]["requests"] == container["resources"]["limits"]
    assert container["resources"]["limits"]["ephemeral-storage"] == "1Gi"
    assert {"name": "tmp", "emptyDir": {"sizeLimit": "1Gi"}} in pod["volumes"]
    assert container["imagePullPolicy"] == "Always"


def test_pods_run_without_rights_and_say_where_the_metrics_are():
    template = objects(Deployment())["Deployment"]["spec"]["template"]
    [container] = template["spec"]["containers"]
    assert template["spec"]["securityContext"] == {
        "runAsNonRoot": True,
        "runAsUser": 10_001,
        "runAsGroup": 10_001,
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    annotations = template["metadata"]["annotations"]
    assert annotations["prometheus.io/port"] == "8501"
    assert annotations["prometheus.io/path"] == "/monitoring/prometheus/metrics"
    without = objects(FULL)["Deployment"]["spec"]["template"]["metadata"]["annotations"]
    assert list(without) == ["resnet-tfx/configuration"]


def test_what_is_read_at_the_start_makes_new_pods_and_labels_do_not():
    def annotation(**changes):
        found = objects(dataclasses.replace(Deployment(), **changes))
        return found["Deployment"]["spec"]["template"]["metadata"]["annotations"][
            "resnet-tfx/configuration"
        ]

    assert annotation(batching=Batching(4)) != annotation() != annotation(metrics_path="")
    assert annotation(labels={"stable": 1}) == annotation()


@pytest.mark.parametrize("deployment", ALL)
def test_the_compose_file_has_the_same_ports_flags_and_limits(deployment):
    found = service(deployment)
    [container] = objects(deployment)["Deployment"]["spec"]["template"]["spec"]["containers"]
    assert (found["entrypoint"], found["command"]) == (container["command"], container["args"])
    assert found["image"] == container["image"] == deployment.image
    assert found["healthcheck"]["test"] == ["CMD", *container["readinessProbe"]["exec"]["command"]]
    # Compose would take it for a variable.
    assert "$" not in yaml.safe_dump(found)
    address = f"[{deployment.host}]" if ":" in deployment.host else deployment.host
    assert found["ports"] == [
        f"{address}:{p}:{p}" for p in (deployment.rest_port, deployment.grpc_port)
    ]
    assert all(volume["read_only"] for volume in found["volumes"])
    places = [(volume["source"], volume["target"]) for volume in found["volumes"]]
    kept = [] if deployment.remote else [(deployment.directory, deployment.directory)]
    assert places == [(".", tensorflow_serving.CONFIG), *kept]
    assert found["user"] == "1000:1000" and found["read_only"] is True
    limits = container["resources"]["limits"]
    resources = found["deploy"]["resources"]
    assert resources["limits"]["cpus"] == limits["cpu"]
    assert f"{resources['limits']['memory'].upper()}i" == limits["memory"]
    assert ("reservations" in resources) == ("nvidia.com/gpu" in limits) == bool(deployment.gpus)


@pytest.mark.parametrize(
    ("deployment", "storage", "version"),
    [
        (Deployment(), "pvc://resnet-models", "2.20.0"),
        (FULL, "pvc://my-model-2-models", "2.21.1-gpu"),
        (BUCKET, BUCKET.directory, "2.20.0"),
    ],
)
def test_kserve_takes_the_model_from_the_same_place(deployment, storage, version):
    [found] = documents(deployment, "kubernetes/kserve.yaml")
    assert (found["apiVersion"], found["kind"]) == ("serving.kserve.io/v1beta1", "InferenceService")
    predictor = found["spec"]["predictor"]
    assert predictor["canaryTrafficPercent"] == 10
    assert (predictor["minReplicas"], predictor["maxReplicas"]) == (
        deployment.min_replicas,
        deployment.max_replicas,
    )
    model = predictor["model"]
    assert (model["storageUri"], model["runtimeVersion"]) == (storage, version)
    [container] = objects(deployment)["Deployment"]["spec"]["template"]["spec"]["containers"]
    # KServe lays the model on the pod's disk: only who runs it knows how much that takes.
    scratch = {"ephemeral-storage": "1Gi"}
    for kind in ("requests", "limits"):
        assert {**model["resources"][kind], **scratch} == container["resources"][kind]


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("resnet", "resnet"),
        ("My Model_2", "my-model-2"),
        ("50", "model"),
        ("-x-", "x"),
        ("é", "model"),
    ],
)
def test_names_of_objects(name, wanted):
    assert Deployment(model_name=name).object_name == wanted


AVAILABLE = {
    "version": "2",
    "state": "AVAILABLE",
    "status": {"error_code": "OK", "error_message": ""},
}


@pytest.mark.parametrize(
    ("status", "answer", "ready"),
    [
        (200, json.dumps({"model_version_status": [AVAILABLE]}), True),
        (200, json.dumps({"model_version_status": [AVAILABLE]}, separators=(",", ":")), True),
        (
            200,
            json.dumps(
                {"model_version_status": [{**AVAILABLE, "state": "END"}, AVAILABLE]}, indent=1
            ),
            True,
        ),
        (200, json.dumps({"model_version_status": [{**AVAILABLE, "state": "LOADING"}]}), False),
        (404, json.dumps({"error": "Could not find any versions of model a"}), False),
        (503, "", False),
    ],
)
def test_readiness_looks_inside_the_status(status, answer, ready):
    seen = []

    def respond(handler):
        seen.append(handler.path)
        reply(handler, status, answer.encode())

    with http_server(respond) as url:
        deployment = Deployment(model_name="it's 5% off", rest_port=int(url.rpartition(":")[2]))
        done = subprocess.run(tensorflow_serving.ready_command(deployment), timeout=30)
    assert (done.returncode == 0) is ready
    assert seen == ["/v1/models/it%27s%205%25%20off"]


def test_nobody_is_not_ready():
    command = tensorflow_serving.ready_command(Deployment(rest_port=free_port()))
    assert subprocess.run(command, capture_output=True, timeout=30).returncode != 0


def test_the_embedded_server_runs_with_a_containers_flags_and_files(exports, tmp_path):
    directory = tmp_path / "models"
    for number in (1, 2, 3):
        publish(exports / "image", directory, number)
    deployment = Deployment(
        directory=str(directory),
        rest_port=free_port(),
        grpc_port=free_port(),
        labels={"stable": 1, "canary": 3},
        batching=Batching(8, 1000, num_batch_threads=2),
    )
    folder = written(deployment, tmp_path)
    given = [
        flag.replace(tensorflow_serving.CONFIG, str(folder))
        for flag in tensorflow_serving.container_flags(deployment)
    ]
    # TensorFlow Serving's alone: here the process has one pool of threads for all models.
    given = [flag for flag in given if not flag.startswith("--tensorflow_")]
    server = Server(None, *given)
    try:
        url, address = (
            f"http://127.0.0.1:{deployment.rest_port}",
            f"127.0.0.1:{deployment.grpc_port}",
        )
        assert url in server.greeting
        red = png((255, 0, 0))
        for client in (Client(url), GrpcClient(address)):
            assert [v["version"] for v in client.status() if v["state"] == "AVAILABLE"] == [
                "3",
                "1",
            ]
            for label in deployment.labels:
                assert client.top_k([red], label=label)[0][0] == ("red", 1.0)
        with urllib.request.urlopen(url + deployment.metrics_path) as answer:
            assert (
                b':tensorflow:serving:request_count{model_name="resnet",status="OK"}'
                in answer.read()
            )
        assert (
            subprocess.run(tensorflow_serving.ready_command(deployment), timeout=30).returncode == 0
        )
        with grpc.insecure_channel(address) as channel:
            health = health_pb2_grpc.HealthStub(channel).Check(
                health_pb2.HealthCheckRequest(), timeout=30
            )
        assert health.status == health_pb2.HealthCheckResponse.SERVING
    finally:
        assert server.stop()[0] == 0


@pytest.mark.parametrize("labels", [{}, {"stable": 1}])
def test_the_embedded_command_serves_what_it_says(exports, tmp_path, labels):
    for number in (1, 2, 3):
        publish(exports / "image", tmp_path / "a model", number)
    deployment = Deployment(
        directory=str(tmp_path / "a model"),
        host="localhost",
        rest_port=free_port(),
        grpc_port=free_port(),
        labels=labels,
        batching=Batching(4, num_batch_threads=1),
    )
    line = shlex.join(
        tensorflow_serving.embedded_command(deployment, str(written(deployment, tmp_path)))
    )
    assert line.startswith("python -m serving.server --")
    command = [sys.executable, *shlex.split(line)[1:]]
    process = subprocess.Popen(
        command, cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    try:
        process.stdout.readline()
        client = Client(f"http://localhost:{deployment.rest_port}")
        serving = [v["version"] for v in client.status() if v["state"] == "AVAILABLE"]
        assert serving == (["1"] if labels else ["3", "2"])
        assert client.top_k([png((0, 0, 255))])[0][0].name == "blue"
        with urllib.request.urlopen(client.url + deployment.metrics_path) as answer:
            assert answer.status == 200
    finally:
        process.terminate()
        process.communicate(timeout=60)
    assert process.returncode == 0


def test_the_default_command_is_short():
    assert tensorflow_serving.embedded_command(Deployment(metrics_path=""), "F") == [
        "python", "-m", "serving.server", "--model_name=resnet", "--model_base_path=/models/resnet",
        "--num_versions=2", "--rest_api_port=8501",
    ]  # fmt: skip
