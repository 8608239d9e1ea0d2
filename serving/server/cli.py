"""Command line of the server: `python -m serving.server --model_base_path=DIR`."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import signal
import socket
import sys
import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NoReturn

from serving.compat import quiet
from serving.server import flags
from serving.server.server_config import ServerSettings, SettingsError

if TYPE_CHECKING:
    from serving.server.versions.manager import Manager

_log = logging.getLogger("serving.server")

# For gRPC requests under way when the server is told to end.
_GRACE_SECONDS = 5.0
_REST_GRACE_SECONDS = 30


def main(arguments: Sequence[str] | None = None) -> int:
    """Serves until SIGTERM or SIGINT; returns the exit status."""
    start = time.monotonic()
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    _log.setLevel(logging.INFO)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _leave)
    try:
        settings = flags.parse(arguments)
        settings.validate()
        # Before TensorFlow is imported: what is wrong shows at once.
        listener = _bind(settings)
        return _serve(settings, listener, start)
    except SettingsError as error:
        print(error, file=sys.stderr)
        return 2


def _serve(settings: ServerSettings, listener: socket.socket, start: float) -> int:
    with quiet.stderr():
        import tensorflow as tf
        import uvicorn

        from serving.compat.uvicorn_protocol import PatientProtocol
        from serving.server import connections
        from serving.server.grpc_api import service
        from serving.server.prometheus import Metrics
        from serving.server.rest_api.routes import RestApi
        from serving.server.versions.manager import Manager
        from serving.server.workers import Workers

        tf.get_logger().setLevel(logging.ERROR)
        # Once a process: without a GPU its driver is complained about.
        tf.config.list_physical_devices()
    # What is imported stays: collections, as at each unloading, need not go through it.
    gc.freeze()

    metrics = Metrics()
    manager = Manager(settings, metrics=metrics)
    manager.start()

    async def serve() -> None:
        workers = Workers(settings)
        api = RestApi(manager, settings, metrics, workers)
        most = connections.limit()
        protocol = type("Protocol", (PatientProtocol,), {"most": most})
        # Runs that are under way are waited for, clients that trickle are not.
        patience = max(_REST_GRACE_SECONDS, settings.rest_api_timeout_in_ms // 1000)
        server = uvicorn.Server(
            uvicorn.Config(
                api,
                log_config=None,
                access_log=False,
                lifespan="off",
                http=protocol,
                # asyncio accepts this many, again and again, before it looks at the first one.
                backlog=min(most // 4 + 1, 2048),
                timeout_graceful_shutdown=patience,
            )
        )
        # Only now, so that clients are refused and do not hang while the model loads.
        with _said(settings):
            listener.listen(2048)
        async with contextlib.AsyncExitStack() as stack:
            if settings.port or settings.grpc_socket_path:
                remote = await service.start(manager, settings, metrics, workers)
                stack.push_async_callback(remote.stop, _GRACE_SECONDS)
            print(_greeting(settings, manager, time.monotonic() - start), flush=True)
            await server.serve(sockets=[listener])

    try:
        if not manager.wait_first_look():
            return 1  # the log has said why
        asyncio.run(serve())
    finally:
        manager.stop()
        listener.close()
    return 0


def _greeting(settings: ServerSettings, manager: Manager, seconds: float) -> str:
    # Where everything is listened to, this machine's own address is one to try.
    host = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}.get(settings.host, settings.host)
    root = f"http://{f'[{host}]' if ':' in host else host}:{settings.rest_api_port}"
    names = [model.name for model in settings.models]
    url = f"{root}/v1/models/{names[0] if len(names) == 1 else '{' + ','.join(names) + '}'}"
    remote = f" gRPC: {host}:{settings.port}." if settings.port else ""
    page = f" Page: {root}/." if settings.enable_page else ""
    if not manager.ready():
        folders = ", ".join(str(model.base_path) for model in settings.models)
        return f"{url} answers, and predicts once a version lies in {folders}.{remote}{page}"
    tried = f"python -m serving.client --url {root} --model_name {names[0]} YOUR.jpg"
    return f"{url} is ready ({seconds:.1f} s).{remote}{page} Try: {tried}"


def _bind(settings: ServerSettings) -> socket.socket:
    with _said(settings):
        family, kind, protocol, _, address = socket.getaddrinfo(
            settings.host, settings.rest_api_port, type=socket.SOCK_STREAM
        )[0]
        listener = socket.socket(family, kind, protocol)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    return listener


@contextlib.contextmanager
def _said(settings: ServerSettings) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise SettingsError(
            f"Cannot listen on {settings.host}:{settings.rest_api_port} ({error.strerror}): "
            "stop what listens there, or choose with --host and --rest_api_port."
        ) from None


def _leave(*_: object) -> NoReturn:
    raise SystemExit(0)
