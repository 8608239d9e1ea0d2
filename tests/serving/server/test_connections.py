"""Clients that are silent, that do not read, or that are too many."""

import asyncio
import contextlib
import http.client
import resource
import socket
import threading
import time

import pytest
import uvicorn

from serving.compat.uvicorn_protocol import PatientProtocol
from tests.helpers.serving_models import publish
from tests.serving.server.test_server_process import Server

HEAD = b"POST /v1/models/resnet:predict HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n"


class Hasty(PatientProtocol):
    seconds = 0.2


async def answer(scope, receive, send):
    """Reads a body, waits, and answers with many bytes."""
    while (await receive()).get("more_body"):
        pass
    await asyncio.sleep(1)
    await send({"type": "http.response.start", "status": 200, "headers": []})
    for _ in range(200 if scope["path"] == "/long" else 1):
        await send({"type": "http.response.body", "body": b"x" * 100_000, "more_body": True})
    await send({"type": "http.response.body"})


@pytest.fixture(scope="module")
def hasty():
    """Port of a server that waits 0.2 s for its clients."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        server = uvicorn.Server(uvicorn.Config(answer, http=Hasty, log_config=None, lifespan="off"))
        thread = threading.Thread(target=lambda: asyncio.run(server.serve(sockets=[listener])))
        thread.start()
        yield listener.getsockname()[1]
        server.should_exit = True
        thread.join()


@pytest.mark.parametrize("sent", [b"", b"POST / HT", HEAD % 10 + b"abc"])
def test_a_silent_client_is_given_up(hasty, sent):
    with socket.create_connection(("127.0.0.1", hasty), timeout=30) as client:
        client.sendall(sent)
        with contextlib.suppress(ConnectionResetError):
            assert client.recv(1) == b""


def test_a_client_that_does_not_read_is_given_up(hasty):
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.settimeout(30)
        client.connect(("127.0.0.1", hasty))
        client.sendall(b"GET /long HTTP/1.1\r\nHost: x\r\n\r\n")
        time.sleep(3)
        received = 0
        with contextlib.suppress(ConnectionResetError):
            while content := client.recv(10**6):
                received += len(content)
    assert received < 200 * 100_000  # only what was on the way


def test_a_client_that_waits_for_its_answer_has_it(hasty):
    """The answer takes longer than silence may last."""
    client = http.client.HTTPConnection("127.0.0.1", hasty, timeout=30)
    client.request("POST", "/", b"body")
    assert len(client.getresponse().read()) == 100_000


@pytest.fixture(scope="module")
def base(exports, tmp_path_factory):
    base = tmp_path_factory.mktemp("connections") / "resnet"
    publish(exports / "dense", base, 1)
    return base


def test_clients_that_are_not_done_do_not_keep_the_server_from_ending(base):
    server = Server(base)
    body = (
        b'{"signature_name": "echo_float64", "instances": [' + b"0.1234567890123," * 10**6 + b"1]}"
    )
    with socket.create_connection(("127.0.0.1", server.port)) as half, socket.socket() as deaf:
        half.sendall(HEAD % 10 + b"abc")
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        deaf.connect(("127.0.0.1", server.port))
        deaf.sendall(HEAD % len(body) + body)
        assert deaf.recv(8) == b"HTTP/1.1"
        status, _, _ = server.stop()
    assert status == 0


def test_more_connections_than_there_are_descriptors(base):
    server = Server(base, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (480, 480)))
    with contextlib.ExitStack() as stack:
        for _ in range(500):
            stack.enter_context(socket.create_connection(("127.0.0.1", server.port), timeout=30))
        assert status(server) == 503
    while status(server) == 503:  # until the server has seen that they are gone
        time.sleep(0.1)
    assert status(server) == 200
    _, _, errors = server.stop()
    assert "Too many open files" not in errors


def status(server):
    client = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
    try:
        client.request("GET", "/healthz")
        return client.getresponse().status
    except ConnectionError:  # closed before the request was sent: the answer may be lost
        return 503
