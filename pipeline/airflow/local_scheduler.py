"""A real Airflow on this machine that runs the pipeline on its schedule, until Ctrl-C.

.venv-airflow/bin/python -m pipeline.airflow.local_scheduler [--preset=NAME] [--set ...]

The database is SQLite, one task at a time, or the one of AIRFLOW__DATABASE__SQL_ALCHEMY_CONN with
the LocalExecutor. Every other setting of Airflow can be given as its environment variable too.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from typing import Any

from components import files
from pipeline.airflow.follow import Follow
from pipeline.config import options, paths
from pipeline.config.settings import Config, ConfigError, to_dict
from pipeline.local import child_process
from pipeline.local.child_process import Failed


def main(argv: Sequence[str] | None = None) -> int:
    """Runs until Ctrl-C; returns 1 if Airflow fails, 2 if the configuration is wrong."""
    parser = argparse.ArgumentParser(
        prog="airflow_local", description="Runs the pipeline on a local Airflow."
    )
    options.add(parser)
    parser.add_argument(
        "--home", default="runs/airflow", metavar="FOLDER", help="of Airflow's own files"
    )
    parser.add_argument("--port", type=int, default=8080, help="of the web page; 0 starts none")
    args = parser.parse_args(argv)
    # A terminal that has no ✓ shows a question mark.
    sys.stdout.reconfigure(errors="replace")  # type: ignore[union-attr]
    home = os.path.abspath(os.path.expanduser(args.home))
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        # nohup asks to go on when the terminal is gone.
        if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, _interrupted)
    os.environ.update(environment(home) | os.environ | {"AIRFLOW_HOME": home})
    # The scheduler calls `airflow`.
    os.environ["PATH"] = os.pathsep.join([os.path.dirname(sys.executable), os.environ["PATH"]])
    try:
        config = paths.absolute(options.resolve(args))
        if args.port:
            _check_port(args.port)
        _claim(config, home)
        _serve(config, home, args.port)
    except KeyboardInterrupt:
        print("Stopped. The same command goes on where it was.", flush=True)
    except (ConfigError, Failed) as error:
        print(error, file=sys.stderr)
        return 2 if isinstance(error, ConfigError) else 1
    return 0


def _interrupted(*_: Any) -> None:
    raise KeyboardInterrupt


def environment(home: str) -> dict[str, str]:
    """Airflow's settings; docs/airflow.md says why."""
    database = os.environ.get("AIRFLOW__DATABASE__SQL_ALCHEMY_CONN", f"sqlite:///{home}/airflow.db")
    return {
        "AIRFLOW_HOME": home,
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": database,
        "AIRFLOW__CORE__EXECUTOR": (
            "SequentialExecutor" if database.startswith("sqlite") else "LocalExecutor"
        ),
        "AIRFLOW__CORE__DAGS_FOLDER": os.path.join(home, "dags"),
        # Tasks of all pipelines at once; the LocalExecutor starts so many processes.
        "AIRFLOW__CORE__PARALLELISM": "4",
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__DAGS_ARE_PAUSED_AT_CREATION": "False",
        # The sentence of the error, not where it was raised.
        "AIRFLOW__CORE__DAGBAG_IMPORT_ERROR_TRACEBACKS": "False",
        "AIRFLOW__USAGE_DATA_COLLECTION__ENABLED": "False",
        # How soon after a crash its tasks are given to the next scheduler: at most the sum of these
        # two.
        "AIRFLOW__SCHEDULER__SCHEDULER_HEALTH_CHECK_THRESHOLD": "30",
        "AIRFLOW__SCHEDULER__ORPHANED_TASKS_CHECK_INTERVAL": "15",
        # A task without a sign of life has failed; it gives one every five seconds.
        "AIRFLOW__SCHEDULER__SCHEDULER_ZOMBIE_TASK_THRESHOLD": "60",
        "AIRFLOW__WEBSERVER__WEB_SERVER_HOST": "127.0.0.1",
        "AIRFLOW__WEBSERVER__WORKERS": "1",
        # Said in advance: the default of the next release, or it warns.
        "AIRFLOW__METRICS__TIMER_UNIT_CONSISTENCY": "True",
        "PYTHONWARNINGS": "ignore",
    }


