"""TensorFlow Serving's configuration, a Compose file and command lines, from one `Deployment`.

Nothing is read or written here; `python -m pipeline.serving_files` does that.
"""

from __future__ import annotations

import dataclasses
import re
import shlex
import sys
import urllib.parse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from google.protobuf import text_format
from tensorflow_serving.config.model_server_config_pb2 import ModelServerConfig

from serving.server import textproto
from serving.server.server_config import Batching, ModelSettings, ServerSettings

# Folder of the configuration in containers.
CONFIG = "/config"
MODELS, BATCHING, MONITORING = "models.config", "batching_parameters.txt", "monitoring.config"
# The image's entry point would add flags of its own.
BINARY = "/usr/bin/tensorflow_model_server"
# Who the server runs as: the image names nobody, which is root.
USER = 1000
# Seconds between two looks at models.config: labels move without a restart.
_POLL_SECONDS = 60


@dataclasses.dataclass(frozen=True)
class Deployment:
    """What is served, where, and with how much."""

    model_name: str = "resnet"
    # Folder of numbered versions, which containers see at the same path; or a URI such as
    # gs://BUCKET/FOLDER.
    directory: str = "/models/resnet"
    # Address of this machine that is listened to (in Compose: published).
    host: str = "127.0.0.1"
    rest_port: int = 8501
    grpc_port: int = 8500
    # The newest versions serve together, so that clients of the one before have answers after a
    # push.
    num_versions: int = 2
    # Version by label; with labels exactly these versions serve.
    labels: Mapping[str, int] = dataclasses.field(default_factory=dict)
    # File of models that pushes and `serving.admin` change; "": the one that is written here.
    model_config: str = ""
    batching: Batching | None = None
    # Path of the metrics for Prometheus; "" serves none.
    metrics_path: str = textproto.DEFAULT_METRICS_PATH
    # NAME:TAG of TensorFlow Serving.
    image: str = "tensorflow/serving:2.20.0"
    min_replicas: int = 2
    max_replicas: int = 6
    # Cores, memory (a number with Mi or Gi) and GPUs of one server.
    cpu: int = 2
    memory: str = "4Gi"
    gpus: int = 0

    @property
    def remote(self) -> bool:
        """Whether the versions are in a bucket."""
        return "://" in self.directory

    @property
    def object_name(self) -> str:
        """The model's name in the letters that Compose and Kubernetes take."""
        name = re.sub("[^a-z0-9]+", "-", self.model_name.lower())
        return re.sub("^[^a-z]+", "", name)[:50].strip("-") or "model"


def embedded_command(deployment: Deployment, folder: str) -> list[str]:
    """The command line of the embedded server.

    Args:
      folder: where the files of TensorFlow Serving lie.
    """
    defaults = ServerSettings(())
    flags = [f"--model_name={deployment.model_name}", f"--model_base_path={deployment.directory}"]
    flags += [f"--num_versions={deployment.num_versions}"]
    if deployment.labels or deployment.model_config:
        flags = _model_flags(deployment.model_config or f"{folder}/{MODELS}")
    flags += [f"--rest_api_port={deployment.rest_port}"]
    flags += [f"--port={deployment.grpc_port}"] if deployment.grpc_port != defaults.port else []
    flags += [f"--host={deployment.host}"] if deployment.host != defaults.host else []
    return ["python", "-m", "serving.server", *flags, *_feature_flags(deployment, folder)]


def container_flags(deployment: Deployment) -> list[str]:
    """The arguments of `BINARY` in a container that has the files in `CONFIG`."""
    return [
        f"--rest_api_port={deployment.rest_port}",
        f"--port={deployment.grpc_port}",
        *_model_flags(f"{CONFIG}/{MODELS}"),
        *_feature_flags(deployment, CONFIG),
        "--enable_grpc_healthcheck_service=true",
        # It counts the cores of the machine and not those that it is given.
        f"--tensorflow_intra_op_parallelism={deployment.cpu}",
        f"--tensorflow_inter_op_parallelism={deployment.cpu}",
    ]


def _model_flags(path: str) -> list[str]:
    return [
        f"--model_config_file={path}",
        f"--model_config_file_poll_wait_seconds={_POLL_SECONDS}",
    ]


def _feature_flags(deployment: Deployment, folder: str) -> list[str]:
    flags = [f"--monitoring_config_file={folder}/{MONITORING}"] if deployment.metrics_path else []
    if deployment.batching:
        flags += ["--enable_batching=true", f"--batching_parameters_file={folder}/{BATCHING}"]
    return flags


