"""A Python that need not wait for TFX: a process that has imported the libraries forks.

The program runs with the same arguments, environment, working folder and standard streams in a
process of its own, which imports the product anew; signals that end reach it. It differs from a
fresh interpreter in two things: libraries read the environment when the first program ran, and all
programs hash strings alike. Tests of imports, of caches between processes and of interruptions start
the real interpreter.

Run as a program, this file is the process that forks (`serve`), or stands for one interpreter.
Standard library only.
"""

import atexit
import functools
import gc
import importlib
import json
import os
import runpy
import select
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile

# No module of the product, and none that is run.
_LIBRARIES = (
    "tfx.v1",
    "tfx.components.evaluator.executor",
    "tfx.components.schema_gen.executor",
    "tfx.components.statistics_gen.executor",
    "tfx.components.trainer.executor",
    "tfx.components.transform.executor",
    "tfx.orchestration.local.local_dag_runner",
    "keras",
    "numba",
    "pillow_heif",
    "rich.progress",
    "scipy.io",
    "setuptools",
    "sklearn.datasets",
    "tensorflow_transform.beam",
)


@functools.cache
def python():
    """What stands for the interpreter in a command: `[*python(), "-m", MODULE, ...]`, as well with
    `-c CODE` or a file.
    """
    folder = tempfile.mkdtemp()
    atexit.register(shutil.rmtree, folder)
    place = os.path.join(folder, "socket")
    server = subprocess.Popen(
        [sys.executable, "-P", __file__, "serve", place],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        env=os.environ | {"TF_CPP_MIN_LOG_LEVEL": "2"},
    )  # fmt: skip
    # It ends with this process, as its standard input does.
    atexit.register(server.stdin.close)
    assert server.stdout.readline() == b"ready\n"
    return [sys.executable, "-IS", __file__, place]


def executable(folder):
    """The path of a file in `folder` that stands for the interpreter, for who needs one."""
    path = os.path.join(folder, "python")
    with open(path, "w") as file:
        file.write(f'#!/bin/sh\nexec {shlex.join(python())} "$@"\n')
    os.chmod(path, 0o755)
    return path


def _command(place, arguments):
    """Has a command run; returns its exit status."""
    ends = (signal.SIGINT, signal.SIGTERM)
    with socket.socket(socket.AF_UNIX) as server:
        server.connect(place)
        socket.send_fds(server, [b" "], [0, 1, 2])
        order = [arguments, os.getcwd(), dict(os.environ)]
        # The command may be known to run before this process can hand a signal on.
        signal.pthread_sigmask(signal.SIG_BLOCK, ends)
        server.sendall(json.dumps(order).encode() + b"\n")
        for number in ends:
            signal.signal(number, lambda number, _: server.sendall(bytes([number])))
        signal.pthread_sigmask(signal.SIG_UNBLOCK, ends)
        return int(server.makefile().readline() or 1)


def _serve(place):
    """Forks for every command; returns in the process that is to run it, with its arguments."""
    for name in _LIBRARIES:
        importlib.import_module(name)
    gc.freeze()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(place)
        listener.listen()
        print("ready", flush=True)
        while listener in select.select([listener, 0], [], [])[0]:
            connection, _ = listener.accept()
            if os.fork() == 0:
                listener.close()
                return _watched(connection)
            connection.close()
            while any(os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG) or ()):
                pass
    os._exit(0)


def _watched(connection):
    """Forks once more, to run the command, and tells its end; it ends with who asked for it."""
    _, streams, *_ = socket.recv_fds(connection, 1, 3)
    arguments, folder, environment = json.loads(connection.makefile().readline())
    pid = os.fork()
    if pid == 0:
        connection.close()
        os.setsid()
        for number, stream in enumerate(streams):
            os.dup2(stream, number)
            os.close(stream)
        os.chdir(folder)
        os.environ.clear()
        os.environ.update(environment)
        return arguments
    for stream in streams:
        os.close(stream)
    ended = os.pidfd_open(pid)
    while ended not in select.select([ended, connection], [], [])[0]:
        number = connection.recv(1)
        os.kill(pid, ord(number)) if number else os.killpg(pid, signal.SIGKILL)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    connection.sendall(b"%d\n" % status)
    os._exit(0)


def _main(arguments):
    if arguments[0] != "serve":
        status = _command(arguments[0], arguments[1:])
        if status < 0:
            if -status != signal.SIGKILL:
                signal.signal(-status, signal.SIG_DFL)
            os.kill(os.getpid(), -status)
        sys.exit(status)
    what, *sys.argv[1:] = _serve(arguments[1])
    # As the interpreter does.
    sys.argv[0] = what
    sys.path[:0] = filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))
    sys.path.insert(0, os.path.dirname(what) or os.getcwd())
    if what == "-m":
        runpy.run_module(sys.argv.pop(1), run_name="__main__", alter_sys=True)
    elif what == "-c":
        exec(sys.argv.pop(1), {"__name__": "__main__"})
    else:
        runpy.run_path(what, run_name="__main__")


if __name__ == "__main__":
    _main(sys.argv[1:])
