"""Command line of the server: `python -m serving.server --model_base_path=DIR`."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
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

from serving.server.config import ModelSettings, ServerSettings, SettingsError

if TYPE_CHECKING:
    from serving.server.manager import Manager

_log = logging.getLogger("serving.server")

# Shows and removes a file, unless a line on standard input says that all went well.
_SHOW = 'read -r well || cat "$0" >&2; rm -f "$0"'


def main(arguments: Sequence[str] | None = None) -> int:
    """Serves until SIGTERM or SIGINT; returns the exit status."""
    start = time.monotonic()
    settings = _parse(arguments)
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    _log.setLevel(logging.INFO)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _leave)
    try:
        settings.validate()
        # Before TensorFlow is imported: what is wrong shows at once.
        listener = _bind(settings)
        return _serve(settings, listener, start)
    except SettingsError as error:
        print(error, file=sys.stderr)
        return 2


def _serve(settings: ServerSettings, listener: socket.socket, start: float) -> int:
    with _quiet_stderr():
        from serving.server.manager import Manager
        from serving.server.rest import RestApi
    import uvicorn

    manager = Manager(settings)
    manager.start()
    try:
        if not manager.wait_first_look():
            return 1  # the log has said why
        api = RestApi(manager, settings)
        server = uvicorn.Server(uvicorn.Config(api, log_config=None, access_log=False, lifespan="off"))
        _listen(listener, settings)
        print(_greeting(settings, manager, time.monotonic() - start), flush=True)
        server.run(sockets=[listener])
    finally:
        manager.stop()
        listener.close()
    return 0


def _greeting(settings: ServerSettings, manager: Manager, seconds: float) -> str:
    # Where everything is listened to, this machine's own address is one to try.
    host = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}.get(settings.host, settings.host)
    root = f"http://{f'[{host}]' if ':' in host else host}:{settings.rest_api_port}"
    url = f"{root}/v1/models/{settings.model.name}"
    if not manager.ready():
        return f"{url} answers, and predicts once a version lies in {settings.model.base_path}."
    options = f" --url {root}" if root != "http://127.0.0.1:8501" else ""
    options += f" --model_name {settings.model.name}" if settings.model.name != "resnet" else ""
    return f"{url} is ready ({seconds:.1f} s). Try: python -m serving.client{options} YOUR.jpg"


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


def _parse(arguments: Sequence[str] | None) -> ServerSettings:
    parser = argparse.ArgumentParser(
        prog="python -m serving.server",
        description="Serves a model over TensorFlow Serving's REST API, with its flags.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        allow_abbrev=False,
    )
    text = {
        "host": "address to listen on; 0.0.0.0 lets other machines in",
        "rest_api_port": "port of the REST API",
        "rest_api_num_threads": "threads that parse requests and run the model",
        "rest_api_timeout_in_ms": "longest run of the model before 504; 0 is no limit",
        "rest_api_max_body_bytes": "longest request body before 413",
        "file_system_poll_wait_seconds": "seconds between looks for new versions; 0 looks once",
        "max_num_load_retries": "how often a version that fails to load is tried again",
        "load_retries_interval_seconds": "seconds between these",
    }
    parser.add_argument("--model_name", default="resnet", help="name in the URL")
    parser.add_argument(
        "--model_base_path",
        type=Path,
        required=True,
        help="folder of numbered versions",
        default=argparse.SUPPRESS,
    )
    parser.add_argument("--num_versions", type=int, default=1, help="newest versions that serve together")
    defaults = {field.name: field.default for field in dataclasses.fields(ServerSettings)}
    for name, help_text in text.items():
        parser.add_argument(f"--{name}", type=type(defaults[name]), default=defaults[name], help=help_text)
    parser.add_argument(
        "--enable_model_warmup",
        type=_boolean,
        default=True,
        help="replay the version's warm-up requests before it takes traffic",
    )
    options = vars(parser.parse_args(arguments))
    model = ModelSettings(
        options.pop("model_name"), options.pop("model_base_path").absolute(), options.pop("num_versions")
    )
    return ServerSettings(model, **options)


def _boolean(text: str) -> bool:
    if text.lower() not in ("true", "false"):
        raise argparse.ArgumentTypeError("must be true or false")
    return text.lower() == "true"
