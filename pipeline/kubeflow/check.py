"""What Kubeflow asks of a configuration, found before anything is compiled. No TFX import here."""

from __future__ import annotations

import re

from pipeline.config import graph, paths
from pipeline.config.settings import Beam, Config, ConfigError

# Kubernetes' own notation of quantities.
_QUANTITIES = {
    "cpu": re.compile(r"\d+(\.\d+)?|\d+m"),
    "memory": re.compile(r"\d+([kMGTPE]|[KMGTPE]i)?"),
    "gpu": re.compile(r"\d+"),
}
_EVERY = "*"
# What Kubeflow's launcher can store artifacts in; it knows minio:// too, which TensorFlow does not.
_STORES = ("gs://", "s3://")


def check(config: Config) -> list[str]:
    """Raises ConfigError for what cannot run on Kubeflow; returns warnings, a sentence each."""
    if not re.fullmatch(r"[a-z0-9][a-z0-9-]{0,127}", config.name):
        raise ConfigError(
            f"name={config.name}: Kubeflow takes small letters, digits and hyphens, 128 at most; "
            "say --set name=NAME."
        )
    if not config.kubeflow.image:
        raise ConfigError(
            "kubeflow.image is empty: name the image of the Dockerfile as the cluster pulls it,"
            " with --set kubeflow.image=REGISTRY/NAME:TAG."
        )
    if not config.artifacts.startswith(_STORES):
        raise ConfigError(
            f"artifacts={config.artifacts or 'a folder of this machine'}: steps run on several"
            " machines and Kubeflow stores artifacts in buckets only; say --set"
            " artifacts=gs://BUCKET/FOLDER."
        )
    _check_places(config)
    _check_beam(config.beam)
    resources(config)
    return _warnings(config)


def _check_places(config: Config) -> None:
    """What a step writes into its container is gone with it."""
    places = {
        "serve.directory": (config.serve.directory, "pushed models"),
        "train.checkpoint_dir": (config.train.checkpoint_dir, "checkpoints"),
    }
    for name, (path, content) in places.items():
        if path and "://" not in path:
            raise ConfigError(
                f"{name}={path}: {content} would be gone with the step's container; say "
                f"--set {name}=gs://BUCKET/FOLDER, or {name}= for a folder beside the artifacts."
            )


def _check_beam(beam: Beam) -> None:
    """A Beam job starts in the worker image, which has no Java and ends with its step."""
    if beam.runner not in ("flink", "spark"):
        return
    if not re.fullmatch(r"[\w.\-]+:\d+", beam.job_server):
        raise ConfigError(
            f"beam.job_server={beam.job_server}: the steps have no Java; name Beam's job server for"
            f" {beam.runner} in the cluster with --set beam.job_server=HOST:PORT."
        )
    if beam.environment == "loopback":
        raise ConfigError(
            f"beam.environment=loopback: {beam.runner}'s workers must not depend on a step's"
            " container; say external:HOST:PORT, process:COMMAND or docker:IMAGE."
        )


def _warnings(config: Config) -> list[str]:
    return [
        f"{name}: {place} is a folder of this machine; every step must find the same one there, or"
        " it fails."
        for name, places in paths.settings(config).items()
        for place in places
        # The schema's text goes into the artifacts when the pipeline is compiled.
        if name not in ("root", "data.schema") and "://" not in place
    ]


def cron(config: Config) -> str:
    """`schedule.cron` with Kubeflow's sixth field, the seconds, in front; times are UTC."""
    return f"0 {config.schedule.cron}"


def resources(config: Config) -> dict[str, dict[str, str]]:
    """Node -> what it needs of cpu, memory and gpu, as Kubernetes writes it.

    Lines are such as "Trainer cpu=16 memory=64G gpu=4"; "*" is every other node. A line that names
    no node or no quantity raises ConfigError.
    """
    nodes = graph.nodes(config)
    said: dict[str, dict[str, str]] = {}
    for line in config.kubeflow.resources:
        name, *quantities = line.split() or [""]
        if name not in nodes and name != _EVERY:
            raise ConfigError(
                f"kubeflow.resources: {line!r} must begin with a node of this pipeline"
                f" ({', '.join(nodes)}) or with * for all others."
            )
        if name in said:
            raise ConfigError(f"kubeflow.resources: {name} is there twice; keep one line of it.")
        said[name] = _quantities(line, quantities)
    return {node: said.get(node, said.get(_EVERY, {})) for node in nodes}


def _quantities(line: str, assignments: list[str]) -> dict[str, str]:
    found = {}
    for assignment in assignments:
        key, _, value = assignment.partition("=")
        if key not in _QUANTITIES or not _QUANTITIES[key].fullmatch(value):
            raise ConfigError(
                f"kubeflow.resources: {assignment!r} in {line!r} must be cpu=16 or cpu=500m,"
                " memory=64G or gpu=4."
            )
        found[key] = value
    return found
