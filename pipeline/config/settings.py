"""The configuration of a run: one tree of frozen dataclasses, `Config`.

The text under a field is its help. No TensorFlow import here.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from typing import Annotated, Any, Literal

from pydantic import Field

from components.example_gen.settings import Data
from models.fields import CONFIG, Amount, Count, Items, Positive, PositivePart, Text
from models.settings import Model, Train, Transform, Tune

Port = Annotated[int, Field(ge=1, le=65535)]


class ConfigError(ValueError):
    """A configuration that cannot run; the message says how to mend it."""


@dataclasses.dataclass(frozen=True)
class Evaluate:
    """Test protocols and the thresholds that bless a model."""

    __pydantic_config__ = CONFIG

    protocols: Items[Text] = ("center", "ten_crop")
    """Test protocols: center, ten_crop, multi_scale, or others of models.settings.PROTOCOLS."""
    protocol: Text = "center"
    """The protocol that thresholds are checked on."""
    max_top1_error: PositivePart = 0.9
    """Highest top-1 error of a model that may be pushed."""
    max_top5_error: PositivePart = 0.9
    """Highest top-5 error of one."""
    max_top1_increase: Annotated[float, Field(ge=-1, le=1)] = 0.0
    """By how much top-1 a candidate may be worse than the blessed model; 1 compares with none."""
    per_class: bool = True
    """Measure every class as well."""


@dataclasses.dataclass(frozen=True)
class Serve:
    """Where the model goes and under which name it answers."""

    __pydantic_config__ = CONFIG

    model_name: Text = "resnet"
    """The name that requests use."""
    directory: Text = ""
    """Folder of versions in TF Serving's layout; "" is <pipeline root>/serving/<model_name>."""
    host: Text = "127.0.0.1"
    """Address that the server listens to: 0.0.0.0 lets other machines in."""
    rest_port: Port = 8501
    """Port of the REST API."""
    grpc_port: Port = 8500
    """Port of the gRPC API."""
    num_versions: Positive = 2
    """The newest versions that serve together."""
    labels: Items[Text] = ()
    """LABEL=VERSION, such as stable=1764000000,canary=1764086400: only these versions serve."""
    max_batch_size: Count = 0
    """Requests that share a run of the model; 0 for none."""
    batch_timeout_micros: Count = 0
    """Microseconds that a request waits for others."""
    metrics: bool = True
    """Metrics for Prometheus, under /monitoring/prometheus/metrics."""
    validator: Text = "embedded"
    """Who serves a blessed model before it is pushed, and must answer as the Evaluator did:
    "embedded", an image of TensorFlow Serving for docker (tensorflow/serving:2.20.0), or "none".
    """
    validator_images: Positive = 16
    """Images of the evaluation split that are asked for."""
    max_latency_ms: Amount = 0.0
    """Most milliseconds of one image (99th percentile) before the push; 0 asks nothing."""
    max_memory_mb: Count = 0
    """Most megabytes of the server then; 0 asks nothing."""
    canary_hours: Amount = 0.0
    """Hours that a version is a canary before it is stable (docs/serving.md); 0: no canaries."""
    image: Text = "tensorflow/serving:2.20.0"
    """TensorFlow Serving for containers, with its version (2.20.0-gpu with gpus)."""
    min_replicas: Positive = 2
    """Servers at least."""
    max_replicas: Positive = 6
    """Servers at most."""
    cpu: Positive = 2
    """Cores of each."""
    memory: Text = "4Gi"
    """Memory of each, such as 4Gi."""
    gpus: Count = 0
    """GPUs of each."""


@dataclasses.dataclass(frozen=True)
class Beam:
    """Where ingestion, statistics, Transform and evaluation run (docs/beam.md)."""

    __pydantic_config__ = CONFIG

    runner: Literal["direct", "flink", "spark", "dataflow"] = "direct"
    """Where Beam runs: "direct" is this machine."""
    workers: Positive = 1
    """Processes of this machine, parallelism of Flink, or most machines of Dataflow."""
    master: Text = ""
    """Flink's HOST:PORT or [local]; Spark's spark://HOST:PORT or local[N]."""
    flink_version: Literal["1.19", "1.20", "2.0", "2.1", "2.2"] = "1.20"
    """Release of the Flink cluster, for which Beam has a job server."""
    job_server: Text = ""
    """Beam's job server (Flink, Spark): its jar, or HOST:PORT; "" lets Beam download it."""
    environment: Text = "loopback"
    """Who runs Python for Flink and Spark: loopback (this process, for a cluster on this machine),
    external:HOST:PORT (a pool of workers beside each task manager), process:COMMAND or
    docker:IMAGE.
    """
    retries: Count = 3
    """How often Flink tries a failed part again, where its cluster lets us (docs/beam.md)."""
    retry_seconds: Amount = 25.0
    """Seconds before that: more than the 20 for which a Python worker, perhaps dead, is kept."""
    shared_paths: bool = False
    """Local folders are the same ones on every machine of the cluster."""
    project: Text = ""
    """Project of Dataflow."""
    region: Text = ""
    """Region of Dataflow."""
    temp_location: Text = ""
    """Gs://BUCKET/FOLDER, of Dataflow."""
    image: Text = ""
    """The image of this project's Dockerfile, for Dataflow."""
    args: Items[Text] = ()
    """Further arguments of every Beam job."""


