"""Versions that come and go under constant load from another process, and a server that is killed."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest

from serving.client import Client
from tests.helpers import load_client
from tests.helpers import serving_models as models
from tests.helpers.serving_models import publish
from tests.serving.server.test_server_process import Server

LOAD = load_client.__file__
ROLLOVERS = 20


@pytest.fixture(scope="module")
def versions(tmp_path_factory):
    """Exports 1 .. 21; number n multiplies by n."""
    folder = tmp_path_factory.mktemp("versions")
    for number in range(1, ROLLOVERS + 2):
        models.export_dense(folder / str(number), float(number))
    return folder


def state(url):
    """State of every version that the server knows."""
    return {int(v["version"]): v["state"] for v in Client(url, "m").status()}


def wait_for(condition, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "nothing happened"
        time.sleep(0.02)


@pytest.mark.parametrize("batching", [False, True])
def test_no_request_fails_and_no_answer_mixes_versions(versions, tmp_path, batching):
    publish(versions / "1", tmp_path / "m", 1)
    flags = ["--model_name=m", "--file_system_poll_wait_seconds=0.05", "--max_num_load_retries=0"]
    server = Server(tmp_path / "m", *flags, f"--enable_batching={str(batching).lower()}")
    out = tmp_path / "load.json"
    command = [sys.executable, LOAD, server.url, "4", str(out)]
    load = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert load.stdout.readline() == "answered\n"
        for number in range(2, ROLLOVERS + 2):
            if number == 10:
                shutil.copytree(versions / "1", tmp_path / "broken")
                (tmp_path / "broken/variables/variables.data-00000-of-00001").unlink()
                publish(tmp_path / "broken", tmp_path / "m", 1000)
                wait_for(lambda: state(server.url).get(1000) == "END")
                assert state(server.url)[9] == "AVAILABLE"
                shutil.rmtree(tmp_path / "m" / "1000")
            publish(versions / str(number), tmp_path / "m", number)
            wait_for(lambda n=number: state(server.url).get(n) == "AVAILABLE")
        load.communicate(timeout=60)
    finally:
        load.kill()
        status, _, errors = server.stop()
    assert load.returncode == 0 and status == 0 and "Traceback" not in errors
    seen = json.loads(out.read_text())
    assert seen["failures"] == [] and seen["mixed"] == 0
    # A version that the next one replaces at once may have no answer on a busy machine.
    versions_seen = {float(version) for version in seen["versions"]}
    assert {1.0, ROLLOVERS + 1.0} <= versions_seen and len(versions_seen) > ROLLOVERS // 2
    total = sum(seen["versions"].values())
    print(
        f"{total} answers over {ROLLOVERS} rollovers; longest pause {1000 * seen['longest']:.0f} ms"
    )


def test_a_killed_server_serves_again(versions, tmp_path):
    publish(versions / "3", tmp_path / "m", 3)
    server = Server(tmp_path / "m", "--model_name=m", fresh=True)
    assert Client(server.url, "m").predict([[1, 0]])[0][0] == 3.0
    os.kill(server.process.pid, signal.SIGKILL)
    server.process.communicate()
    start = time.monotonic()
    again = Server(tmp_path / "m", "--model_name=m", fresh=True)
    try:
        assert Client(again.url, "m").predict([[1, 0]])[0][0] == 3.0
        print(f"serving again {time.monotonic() - start:.1f} s after kill -9")
    finally:
        assert again.stop()[0] == 0
