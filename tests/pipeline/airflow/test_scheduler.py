"""Airflow's own scheduler drives the pipeline: new span, nothing new, damaged span, crash.

The first three share one Airflow and one pipeline, in the order of their life; nobody starts a run.
"""

import contextlib
import os
import re
import signal
import sqlite3
import time

import pytest

from pipeline.config import graph
from pipeline.config.settings import Config
from tests.helpers import data
from tests.helpers.local_airflow import NAME, PYTHON, Airflow

NODES = list(graph.nodes(Config()))
pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(not os.path.exists(PYTHON), reason="needs .venv-airflow: make airflow-env"),
]
slow = pytest.mark.skipif(
    not os.environ.get("RESNET_TFX_AIRFLOW_ALL"),
    reason="takes many minutes: RESNET_TFX_AIRFLOW_ALL=1",
)


def span(folder, number, damaged=0):
    """Delivers span-NUMBER at once; `damaged` of its 24 training images are no images."""

    def images(count, seed, bad=0):
        return {
            f"{i}.jpg": b"torn" if i < bad else data.jpeg(seed + i, 20, 20) for i in range(count)
        }

    seed = 10_000 * number
    train = {"ant": images(12, seed, damaged), "bee": images(12, seed + 500)}
    val = {"ant": images(4, seed + 1000), "bee": images(4, seed + 1500)}
    part = os.path.join(str(folder), f"span-{number}.part")
    data.class_folders(part, {"train": train, "val": val})
    os.rename(part, part.removesuffix(".part"))


def source(folder):
    return f"data.source={folder}/span-{{SPAN}}"


@pytest.fixture(scope="module")
def airflow(tmp_path_factory):
    folder = tmp_path_factory.mktemp("airflow")
    span(folder, 1)
    local = Airflow(folder, source(folder), quick=True)
    local.start()
    yield local
    if local.process.poll() is None:
        local.stop()


def test_a_scheduled_run_goes_from_a_new_span_to_a_pushed_model(airflow):
    run, state = airflow.finished(0)
    assert state == "success", airflow.seen()
    assert run.startswith("scheduled__")
    assert airflow.tasks(run) == dict.fromkeys(["Plan", *NODES], ("success", 1))
    assert len(airflow.versions()) == 1
    assert "1 span" in airflow.log(run, "ExampleGen") or "24 train" in airflow.log(
        run, "ExampleGen"
    )


def test_a_second_scheduled_run_with_nothing_new_does_nothing(airflow):
    # The next run plans at once when this one is over: the bad span must be there before.
    airflow.wait(
        lambda: len(airflow.runs()) > 1 and airflow.runs()[1][2] == "scheduled", 120, "second run"
    )
    second = airflow.runs()[1][0]
    airflow.wait(
        lambda: airflow.tasks(second).get("Report", ("",))[0] == "running", 900, "its last task"
    )
    span(airflow.folder, 2, damaged=6)
    run, state = airflow.finished(1)
    assert (run, state) == (second, "success")
    for node in NODES:
        assert re.search(rf"· {node} .* cached", airflow.log(run, node)), airflow.log(run, node)
    assert len(airflow.versions()) == 1


def test_a_failing_component_is_tried_again_and_then_says_why(airflow):
    run, state = airflow.finished(2)
    assert state == "failed"
    tasks = airflow.tasks(run)
    assert tasks["ExampleGen"] == ("failed", 2)
    assert {tasks[name][0] for name in ("Transform", "Trainer", "Pusher")} == {"upstream_failed"}
    for attempt in (1, 2):
        log = airflow.log(run, "ExampleGen", attempt)
        assert re.search(
            r"AirflowException: ExampleGen failed: .*6 of 24.*\(full log: /.*\.log\)", log
        ), log
    assert len(airflow.versions()) == 1
    airflow.wait(lambda: "✗ ExampleGen" in airflow.seen(), 30, "the line that tells of it")
    assert airflow.stop() == 0
    assert not airflow.processes()
    seen = airflow.seen()
    assert "Traceback" not in seen and "Warning" not in seen


@slow
@pytest.mark.timeout(3600)
def test_a_crash_neither_loses_nor_repeats_a_version(tmp_path):
    """Everything dies in the training and again at the push; then `make airflow` alone dies in a
    training.
    """
    span(tmp_path, 1)
    # No retries: a crash needs none, though it counts as a try.
    settings = ("train.epochs=100", "train.checkpoint_seconds=1", "schedule.retries=0")
    airflow = Airflow(tmp_path, source(tmp_path), *settings)
    # One run is enough until the second span.
    airflow.start()
    run = airflow.wait(lambda: airflow.runs() and airflow.runs()[0][0], 120, "first run")
    in_training(airflow, run)
    crash(airflow)
    airflow.start()
    airflow.wait(lambda: airflow.tasks(run).get("Pusher", ("",))[0] == "running", 1200, "Pusher")
    airflow.wait(airflow.versions, 300, "push", pause=0.001)
    crash(airflow)
    assert airflow.tasks(run)["Pusher"][0] == "running"
    assert not recorded(airflow), "The push was recorded too fast to crash before it."
    assert "continuing at epoch" in all_tries(airflow, run, "Trainer")
    span(tmp_path, 2)
    airflow.start()
    assert airflow.finished(0) == (run, "success")
    tries = {task: number for task, (_, number) in airflow.tasks(run).items()}
    assert tries == dict.fromkeys(["Plan", *NODES], 1) | {"Trainer": 2, "Pusher": 2}
    [version] = airflow.versions()
    second = airflow.wait(
        lambda: len(airflow.runs()) > 1 and airflow.runs()[1][0], 120, "second run"
    )
    in_training(airflow, second)
    airflow.process.kill()
    airflow.process.wait()
    end = time.monotonic() + 30
    while airflow.processes():
        assert time.monotonic() < end, "Its parts live on without it."
        time.sleep(0.1)
    airflow.start()
    assert airflow.finished(1) == (second, "success")
    assert airflow.tasks(second)["Trainer"] == ("success", 2)
    assert airflow.versions()[0] == version and len(airflow.versions()) == 2
    assert airflow.stop() == 0


def in_training(airflow, run):
    """Waits until a training has a checkpoint, and some more."""
    airflow.wait(lambda: airflow.tasks(run).get("Trainer", ("",))[0] == "running", 900, "Trainer")
    path = os.path.join(airflow.folder, "runs", NAME, "checkpoints")
    known = set(files(path))
    airflow.wait(lambda: set(files(path)) - known, 300, "a checkpoint")
    time.sleep(1)
    assert airflow.tasks(run)["Trainer"][0] == "running"


def files(folder):
    return [os.path.join(place, name) for place, _, names in os.walk(folder) for name in names]


def crash(airflow):
    """As if the machine had lost its power."""
    pids = [airflow.process.pid, *airflow.processes()]
    for number in (signal.SIGSTOP, signal.SIGKILL):  # at one moment: none sees another die
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
    airflow.process.wait()


def all_tries(airflow, run, task):
    tries = airflow.tasks(run)[task][1]
    return "".join(airflow.log(run, task, n) for n in range(1, tries + 1))


def recorded(airflow):
    """Whether ML Metadata knows of a model that was pushed: a Pusher that is COMPLETE (3)."""
    with sqlite3.connect(os.path.join(airflow.folder, "runs", NAME, "metadata.sqlite")) as store:
        pushers = "FROM Execution JOIN Type ON Type.id = type_id WHERE Type.name LIKE '%Pusher'"
        states = [state for (state,) in store.execute(f"SELECT last_known_state {pushers}")]
    assert states
    return 3 in states
