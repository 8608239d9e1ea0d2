"""Deployment to a Kubeflow API that checks every body against the SDK's own models."""

import pytest
import yaml
from fake_kubeflow import FakeKubeflow

from pipeline import kubeflow_deploy, kubeflow_runner, presets
from pipeline.config import assign

CREATED = ["POST experiments", "POST pipelines", "POST pipelines/upload_version", "POST recurringruns"]
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
    return kubeflow_deploy.deploy(kubeflow_deploy.connect(config), config, text or spec())


def test_first_deployment_creates_the_recurring_run(kubeflow):
    said = deploy(kubeflow, "schedule.cron=30 4 * * 1")
    assert kubeflow.changes() == CREATED
    assert len(said) == 3
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


def test_an_address_that_does_not_answer_is_told_in_one_sentence(capsys):
    settings = ["kubeflow.host=http://127.0.0.1:9", "kubeflow.image=i:1", "artifacts=gs://bucket/root"]
    sets = [part for s in settings for part in ("--set", s)]
    assert kubeflow_runner.main([*sets, "deploy"]) == 1
    told = capsys.readouterr().err.strip().splitlines()
    assert "http://127.0.0.1:9 (kubeflow.host) cannot be reached" in told[-1]
    assert "Traceback" not in "".join(told)
    assert kubeflow_runner.main(["--set", "kubeflow.image=i:1", *sets[4:], "deploy"]) == 2
    assert "kubeflow.host is empty" in capsys.readouterr().err
