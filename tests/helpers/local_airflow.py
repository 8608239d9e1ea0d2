"""What tests on a real Airflow share: starting it, and reading its database and logs."""

import os
import signal
import sqlite3
import subprocess
import time

from tests.helpers import warm

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
PYTHON = os.path.join(ROOT, ".venv-airflow", "bin", "python")
NAME = "spans"
# Small images, a small net, one epoch; every model may be pushed.
QUICK = [
    f"name={NAME}",
    "data.kind=folder",
    "data.classes=2",
    "transform.size=16",
    "transform.scale_min=16",
    "transform.scale_max=20",
    "transform.test_shorter_side=16",
    "train.epochs=1",
    "train.warmup_epochs=0",
    "train.batch_size=8",
    "evaluate.protocols=center",
    "evaluate.max_top1_error=1",
    "evaluate.max_top5_error=1",
    "evaluate.max_top1_increase=0.99",
    "data.max_label_drift=1",
    "data.max_size_drift=1",
    "data.max_skew=1",
    "data.max_bad_images=0",
    "schedule.cron=* * * * *",
    "schedule.retries=1",
    "schedule.retry_minutes=0.02",
]


class Airflow:
    """`make airflow` in a folder.

    Args:
      folder: for everything that it writes.
      settings: `section.field=value`, added to QUICK.
      port: of the web page; 0 starts none.
      quick: its tasks run `pipeline.node` as `tests.helpers.warm` does.
    """

    def __init__(self, folder, *settings, port=0, quick=False):
        self.folder = str(folder)
        self._environment = dict(os.environ)
        if quick:
            self._environment["RESNET_TFX_PYTHON"] = warm.executable(self.folder)
        self.port = port
        self.serving = os.path.join(self.folder, "runs", NAME, "serving", "resnet")
        self.database = os.path.join(self.folder, "home", "airflow.db")
        self._settings = [*QUICK, f"root={self.folder}/runs", *settings]

    def command(self):
        """Program and arguments."""
        sets = [part for setting in self._settings for part in ("--set", setting)]
        home, port = os.path.join(self.folder, "home"), str(self.port)
        return [
            PYTHON,
            "-m",
            "pipeline.airflow.local_scheduler",
            "--home",
            home,
            "--port",
            port,
            *sets,
        ]

    def start(self):
        """Starts it; returns the process."""
        self.output = open(os.path.join(self.folder, "output"), "a")  # noqa: SIM115
        self.process = subprocess.Popen(
            self.command(), cwd=self.folder, env=self._environment,
            stdout=self.output, stderr=self.output,
        )  # fmt: skip
        return self.process

    def stop(self):
        """Ctrl-C; returns the exit status."""
        self.process.send_signal(signal.SIGINT)
        status = self.process.wait(120)
        self.output.close()
        return status

    def seen(self):
        """What the person saw."""
        with open(os.path.join(self.folder, "output")) as file:
            return file.read()

    def query(self, statement, *values):
        """Rows of Airflow's own database."""
        if not os.path.exists(self.database):
            return []
        with sqlite3.connect(f"file:{self.database}?mode=ro", uri=True, timeout=30) as connection:
            try:
                return connection.execute(statement, values).fetchall()
            except sqlite3.OperationalError:  # its tables are still made
                return []

    def runs(self):
        """(run id, state, type), oldest first."""
        return self.query(
            "SELECT run_id, state, run_type FROM dag_run WHERE dag_id = ? ORDER BY id", NAME
        )

    def tasks(self, run):
        """Task name -> (state, tries)."""
        rows = self.query(
            "SELECT task_id, state, try_number FROM task_instance WHERE run_id = ?", run
        )
        return {task: (state, tries) for task, state, tries in rows}

    def wait(self, condition, seconds, what, pause=0.5):
        """Until `condition()` holds; returns its value."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if found := condition():
                return found
            assert self.process.poll() is None, self.seen()
            time.sleep(pause)
        raise AssertionError(f"Not within {seconds} s: {what}.\n{self.seen()}")

    def finished(self, number, seconds=900):
        """(run id, state) of the run of this number, from 0, when it has ended."""

        def ended():
            runs = self.runs()
            return (
                len(runs) > number and runs[number][1] in ("success", "failed") and runs[number][:2]
            )

        return self.wait(ended, seconds, f"end of run {number}")

    def log(self, run, task, attempt=1):
        """The log of a try of a task, as Airflow keeps it."""
        place = f"dag_id={NAME}/run_id={run}/task_id={task}/attempt={attempt}.log"
        with open(os.path.join(self.folder, "home", "logs", place)) as file:
            return file.read()

    def versions(self):
        """Pushed versions, oldest first."""
        names = os.listdir(self.serving) if os.path.isdir(self.serving) else []
        return sorted(name for name in names if name.isdigit())

    def processes(self):
        """Processes of this Airflow, with all that its tasks have started."""
        mark = f"AIRFLOW_HOME={self.folder}/home".encode()
        pids, sessions = {}, set()
        for pid in filter(str.isdigit, os.listdir("/proc")):
            try:
                with open(f"/proc/{pid}/environ", "rb") as file:
                    ours = mark in file.read().split(b"\0")
                pids[int(pid)] = os.getsid(int(pid))
            except OSError:  # it has ended
                continue
            if ours:
                sessions.add(pids[int(pid)])
        # Airflow writes another title over the environment of some.
        return [pid for pid, session in pids.items() if session in sessions]
