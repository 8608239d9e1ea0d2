"""A step's process: what it says, why it failed, and that nothing of it stays behind."""

import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from pipeline.child_process import Child, Failed


def python(code):
    return [sys.executable, "-c", code]


def alive(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def gone(pid, seconds=10):
    end = time.monotonic() + seconds
    while alive(pid) and time.monotonic() < end:
        time.sleep(0.05)
    return not alive(pid)


def test_lines_are_handed_on_and_a_failure_has_the_last_one_and_the_log():
    said = []
    Child(python("print('one'); print('two')")).run(said.append)
    assert said == ["one", "two"]
    code = "import sys; print('Full log: /x/y.log'); print('The disk is full.', file=sys.stderr); sys.exit(1)"
    with pytest.raises(Failed, match=r"^The disk is full\. \(full log: /x/y\.log\)$"):
        Child(python(code)).run(said.append)


def test_a_process_that_was_killed_says_by_what():
    code = "import os; print('epoch 3', flush=True); os.kill(os.getpid(), 9)"
    with pytest.raises(Failed, match="ended by SIGKILL; its last line was: epoch 3"):
        Child(python(code)).run(lambda line: None)


def test_stop_ends_the_process_and_what_it_has_started():
    # The child's child does not listen to SIGTERM.
    inner = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
    inner += "print('on', flush=True); time.sleep(99)"
    code = "import subprocess, sys\n"
    code += f"p = subprocess.Popen([sys.executable, '-c', {inner!r}], stdout=subprocess.PIPE)\n"
    code += "p.stdout.readline(); print(p.pid, flush=True); p.wait()"
    child, pids, started = Child(python(code)), [], threading.Event()

    def say(line):
        pids.append(int(line))
        started.set()

    failures = []

    def run():
        try:
            child.run(say)
        except Failed as error:
            failures.append(str(error))

    thread = threading.Thread(target=run)
    thread.start()
    assert started.wait(20)
    child.stop(patience=1)
    thread.join(20)
    assert "SIGTERM" in failures[0]
    assert gone(pids[0])


def test_a_process_dies_with_the_one_that_started_it():
    inner = "import os, time; print(os.getpid(), flush=True); time.sleep(99)"
    code = "import sys; from pipeline.child_process import Child\n"
    code += f"Child([sys.executable, '-c', {inner!r}]).run(lambda line: print(line, flush=True))"
    parent = subprocess.Popen(python(code), stdout=subprocess.PIPE, text=True)
    pid = int(parent.stdout.readline())
    assert alive(pid)
    os.kill(parent.pid, signal.SIGKILL)
    parent.wait()
    parent.stdout.close()
    assert gone(pid)
