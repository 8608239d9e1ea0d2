"""Command line of the server: `python -m serving.server --model_base_path=DIR`."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import dataclasses
import gc
import logging
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from serving.server import textproto
from serving.server.config import ModelSettings, ServerSettings, SettingsError

if TYPE_CHECKING:
    from serving.server.manager import Manager

_log = logging.getLogger("serving.server")

# For gRPC requests under way when the server is told to end.
_GRACE_SECONDS = 5.0
_REST_GRACE_SECONDS = 30
# Shows and removes a file, unless a line on standard input says that all went well.
_SHOW = 'read -r well || cat "$0" >&2; rm -f "$0"'


def main(arguments: Sequence[str] | None = None) -> int:
    """Serves until SIGTERM or SIGINT; returns the exit status."""
    start = time.monotonic()
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    _log.setLevel(logging.INFO)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _leave)
    try:
        settings = _parse(arguments)
        settings.validate()
        # Before TensorFlow is imported: what is wrong shows at once.
        listener = _bind(settings)
        return _serve(settings, listener, start)
    except SettingsError as error:
        print(error, file=sys.stderr)
        return 2


def _serve(settings: ServerSettings, listener: socket.socket, start: float) -> int:
    # What is imported stays. The garbage collector would go through all of it again and again: a fifth of the
    # time of the imports, and at each full collection later.
    gc.disable()
    with _quiet_stderr():
        from serving.server import connections, grpc_api
        from serving.server.manager import Manager
        from serving.server.metrics import Metrics
        from serving.server.rest import RestApi
        from serving.server.workers import Workers
    gc.freeze()
    gc.enable()
    import uvicorn

    metrics = Metrics()
    manager = Manager(settings, metrics=metrics)
    manager.start()

    async def serve() -> None:
        workers = Workers(settings)
        api = RestApi(manager, settings, metrics, workers)
        most = connections.limit()
        protocol = type("Protocol", (connections.PatientProtocol,), {"most": most})
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
        _listen(listener, settings)
        async with contextlib.AsyncExitStack() as stack:
            if settings.port:
                remote = await grpc_api.start(manager, settings, metrics, workers)
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
    options = f" --url {root}" if root != "http://127.0.0.1:8501" else ""
    options += f" --model_name {names[0]}" if names[0] != "resnet" else ""
    tried = f"python -m serving.client{options} YOUR.jpg"
    return f"{url} is ready ({seconds:.1f} s).{remote}{page} Try: {tried}"


def _bind(settings: ServerSettings) -> socket.socket:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            settings.host, settings.rest_api_port, type=socket.SOCK_STREAM
        )[0]
        listener = socket.socket(family, kind, protocol)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except OSError as error:
        raise _cannot_listen(settings, error) from None
    return listener


def _listen(listener: socket.socket, settings: ServerSettings) -> None:
    # Only now, so that clients are refused and do not hang while the model loads.
    try:
        listener.listen(2048)
    except OSError as error:
        raise _cannot_listen(settings, error) from None


def _cannot_listen(settings: ServerSettings, error: OSError) -> SettingsError:
    return SettingsError(
        f"Cannot listen on {settings.host}:{settings.rest_api_port} ({error.strerror}): "
        "stop what listens there, or choose with --host and --rest_api_port."
    )


@contextlib.contextmanager
def _quiet_stderr() -> Iterator[None]:
    """Hides what TensorFlow's libraries print while they load; shows it if that fails.

    Another process shows it: a failed check in C++ (no AVX) ends this one at once.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    sys.stderr.flush()
    screen = os.dup(2)
    noise, name = tempfile.mkstemp()
    # In a session of its own, so that Ctrl-C does not reach it.
    watcher = subprocess.Popen(["sh", "-c", _SHOW, name], stdin=subprocess.PIPE, start_new_session=True)
    os.dup2(noise, 2)
    os.close(noise)
    report = b"well\n"
    try:
        import tensorflow as tf

        tf.get_logger().setLevel(logging.ERROR)
        # Once a process: without a GPU its driver is complained about.
        tf.config.list_physical_devices()
        yield
    except Exception:
        report = b""
        raise
    finally:
        os.dup2(screen, 2)
        os.close(screen)
        watcher.communicate(report)


