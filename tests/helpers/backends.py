"""What conformance tests ask: the embedded server, and TensorFlow Serving's own where it is on the
PATH.
"""

import asyncio
import contextlib
import shutil
import socket
import subprocess
import threading
import time
import urllib.error
import urllib.request

import grpc
import httpx
from tensorflow_serving.apis import model_service_pb2_grpc, prediction_service_pb2_grpc

from serving.server.grpc_api import service
from serving.server.prometheus import Metrics
from serving.server.rest_api.routes import RestApi
from serving.server.server_config import ModelSettings, ServerSettings
from serving.server.versions.manager import Manager
from serving.server.workers import Workers

EMBEDDED = "embedded"
REAL = "tensorflow_model_server"
BACKENDS = [EMBEDDED, *([REAL] if shutil.which(REAL) else [])]


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Api:
    """Requests to an ASGI application without a socket."""

    def __init__(self, app):
        self.app = app
        self._transport = httpx.ASGITransport(app)

    def request(self, method, url, content=None, headers=None):
        async def send():
            async with httpx.AsyncClient(
                transport=self._transport, base_url="http://test"
            ) as client:
                return await client.request(method, url, content=content, headers=headers)

        return asyncio.run(send())

    def get(self, url):
        return self.request("GET", url)


@contextlib.contextmanager
def rest(backend, base, name, **options):
    """A client of the REST API for the folder of versions `base`; options are those of
    ServerSettings.
    """
    if backend == REAL:
        with (
            _process(base, name, **options) as (port, _),
            httpx.Client(base_url=f"http://127.0.0.1:{port}") as client,
        ):
            yield client
        return
    settings = ServerSettings((ModelSettings(name, base),), **options)
    metrics = Metrics()
    manager = Manager(settings, metrics=metrics)
    manager.start()
    assert manager.wait_first_look()
    yield Api(RestApi(manager, settings, metrics))
    manager.stop()


class Stubs:
    """The official stubs on a channel; None is one to a port of this machine."""

    def __init__(self, port, channel=None):
        unlimited = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
        self.port = port
        self.channel = channel or grpc.insecure_channel(f"127.0.0.1:{port}", unlimited)
        self.prediction = prediction_service_pb2_grpc.PredictionServiceStub(self.channel)
        self.model = model_service_pb2_grpc.ModelServiceStub(self.channel)
        self.manager = None


@contextlib.contextmanager
def remote(backend, models, **options):
    """Stubs for a server of `models` (ModelSettings); options are those of ServerSettings."""
    if backend == REAL:
        [model] = models
        with _process(model.base_path, model.name, **options) as (_, port):
            yield Stubs(port)
        return
    settings = ServerSettings(tuple(models), port=free_port(), **options)
    metrics = Metrics()
    manager = Manager(settings, metrics=metrics)
    manager.start()
    assert manager.wait_first_look()
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()

    async def start():
        return await service.start(manager, settings, metrics, Workers(settings))

    server = asyncio.run_coroutine_threadsafe(start(), loop).result(30)
    stubs = Stubs(settings.port)
    stubs.manager, stubs.metrics = manager, metrics
    yield stubs
    stubs.channel.close()
    asyncio.run_coroutine_threadsafe(server.stop(1), loop).result(30)
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    manager.stop()


@contextlib.contextmanager
def _process(base, name, **options):
    rest_port, port = free_port(), free_port()
    known = (
        "rest_api_timeout_in_ms",
        "enable_grpc_healthcheck_service",
        "rest_api_enable_cors_support",
    )
    flags = [f"--{key}={value}".lower() for key, value in options.items() if key in known]
    flags += [f"--model_name={name}", f"--model_base_path={base}", f"--port={port}"]
    command = [REAL, *flags, f"--rest_api_port={rest_port}"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            _wait(process, f"http://127.0.0.1:{rest_port}/v1/models/{name}")
            yield rest_port, port
        finally:
            process.kill()


def _wait(process, url, seconds=60):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        assert process.poll() is None, "it has ended"
        try:
            with urllib.request.urlopen(url, timeout=1) as answer:
                if b"AVAILABLE" in answer.read():
                    return
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            time.sleep(0.1)
    raise AssertionError(f"{url} has no version after {seconds} s")
