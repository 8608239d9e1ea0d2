"""What Kubeflow asks of a configuration: every refusal is one sentence that names the setting."""

import pytest

from pipeline.config import presets
from pipeline.config.options import assign
from pipeline.config.settings import ConfigError
from pipeline.kubeflow import check

GOOD = ("kubeflow.image=registry/resnet:1", "artifacts=gs://bucket/folder")


def config(*settings):
    return assign(presets.get("imagenet"), (*GOOD, "data.source=gs://bucket/images", *settings))


def test_a_configuration_of_buckets_passes_without_a_word():
    assert check.check(config()) == []


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("kubeflow.image=", "kubeflow.image is empty"),
        ("artifacts=runs/artifacts", "gs://BUCKET/FOLDER"),
        ("artifacts=", "gs://BUCKET/FOLDER"),
        ("artifacts=minio://bucket/folder", "gs://BUCKET/FOLDER"),
        ("name=ResNet_1", "small letters"),
        ("kubeflow.resources=Trainr cpu=2", "Trainr cpu=2"),
        ("kubeflow.resources=Trainer cpu=two", "cpu=two"),
        ("kubeflow.resources=Trainer disk=2", "disk=2"),
        ("kubeflow.resources=Trainer memory=64GB", "memory=64GB"),
        # Kubernetes has k and Ki.
        ("kubeflow.resources=Trainer memory=64K", "memory=64K"),
        ("kubeflow.resources=Trainer memory=64ki", "memory=64ki"),
        ("serve.directory=/srv/models", "serve.directory=/srv/models"),
        ("serve.directory=models", "serve.directory=models"),
        ("train.checkpoint_dir=/srv/checkpoints", "train.checkpoint_dir=/srv/checkpoints"),
        ("kubeflow.resources=* cpu=1,* cpu=2", "twice"),
    ],
)
def test_what_cannot_run_is_refused_in_one_sentence(setting, words):
    with pytest.raises(ConfigError) as error:
        check.check(config(setting))
    assert words in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("ours", "kubeflows"),
    [
        ("0 3 * * 0", "0 0 3 * * 0"),
        ("*/15 0-6/2 1,15 JAN-MAR MON-FRI", "0 */15 0-6/2 1,15 JAN-MAR MON-FRI"),
    ],
)
def test_cron_gets_seconds_in_front(ours, kubeflows):
    assert check.cron(config(f"schedule.cron={ours}")) == kubeflows


def test_a_cluster_for_beam_must_not_need_the_steps_containers():
    flink = ("beam.runner=flink", "beam.master=flink:8081")
    with pytest.raises(ConfigError, match="HOST:PORT"):
        check.check(config(*flink, "beam.environment=external:pool:50000"))
    with pytest.raises(ConfigError, match="loopback"):
        check.check(config(*flink, "beam.job_server=jobs:8099"))
    good = ("beam.job_server=jobs:8099", "beam.environment=external:pool:50000")
    assert check.check(config(*flink, *good)) == []


def test_a_node_has_its_own_resources_and_the_others_those_of_the_star():
    found = check.resources(config("kubeflow.resources=Trainer cpu=16 memory=64G gpu=4,* cpu=500m"))
    assert found["Trainer"] == {"cpu": "16", "memory": "64G", "gpu": "4"}
    assert found["Evaluator"] == found["ExampleGen"] == {"cpu": "500m"}


def test_folders_of_this_machine_are_warned_of(tmp_path):
    for settings, words in (
        ([f"data.source={tmp_path}"], f"data.source: {tmp_path} is a folder"),
        (["data.source=not/there"], "data.source: not/there is a folder"),
        ([f"train.init_from={tmp_path}"], f"train.init_from: {tmp_path} is a folder"),
        ([f"model.ensemble={tmp_path}"], f"model.ensemble: {tmp_path} is a folder"),
    ):
        [sentence] = check.check(config(*settings))
        assert sentence.startswith(words)
    # The schema's text goes into the artifacts when the pipeline is compiled.
    assert check.check(config(f"data.schema={tmp_path}/schema.pbtxt")) == []
