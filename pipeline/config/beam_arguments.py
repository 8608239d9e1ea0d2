"""Beam options of a run: in this process, or on Flink, Spark or Dataflow. No Beam import here."""

from __future__ import annotations

import json
import os
import re
import shutil

from components.example_gen.sources import kinds
from pipeline.config.settings import Beam, Config, ConfigError

_ADDRESS = r"(https?://)?[\w.\-]+:\d+/?"
_ENVIRONMENTS = "loopback, external:HOST:PORT, process:COMMAND or docker:IMAGE"
# Settings that a runner needs, each with an example, and those that it may have.
_NEEDS = {
    "direct": {},
    "flink": {"master": "localhost:8081"},
    "spark": {"master": "spark://HOST:7077 or local[4]"},
    "dataflow": {
        "project": "my-project",
        "region": "europe-west4",
        "temp_location": "gs://BUCKET/tmp",
        "image": "REGION-docker.pkg.dev/PROJECT/REPOSITORY/resnet-tfx",
    },
}
_MAY_HAVE = {"flink": ("job_server",), "spark": ("job_server",)}
_MASTERS = {
    "flink": (
        rf"\[local\]|\[auto\]|{_ADDRESS}",
        "Flink's HOST:PORT, such as localhost:8081, or [local]",
    ),
    "spark": (
        r"local(\[.+\])?|spark://.+|yarn|k8s://.+",
        "a Spark master, such as spark://HOST:7077 or local[4]",
    ),
}
# A stage that follows at once takes over the Python workers of the one before, which have
# TensorFlow loaded.
_WORKER_MILLIS = 20_000
# Without a word about where workers get our code from, TFX packs itself into a source distribution,
# a second for every Beam component. Where no container is started, any name will do.
_LOCAL_CODE = "--sdk_container_image=local"


def arguments(beam: Beam) -> list[str]:
    """Pipeline arguments for every Beam job of a checked configuration."""
    made = {"direct": _direct, "flink": _flink, "spark": _spark, "dataflow": _dataflow}[
        beam.runner
    ](beam)
    return [*made, *beam.args]


def _direct(beam: Beam) -> list[str]:
    # FnApiRunner runs in this process and downloads nothing.
    args = ["--runner=FnApiRunner", _LOCAL_CODE]
    if beam.workers > 1:
        args += ["--direct_running_mode=multi_processing", f"--direct_num_workers={beam.workers}"]
    return args


def _flink(beam: Beam) -> list[str]:
    return [
        "--runner=FlinkRunner",
        f"--flink_master={beam.master}",
        f"--flink_version={beam.flink_version}",
        f"--parallelism={beam.workers}",
        f"--number_of_execution_retries={beam.retries}",
        f"--execution_retry_delay={round(beam.retry_seconds * 1000)}",
        *_portable(beam),
    ]


def _spark(beam: Beam) -> list[str]:
    return ["--runner=SparkRunner", f"--spark_master_url={beam.master}", *_portable(beam)]


def _dataflow(beam: Beam) -> list[str]:
    return [
        "--runner=DataflowRunner",
        f"--project={beam.project}",
        f"--region={beam.region}",
        f"--temp_location={beam.temp_location}",
        f"--max_num_workers={beam.workers}",
        f"--sdk_container_image={beam.image}",
        "--experiments=use_runner_v2",
    ]


def _portable(beam: Beam) -> list[str]:
    """The job server, and who runs Python."""
    kind, _, value = beam.environment.partition(":")
    args = [f"--environment_type={kind.upper()}", f"--environment_cache_millis={_WORKER_MILLIS}"]
    if is_address(beam.job_server):
        args.append(f"--job_endpoint={beam.job_server}")
    elif beam.job_server:
        args.append(f"--{beam.runner}_job_server_jar={beam.job_server}")
    if value:
        # Not --environment_options: Beam 2.77 reads an external worker pool from the config alone.
        config = json.dumps({"command": value}) if kind == "process" else value
        args.append(f"--environment_config={config}")
    return [*args, f"--sdk_container_image={value}" if kind == "docker" else _LOCAL_CODE]


