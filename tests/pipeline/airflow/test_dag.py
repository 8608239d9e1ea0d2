"""The DAG as Airflow reads it: fast, of the graph's shape, with errors that a person can read."""

import json
import os
import re
import shutil
import subprocess

import pytest

from pipeline.config import graph, presets
from pipeline.config.options import assign
from pipeline.config.settings import to_dict
from tests.helpers.local_airflow import PYTHON, ROOT

pytestmark = pytest.mark.skipif(
    not os.path.exists(PYTHON), reason="needs .venv-airflow: make airflow-env"
)
# Prints what a fresh process sees of `pipeline.airflow_runner.DAG`.
LOOK = """
import json, sys, time
start = time.process_time()
from pipeline.airflow_runner import DAG
print(json.dumps({
    "seconds": time.process_time() - start,
    "heavy": sorted({"tensorflow", "tfx", "apache_beam", "keras"} & set(sys.modules)),
    "tasks": {task.task_id: sorted(task.upstream_task_ids) for task in DAG.tasks},
    "schedule": DAG.timetable.summary,
    "start": DAG.start_date.isoformat(),
    "catchup": DAG.catchup,
    "limits": [DAG.max_active_runs, DAG.max_active_tasks],
    "retries": {task.retries for task in DAG.tasks}.pop(),
    "delay": {task.retry_delay.total_seconds() for task in DAG.tasks}.pop(),
    "timeout": {task.execution_timeout.total_seconds() for task in DAG.tasks}.pop(),
}))
"""


# Prints the DAG and the errors that Airflow finds in the folder of DAGs.
FIND = """
import json
from airflow.models import DagBag
found = DagBag()
print(json.dumps({
    "dags": {name: dag.get_task("Plan").settings["root"] for name, dag in found.dags.items()},
    "errors": list(found.import_errors.values()),
}))
"""
# Plans the same run twice.
PLAN = """
from pipeline.airflow_runner import DAG
for _ in range(2):
    DAG.get_task("Plan").execute({"run_id": "scheduled__2026-02-03T04:30:00+00:00"})
"""
# Follows a run whose first task fails; at first there is no database.
FOLLOW = """
import datetime, json, subprocess, sys
from pipeline.airflow.follow import Follow
follow = Follow("resnet-digits", "file")
said = [follow.changes()]
subprocess.run([sys.executable, "-m", "airflow", "db", "migrate"], check=True, capture_output=True)
from airflow.utils.session import create_session
from pipeline.airflow_runner import DAG
DAG.sync_to_db()
day = datetime.datetime(2026, 2, 3, tzinfo=datetime.UTC)
run = DAG.create_dagrun(run_id="one", state="running", execution_date=day, data_interval=(day, day))
for state in ("running", "failed"):
    run.get_task_instance("Plan").set_state(state)
    said.append(follow.changes())
later = Follow("resnet-digits", "file")
said += [follow.changes(), later.changes() + later.changes()]
print(json.dumps(said))
"""


@pytest.fixture
def environment(tmp_path):
    return {
        **os.environ,
        "AIRFLOW_HOME": str(tmp_path / "home"),
        "AIRFLOW__CORE__DAGS_FOLDER": str(tmp_path / "dags"),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__DAGBAG_IMPORT_ERROR_TRACEBACKS": "False",
    }


def store(path, *settings, preset="digits"):
    """A configuration file; returns the configuration and the path."""
    config = assign(presets.get(preset), settings)
    path.write_text(json.dumps(to_dict(config)))
    return config, str(path)


def test_a_dag_has_the_graph_and_the_schedule_of_its_configuration(tmp_path, environment):
    config, path = store(
        tmp_path / "c.json",
        f"root={tmp_path}/runs",
        "tune.enabled=true",
        "train.warm_start=true",
        "schedule.cron=30 4 * * 1",
        "schedule.start=2026-02-03",
        "schedule.retries=4",
        "schedule.retry_minutes=1.5",
        "schedule.timeout_hours=2",
    )
    done = subprocess.run(
        [PYTHON, "-c", LOOK],
        env={**environment, "RESNET_TFX_CONFIG": path},
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout.splitlines()[-1])
    expected = {
        name: sorted(upstream or ("Plan",)) for name, upstream in graph.nodes(config).items()
    }
    assert {"Tuner", "WarmStart"} < set(expected)
    # Airflow gives a DAG file 30 seconds.
    assert seen.pop("seconds") < 5
    assert seen == {
        "heavy": [],
        "tasks": {"Plan": [], **expected},
        "schedule": "30 4 * * 1",
        "start": "2026-02-03T00:00:00+00:00",
        "catchup": False,
        "limits": [1, 1],
        "retries": 4,
        "delay": 90.0,
        "timeout": 7200.0,
    }