def _leave(*_: object) -> NoReturn:
    raise SystemExit(0)


# TensorFlow Serving's flags first, then ours.
_FLAGS = {
    "port": "port of the gRPC API; 0 starts none",
    "rest_api_port": "port of the REST API",
    "rest_api_num_threads": "threads that parse requests and run the model",
    "tensorflow_session_parallelism": "runs of a version at the same time; 0 is one a core",
    "rest_api_timeout_in_ms": "longest run of the model before 504; 0 is no limit",
    "rest_api_enable_cors_support": "let pages of other origins read answers",
    "enable_grpc_healthcheck_service": "answer grpc.health.v1 on --port",
    "file_system_poll_wait_seconds": "seconds between looks for new versions; 0 looks once",
    "model_config_file_poll_wait_seconds": "seconds between looks at --model_config_file; 0 looks once",
    "allow_version_labels_for_unavailable_models": "let a new label name a version that does not serve yet",
    "max_num_load_retries": "how often a version that fails to load is tried again",
    "load_retries_interval_seconds": "seconds between these",
    "partial_version_seconds": "seconds without a change until a version that is not whole is reported",
    "enable_model_warmup": "replay the version's warm-up requests before it takes traffic",
    "host": "address to listen on; 0.0.0.0 lets other machines in",
    "rest_api_max_body_bytes": "longest request before 413",
    "max_waiting_requests": "requests that may wait for a thread before 503",
    "max_image_bytes": "largest encoded image",
    "max_image_pixels": "largest image, by its header",
    "allow_reload_from_any_path": "let gRPC's reload name folders that are not served yet",
    "enable_page": "a page for people at /",
}


def _parse(arguments: Sequence[str] | None) -> ServerSettings:
    """The settings of a command line.

    Raises:
      SettingsError: flags or files that do not fit.
    """
    parser = argparse.ArgumentParser(
        prog="python -m serving.server",
        description="Serves models over TensorFlow Serving's REST and gRPC APIs, with its flags.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        allow_abbrev=False,
    )
    none = argparse.SUPPRESS
    add = parser.add_argument
    add("--model_name", default="resnet", help="name in the URL")
    add("--model_base_path", type=Path, help="folder of numbered versions", default=none)
    add("--num_versions", type=int, default=1, help="newest versions that serve together")
    add("--model_config_file", type=Path, default=none, help="several models, in place of the three above")
    add("--enable_batching", type=_boolean, default=False, help="put requests together")
    add("--batching_parameters_file", type=Path, default=none, help="when to put them together")
    add("--monitoring_config_file", type=Path, default=none, help="where Prometheus finds metrics")
    defaults = {field.name: field.default for field in dataclasses.fields(ServerSettings)}
    for name, text in _FLAGS.items():
        kind = type(defaults[name])
        add(f"--{name}", type=_boolean if kind is bool else kind, default=defaults[name], help=text)
    options = vars(parser.parse_args(arguments))
    name, base = options.pop("model_name"), options.pop("model_base_path", None)
    number = options.pop("num_versions")
    file = options.get("model_config_file")
    if bool(file) == bool(base):
        raise SettingsError(
            "Name what to serve: either --model_base_path FOLDER or --model_config_file FILE."
        )
    parameters = options.pop("batching_parameters_file", None)
    batching = options.pop("enable_batching")
    if parameters and not batching:
        raise SettingsError("--batching_parameters_file has no effect without --enable_batching=true.")
    return ServerSettings(
        textproto.read_models(file) if file else (ModelSettings(name, base.absolute(), number),),
        batching=textproto.read_batching(parameters) if batching else None,
        metrics_path=textproto.read_metrics_path(options.pop("monitoring_config_file", None)),
        **options,
    )


def _boolean(text: str) -> bool:
    if text.lower() not in ("true", "false"):
        raise argparse.ArgumentTypeError("must be true or false")
    return text.lower() == "true"