@dataclasses.dataclass(frozen=True)
class Metadata:
    """The store of ML Metadata: what ran, on what, with what result."""

    __pydantic_config__ = CONFIG

    kind: Text = "sqlite"
    """Where it lies: "sqlite" is a file below `root`, "mysql" a MySQL or MariaDB server."""
    host: Text = "127.0.0.1"
    """Address of the server."""
    port: Annotated[int, Field(ge=0, le=65535)] = 0
    """Port of the server; 0 is the usual one, 3306."""
    database: Text = "resnet_tfx"
    """Name of the database."""
    user: Text = "resnet_tfx"
    """Who signs in."""
    password_env: Text = "RESNET_TFX_METADATA_PASSWORD"
    """Environment variable that holds the password: no file ever does."""


@dataclasses.dataclass(frozen=True)
class Schedule:
    """When Airflow and Kubeflow start a run, and how they try again."""

    __pydantic_config__ = CONFIG

    cron: Text = "0 3 * * 0"
    """Minute, hour, day of month, month, day of week, in UTC: Sundays at 03:00."""
    start: Text = "2026-01-01"
    """First day on which a run may start (Airflow)."""
    retries: Annotated[int, Field(ge=0, le=10**6)] = 2
    """A failed step is tried again this often, so many minutes later."""
    retry_minutes: Annotated[float, Field(ge=0, le=10**6)] = 5.0
    """Minutes before that."""
    timeout_hours: Annotated[float, Field(ge=0, le=10**6)] = 0.0
    """A step that takes longer is stopped and counts as failed; 0 waits for ever."""


@dataclasses.dataclass(frozen=True)
class Kubeflow:
    """Kubeflow Pipelines v2: where it is and what a step may use."""

    __pydantic_config__ = CONFIG

    host: Text = ""
    """Address of the API, such as http://localhost:8080."""
    namespace: Text = "kubeflow"
    """Namespace of Kubeflow Pipelines."""
    experiment: Text = "resnet-tfx"
    """Experiment that runs belong to."""
    image: Text = ""
    """The image of this project's Dockerfile, as the cluster pulls it."""
    resources: Items[Text] = ("* cpu=2 memory=8G",)
    """What steps need, such as "Trainer cpu=16 memory=64G gpu=4"; "*" is every other step."""
    accelerator: Text = "nvidia.com/gpu"
    """Label of the nodes' accelerators, which gpu= asks for."""


@dataclasses.dataclass(frozen=True)
class Config:
    """All settings of one pipeline."""

    __pydantic_config__ = CONFIG

    name: Text = "resnet-digits"
    """Name of the pipeline: of its folder and its DAG."""
    preset: Text = "digits"
    """The preset that it started from."""
    root: Text = "runs"
    """Everything a run writes, except what `serve.directory` names."""
    artifacts: Text = ""
    """The artifacts, here or in a bucket (gs://BUCKET/FOLDER); "" is <root>/<name>/artifacts."""
    cache: bool = True
    """Use the results of components whose inputs have not changed."""
    no_cache: Items[Text] = ()
    """Components that run although nothing has changed."""
    data: Data = Data()
    transform: Transform = Transform()
    model: Model = Model()
    train: Train = Train()
    tune: Tune = Tune()
    evaluate: Evaluate = Evaluate()
    serve: Serve = Serve()
    beam: Beam = Beam()
    metadata: Metadata = Metadata()
    schedule: Schedule = Schedule()
    kubeflow: Kubeflow = Kubeflow()


def to_dict(config: Any) -> dict[str, Any]:
    """Plain JSON form of a configuration or of one section."""
    return json.loads(json.dumps(dataclasses.asdict(config)))


def digest(*parts: Any) -> str:
    """Short stable hash of JSON values."""
    text = json.dumps(parts, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]