def test_a_wrong_configuration_is_one_readable_sentence_in_airflow(tmp_path, environment):
    os.makedirs(tmp_path / "dags")
    cases = {
        "wrong": (["train.epochs=0", f"root={tmp_path}/runs"], "train.epochs=0: must be 1 or more"),
        "relative": (["root=runs"], "root=runs in "),
        "weights": (
            ["train.init_from=w.pth", f"root={tmp_path}/runs"],
            "train.init_from=w.pth in ",
        ),
    }
    for name, (settings, _) in cases.items():
        _, path = store(tmp_path / f"{name}.json", *settings)
        text = f"from pipeline.airflow_runner import dag\n\nDAG = dag({path!r})\n"
        (tmp_path / "dags" / f"{name}.py").write_text(text)
    subprocess.run(
        [PYTHON, "-m", "airflow", "db", "migrate"], env=environment, check=True, capture_output=True
    )
    done = subprocess.run(
        [
            PYTHON,
            "-m",
            "airflow",
            "dags",
            "list-import-errors",
            "--subdir",
            str(tmp_path / "dags"),
            "--output=json",
        ],
        env=environment,
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    errors = {
        os.path.basename(e["filepath"]): e["error"]
        for e in json.loads(done.stdout.splitlines()[-1])
    }
    for name, (_, sentence) in cases.items():
        assert sentence in errors[f"{name}.py"]
        assert len(errors[f"{name}.py"].splitlines()) == 1


def find(environment, **variables):
    done = subprocess.run(
        [PYTHON, "-c", FIND],
        env={**environment, "PYTHONPATH": ROOT, **variables},
        cwd=environment["AIRFLOW__CORE__DAGS_FOLDER"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_airflow_finds_the_dag_in_the_file_itself(tmp_path, environment):
    os.makedirs(tmp_path / "dags")
    shutil.copy(os.path.join(ROOT, "pipeline", "airflow_runner.py"), tmp_path / "dags" / "ours.py")
    # Nobody's working folder: the file is read by several processes.
    runs = os.path.join(environment["AIRFLOW_HOME"], "runs")
    assert find(environment) == {"dags": {"resnet-digits": runs}, "errors": []}
    _, path = store(tmp_path / "c.json", f"root={tmp_path}/mine", "name=mine")
    assert find(environment, RESNET_TFX_CONFIG=path) == {
        "dags": {"mine": f"{tmp_path}/mine"},
        "errors": [],
    }


def test_a_run_has_a_name_in_ml_metadata_that_no_other_had(tmp_path, environment):
    """Another database of Airflow begins with the names of the first."""
    _, path = store(tmp_path / "c.json", f"root={tmp_path}/runs")
    interpreter, seen = tmp_path / "python", tmp_path / "seen"
    interpreter.write_text(f'#!/bin/sh\necho "$@" >> {seen}\n')
    interpreter.chmod(0o755)
    subprocess.run(
        [PYTHON, "-c", PLAN],
        env={**environment, "RESNET_TFX_CONFIG": path, "RESNET_TFX_PYTHON": str(interpreter)},
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    names = [line.split("--run-id ")[1] for line in seen.read_text().splitlines()]
    assert len(set(names)) == 2
    assert all(
        re.fullmatch(r"scheduled__2026-02-03T04:30:00\+00:00\.[0-9a-f]{8}", n) for n in names
    )


def test_changes_are_told_once_and_a_database_that_does_not_answer_is_asked_again(
    tmp_path, environment
):
    done = subprocess.run(
        [PYTHON, "-c", FOLLOW], env=environment, cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    before, running, failed, again, later = json.loads(done.stdout.splitlines()[-1])
    assert before == again == later == []
    assert [line.split("  ", 1)[1] for line in running] == ["one: running"]
    [line] = failed
    assert re.fullmatch(r"\d\d:\d\d:\d\d    ✗ Plan +\d+\.\d s  failed", line)
