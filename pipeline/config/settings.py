"""The configuration of a run: one tree of frozen dataclasses, `Config`.

A configuration starts from a preset (`pipeline.config.presets`) and is changed with
`section.field=value` assignments. Unknown names and values of the wrong type
are errors that say what would be right. No TensorFlow import here.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from typing import Any

from components.example_gen.settings import Data
from models.settings import Model, Train, Transform, Tune


class ConfigError(ValueError):
    """A configuration that cannot run; the message says how to mend it."""


@dataclasses.dataclass(frozen=True)
class Evaluate:
    """Test protocols and the thresholds that bless a model."""

    protocols: tuple[str, ...] = ("center", "ten_crop")
    # The protocol that thresholds are checked on.
    protocol: str = "center"
    # Highest top-1 and top-5 error, 0..1, of a model that may be pushed.
    max_top1_error: float = 0.9
    max_top5_error: float = 0.9
    # A candidate may be worse than the latest blessed model by this much top-1; 1 compares with
    # none.
    max_top1_increase: float = 0.0
    # Metrics for every class as well.
    per_class: bool = True


@dataclasses.dataclass(frozen=True)
class Serve:
    """Where the model goes and under which name it answers."""

    model_name: str = "resnet"
    # Folder of versions in TF Serving's layout; "" is <pipeline root>/serving/<model_name>.
    directory: str = ""
    # Address that the server listens to: 0.0.0.0 lets other machines in.
    host: str = "127.0.0.1"
    rest_port: int = 8501
    grpc_port: int = 8500
    # The newest versions that serve together.
    num_versions: int = 2
    # LABEL=VERSION, such as stable=1764000000,canary=1764086400: exactly these versions serve then.
    labels: tuple[str, ...] = ()
    # Requests that share a run of the model, 0 for none, and how long one waits for others.
    max_batch_size: int = 0
    batch_timeout_micros: int = 0
    # For Prometheus, under /monitoring/prometheus/metrics.
    metrics: bool = True
    # Who serves a blessed model before it is pushed, and must answer as the Evaluator did:
    # "embedded", an image of TensorFlow Serving for docker (tensorflow/serving:2.20.0), or "none".
    validator: str = "embedded"
    # Images of the evaluation split that are asked for.
    validator_images: int = 16
    # Most milliseconds of one image (99th percentile) and megabytes of the server; 0 asks nothing.
    max_latency_ms: float = 0.0
    max_memory_mb: int = 0
    # Hours that a pushed version is a canary before it can be stable (docs/serving.md); 0: it
    # serves at once.
    canary_hours: float = 0.0
    # The rest is for containers (`python -m pipeline.serving_files`): TensorFlow Serving with its
    # version (2.20.0-gpu with gpus), how many servers, and what each gets.
    image: str = "tensorflow/serving:2.20.0"
    min_replicas: int = 2
    max_replicas: int = 6
    cpu: int = 2
    memory: str = "4Gi"
    gpus: int = 0


@dataclasses.dataclass(frozen=True)
class Beam:
    """How and where the heavy steps run: ingestion, statistics, Transform, evaluation
    (docs/beam.md).
    """

    # "direct" (this machine), "flink", "spark" or "dataflow".
    runner: str = "direct"
    # direct: worker processes, 1 stays in this one; flink: parallelism; dataflow: most machines.
    workers: int = 1
    # Flink's HOST:PORT or [local]; Spark's spark://HOST:PORT or local[N].
    master: str = ""
    # Release of the Flink cluster; Beam has a job server for 1.19, 1.20, 2.0, 2.1 and 2.2.
    flink_version: str = "1.20"
    # Beam's job server (Flink, Spark): its jar, or HOST:PORT of one that runs; "" lets Beam
    # download it.
    job_server: str = ""
    # Who runs Python for Flink and Spark: loopback (this process, for a cluster on this machine),
    # external:HOST:PORT (a pool of workers beside each task manager), process:COMMAND or
    # docker:IMAGE.
    environment: str = "loopback"
    # Asks Flink to start the failed part of a job again this often, so many seconds later; a
    # cluster may hold to its own restart-strategy (docs/beam.md).
    retries: int = 3
    # Longer than the 20 seconds for which a Python worker is kept, or the restart is handed a dead
    # one.
    retry_seconds: float = 25.0
    # Local folders are the same ones on every machine of the cluster.
    shared_paths: bool = False
    # Dataflow; `temp_location` is gs://BUCKET/FOLDER, `image` the one of our Dockerfile.
    project: str = ""
    region: str = ""
    temp_location: str = ""
    image: str = ""
    # Further arguments of every Beam job.
    args: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Metadata:
    """The store of ML Metadata: what ran, on what, with what result."""

    # "sqlite" (a file below `root`) or "mysql" (a MySQL or MariaDB server that several machines
    # share).
    kind: str = "sqlite"
    host: str = "127.0.0.1"
    # 0 is the usual one, 3306.
    port: int = 0
    database: str = "resnet_tfx"
    user: str = "resnet_tfx"
    # Environment variable that holds the password: no file of ours ever does.
    password_env: str = "RESNET_TFX_METADATA_PASSWORD"


@dataclasses.dataclass(frozen=True)
class Schedule:
    """When Airflow and Kubeflow start a run, and how they try again."""

    # Minute, hour, day of month, month, day of week, in UTC: Sundays at 03:00.
    cron: str = "0 3 * * 0"
    # First day on which a run may start (Airflow).
    start: str = "2026-01-01"
    # A failed step is tried again this often, so many minutes later.
    retries: int = 2
    retry_minutes: float = 5.0
    # A step that takes longer is stopped and counts as failed; 0 waits for ever.
    timeout_hours: float = 0.0


@dataclasses.dataclass(frozen=True)
class Kubeflow:
    """Kubeflow Pipelines v2: where it is and what a step may use."""

    # Address of the API, such as http://localhost:8080.
    host: str = ""
    namespace: str = "kubeflow"
    experiment: str = "resnet-tfx"
    # The image of our Dockerfile, as the cluster pulls it.
    image: str = ""
    # What single steps need, such as "Trainer cpu=16 memory=64G gpu=4"; "*" is every other step.
    resources: tuple[str, ...] = ("* cpu=2 memory=8G",)
    # Label of the nodes' accelerators, which gpu= asks for.
    accelerator: str = "nvidia.com/gpu"


@dataclasses.dataclass(frozen=True)
class Config:
    """All settings of one pipeline."""

    name: str = "resnet-digits"
    preset: str = "digits"
    # Everything a run writes, except what `serve.directory` names.
    root: str = "runs"
    # Pipeline root: the artifacts, on any file system that TensorFlow reads (gs://BUCKET/FOLDER);
    # "" is <root>/<name>/artifacts.
    artifacts: str = ""
    cache: bool = True
    # Components that run although nothing has changed.
    no_cache: tuple[str, ...] = ()
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
