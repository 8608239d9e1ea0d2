"""Beam options: built ones are read back by Beam itself; wrong ones are refused early."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import typing

import pytest
from apache_beam.options import pipeline_options as options
from apache_beam.options.pipeline_options_validator import PipelineOptionsValidator
from apache_beam.transforms import environments

from pipeline.config import beam_arguments, presets, validity
from pipeline.config.options import assign
from pipeline.config.settings import Beam, Config, ConfigError


def config(*settings: str) -> Config:
    return assign(presets.get("digits"), [f"beam.{setting}" for setting in settings])


FLINK = ("runner=flink", "master=localhost:8081", "job_server=localhost:8099", "workers=2")
SPARK = ("runner=spark", "master=local[2]", "job_server=localhost:8099")
DATAFLOW = (
    "runner=dataflow", "project=my-project", "region=europe-west4", "temp_location=gs://bucket/tmp",
    "image=europe-docker.pkg.dev/my-project/resnet/resnet-tfx", "workers=8",
)  # fmt: skip


def parsed(*settings: str) -> options.PipelineOptions:
    checked = config(*settings)
    return options.PipelineOptions(beam_arguments.arguments(checked.beam))


@pytest.mark.parametrize("settings", [(), ("workers=2",), FLINK, SPARK, DATAFLOW])
def test_beam_knows_every_argument_and_finds_no_fault(settings):
    args = beam_arguments.arguments(config(*settings).beam)
    made = options.PipelineOptions(args)
    known = made.get_all_options(retain_unknown_options=False)
    # Two belong to Flink's Java side, which the job server lists when a job is handed to it.
    java = {"number_of_execution_retries", "execution_retry_delay"}
    for arg in args:
        name = arg.partition("=")[0].removeprefix("--")
        assert name in known or name in java or name in ("experiments",), arg
    if "runner=dataflow" in settings:
        return  # its check asks Google Cloud for credentials and the bucket
    # Beam's own check asks a runner object for its name alone.
    runner = type(made.view_as(options.StandardOptions).runner or "", (), {})()
    assert PipelineOptionsValidator(made, runner).validate() == []


def test_direct_arguments_stay_what_they_were():
    assert beam_arguments.arguments(config().beam) == [
        "--runner=FnApiRunner",
        "--sdk_container_image=local",
    ]
    direct = parsed("workers=3").view_as(options.DirectOptions)
    assert (direct.direct_running_mode, direct.direct_num_workers) == ("multi_processing", 3)


def test_flink_gets_the_master_the_parallelism_and_the_job_server(tmp_path):
    made = parsed(
        *FLINK,
        "environment=external:localhost:50000",
        "flink_version=1.19",
        "args=--max_parallelism=9",
    )
    flink = made.view_as(options.FlinkRunnerOptions)
    assert (flink.flink_master, flink.flink_version) == ("localhost:8081", "1.19")
    assert (flink.parallelism, flink.max_parallelism) == (2, 9)
    assert made.view_as(options.PortableOptions).job_endpoint == "localhost:8099"
    jar = tmp_path / "server.jar"
    jar.write_bytes(b"")
    assert parsed(*FLINK, f"job_server={jar}").view_as(
        options.FlinkRunnerOptions
    ).flink_job_server_jar == str(jar)


@pytest.mark.parametrize(
    ("environment", "kind", "has"),
    [
        ("external:pool:50000", environments.ExternalEnvironment, {"url": "pool:50000"}),
        ("process:/opt/boot", environments.ProcessEnvironment, {"command": "/opt/boot"}),
        ("docker:me/it:1", environments.DockerEnvironment, {"container_image": "me/it:1"}),
        ("loopback", environments.PythonLoopbackEnvironment, {}),
    ],
)
def test_the_environment_is_the_one_that_beam_starts_workers_in(environment, kind, has):
    portable = parsed(*FLINK, f"environment={environment}").view_as(options.PortableOptions)
    made = environments.Environment.from_options(portable)
    assert type(made) is kind
    assert {name: getattr(made, name) for name in has} == has


def test_flink_versions_are_those_of_the_installed_beam():
    versions = typing.get_args(typing.get_type_hints(Beam)["flink_version"])
    assert list(versions) == options.FlinkRunnerOptions.PUBLISHED_FLINK_VERSIONS


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        (("runner=dask",), "must be one of direct, flink, spark, dataflow"),
        (("workers=0",), "beam.workers=0: must be a whole number, at least 1"),
        (("master=localhost:8081",), "beam.runner=direct does not use it"),
        (("args=--runner=FlinkRunner",), "beam.runner=RUNNER"),
        (("runner=flink",), "beam.master is empty"),
        (("runner=flink", "master=localhost"), "must be Flink's HOST:PORT"),
        (("runner=spark", "master=localhost:7077"), "must be a Spark master"),
        ((*SPARK, "workers=2"), "local[2]"),
        ((*FLINK, "flink_version=1.18"), "1.19, 1.20, 2.0, 2.1, 2.2"),
        ((*FLINK, "job_server=/nowhere/server.jar"), "there is no such jar"),
        ((*FLINK, "environment=vm"), "must be loopback, external:HOST:PORT"),
        ((*FLINK, "environment=external:pool"), "must be loopback, external:HOST:PORT"),
        ((*FLINK, "environment=process:/nowhere/boot"), "not a program"),
        ((*FLINK, "retries=-1"), "beam.retries=-1: must be a whole number, at least 0"),
        ((*FLINK, "master=flink.example:8081", "shared_paths=true"), "cannot reach this process"),
        ((*FLINK, "master=flink.example:8081", "environment=docker:me/it"), "beam.shared_paths=true"),
        ((*FLINK, "master=local-flink.example:8081", "environment=docker:me/it"), "beam.shared_paths=true"),
        ((*FLINK, "master=localhost.example:8081"), "cannot reach this process"),
        (("runner=dataflow",), "beam.project is empty"),
        ((*DATAFLOW, "temp_location=/tmp"), "gs://BUCKET/FOLDER"),
        (DATAFLOW, "Dataflow's workers cannot read"),
    ],
)  # fmt: skip
def test_a_wrong_combination_is_answered_in_one_sentence(settings, says):
    with pytest.raises(ConfigError) as error:
        validity.check(config(*settings))
    assert says in str(error.value)
    assert "\n" not in str(error.value)


def test_java_is_asked_for_before_anything_starts(tmp_path, monkeypatch):
    jar = tmp_path / "server.jar"
    jar.write_bytes(b"")
    java = tmp_path / "java"
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("JAVA_HOME", raising=False)
    with pytest.raises(ConfigError, match="java is not on the PATH"):
        validity.check(config(*FLINK, f"job_server={jar}"))
    java.write_text("#!/bin/sh\n")
    java.chmod(java.stat().st_mode | stat.S_IXUSR)
    validity.check(config(*FLINK, f"job_server={jar}"))
    # Beam takes no other than the one of JAVA_HOME.
    monkeypatch.setenv("JAVA_HOME", str(tmp_path / "jdk"))
    with pytest.raises(ConfigError, match=f"java is not in JAVA_HOME={tmp_path}/jdk,"):
        validity.check(config(*FLINK, f"job_server={jar}"))
    os.renames(java, tmp_path / "jdk" / "bin" / "java")
    validity.check(config(*FLINK, f"job_server={jar}"))


def test_a_bucket_is_fine_for_workers_elsewhere():
    settings = [f"beam.{setting}" for setting in DATAFLOW]
    settings += [
        "artifacts=gs://bucket/run",
        "data.kind=ilsvrc",
        "data.source=gs://bucket/ILSVRC2012",
    ]
    validity.check(assign(presets.get("imagenet"), settings))


def test_the_folder_that_tfds_takes_by_itself_is_one_of_this_machine(monkeypatch):
    settings = [f"beam.{setting}" for setting in DATAFLOW] + ["artifacts=gs://bucket/run"]
    made = assign(presets.get("cifar10"), settings)
    monkeypatch.delenv("TFDS_DATA_DIR", raising=False)
    with pytest.raises(
        ConfigError, match=r"data\.source=~/tensorflow_datasets: a folder of this machine"
    ):
        validity.check(made)
    monkeypatch.setenv("TFDS_DATA_DIR", "gs://bucket/tfds")
    validity.check(made)


@pytest.mark.parametrize("master", ["local", "local[2]", "local[*]", "spark://localhost:7077"])
def test_a_spark_of_this_machine_may_ask_this_process(master):
    validity.check(config("runner=spark", f"master={master}", "job_server=localhost:8099"))


def test_checking_imports_neither_beam_nor_tensorflow():
    code = (
        "import sys\nfrom pipeline.config import presets, validity\nfrom pipeline.config.options"
        " import assign\nvalidity.check(assign(presets.get('digits'),"
        f" {[f'beam.{s}' for s in FLINK]!r}))\nsys.exit(str({{'tensorflow', 'tfx', 'apache_beam'}}"
        " & set(sys.modules) or ''))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stderr.strip() == ""


@pytest.mark.skipif(
    "RESNET_TFX_FLINK" not in os.environ, reason="RESNET_TFX_FLINK names no cluster: make flink"
)
def test_flink_writes_the_records_that_one_process_writes(tmp_path):
    """RESNET_TFX_FLINK=1 after `make flink`: the cluster of benchmarks.flink_cluster."""
    from benchmarks import beam_outputs
    from benchmarks.beam_runners import Graph

    graph = Graph(str(tmp_path), images=60, size=32, depth=18, protocols=["center"])
    expected, *_ = graph.run("ExampleGen", "direct")
    got, *_ = graph.run("ExampleGen", "Flink")
    assert beam_outputs.compare("ExampleGen", expected, got) == "same records"
