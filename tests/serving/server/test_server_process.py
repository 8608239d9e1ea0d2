"""The server as a process: start, hot reload over HTTP, mistakes on the command line, stop."""

import http.server
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from PIL import Image

from serving import client as rest_client
from serving.client import Client, ClientError
from tests.helpers import warm
from tests.helpers.serving_models import COLOURS, png, publish

ROOT = Path(__file__).parents[3]


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def server_command(base, port, *flags, python=(sys.executable,)):
    where = [f"--model_base_path={base}"] if base else []
    ports = [f"--rest_api_port={port}", "--port=0"]
    return [*python, "-m", "serving.server", *ports, *where, *flags]


class Server:
    """A server process and what it printed.

    One that is fresh, or has `options` of a process, is a real interpreter; the others start as
    `tests.helpers.warm` does.
    """

    def __init__(self, base, *flags, fresh=False, **options):
        python = [sys.executable] if fresh or options else warm.python()
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        start = time.monotonic()
        self.process = subprocess.Popen(
            server_command(base, self.port, *flags, python=python),
            cwd=ROOT,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            **options,
        )
        self.greeting = self.process.stdout.readline()
        self.seconds_to_ready = time.monotonic() - start

    def stop(self, number=signal.SIGTERM):
        self.process.send_signal(number)
        output, errors = self.process.communicate(timeout=60)
        return self.process.returncode, self.greeting + output, errors


@pytest.fixture(scope="module")
def served(exports, tmp_path_factory):
    base = tmp_path_factory.mktemp("served") / "resnet"
    publish(exports / "image", base, 1)
    server = Server(base, "--file_system_poll_wait_seconds=0.05")
    yield server, base
    server.process.kill()
    server.process.communicate()


@pytest.fixture
def pictures(tmp_path):
    paths = []
    for name, colour in (("a red one.png", (255, 0, 0)), ("leaf.jpg", (0, 200, 0))):
        Image.new("RGB", (32, 32), colour).save(tmp_path / name, quality=100)
        paths.append(tmp_path / name)
    return paths


def run_client(server, *arguments):
    command = [sys.executable, "-m", "serving.client", "--url", server.url, *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, text=True, capture_output=True, timeout=60)


def test_greeting_says_where_and_what_to_try(served):
    server, _ = served
    assert f"{server.url}/v1/models/resnet is ready" in server.greeting
    assert f"python -m serving.client --url {server.url}" in server.greeting


def test_client_prints_an_aligned_table(served, pictures):
    server, _ = served
    done = run_client(server, *pictures, "--top", 1)
    assert (done.returncode, done.stderr) == (0, "")
    first, second = done.stdout.splitlines()
    assert first.split()[-2:] == ["red", "100.00%"]
    assert second.split()[:2] == [str(pictures[1]), "green"]
    assert first.rindex("red") == second.rindex("green") and len(first) == len(second)


def test_client_prints_json(served, pictures):
    server, _ = served
    (entry,) = json.loads(run_client(server, pictures[0], "--json").stdout)
    assert entry["file"] == str(pictures[0])
    assert entry["labels"][0] == {"name": "red", "probability": 1.0}
    assert len(entry["labels"]) == 2


def test_one_bad_file_does_not_spoil_the_others(served, pictures, tmp_path):
    server, _ = served
    cut = tmp_path / "cut.jpg"
    cut.write_bytes(b"\xff\xd8\xff and no more")
    text = tmp_path / "notes.txt"
    text.write_text("hello")
    done = run_client(server, text, cut, tmp_path / "none.jpg", pictures[0])
    assert done.returncode == 1
    assert "red" in done.stdout
    first, *rest = done.stderr.splitlines()
    assert (
        first
        == f"{text}: the bytes are no JPEG or PNG; convert the image to PNG, which loses nothing."
    )
    assert rest[0].startswith(f"{cut}: ") and "Invalid JPEG data" in rest[0]
    assert rest[-1] == f"{tmp_path / 'none.jpg'}: No such file or directory."


def test_client_without_a_server_or_model(served, pictures):
    nowhere = rest_client.Client(f"http://127.0.0.1:{free_port()}", retries=1)
    with pytest.raises(ClientError, match="No server answers at") as caught:
        nowhere.status()
    assert caught.value.status is None
    server, _ = served
    done = run_client(server, *pictures, "--model_name", "other")
    assert done.returncode == 1
    assert done.stderr.count("serves no such model or version as other") == 1


def test_client_library(served):
    client = Client(served[0].url)
    assert client.wait_until_available(10) == 1
    assert client.status()[0]["state"] == "AVAILABLE"
    signatures = client.metadata()["metadata"]["signature_def"]["signature_def"]
    assert "serving_default" in signatures
    red, blue = png((255, 0, 0)), png((0, 0, 255))
    assert client.predict([red, blue]) == [[1.0, 0.0, 0.0], [0.0, 0.0, 1.0]]
    assert [labels[0] for labels in client.top_k([red, blue], version=1)] == [
        ("red", 1.0),
        ("blue", 1.0),
    ]
    assert {label.name for label in client.top_k([red])[0]} < set(COLOURS)
    with pytest.raises(ClientError, match="no such model or version") as caught:
        client.predict([red], version=5)
    assert caught.value.status == 404
    with pytest.raises(TypeError, match="send encoded images as bytes"):
        client.predict([{1, 2}])


def test_client_refuses_addresses_that_are_none():
    for url in ("localhost:8501", "ftp://a", "http://", "http://a:b"):
        with pytest.raises(ClientError, match="must be an address such as"):
            Client(url)


