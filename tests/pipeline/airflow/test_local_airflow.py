"""`make airflow` as a person meets it: the web page and its password, what is taken, what cannot be
read.
"""

import http.cookiejar
import os
import re
import socket
import stat
import subprocess
import urllib.error
import urllib.parse
import urllib.request

import pytest

from tests.helpers.local_airflow import NAME, PYTHON, Airflow

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(not os.path.exists(PYTHON), reason="needs .venv-airflow: make airflow-env"),
]


@pytest.fixture
def airflow(tmp_path):
    """With a web page and nothing to do."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    local = Airflow(tmp_path, f"data.source={tmp_path}", "schedule.start=2999-01-01", port=port)
    yield local
    if local.process.poll() is None:
        local.stop()


def test_the_web_page_lets_the_password_in_also_after_a_crash(airflow):
    airflow.start()
    word = page(airflow)
    assert stat.S_IMODE(os.stat(password_file(airflow)).st_mode) == 0o600
    assert not lets_in(airflow, "admin")
    assert lets_in(airflow, word)
    assert word not in log(airflow, "setup")
    # Whoever has the folder or the port is not disturbed.
    assert (
        refusal(airflow)
        == f"Port {airflow.port} of 127.0.0.1 is taken or not allowed (Address already in use):"
        " choose another with --port=PORT (0: no web page), or stop what uses it."
    )
    port, airflow.port = airflow.port, 0
    assert "another Airflow runs there; stop it first" in refusal(airflow)
    with open(os.path.join(airflow.folder, "home", "dags", f"{NAME}.py"), "a") as file:
        file.write("raise ValueError('one\\ntwo')\n")
    airflow.wait(lambda: f"{NAME}.py: one two" in airflow.seen(), 90, "the error of the DAG's file")
    airflow.process.kill()
    airflow.process.wait()
    airflow.port = port
    airflow.start()
    assert page(airflow) == word
    assert lets_in(airflow, word)
    assert airflow.stop() == 0
    assert not airflow.processes()


def test_a_folder_that_cannot_be_written_is_said(tmp_path):
    (tmp_path / "home").write_text("a file")
    said = refusal(Airflow(tmp_path, f"data.source={tmp_path}"))
    assert said.endswith(
        "home cannot be written (File exists); name another folder with --home=FOLDER."
    )


def page(airflow):
    """Waits for the web page; returns the password in the file that was printed last."""

    def answers():
        try:
            return urllib.request.urlopen(address(airflow, "health"), timeout=10).status == 200
        except OSError:
            return False

    airflow.wait(answers, 180, "the web page")
    place = re.findall(r"user admin, password in (.+)", airflow.seen())[-1]
    assert place == password_file(airflow)
    with open(place) as file:
        return file.read()


def address(airflow, path):
    return f"http://127.0.0.1:{airflow.port}/{path}"


def lets_in(airflow, word):
    """Whether the form of the web page takes the password."""
    cookies = urllib.request.HTTPCookieProcessor(http.cookiejar.CookieJar())
    browser = urllib.request.build_opener(cookies)
    form = browser.open(address(airflow, "login/")).read().decode()
    token = re.search(r'name="csrf_token"[^>]*value="([^"]+)"', form)[1]
    sent = urllib.parse.urlencode({"csrf_token": token, "username": "admin", "password": word})
    browser.open(address(airflow, "login/"), sent.encode())
    return "/login" not in browser.open(address(airflow, "home")).geturl()


def refusal(airflow):
    """The sentence of a start that must fail at once."""
    done = subprocess.run(airflow.command(), cwd=airflow.folder, capture_output=True, text=True)
    assert done.returncode == 2
    [sentence] = done.stderr.splitlines()
    return sentence


def password_file(airflow):
    return os.path.join(airflow.folder, "home", "standalone_admin_password.txt")


def log(airflow, name):
    with open(os.path.join(airflow.folder, "home", "logs", f"{name}.log")) as file:
        return file.read()
