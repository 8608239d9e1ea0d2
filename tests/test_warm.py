"""What stands for the interpreter in tests of whole runs does as the interpreter does."""

import json
import os
import signal
import subprocess
import sys

import pytest

from tests.helpers import warm

SEEN = (
    "import json, os, sys; print(json.dumps([sys.argv, os.getcwd(), sys.stdin.read(),"
    " dict(os.environ), __name__])); print('no', file=sys.stderr); sys.exit(7)"
)


def start(code, *arguments, **options):
    pipe = subprocess.PIPE
    command = [*warm.python(), "-c", code, *arguments]
    return subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True, **options)


def test_a_program_gets_what_was_given_and_its_status_comes_back(tmp_path):
    environment = {**os.environ, "ONLY_HERE": "é"}
    process = start(SEEN, "a b", cwd=tmp_path, env=environment)
    out, said = process.communicate("in")
    wanted = [["-c", "a b"], str(tmp_path), "in", environment, "__main__"]
    assert (json.loads(out), said, process.returncode) == (wanted, "no\n", 7)


def test_a_module_is_the_main_one(tmp_path):
    (tmp_path / "shown.py").write_text("import sys; print(sys.argv[1:], __name__, __file__)")
    commands = ([*python, "-m", "shown", "a"] for python in ([sys.executable], warm.python()))
    real, quick = (subprocess.check_output(command, cwd=tmp_path) for command in commands)
    assert quick == real


WAITS = """
import sys, time
print("waits", flush=True)
try:
    time.sleep(60)
except KeyboardInterrupt:
    sys.exit(3)
"""


@pytest.mark.parametrize(
    ("number", "status"),
    [(signal.SIGINT, 3), (signal.SIGTERM, -signal.SIGTERM), (signal.SIGKILL, -signal.SIGKILL)],
)
def test_a_signal_ends_it(number, status):
    with start(WAITS) as process:
        assert process.stdout.readline() == "waits\n"
        process.send_signal(number)
        # With the process itself: nobody else holds the pipe.
        assert process.communicate(timeout=30)[0] == ""
    assert process.returncode == status


def test_none_of_the_product_is_imported_before_the_program():
    code = "import sys; print(sorted({'models', 'components', 'pipeline', 'serving'} & {*sys.modules}))"
    assert start(code).communicate()[0] == "[]\n"
