"""Deployment to a Kubeflow API that checks every body against the SDK's own models."""

import sys

import pytest
import yaml

from pipeline import kubeflow_runner
from pipeline.config import presets
from pipeline.config.options import assign
from pipeline.kubeflow import upload
from tests.helpers.fake_kubeflow import FakeKubeflow

CREATED = [
    "POST experiments",
    "POST pipelines",
    "POST pipelines/upload_version",
    "POST recurringruns",
]
REPLACED = ["POST recurringruns", "DELETE recurringruns"]


def spec(name="resnet"):
    return yaml.safe_dump({"schemaVersion": "2.1.0", "pipelineInfo": {"name": name}})


@pytest.fixture
def kubeflow():
    with FakeKubeflow() as fake:
        yield fake


def deploy(kubeflow, *settings, text=None):
    config = assign(
        presets.get("imagenet"),
        [f"kubeflow.host={kubeflow.url}", "name=resnet", "artifacts=gs://bucket/root", *settings],
    )
    return upload.deploy(upload.connect(config), config, text or spec())


def test_first_deployment_creates_the_recurring_run(kubeflow):
    said = deploy(kubeflow, "schedule.cron=30 4 * * 1")
    assert kubeflow.changes() == CREATED
    assert [line.split(" ")[:2] for line in said] == [
        ["experiment", "resnet-tfx"],
        ["pipeline", "resnet"],
        ["version", kubeflow.stored["pipeline_versions"][0]["display_name"]],
        ["recurring", "run"],
    ]
    [run] = kubeflow.stored["recurringRuns"]
    [version] = kubeflow.stored["pipeline_versions"]
    assert run["trigger"] == {"cron_schedule": {"cron": "0 30 4 * * 1"}}
    assert run["mode"] == "ENABLE"
    assert run["no_catchup"] is True
    assert run["max_concurrency"] == 1
    assert run["runtime_config"]["pipeline_root"] == "gs://bucket/root"
    assert run["experiment_id"] == kubeflow.stored["experiments"][0]["experiment_id"]
    assert run["pipeline_version_reference"] == {
        key: version[key] for key in ("pipeline_id", "pipeline_version_id")
    }
    assert version["pipeline_spec"] == yaml.safe_load(spec())


def test_the_same_again_changes_nothing(kubeflow):
    deploy(kubeflow)
    kubeflow.changes()
    assert deploy(kubeflow) == []
    assert kubeflow.changes() == []


def test_another_schedule_replaces_the_recurring_run_of_the_same_version(kubeflow):
    deploy(kubeflow)
    kubeflow.changes()
    deploy(kubeflow, "schedule.cron=0 5 * * *")
    assert kubeflow.changes() == REPLACED
    [run] = kubeflow.stored["recurringRuns"]
    assert run["trigger"]["cron_schedule"]["cron"] == "0 0 5 * * *"


def test_another_specification_is_uploaded_as_a_new_version(kubeflow):
    deploy(kubeflow)
    kubeflow.changes()
    deploy(kubeflow, text=spec("other"))
    assert kubeflow.changes() == ["POST pipelines/upload_version", *REPLACED]
    [run] = kubeflow.stored["recurringRuns"]
    newest = kubeflow.stored["pipeline_versions"][-1]
    assert run["pipeline_version_reference"]["pipeline_version_id"] == newest["pipeline_version_id"]


@pytest.mark.parametrize("cut", ["POST recurringruns", "DELETE recurringruns"])
def test_a_deployment_that_was_cut_off_is_finished_by_the_next(kubeflow, cut):
    import kfp_server_api

    deploy(kubeflow)
    kubeflow.changes()
    kubeflow.fails.add(cut)
    with pytest.raises(kfp_server_api.ApiException):
        deploy(kubeflow, text=spec("other"))
    assert kubeflow.stored["recurringRuns"], "At no time may there be no schedule."
    kubeflow.fails.clear()
    kubeflow.changes()
    deploy(kubeflow, text=spec("other"))
    assert kubeflow.changes() == REPLACED[REPLACED.index(cut) :]
    assert len(kubeflow.stored["recurringRuns"]) == 1
    assert deploy(kubeflow, text=spec("other")) == []


