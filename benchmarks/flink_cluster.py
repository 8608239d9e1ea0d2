"""A Flink cluster on this machine: job manager, task managers, Beam's job server, Python workers.

    python -m benchmarks.flink_cluster start [--folder .flink] [--task-managers 2] [--no-restart]
    python -m benchmarks.flink_cluster status | stop [--folder .flink]

Every part is a process of its own, with a log in FOLDER/log. The first start downloads Flink (PyPI,
230 MB) and Beam's Flink runner (Maven Central, 150 MB) into FOLDER. It needs Java 11 or 17, and mvn
once.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tarfile
import time
import urllib.error
import urllib.request
from pathlib import Path

FLINK = "1.19.3"
REST = "localhost:8081"
POOL = "localhost:50000"
JOB_SERVER = "localhost:8099"
_POM = Path(__file__).with_name("flink_job_server.xml")
_START_SECONDS = 60
# What Flink's own scripts pass to Java 17.
_OPEN = [
    "java.lang",
    "java.net",
    "java.io",
    "java.nio",
    "java.util",
    "java.util.concurrent",
    "java.time",
]
_OPEN += [
    "sun.nio.ch",
    "java.lang.reflect",
    "java.text",
    "java.util.concurrent.atomic",
    "java.util.concurrent.locks",
]
_MAIN = {
    "JM": "org.apache.flink.runtime.entrypoint.StandaloneSessionClusterEntrypoint",
    "TM": "org.apache.flink.runtime.taskexecutor.TaskManagerRunner",
}
_CONFIG = """\
jobmanager.rpc.address: localhost
jobmanager.bind-host: localhost
jobmanager.memory.process.size: 1000m
taskmanager.host: localhost
taskmanager.bind-host: localhost
# Images wait in a task manager's heap for the Python worker of the next step: 250 MB were too little for 400.
taskmanager.memory.process.size: 2400m
taskmanager.memory.managed.fraction: 0.15
taskmanager.memory.network.min: 192m
taskmanager.memory.network.max: 192m
# Enough for a job of two to go on with one task manager.
taskmanager.numberOfTaskSlots: 2
# Each of Beam's many small shuffles takes so many buffers of 32 KiB; the usual 512 are for large ones.
taskmanager.network.sort-shuffle.min-buffers: 32
rest.address: localhost
rest.port: 8081
# Gigabytes, which a task manager that has a name of its own leaves behind.
io.tmp.dirs: {temporary}
# With Beam's classes on the task managers' own class path a job's stages share their Python workers;
# loaded with the job, they would be gone between two stages, and Python starts take many seconds.
classloader.resolve-order: parent-first
# A lost task manager is noticed after 10 seconds, not 50.
heartbeat.interval: 2000
heartbeat.timeout: 10000
restart-strategy.type: {restart}
restart-strategy.fixed-delay.attempts: 3
restart-strategy.fixed-delay.delay: 25 s
"""
_LOGGING = """\
rootLogger.level = INFO
rootLogger.appenderRef.console.ref = Console
appender.console.name = Console
appender.console.type = CONSOLE
appender.console.layout.type = PatternLayout
appender.console.layout.pattern = %d{HH:mm:ss,SSS} %-5p %c{1} - %m%n
"""


class ClusterError(RuntimeError):
    """The cluster cannot be started; the message says how to mend it."""


class Cluster:
    """The processes of one cluster, by the files in `folder`.

    Args:
      folder: holds the downloads, the configuration, the logs and the process ids.
    """

    def __init__(self, folder: str | Path = ".flink") -> None:
        self.folder = Path(folder).resolve()
        self._job_server = self.folder / "job-server.jar"
        self._flink = self.folder / f"flink-{FLINK}"

    def start(self, task_managers: int = 2, restart: bool = True) -> None:
        """Downloads what is missing and starts all parts; returns when the cluster can take a job.

        Raises:
          ClusterError: Java, mvn or a download is missing, a port is taken, or a part does not
            start.
        """
        if alive := [name for name, pid in self.processes().items() if _alive(pid)]:
            raise ClusterError(f"{', '.join(alive)} of {self.folder} are running: stop them first.")
        if _answer("/overview"):
            raise ClusterError(f"Another Flink cluster answers at {REST}: stop it first.")
        self._prepare()
        temporary = self.folder / "tmp"
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir()
        config = _CONFIG.format(restart="fixed-delay" if restart else "none", temporary=temporary)
        for name, text in (("config.yaml", config), ("log4j.properties", _LOGGING)):
            (self.folder / "conf").mkdir(exist_ok=True)
            (self.folder / "conf" / name).write_text(text)
        self._java("job-manager", "JM")
        for number in range(1, task_managers + 1):
            self.start_task_manager(number)
        beam = [
            "--flink-master",
            REST,
            "--job-port",
            JOB_SERVER.split(":")[1],
            "--artifact-port",
            "8098",
        ]
        staged = ["--expansion-port", "0", "--artifacts-dir", str(self.folder / "staged")]
        self._spawn(
            "job-server", ["java", "-Xmx512m", "-jar", str(self._job_server), *beam, *staged]
        )
        # The pool starts its workers as `python`, with this process's packages.
        path = os.pathsep.join([os.path.dirname(sys.executable), os.environ["PATH"]])
        environment = {**os.environ, "PATH": path, "TF_CPP_MIN_LOG_LEVEL": "2"}
        pool = [
            "-m",
            "apache_beam.runners.worker.worker_pool_main",
            f"--service_port={POOL.split(':')[1]}",
        ]
        self._spawn("python-workers", [sys.executable, *pool], environment)
        self.wait(task_managers)

    def start_task_manager(self, number: int) -> None:
        """Starts task manager 1, 2, ...; one that was killed can be started again."""
        self._java(f"task-manager-{number}", "TM")

    def wait(self, task_managers: int) -> None:
        """Waits until so many task managers have registered.

        Raises:
          ClusterError: not within a minute.
        """
        end = time.monotonic() + _START_SECONDS
        while time.monotonic() < end:
            for name, pid in self.processes().items():
                if not _alive(pid):
                    raise ClusterError(f"{name} has stopped: see {self.folder}/log/{name}.log.")
            registered = (_answer("/overview") or {}).get("taskmanagers", 0)
            if registered >= task_managers and _listens(JOB_SERVER) and _listens(POOL):
                return
            time.sleep(0.5)
        raise ClusterError(
            f"The cluster has not started in {_START_SECONDS} s: see {self.folder}/log."
        )

    def processes(self) -> dict[str, int]:
        """Process ids by name; a process that was killed is still listed."""
        files = sorted((self.folder / "pid").glob("*"))
        return {file.name: int(file.read_text()) for file in files}

    def kill_task_manager(self) -> int:
        """Ends a task manager that works, without a warning (SIGKILL), as a machine that fails
        would.
        """
        listed = (_answer("/taskmanagers") or {}).get("taskmanagers", [])
        name = next(one["id"] for one in listed if one["freeSlots"] < one["slotsNumber"])
        pid = self.processes()[name]
        os.kill(pid, signal.SIGKILL)
        (self.folder / "pid" / name).unlink()
        return pid

    def kill_worker(self) -> int:
        """The same for the busiest of the Python workers that the pool has started."""
        pool = self.processes()["python-workers"]
        lists = [file.read_text().split() for file in Path(f"/proc/{pool}/task").glob("*/children")]
        before = {int(pid): _ticks(int(pid)) for pids in lists for pid in pids}
        time.sleep(0.3)
        # Those of the job before wait for another one.
        worker = max(before, key=lambda pid: _ticks(pid) - before[pid])
        os.kill(worker, signal.SIGKILL)
        return worker

    def stop(self) -> None:
        """Ends all processes of the cluster."""
        for name, pid in self.processes().items():
            if _alive(pid):
                # Its own process group: the pool takes its workers with it.
                os.killpg(pid, signal.SIGTERM)
            (self.folder / "pid" / name).unlink()
        shutil.rmtree(self.folder / "tmp", ignore_errors=True)

    def _prepare(self) -> None:
        if not shutil.which("java"):
            raise ClusterError(
                "java is not on the PATH: install Java 17 (apt-get install"
                " openjdk-17-jre-headless)."
            )
        for name in ("log", "pid"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        if not self._flink.is_dir():
            self._download_flink()
        if not self._job_server.is_file():
            self._build_job_server()

    def _download_flink(self) -> None:
        print(f"Downloading Flink {FLINK} (230 MB) ...", flush=True)
        temp = self.folder / "download"
        wanted = f"apache-flink-libraries=={FLINK}"
        self._run(
            [sys.executable, "-m", "pip", "download", "--no-deps", "-q", "-d", str(temp), wanted]
        )
        [archive] = temp.glob("*.tar.gz")
        with tarfile.open(archive) as tar:
            tar.extractall(temp, filter="data")
        [unpacked] = temp.glob("*/deps")
        unpacked.rename(self._flink)
        shutil.rmtree(temp)

    def _build_job_server(self) -> None:
        if not shutil.which("mvn"):
            raise ClusterError("mvn is not on the PATH: install Maven (apt-get install maven).")
        print("Downloading Beam's Flink runner (150 MB) ...", flush=True)
        build = self.folder / "build"
        self._run(["mvn", "-B", "-q", "-f", str(_POM), f"-Dfolder={build}", "package"])
        (build / "job-server.jar").rename(self._job_server)
        shutil.rmtree(build)

    def _run(self, command: list[str]) -> None:
        log = self.folder / "log" / "download.log"
        with open(log, "w") as file:
            if subprocess.call(command, stdout=file, stderr=subprocess.STDOUT):
                raise ClusterError(f"`{' '.join(command[:4])} ...` failed: see {log}.")

    def _java(self, name: str, kind: str) -> None:
        """Starts a JVM as Flink's scripts do, which have Flink compute the sizes of its memory."""
        conf = ["--configDir", str(self.folder / "conf")]
        tool = f"{self._flink}/bin/bash-java-utils.jar:{self._flink}/lib/flink-dist-{FLINK}.jar"
        utility = [
            "org.apache.flink.runtime.util.bash.BashJavaUtils",
            f"GET_{kind}_RESOURCE_PARAMS",
        ]
        output = subprocess.check_output(["java", "-cp", tool, *utility, *conf], text=True)
        results = [
            line.partition("RESULT:")[2] for line in output.splitlines() if "EXEC_RESULT:" in line
        ]
        jvm, dynamic = (result.split() for result in results)
        opens = [f"--add-opens=java.base/{package}=ALL-UNNAMED" for package in _OPEN]
        classes = f"{self._flink}/lib/*" + (f":{self._job_server}" if kind == "TM" else "")
        logging = f"-Dlog4j.configurationFile={self.folder}/conf/log4j.properties"
        named = ["-D", f"taskmanager.resource-id={name}"] if kind == "TM" else []
        command = [
            "java",
            *jvm,
            *opens,
            logging,
            "-cp",
            classes,
            _MAIN[kind],
            *conf,
            *dynamic,
            *named,
        ]
        self._spawn(name, command)

    def _spawn(
        self, name: str, command: list[str], environment: dict[str, str] | None = None
    ) -> None:
        with open(self.folder / "log" / f"{name}.log", "a") as log:
            process = subprocess.Popen(
                command,
                stdout=log,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                env=environment,
                start_new_session=True,
            )
        (self.folder / "pid" / name).write_text(str(process.pid))