def models_config(deployment: Deployment) -> str:
    """The text of a --model_config_file."""
    settings = ModelSettings(
        deployment.model_name,
        Path(deployment.directory),
        deployment.num_versions,
        versions=tuple(sorted(set(deployment.labels.values()))),
        labels=dict(sorted(deployment.labels.items())),
    )
    config = text_format.Parse(textproto.models_text((settings,)), ModelServerConfig())
    # A path would have one slash after gs:.
    config.model_config_list.config[0].base_path = deployment.directory
    return commented("""
        Without labels the newest versions serve. A label stands for a version; then exactly the versions
        with labels serve, and a canary is asked for under /v1/models/NAME/labels/canary:
          --set serve.labels=stable=1764000000,canary=1764086400
        A label may only name a version that is there: the server would not start.
        """) + text_format.MessageToString(config)


def batching_parameters(deployment: Deployment) -> str:
    """The text of a --batching_parameters_file; what to start from where nothing is batched."""
    if deployment.batching:
        return textproto.batching_text(deployment.batching)
    start = Batching(8, 1000, num_batch_threads=deployment.cpu)
    if deployment.gpus:
        start = Batching(64, 5000, 64, deployment.cpu, allowed_batch_sizes=(1, 8, 16, 32, 64))
    return commented("""
        Not used: requests are not batched (serve.max_batch_size=0). Measure before you turn it on with
        --set serve.max_batch_size=8 --set serve.batch_timeout_micros=1000.
        To start from. CPUs like a thread a core and a short wait or none; GPUs larger batches, a longer wait
        and few sizes, because kernels are chosen anew for each: what is missing is filled up.
        """) + textproto.batching_text(start)


def monitoring_config(deployment: Deployment) -> str:
    """The text of a --monitoring_config_file."""
    return textproto.monitoring_text(deployment.metrics_path)


def ready_command(deployment: Deployment) -> list[str]:
    """Succeeds in the container when a version of the model takes requests.

    The status must be read: its HTTP status is 200 while a version still loads, or after all have
    gone. The image has neither curl nor Python, but bash and grep.
    """
    path = shlex.quote(f"/v1/models/{urllib.parse.quote(deployment.model_name, safe='')}")
    request = r"'GET %s HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n'"
    script = (
        f"exec 3<>/dev/tcp/127.0.0.1/{deployment.rest_port} && printf {request} {path} >&3"
        """ && grep -q '"state": *"AVAILABLE"' <&3"""
    )
    return ["bash", "-c", script]


def compose(deployment: Deployment) -> str:
    """The text of a Compose file that lies beside TensorFlow Serving's configuration."""
    address = f"[{deployment.host}]" if ":" in deployment.host else deployment.host
    address = "127.0.0.1" if address == "localhost" else address
    limits = {"cpus": str(deployment.cpu), "memory": deployment.memory.lower().removesuffix("i")}
    resources: dict[str, Any] = {"limits": limits}
    if deployment.gpus:
        device = {"driver": "nvidia", "count": deployment.gpus, "capabilities": ["gpu"]}
        resources["reservations"] = {"devices": [device]}
    service = {
        "image": deployment.image,
        "entrypoint": [BINARY],
        "command": container_flags(deployment),
        "ports": [
            f"{address}:{port}:{port}" for port in (deployment.rest_port, deployment.grpc_port)
        ],
        "volumes": (
            [_bind(".", CONFIG)]
            + ([] if deployment.remote else [_bind(deployment.directory, deployment.directory)])
        ),
        "user": f"{USER}:{USER}",
        "read_only": True,
        "tmpfs": ["/tmp"],
        "cap_drop": ["ALL"],
        "security_opt": ["no-new-privileges:true"],
        "restart": "unless-stopped",
        "healthcheck": {
            "test": ["CMD", *ready_command(deployment)],
            "interval": "10s",
            "timeout": "5s",
            "retries": 3,
            "start_period": "300s",
        },
        "deploy": {"resources": resources},
    }
    return commented(f"""
        docker compose -f compose.yaml up --detach --wait
        The versions must be readable for user {USER}.
        """) + dump({"services": {deployment.object_name: service}})


def _bind(source: str, target: str) -> dict[str, Any]:
    # A folder that is missing is an error; docker would make an empty one.
    return {
        "type": "bind",
        # Compose takes a single $ for a variable.
        "source": source.replace("$", "$$"),
        "target": target.replace("$", "$$"),
        "read_only": True,
        "bind": {"create_host_path": False},
    }


class _Dumper(yaml.SafeDumper):
    """Texts of several lines stay readable, and nothing is an alias."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar(
        "tag:yaml.org,2002:str", text, style="|" if "\n" in text else None
    )


_Dumper.add_representer(str, _text)


def dump(*documents: Mapping[str, Any]) -> str:
    """YAML documents."""
    return yaml.dump_all(documents, Dumper=_Dumper, sort_keys=False, width=sys.maxsize)


def commented(text: str) -> str:
    """The lines of a text as comments; all these files take the same ones."""
    return "".join(f"# {line.strip()}\n" for line in text.strip().splitlines())
