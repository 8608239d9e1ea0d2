"""A real Airflow on this machine that runs the pipeline on its schedule, until Ctrl-C.

.venv-airflow/bin/python -m pipeline.airflow_local [--preset=NAME] [--set section.field=value ...]

The database is SQLite, one task at a time, or the one of AIRFLOW__DATABASE__SQL_ALCHEMY_CONN with the
LocalExecutor. Every other setting of Airflow can be given as its environment variable too.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any

from pipeline import options
from pipeline.child_process import die_with_parent, end_group
from pipeline.config import Config, ConfigError, to_dict

_MARKS = {"success": "✓", "failed": "✗", "upstream_failed": "-", "up_for_retry": "↻"}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs until Ctrl-C; returns the exit status (1: Airflow failed, 2: the configuration is wrong)."""
    parser = argparse.ArgumentParser(
        prog="airflow_local", description="Runs the pipeline on a local Airflow."
    )
    options.add(parser)
    parser.add_argument("--home", default="runs/airflow", metavar="FOLDER", help="of Airflow's own files")
    parser.add_argument("--port", type=int, default=8080, help="of the web page; 0 starts none")
    args = parser.parse_args(argv)
    home = os.path.abspath(args.home)
    try:
        config = absolute(options.resolve(args))
    except ConfigError as error:
        print(error, file=sys.stderr)
        return 2
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _interrupted)
    os.environ.update(environment(home) | os.environ)
    # The scheduler calls `airflow`.
    os.environ["PATH"] = os.pathsep.join([os.path.dirname(sys.executable), os.environ["PATH"]])
    register(config, home)
    try:
        _serve(config, home, args.port)
    except KeyboardInterrupt:
        print("Stopped. The same command goes on where it was.", flush=True)
    except ConfigError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def _interrupted(*_: Any) -> None:
    raise KeyboardInterrupt


def absolute(config: Config) -> Config:
    """The configuration with paths that hold in every working folder."""
    data = dataclasses.replace(config.data, source=_absolute(config.data.source))
    serve = dataclasses.replace(config.serve, directory=_absolute(config.serve.directory))
    return dataclasses.replace(
        config,
        root=_absolute(config.root),
        artifacts=_absolute(config.artifacts),
        data=data,
        serve=serve,
    )


def _absolute(path: str) -> str:
    return path if not path or "://" in path else os.path.abspath(os.path.expanduser(path))


def environment(home: str) -> dict[str, str]:
    """Airflow's settings; docs/airflow.md says why."""
    database = os.environ.get("AIRFLOW__DATABASE__SQL_ALCHEMY_CONN", f"sqlite:///{home}/airflow.db")
    return {
        "AIRFLOW_HOME": home,
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": database,
        "AIRFLOW__CORE__EXECUTOR": "SequentialExecutor" if database.startswith("sqlite") else "LocalExecutor",
        "AIRFLOW__CORE__DAGS_FOLDER": os.path.join(home, "dags"),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__DAGS_ARE_PAUSED_AT_CREATION": "False",
        # The sentence of the error, not where it was raised.
        "AIRFLOW__CORE__DAGBAG_IMPORT_ERROR_TRACEBACKS": "False",
        "AIRFLOW__USAGE_DATA_COLLECTION__ENABLED": "False",
        # How soon after a crash its tasks are given to the next scheduler: at most the sum of these two.
        "AIRFLOW__SCHEDULER__SCHEDULER_HEALTH_CHECK_THRESHOLD": "30",
        "AIRFLOW__SCHEDULER__ORPHANED_TASKS_CHECK_INTERVAL": "15",
        # A task that was given away ends its process this soon; one without a sign of life has failed.
        "AIRFLOW__SCHEDULER__LOCAL_TASK_JOB_HEARTBEAT_SEC": "5",
        "AIRFLOW__SCHEDULER__SCHEDULER_ZOMBIE_TASK_THRESHOLD": "60",
        "AIRFLOW__WEBSERVER__WEB_SERVER_HOST": "127.0.0.1",
        "AIRFLOW__WEBSERVER__WORKERS": "1",
        # Said in advance: the default of the next release, or it warns.
        "AIRFLOW__METRICS__TIMER_UNIT_CONSISTENCY": "True",
        "PYTHONWARNINGS": "ignore",
    }


def register(config: Config, home: str) -> None:
    """Writes the configuration and the file that makes its DAG."""
    _write(os.path.join(home, "configs", f"{config.name}.json"), json.dumps(to_dict(config), indent=2))
    path = os.path.join(home, "configs", f"{config.name}.json")
    text = f"from pipeline.airflow_runner import dag\n\nDAG = dag({path!r})\n"
    _write(os.path.join(home, "dags", f"{config.name}.py"), text)


