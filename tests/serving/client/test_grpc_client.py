"""The gRPC client against the embedded server: the REST client's answers, and its errors."""

import concurrent.futures
import json

import grpc
import numpy as np
import pytest
from tensorflow_serving.apis import get_model_status_pb2, model_service_pb2_grpc

from serving.client import Client, ClientError, cli
from serving.client.grpc_client import GrpcClient
from tests.helpers.client_servers import Both
from tests.helpers.serving_models import png
from tests.serving.server.test_server_process import free_port

IMAGES = [png((255, 0, 0)), png((1, 2, 4)), png((7, 99, 250)), png((33, 33, 34))]


@pytest.fixture(scope="module")
def served(exports, tmp_path_factory):
    server = Both(exports, tmp_path_factory.mktemp("served"))
    yield server
    server.stop()


@pytest.fixture(scope="module")
def clients(served):
    """REST and gRPC, by the name of the model."""
    return {
        name: (Client(served.url, name), GrpcClient(served.grpc, name))
        for name in ("resnet", "dense")
    }


def bits(values):
    return np.asarray(values, np.float32).view(np.uint32).tolist()


@pytest.mark.parametrize("choice", [{}, {"version": 1}, {"label": "canary"}])
def test_probabilities_and_labels_equal_those_of_rest_bit_for_bit(clients, choice):
    rest, remote = clients["resnet"]
    assert bits(remote.predict(IMAGES, **choice)) == bits(rest.predict(IMAGES, **choice))
    for ours, theirs in zip(
        remote.top_k(IMAGES, **choice), rest.top_k(IMAGES, **choice), strict=True
    ):
        assert [label.name for label in ours] == [label.name for label in theirs]
        assert bits([label.probability for label in ours]) == bits(
            [label.probability for label in theirs]
        )


@pytest.mark.parametrize(
    ("signature", "instances"),
    [
        ("serving_default", [[0.1, 1 / 3], [1e-30, -7.0]]),
        ("serving_default", [{"x": [0.1, 2]}]),
        ("two", [{"a": 1.5, "b": 2}, {"a": 0.1, "b": 3}]),
        ("echo_int64", [2**53 + 1, -5]),
        ("echo_uint64", [2**64 - 1]),
        ("echo_bool", [True, False]),
        ("echo_string", ["läuft", "", "a\0"]),
        ("echo_string", [b"bytes", bytearray(b"more")]),
        ("echo_string", [["a", "b"], ["c", "d"]]),
        ("echo_float64", [[0.1, 1 / 3]]),
    ],
)
def test_other_signatures_answer_as_over_rest(clients, signature, instances):
    rest, remote = clients["dense"]
    ours, theirs = remote.predict(instances, signature), rest.predict(instances, signature)
    if signature == "two":
        assert [row["product_bytes"] for row in ours] == [row["product_bytes"] for row in theirs]
        assert type(ours[0]["product_bytes"]) is bytes
        assert bits([row["sum"] for row in ours]) == bits([row["sum"] for row in theirs])
    elif signature == "serving_default":
        assert bits(ours) == bits(theirs)
    else:
        assert ours == theirs
        assert json.dumps(ours) == json.dumps(theirs)


def test_status_metadata_and_waiting_are_the_same(clients):
    rest, remote = clients["resnet"]
    assert remote.status() == rest.status()
    assert remote.wait_until_available(1) == 2
    ours, theirs = remote.metadata(), rest.metadata()
    assert ours["metadata"] == theirs["metadata"]
    for name in ("name", "version"):
        assert ours["model_spec"][name] == theirs["model_spec"][name]


def test_a_message_beyond_the_default_limit_is_sent_and_received(clients):
    _, remote = clients["dense"]
    large = b"x" * (6 * 2**20)
    assert remote.predict([large], "echo_string") == [large.decode()]


@pytest.mark.parametrize(
    ("model", "signature", "instances", "choice"),
    [
        ("resnet", "serving_default", [b"no image"], {}),
        ("resnet", "none", [b""], {}),
        ("resnet", "serving_default", [], {}),
        ("resnet", "serving_default", IMAGES, {"version": 9}),
        ("resnet", "serving_default", IMAGES, {"label": "none"}),
        ("other", "serving_default", IMAGES, {}),
        ("dense", "two", [{"a": 1}], {}),
        ("dense", "two", [1], {}),
        ("dense", "serving_default", [["a", "b"]], {}),
        ("dense", "serving_default", [[1, 2], [3]], {}),
        ("dense", "scalar", [[1, 2]], {}),
        ("dense", "ragged_batch", [[1, 2]], {}),
    ],
)
def test_errors_have_the_status_of_rest_and_one_sentence(
    served, model, signature, instances, choice
):
    statuses = []
    for client in (Client(served.url, model), GrpcClient(served.grpc, model)):
        with pytest.raises(ClientError) as caught:
            client.predict(instances, signature, **choice)
        statuses.append(caught.value.status)
        assert str(caught.value)
    assert statuses[0] == statuses[1]