def test_a_recurring_run_that_was_switched_off_is_switched_on(kubeflow):
    deploy(kubeflow)
    kubeflow.stored["recurringRuns"][0]["mode"] = "DISABLE"
    kubeflow.changes()
    deploy(kubeflow)
    assert kubeflow.changes() == ["POST recurringruns:enable"]


def test_recurring_runs_of_other_pipelines_stay(kubeflow):
    for name in ("one", "two", "three"):
        deploy(kubeflow, f"name={name}")
    deploy(kubeflow, "name=two", "schedule.cron=0 5 * * *")
    crons = [r["trigger"]["cron_schedule"]["cron"] for r in kubeflow.stored["recurringRuns"]]
    assert crons == ["0 0 3 * * 0", "0 0 3 * * 0", "0 0 5 * * *"]


def test_recurring_runs_of_the_pipeline_that_people_made_stay(kubeflow):
    deploy(kubeflow)
    [ours] = kubeflow.stored["recurringRuns"]
    by_hand = {**ours, "recurring_run_id": "1", "display_name": "resnet-nightly"}
    kubeflow.stored["recurringRuns"].append(by_hand)
    deploy(kubeflow, "schedule.cron=0 5 * * *")
    kept, new = kubeflow.stored["recurringRuns"]
    assert kept == by_hand
    assert new["trigger"]["cron_schedule"]["cron"] == "0 0 5 * * *"


def test_users_have_their_own(kubeflow):
    for user in ("alice", "bob"):
        assert len(deploy(kubeflow, f"kubeflow.namespace={user}")) == 4
    for kind in ("experiments", "pipelines", "recurringRuns"):
        assert [item["namespace"] for item in kubeflow.stored[kind]] == ["alice", "bob"]
    assert deploy(kubeflow, "kubeflow.namespace=alice") == []
    deploy(kubeflow, "kubeflow.namespace=alice", "schedule.cron=0 5 * * *")
    crons = {
        r["namespace"]: r["trigger"]["cron_schedule"]["cron"]
        for r in kubeflow.stored["recurringRuns"]
    }
    assert crons == {"alice": "0 0 5 * * *", "bob": "0 0 3 * * 0"}


def command(capsys, *settings):
    """Exit status of `deploy`, and the last line on standard error."""
    settings = ["kubeflow.image=i:1", "artifacts=gs://bucket/root", "data.schema=infer", *settings]
    status = kubeflow_runner.main([*(part for s in settings for part in ("--set", s)), "deploy"])
    told = capsys.readouterr().err.strip()
    assert "Traceback" not in told
    return status, told.splitlines()[-1]


def test_what_is_not_kubeflow_is_told_in_one_sentence(kubeflow, capsys):
    kubeflow.page = "<html><body>Sign in: error, status, experiments</body></html>"
    for user in ("kubeflow", "alice"):
        status, told = command(
            capsys, f"kubeflow.host={kubeflow.url}", f"kubeflow.namespace={user}"
        )
        assert status == 2
        assert f"kubeflow.host={kubeflow.url} gives no sign of Kubeflow's API" in told


@pytest.mark.parametrize("module", ["kfp", "kfp_server_api"])
def test_without_the_sdk_it_is_told_how_to_get_it(module, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, module, None)
    assert command(capsys, "kubeflow.host=http://127.0.0.1:9") == (
        2,
        "The Kubeflow SDK is not installed: make env SET=kubeflow.",
    )


def test_an_address_that_does_not_answer_is_told_in_one_sentence(capsys):
    status, told = command(capsys, "kubeflow.host=http://127.0.0.1:9")
    assert status == 1
    assert "http://127.0.0.1:9 (kubeflow.host) cannot be reached" in told
    status, told = command(capsys)
    assert status == 2
    assert "kubeflow.host is empty" in told