def _write(path: str, text: str) -> None:
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(f"{path}.tmp", "w") as file:
        file.write(text)
    os.replace(f"{path}.tmp", path)


def _serve(config: Config, home: str, port: int) -> None:
    print(f"Airflow for {config.name}, cron {config.schedule.cron} (UTC). Its files: {home}", flush=True)
    _airflow(home, "db", "migrate")
    with contextlib.ExitStack() as stack:
        parts = {"scheduler": stack.enter_context(_part(home, "scheduler", "--skip-serve-logs"))}
        if port:
            parts["webserver"] = stack.enter_context(_part(home, "webserver", "--port", str(port)))
            print(f"Web page: http://127.0.0.1:{port}  user admin, password {_password(home)}", flush=True)
        print("Ctrl-C stops it.", flush=True)
        follow = Follow(config.name)
        while not (ended := [name for name, part in parts.items() if part.poll() is not None]):
            for line in follow.changes():
                print(line, flush=True)
            time.sleep(2)
    raise ConfigError(f"Airflow's {ended[0]} has ended: see {_log(home, ended[0])}.")


def _log(home: str, name: str) -> str:
    return os.path.join(home, "logs", f"{name}.log")


def _airflow(home: str, *arguments: str) -> None:
    """One of Airflow's commands, quietly.

    Raises:
      ConfigError: it failed.
    """
    os.makedirs(os.path.join(home, "logs"), exist_ok=True)
    with open(_log(home, "setup"), "a") as log:
        done = subprocess.run(
            [sys.executable, "-m", "airflow", *arguments], stdout=log, stderr=log, check=False
        )
    if done.returncode:
        raise ConfigError(f"airflow {' '.join(arguments[:2])} failed: see {_log(home, 'setup')}.")


def _password(home: str) -> str:
    """Of the user admin, which is made once."""
    path = os.path.join(home, "password")
    if not os.path.exists(path):
        word = secrets.token_urlsafe(12)
        person = [
            "--username",
            "admin",
            "--firstname",
            "Local",
            "--lastname",
            "Admin",
            "--email",
            "admin@localhost",
        ]
        _airflow(home, "users", "create", "--role", "Admin", *person, "--password", word)
        with open(os.open(path, os.O_CREAT | os.O_WRONLY, 0o600), "w") as file:
            file.write(word)
    with open(path) as file:
        return file.read()


@contextlib.contextmanager
def _part(home: str, *arguments: str) -> Iterator[subprocess.Popen]:
    """A part of Airflow that runs beside this process and is stopped with it."""
    with open(_log(home, arguments[0]), "a") as log:
        part = subprocess.Popen(
            [sys.executable, "-m", "airflow", *arguments],
            stdout=log,
            stderr=log,
            start_new_session=True,
            preexec_fn=die_with_parent,
        )
    try:
        yield part
    finally:
        # A task that runs dies with its supervisor, and its process with it.
        end_group(part, 10)


class Follow:
    """What happens to the tasks and runs of a DAG.

    Args:
      dag_id: its name.
    """

    def __init__(self, dag_id: str) -> None:
        self._dag_id = dag_id
        self._seen = {key: state for key, state, _ in self._states()}

    def changes(self) -> list[str]:
        """A line for every task and run whose state is another than at the last call."""
        states = self._states()
        lines = [
            _line(*key, state, seconds)
            for key, state, seconds in states
            if self._seen.get(key) != state and (not key[1] or state in _MARKS)
        ]
        self._seen = {key: state for key, state, _ in states}
        return lines

    def _states(self) -> list[tuple[tuple[str, str], str, float]]:
        # Only now: it reads its settings when it is imported.
        from airflow.models import DagRun, TaskInstance
        from airflow.utils.session import create_session

        with create_session() as session:
            tasks = session.query(TaskInstance).filter_by(dag_id=self._dag_id)
            runs = session.query(DagRun).filter_by(dag_id=self._dag_id)
            return [((t.run_id, t.task_id), t.state or "", t.duration or 0.0) for t in tasks] + [
                ((r.run_id, ""), r.state, 0.0) for r in runs
            ]


def _line(run: str, task: str, state: str, seconds: float) -> str:
    clock = time.strftime("%H:%M:%S")
    if not task:
        return f"{clock}  {run}: {state}"
    return f"{clock}    {_MARKS[state]} {task:<18} {seconds:7.1f} s  {state}"


if __name__ == "__main__":
    sys.exit(main())