def test_a_version_that_is_not_served_is_said(clients):
    with pytest.raises(
        ClientError, match=r"no such model or version as resnet .*9.* Without a version"
    ):
        clients["resnet"][1].predict(IMAGES, version=9)
    with pytest.raises(ClientError, match="Version 1 and label stable are given: name one"):
        clients["resnet"][1].predict(IMAGES, version=1, label="stable")


@pytest.mark.parametrize("pixels", [np.zeros((2, 2, 3)), [[0.5, 0.5]], 3])
def test_pixels_are_refused_for_encoded_images(clients, pixels):
    with pytest.raises(TypeError, match="send encoded images as bytes"):
        clients["resnet"][1].predict([pixels])


@pytest.mark.parametrize(
    "address", ["localhost", "http://localhost:8500", "a:0", "a:70000", "[::1]", ""]
)
def test_addresses_that_are_none_are_refused(address):
    with pytest.raises(ClientError, match="must be HOST:PORT such as"):
        GrpcClient(address)


def test_nobody_and_the_wrong_port_are_said(served):
    with pytest.raises(ClientError, match="No server answers gRPC at") as caught:
        GrpcClient(f"127.0.0.1:{free_port()}", retries=1).predict(IMAGES)
    assert caught.value.status is None
    with pytest.raises(ClientError, match="does not speak gRPC: give the server's --port"):
        GrpcClient(served.url.removeprefix("http://"), retries=0).status()
    with pytest.raises(ClientError, match="has no address for that name"):
        GrpcClient("nohost.invalid:8500", retries=0).status()


class Flaky(model_service_pb2_grpc.ModelServiceServicer):
    """Answers GetModelStatus with one code after another, None being well."""

    def __init__(self):
        self.codes = []

    def GetModelStatus(self, request, context):
        code = self.codes.pop(0)
        if code:
            context.abort(code, f"said {code.name}")
        return get_model_status_pb2.GetModelStatusResponse()


def test_attempts_end_with_an_answer_or_after_the_retries():
    code = grpc.StatusCode
    flaky = Flaky()
    server = grpc.server(concurrent.futures.ThreadPoolExecutor(2))
    model_service_pb2_grpc.add_ModelServiceServicer_to_server(flaky, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        client = GrpcClient(f"127.0.0.1:{port}", retries=2)
        flaky.codes[:] = [code.UNAVAILABLE, code.RESOURCE_EXHAUSTED, None, "left"]
        assert client.status() == []
        assert flaky.codes == ["left"]
        flaky.codes[:] = [code.UNAVAILABLE] * 4
        with pytest.raises(ClientError, match="said UNAVAILABLE") as caught:
            client.status()
        assert (caught.value.status, len(flaky.codes)) == (503, 1)
        for refusal, status in (
            (code.NOT_FOUND, 404),
            (code.INTERNAL, 500),
            (code.UNAUTHENTICATED, 401),
        ):
            flaky.codes[:] = [refusal, None]
            with pytest.raises(ClientError, match=f"said {refusal.name}") as caught:
                client.status()
            assert (caught.value.status, flaky.codes) == (status, [None])
    finally:
        server.stop(0)


def test_a_server_that_comes_late_is_found():
    address = f"127.0.0.1:{free_port()}"
    client = GrpcClient(address, retries=0)
    with pytest.raises(ClientError, match="No server answers"):
        client.status()
    server = grpc.server(concurrent.futures.ThreadPoolExecutor(2))
    flaky = Flaky()
    flaky.codes[:] = [None]
    model_service_pb2_grpc.add_ModelServiceServicer_to_server(flaky, server)
    server.add_insecure_port(address)
    server.start()
    try:
        assert GrpcClient(address, retries=6).status() == []
    finally:
        server.stop(0)


def test_the_command_line_gives_the_same_over_grpc(served, tmp_path, capfd):
    for number, image in enumerate(IMAGES):
        (tmp_path / f"{number}.png").write_bytes(image)
    (tmp_path / "text.png").write_text("hello")
    results = []
    for server in (f"--url={served.url}", f"--grpc={served.grpc}"):
        assert cli.main([server, str(tmp_path), "--json", "--label=stable"]) == 1
        output, errors = capfd.readouterr()
        words = "the bytes are no JPEG or PNG; convert the image to PNG, which loses nothing."
        assert errors.splitlines() == [
            f"{tmp_path}/text.png: {words}",
            "1 of 5 images have no labels.",
        ]
        results.append(json.loads(output))
    for ours, theirs in zip(*results, strict=True):
        assert ours["file"] == theirs["file"]
        for one, other in zip(ours["labels"], theirs["labels"], strict=True):
            assert one["name"] == other["name"]
            assert bits(one["probability"]) == bits(other["probability"])