def test_client_tries_again_while_the_server_is_unavailable():
    seen = []

    class Starting(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            seen.append(self.path)
            ready = len(seen) > 2
            self.send_response(200 if ready else 503)
            self.end_headers()
            self.wfile.write(b'{"model_version_status": []}' if ready else b'{"error": "starting"}')

        def log_message(self, *_):
            """Keeps the terminal quiet."""

    with http.server.HTTPServer(("127.0.0.1", 0), Starting) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}"
        assert Client(url, "a model").status() == []
        assert seen == ["/v1/models/a%20model"] * 3
        seen.clear()
        with pytest.raises(ClientError, match="starting") as caught:
            Client(url, retries=0).status()
        assert caught.value.status == 503
        server.shutdown()


def test_client_needs_no_tensorflow():
    check = (
        "import sys, serving.client; sys.exit('tensorflow' in sys.modules or 'numpy' in"
        " sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", check], cwd=ROOT, timeout=60).returncode == 0


def test_a_push_switches_versions_under_load(served, exports):
    server, base = served
    answers, failures, done = [], [], threading.Event()
    client = Client(server.url, retries=0)
    picture = png((0, 0, 255))

    def keep_asking():
        while not done.is_set():
            try:
                answers.append(client.top_k([picture])[0][0].name)
            except ClientError as error:
                failures.append(error)

    thread = threading.Thread(target=keep_asking)
    thread.start()
    publish(exports / "image", base, 2)
    deadline = time.monotonic() + 30
    while [v["state"] for v in client.status()] != ["AVAILABLE", "END"]:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    done.set()
    thread.join()
    assert failures == []
    assert set(answers) == {"blue"}


def test_a_waiting_server_starts_to_predict_with_the_first_version(exports, tmp_path):
    base = tmp_path / "resnet"
    base.mkdir()
    server = Server(base, "--file_system_poll_wait_seconds=0.05")
    try:
        client = Client(server.url)
        assert "predicts once a version lies in" in server.greeting
        with pytest.raises(ClientError, match="Could not find any versions of model resnet"):
            client.status()
        publish(exports / "image", base, 3)
        assert client.wait_until_available(30) == 3
    finally:
        status, _, errors = server.stop(signal.SIGINT)
    assert status == 0
    assert "There is no version of resnet in" in errors
    assert "Version 3 of resnet serves" in errors


def test_sigterm_ends_with_zero_and_a_clean_terminal(exports, tmp_path):
    publish(exports / "image", tmp_path / "resnet", 1)
    server = Server(tmp_path / "resnet", fresh=True)
    assert Client(server.url).predict([png((255, 0, 0))]) == [[1.0, 0.0, 0.0]]
    status, output, errors = server.stop()
    assert status == 0
    assert len(output.splitlines()) == 1
    assert [line.split(" (")[0] for line in errors.splitlines()] == [
        "Version 1 of resnet serves",
        "Version 1 of resnet is unloaded.",
    ]
    print(f"time to ready: {server.seconds_to_ready:.1f} s")


def mistake(base, port, *flags):
    done = subprocess.run(
        server_command(base, port, *flags), cwd=ROOT, text=True, capture_output=True, timeout=60
    )
    assert done.returncode != 0
    assert done.stdout == ""
    return done.stderr.splitlines()


def test_mistakes_are_one_clear_sentence(exports, tmp_path):
    (none,) = mistake(tmp_path / "none", free_port())
    assert none.startswith(f"--model_base_path {tmp_path / 'none'}: there is no such folder")
    publish(exports / "dense", tmp_path / "m", 1)
    (inside,) = mistake(tmp_path / "m/1", free_port())
    assert inside.endswith(f"name its parent, {tmp_path / 'm'}.")
    (name,) = mistake(tmp_path / "m", free_port(), "--model_name=a/b")
    assert "--model_name 'a/b'" in name
    for seconds in ("nan", "inf", "-1"):
        (wait,) = mistake(tmp_path / "m", free_port(), f"--file_system_poll_wait_seconds={seconds}")
        assert wait.startswith("--file_system_poll_wait_seconds ") and wait.endswith(
            "must be 0 to 2592000."
        )
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        (taken,) = mistake(tmp_path / "m", other.getsockname()[1])
    assert taken.startswith("Cannot listen on 127.0.0.1:") and "--rest_api_port" in taken


@pytest.mark.parametrize(
    ("end", "status"), [("os.abort()", -signal.SIGABRT), ("raise ImportError('wrong build')", 1)]
)
def test_what_tensorflow_says_when_it_cannot_load_is_shown(tmp_path, end, status):
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib/tensorflow.py").write_text(f"import os\nos.write(2, b'needs AVX\\n')\n{end}\n")
    for folder in ("tmp", "m"):
        (tmp_path / folder).mkdir()
    done = subprocess.run(
        server_command(tmp_path / "m", free_port()),
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(tmp_path / "lib"), "TMPDIR": str(tmp_path / "tmp")},
        text=True,
        capture_output=True,
        timeout=60,
    )
    assert done.returncode == status
    lines = done.stderr.splitlines()
    if status < 0:
        assert lines[0] == "Fatal Python error: Aborted" and "tensorflow.py" in done.stderr
    else:
        assert (lines[0], lines[-1]) == ("needs AVX", "ImportError: wrong build")
    assert list((tmp_path / "tmp").iterdir()) == []


def test_a_folder_with_only_a_broken_version_ends_the_start(exports, tmp_path):
    publish(exports / "dense", tmp_path / "m", 1)
    (tmp_path / "m/1/variables/variables.data-00000-of-00001").unlink()
    lines = mistake(tmp_path / "m", free_port())
    assert lines[0].startswith("Version 1 of resnet cannot be served: ")
