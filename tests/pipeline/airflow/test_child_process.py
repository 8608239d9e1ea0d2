"""A step's process: what it says, why it failed, and that nothing of it stays behind."""

import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from pipeline.local.child_process import Child, Failed


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
    code = (
        "import sys; print('Full log: /x/y.log'); print('The disk is full.', file=sys.stderr);"
        " sys.exit(1)"
    )
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


def test_a_command_that_does_not_exist_is_said():
    with pytest.raises(
        Failed, match=r"^/nowhere/python cannot be started: No such file or directory\.$"
    ):
        Child(["/nowhere/python"]).run(lambda line: None)


def test_what_a_process_leaves_behind_ends_with_it():
    code = "import subprocess; print(subprocess.Popen(['sleep', '99']).pid)"
    said = []
    Child(python(code)).run(said.append)
    assert gone(int(said[0]))


@pytest.mark.parametrize(
    "group", ["", ", process_group=0"], ids=["one group", "a group of its own"]
)
def test_a_process_and_its_own_children_die_with_the_one_that_started_it(group):
    inner = "import os, subprocess, time\n"
    inner += (
        f"p = subprocess.Popen(['sleep', '99']{group}); print(os.getpid(), p.pid, flush=True);"
        " p.wait()"
    )
    code = "import sys; from pipeline.local.child_process import Child\n"
    code += f"Child([sys.executable, '-c', {inner!r}]).run(lambda line: print(line, flush=True))"
    parent = subprocess.Popen(python(code), stdout=subprocess.PIPE, text=True)
    pids = [int(word) for word in parent.stdout.readline().split()]
    assert [alive(pid) for pid in pids] == [True, True]
    os.kill(parent.pid, signal.SIGKILL)
    parent.wait()
    parent.stdout.close()
    assert [gone(pid) for pid in pids] == [True, True]


@pytest.mark.parametrize("lives", [True, False], ids=["parent lives", "parent is dead"])
def test_a_process_that_asks_too_late_to_die_with_its_parent_dies_at_once(lives):
    """The child says its number and then, when its parent has got another one or not, whether it
    lives.
    """
    code = "import os, sys, time; from pipeline.local.child_process import die_with_parent\n"
    code += "parent = os.getpid()\nif os.fork():\n    sys.stdin.readline(); sys.exit()\n"
    code += "print(os.getpid(), flush=True)\n"
    code += f"while (os.getppid() == parent) != {lives}: time.sleep(0.01)\n"
    code += "die_with_parent(); print('lives', flush=True)"
    parent = subprocess.Popen(
        python(code),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    pid = int(parent.stdout.readline())
    if not lives:
        parent.kill()
    assert parent.stdout.readline() == ("lives\n" if lives else "")
    parent.communicate()
    assert gone(pid)