def check(config: Config) -> None:
    """Raises ConfigError for the first setting that is wrong, with how to mend it."""
    beam = config.beam
    if any(arg.split("=")[0] == "--runner" for arg in beam.args):
        raise ConfigError(
            "beam.args: name the runner with --set beam.runner=RUNNER, not with --runner."
        )
    for name in ("master", "job_server", "project", "region", "temp_location", "image"):
        value, example = getattr(beam, name), _NEEDS[beam.runner].get(name)
        if value and not example and name not in _MAY_HAVE.get(beam.runner, ()):
            raise ConfigError(
                f"beam.{name}={value}: beam.runner={beam.runner} does not use it; name another"
                " runner with --set beam.runner=RUNNER, or leave it out."
            )
        if example and not value:
            raise ConfigError(
                f"beam.{name} is empty: {beam.runner} needs its {name}, such as {example}."
            )
    if beam.runner == "dataflow":
        if not beam.temp_location.startswith("gs://"):
            raise ConfigError(
                f"beam.temp_location={beam.temp_location}: must be gs://BUCKET/FOLDER."
            )
        _check_shared(config, "Dataflow's workers")
    elif beam.runner != "direct":
        _check_master(beam)
        _check_job_server(beam)
        _check_environment(beam)
        if not _is_local(beam.master) and not beam.shared_paths:
            _check_shared(config, f"the workers of {beam.master}")


def _check_master(beam: Beam) -> None:
    pattern, words = _MASTERS[beam.runner]
    if not re.fullmatch(pattern, beam.master):
        raise ConfigError(f"beam.master={beam.master}: must be {words}.")
    if beam.runner == "spark" and beam.workers > 1:
        raise ConfigError(
            f"beam.workers={beam.workers}: Spark takes what its master offers; leave beam.workers"
            f" out and say --set beam.master=local[{beam.workers}] for so many workers on this"
            " machine."
        )


def _check_job_server(beam: Beam) -> None:
    if is_address(beam.job_server):
        return
    if beam.job_server and "://" not in beam.job_server and not os.path.isfile(beam.job_server):
        raise ConfigError(
            f"beam.job_server={beam.job_server}: there is no such jar; name Beam's job server for "
            f"{beam.runner}, HOST:PORT of one that runs, or leave it out and Beam downloads it."
        )
    # Beam looks in this order, and nowhere else.
    home = os.environ.get("JAVA_HOME")
    if not shutil.which(os.path.join(home, "bin", "java") if home else "java"):
        where = f"in JAVA_HOME={home}" if home else "on the PATH"
        raise ConfigError(
            f"beam.runner={beam.runner}: java is not {where}, and Beam's job server needs it;"
            " install Java 17, or name a job server that runs with --set"
            " beam.job_server=HOST:PORT."
        )


def _check_environment(beam: Beam) -> None:
    kind, _, value = beam.environment.partition(":")
    right = {
        "loopback": not value,
        "docker": bool(value),
        "process": bool(value),
        "external": is_address(value),
    }
    if not right.get(kind):
        raise ConfigError(f"beam.environment={beam.environment}: must be {_ENVIRONMENTS}.")
    if (
        kind == "process"
        and os.path.isabs(value)
        and _is_local(beam.master)
        and not os.access(value, os.X_OK)
    ):
        raise ConfigError(
            f"beam.environment={beam.environment}: {value} is not a program that can be executed."
        )
    if kind == "loopback" and not _is_local(beam.master):
        raise ConfigError(
            f"beam.environment=loopback: the workers of {beam.master} cannot reach this process;"
            " must be external:HOST:PORT, process:COMMAND or docker:IMAGE."
        )


def _check_shared(config: Config, who: str) -> None:
    """Every path that a Beam job reads or writes must be one that other machines see."""
    kind = kinds.of(config.data.kind)
    source = config.root if kind.embedded else config.data.source or kind.usual_place()
    mend = "name a bucket (gs://BUCKET/FOLDER)"
    if config.beam.runner != "dataflow":
        mend += ", or say --set beam.shared_paths=true if every machine has this folder"
    for name, path in (("artifacts", config.artifacts or config.root), ("data.source", source)):
        if "://" not in path:
            raise ConfigError(
                f"{name}={path}: a folder of this machine, which {who} cannot read; {mend}."
            )


def is_address(text: str) -> bool:
    """Whether this is HOST:PORT, with or without http(s)."""
    return bool(re.fullmatch(_ADDRESS, text))


def _is_local(master: str) -> bool:
    here = (
        r"local(\[.+\])?|\[local\]|\[auto\]|((https?|spark)://)?(localhost|127\.0\.0\.1)(:\d+/?)?"
    )
    return bool(re.fullmatch(here, master))
