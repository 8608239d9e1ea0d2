"""A server of one model in a process of its own: the embedded one, or TensorFlow Serving's
container.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from typing import NamedTuple

from components import pushed
from serving.client import Client, ClientError

NAME = "candidate"
EMBEDDED = "embedded"
# What docker ends with where the container has not run, and both where they are killed, as for
# memory.
_NOT_THE_CANDIDATE = (125, 126, 127, 137, -signal.SIGKILL)
# Lines of its log that a failure shows.
_LAST_LINES = 3


class ServerError(RuntimeError):
    """The server does not serve the candidate; the message has the end of its log."""


class StartError(RuntimeError):
    """No server runs on this machine, whatever the candidate is: to be mended, and tried again."""


class Server(NamedTuple):
    """Where it answers; `pid` is that of the server itself, 0 where it runs in a container."""

    url: str
    grpc: str
    pid: int

    def peak_memory(self) -> int:
        """Most bytes that it has held at a time; 0 where its process is not ours to see."""
        if not self.pid:
            return 0
        with open(f"/proc/{self.pid}/status") as file:
            peak = next(line for line in file if line.startswith("VmHWM:"))
        return int(peak.split()[1]) * 1024


@contextlib.contextmanager
def running(model: str, kind: str, seconds: float) -> Iterator[Server]:
    """Serves a model until the block ends.

    Args:
      model: folder of a SavedModel, on any file system.
      kind: EMBEDDED, or an image of TensorFlow Serving that docker runs, such as
        tensorflow/serving:2.20.0.
      seconds: to wait until it is ready.

    Raises:
      ServerError: it does not serve the model. StartError: it could not start.
    """
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        base = os.path.join(folder, NAME)
        # A copy: the server's process could not read every place that this one can.
        pushed.copy(model.rstrip("/"), os.path.join(base, "1"))
        rest, grpc = _free_port(), _free_port()
        log = stack.enter_context(open(os.path.join(folder, "log"), "w+"))
        command = (
            _embedded(base, rest, grpc) if kind == EMBEDDED else _docker(kind, base, rest, grpc)
        )
        # Linux asks it to end when this process has died, however that happened.
        leash = ["setpriv", "--pdeathsig", "TERM", "--"]
        process = subprocess.Popen(
            [*leash, *command], stdout=log, stderr=log, stdin=subprocess.DEVNULL
        )
        stack.callback(_end, process)
        url = f"http://127.0.0.1:{rest}"
        _wait(Client(url, NAME), process, seconds, log.name)
        yield Server(url, f"127.0.0.1:{grpc}", process.pid if kind == EMBEDDED else 0)


def _embedded(base: str, rest: int, grpc: int) -> list[str]:
    where = [f"--model_name={NAME}", f"--model_base_path={base}"]
    ports = [f"--rest_api_port={rest}", f"--port={grpc}"]
    rules = ["--max_num_load_retries=0", "--enable_page=false"]
    return [sys.executable, "-m", "serving.server", *where, *ports, *rules]


def _docker(image: str, base: str, rest: int, grpc: int) -> list[str]:
    docker = shutil.which("docker")
    if not docker:
        raise StartError(
            f"docker is not on the PATH, and {image} needs it; set serve.validator={EMBEDDED}."
        )
    ports = ["-p", f"127.0.0.1:{rest}:8501", "-p", f"127.0.0.1:{grpc}:8500"]
    where = ["-v", f"{base}:/models/{NAME}:ro", "-e", f"MODEL_NAME={NAME}"]
    return [docker, "run", "--rm", "--name", f"{NAME}-{rest}", *ports, *where, image]


def _wait(client: Client, process: subprocess.Popen, seconds: float, log: str) -> None:
    for _ in range(max(1, int(seconds))):
        if process.poll() is not None:
            kind = StartError if process.returncode in _NOT_THE_CANDIDATE else ServerError
            raise kind(f"the server has ended: {_end_of(log)}")
        with contextlib.suppress(ClientError):
            client.wait_until_available(1)
            return
    raise ServerError(f"the server is not ready after {seconds:g} s: {_end_of(log)}")


def _end_of(log: str) -> str:
    with open(log, errors="replace") as file:
        lines = [line.strip() for line in file if line.strip()]
    return " | ".join(lines[-_LAST_LINES:]) or "it has said nothing"


def _end(process: subprocess.Popen) -> None:
    process.terminate()
    try:
        process.wait(20)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
