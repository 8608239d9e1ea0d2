"""Runs the pipeline on Airflow 2: `DAG` has one task a node of the graph, on the configured
schedule.

The file that RESNET_TFX_CONFIG names (as `python -m pipeline.local_runner --print-config` prints
it) is the configuration, otherwise the preset `digits` is, in AIRFLOW_HOME. For several pipelines,
a file of the DAG folder each:

    from pipeline.airflow_runner import dag

    DAG = dag("/srv/flowers.json")

Neither TFX nor TensorFlow is imported here: a task is a process of the interpreter
RESNET_TFX_PYTHON, by default the one of `.venv` beside the project, otherwise Airflow's own.
"""

from __future__ import annotations

import dataclasses
import datetime
import fcntl
import json
import os
import sys
import time
import uuid
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

import airflow
from airflow.configuration import get_airflow_home
from airflow.exceptions import AirflowException
from airflow.models.baseoperator import BaseOperator

import pipeline
from components import files
from pipeline.config import graph, paths, presets, validity
from pipeline.config.options import from_dict, read
from pipeline.config.settings import Config, ConfigError, to_dict
from pipeline.local.child_process import Child, Failed, die_with_parent

PLAN = "Plan"
# Not this file's folder: it may be a copy in the DAG folder.
_PROJECT = os.path.dirname(os.path.dirname(os.path.abspath(pipeline.__file__)))
# A task that Airflow gave up while its scheduler was away takes some seconds to end.
_PATIENCE = 60.0


def dag(path: str) -> airflow.DAG:
    """The DAG of a configuration file; its name is the pipeline's.

    Raises:
      ConfigError: the configuration is wrong, or has a path that depends on the working folder.
    """
    config = read(path)
    for name, places in paths.settings(config).items():
        for place in places:
            if "://" not in place and not os.path.isabs(os.path.expanduser(place)):
                raise ConfigError(
                    f"{name}={place} in {path}: must be absolute, because Airflow's processes have "
                    "working folders of their own."
                )
    return _dag(config)


def _dag(config: Config) -> airflow.DAG:
    validity.check(config)
    schedule = config.schedule
    start = datetime.datetime.fromisoformat(schedule.start).replace(tzinfo=datetime.UTC)
    limit = datetime.timedelta(hours=schedule.timeout_hours) if schedule.timeout_hours else None
    made = airflow.DAG(
        dag_id=config.name,
        description=f"ResNet-TFX, preset {config.preset}: from new images to a pushed model",
        schedule=schedule.cron,
        start_date=start,
        catchup=False,
        # The pipeline's lock lets one node of one run work at a time.
        max_active_runs=1,
        max_active_tasks=1,
        tags=["resnet-tfx", config.preset],
        default_args={
            "owner": "resnet-tfx",
            "retries": schedule.retries,
            "retry_delay": datetime.timedelta(minutes=schedule.retry_minutes),
            "execution_timeout": limit,
        },
    )
    settings = to_dict(config)
    tasks: dict[str, Step] = {PLAN: Plan(settings=settings, task_id=PLAN, dag=made)}
    for name, upstream in graph.nodes(config).items():
        tasks[name] = Node(settings=settings, task_id=name, dag=made)
        tasks[name].set_upstream([tasks[other] for other in upstream or (PLAN,)])
    return made


class Step(BaseOperator):
    """A task that is a process of the product's interpreter; `settings` are those of `to_dict`."""

    def __init__(self, *, settings: dict[str, Any], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.settings = settings
        self._child: Child | None = None

    def on_kill(self) -> None:
        """Ends the process; a training goes on from its checkpoint at the next try."""
        if self._child:
            self._child.stop()

    def work(self, *arguments: str) -> None:
        """Runs `python -m pipeline.node ...`; raises AirflowException with its reason."""
        # Airflow's own supervisor of this task is its parent: without it nobody hears how the task
        # ends.
        die_with_parent()
        _wait_for_lock(paths.Paths(from_dict(self.settings)).lock, _PATIENCE)
        self._child = Child([_python(), "-m", "pipeline.node", *arguments])
        try:
            self._child.run(self.log.info)
        except Failed as error:
            raise AirflowException(str(error)) from None

    def folder(self, context: Mapping[str, Any]) -> str:
        """Where the run's configuration and graph are, for every task and retry."""
        home = paths.Paths(from_dict(self.settings)).home
        return os.path.join(home, "airflow", quote(context["run_id"], safe=""))


class Plan(Step):
    """Looks at the source and compiles the run."""

    ui_color = "#dde6f0"

    def execute(self, context: Any) -> None:
        """See the base class."""
        folder = self.folder(context)
        os.makedirs(folder, exist_ok=True)
        path = os.path.join(folder, "config.json")
        files.write(path, json.dumps(self.settings, indent=2))
        # Never used before: under an old name ML Metadata would answer what it did then, and a new
        # database of Airflow gives old names again. The nodes read it in the graph.
        name = f"{context['run_id']}.{uuid.uuid4().hex[:8]}"
        self.work("compile", "--config", path, "--ir", _ir(folder), "--run-id", name)


class Node(Step):
    """Runs one node of the graph; the task has its name."""

    ui_color = "#e8f0dd"

    def execute(self, context: Any) -> None:
        """See the base class."""
        self.work("run", "--ir", _ir(self.folder(context)), "--node", self.task_id)


def _ir(folder: str) -> str:
    return os.path.join(folder, "graph.pb")


def _python() -> str:
    beside = os.path.join(_PROJECT, ".venv", "bin", "python")
    return os.environ.get("RESNET_TFX_PYTHON") or (
        beside if os.path.exists(beside) else sys.executable
    )


def _wait_for_lock(path: str, patience: float) -> None:
    """Waits until no other process works on the pipeline, but no longer than `patience` seconds."""
    os.makedirs(os.path.dirname(path), exist_ok=True)
    end = time.monotonic() + patience
    with open(path, "w") as file:
        while time.monotonic() < end:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                time.sleep(1)


def _default() -> airflow.DAG:
    if path := os.environ.get("RESNET_TFX_CONFIG"):
        return dag(path)
    digits = presets.get("digits")
    return _dag(dataclasses.replace(digits, root=os.path.join(get_airflow_home(), digits.root)))


DAG = _default()