def _alive(pid: int) -> bool:
    with contextlib.suppress(ChildProcessError):
        # A child of this process that has ended stays in the table until it is asked for.
        os.waitpid(pid, os.WNOHANG)
    return os.path.exists(f"/proc/{pid}")


def _ticks(pid: int) -> int:
    """Processor time that a process has used, in clock ticks."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return int(fields[11]) + int(fields[12])


def _listens(address: str) -> bool:
    host, port = address.split(":")
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex((host, int(port))) == 0


def _answer(path: str) -> dict | None:
    """What the job manager's REST interface answers; None when there is none (yet)."""
    try:
        with urllib.request.urlopen(f"http://{REST}{path}", timeout=5) as response:
            return json.load(response)
    except (urllib.error.URLError, ConnectionError, TimeoutError):
        return None


def describe(cluster: Cluster) -> str:
    """What runs, and how the pipeline is sent to it."""
    lines = [
        f"{name:<16} process {pid:<8} {'runs' if _alive(pid) else 'has ended'}"
        for name, pid in cluster.processes().items()
    ]
    overview = _answer("/overview")
    if not overview:
        return "\n".join(
            [*lines, f"No cluster answers at {REST}: python -m benchmarks.flink_cluster start"]
        )
    jobs = f"{overview['jobs-running']} jobs run, {overview['jobs-finished']} finished"
    return "\n".join(
        [
            *lines,
            (
                f"Flink {overview['flink-version']} at http://{REST}: {overview['taskmanagers']}"
                f" task managers, {overview['slots-total']} slots, {jobs}"
            ),
            f"Use it:  python -m pipeline.local_runner --preset=digits {' '.join(settings())}",
            (
                "Stop it: python -m benchmarks.flink_cluster stop --folder"
                f" {os.path.relpath(cluster.folder)}"
            ),
        ]
    )


def settings() -> list[str]:
    """Arguments of the pipeline that send its Beam jobs to the cluster."""
    values = {
        "runner": "flink",
        "master": REST,
        "workers": 2,
        "environment": f"external:{POOL}",
        "job_server": JOB_SERVER,
    }
    return [f"--set beam.{name}={value}" for name, value in values.items()]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("action", choices=["start", "status", "stop"])
    parser.add_argument(
        "--folder", default=".flink", help="downloads, configuration, logs, process ids"
    )
    parser.add_argument("--task-managers", type=int, default=2)
    parser.add_argument(
        "--no-restart", action="store_true", help="a job fails with its first lost worker"
    )
    options = parser.parse_args()
    cluster = Cluster(options.folder)
    try:
        if options.action == "start":
            cluster.start(options.task_managers, not options.no_restart)
        elif options.action == "stop":
            cluster.stop()
            print("Stopped.")
            return 0
    except ClusterError as error:
        print(error, file=sys.stderr)
        return 1
    print(describe(cluster))
    return 0


if __name__ == "__main__":
    sys.exit(main())