def _check_port(port: int) -> None:
    """Raises ConfigError where the web page cannot be."""
    with socket.socket() as probe:
        # As the web server does: a port that was left a moment ago is free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((_host(), port))
        except (OSError, OverflowError) as error:
            reason = getattr(error, "strerror", error)
            raise ConfigError(
                f"Port {port} of {_host()} is taken or not allowed ({reason}): choose another with "
                "--port=PORT (0: no web page), or stop what uses it."
            ) from None


def _host() -> str:
    return os.environ["AIRFLOW__WEBSERVER__WEB_SERVER_HOST"]


def _claim(config: Config, home: str) -> None:
    """Locks Airflow's folder while this process lives, and registers the pipeline there."""
    try:
        os.makedirs(home, exist_ok=True)
        lock = os.open(os.path.join(home, "lock"), os.O_CREAT | os.O_RDWR)
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        _register(config, home)
    except BlockingIOError:
        raise ConfigError(
            f"--home={home}: another Airflow runs there; stop it first, or name another folder with"
            " --home=FOLDER."
        ) from None
    except OSError as error:
        raise ConfigError(
            f"--home={home}: {error.filename} cannot be written ({error.strerror}); name another"
            " folder with --home=FOLDER."
        ) from None


def _register(config: Config, home: str) -> None:
    """Writes the configuration and the file that makes its DAG."""
    path = os.path.join(home, "configs", f"{config.name}.json")
    _write(path, json.dumps(to_dict(config), indent=2))
    _write(_dag_file(config), f"from pipeline.airflow_runner import dag\n\nDAG = dag({path!r})\n")


def _dag_file(config: Config) -> str:
    return os.path.join(os.environ["AIRFLOW__CORE__DAGS_FOLDER"], f"{config.name}.py")


def _write(path: str, text: str) -> None:
    os.makedirs(os.path.dirname(path), exist_ok=True)
    files.write(path, text)


def _serve(config: Config, home: str, port: int) -> None:
    """Runs until the scheduler ends, which raises Failed."""
    print(
        f"Airflow for {config.name}, cron {config.schedule.cron} (UTC). Its files: {home}",
        flush=True,
    )
    _set_up(home)
    follow = Follow(config.name, _dag_file(config))
    with contextlib.ExitStack() as stack:
        page = stack.enter_context(_web_page(home, port)) if port else None
        scheduler = stack.enter_context(_part(home, "scheduler", "--skip-serve-logs"))
        print("Ctrl-C stops it.", flush=True)
        while scheduler.poll() is None:
            for line in follow.changes():
                print(line, flush=True)
            if page and page.poll() is not None:
                print(
                    f"The web page has ended, the rest goes on: see {_log(home, 'webserver')}.",
                    flush=True,
                )
                page = None
            time.sleep(2)
    raise Failed(f"Airflow's scheduler has ended: see {_log(home, 'scheduler')}.")


def _log(home: str, name: str) -> str:
    return os.path.join(home, "logs", f"{name}.log")


def _set_up(home: str) -> None:
    """Makes Airflow's tables, and the user of the web page where there is none."""
    os.makedirs(os.path.join(home, "logs"), exist_ok=True)
    with open(_log(home, "setup"), "a") as log:
        command = [sys.executable, "-m", "pipeline.airflow.user"]
        status = subprocess.run(command, stdout=log, stderr=log, check=False).returncode
    if status:
        raise Failed(f"Airflow's database cannot be set up: see {_log(home, 'setup')}.")


@contextlib.contextmanager
def _web_page(home: str, port: int) -> Iterator[subprocess.Popen]:
    file = os.path.join(home, "standalone_admin_password.txt")
    print(f"Web page: http://{_host()}:{port}  user admin, password in {file}", flush=True)
    # Its usual place outlives a crash, and the number in it may be another process's by then.
    with tempfile.TemporaryDirectory() as folder:
        pid = os.path.join(folder, "webserver.pid")
        with _part(home, "webserver", "--port", str(port), "--pid", pid) as part:
            yield part


@contextlib.contextmanager
def _part(home: str, *arguments: str) -> Iterator[subprocess.Popen]:
    """A part of Airflow that runs beside this process and is stopped with it."""
    with open(_log(home, arguments[0]), "a") as log:
        part = child_process.start(
            [sys.executable, "-m", "airflow", *arguments], stdout=log, stderr=log
        )
    try:
        yield part
    finally:
        child_process.end(part, 10)


if __name__ == "__main__":
    sys.exit(main())
