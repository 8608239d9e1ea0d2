"""The four Beam jobs of the pipeline in this process, in two processes, and on a Flink cluster.

    python -m benchmarks.beam_runners [--images 500 2000] [--size 224 --depth 18] [--flink] python
    -m benchmarks.beam_runners --images 2000 --kill task-manager (or: --kill python-worker)

The images are made: 375 x 500 JPEGs of 110 kB, as ImageNet's are on average, half of them for
evaluation. Every job is TFX's executor with the exec properties of the pipeline's own graph; all
runners get the same inputs, and the network has random weights. A line a job: its seconds on each
runner and whether the outputs are equal. With two sizes it adds the processor time of a record, and
what is fixed, in one process. This process has TensorFlow loaded; the workers of the other runners
have not, as in a run of the pipeline.

--flink needs the cluster of `python -m benchmarks.flink_cluster start`. --kill ends a process of
that cluster without warning once a quarter of the shards is written, and reports what becomes of
the job.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from tfx.types import artifact_utils, standard_artifacts

from benchmarks import beam_outputs, evaluation, flink_cluster, sources
from benchmarks.photos import photos
from components.example_gen.properties import resolved
from models.settings import Transform
from pipeline.config import beam_arguments
from pipeline.config.settings import Beam, Config, Data, Evaluate, Model
from pipeline.pipeline import create_pipeline

CLUSTER = Beam(
    runner="flink",
    workers=2,
    master=flink_cluster.REST,
    job_server=flink_cluster.JOB_SERVER,
    environment=f"external:{flink_cluster.POOL}",
)
RUNNERS = {"direct": Beam(), "2 processes": Beam(workers=2), "Flink": CLUSTER}
JOBS = ("ExampleGen", "StatisticsGen", "Transform", "Evaluator")


class Graph:
    """The pipeline's own nodes, each to be run alone.

    Args:
      folder: for all outputs.
      source: of `benchmarks.sources`.
      size: side of the network's images in pixels.
      depth: of the network that is made for the Evaluator; 0 makes none.
      shards: of the train split; 0 lets the ingestion choose.
      holdout: part of the images that is for evaluation.
      shorter_side: of the scale stage of Transform; 0 is without.
    """

    def __init__(
        self,
        folder: str,
        source: str,
        size: int,
        depth: int = 0,
        protocols: Sequence[str] = ("center",),
        shards: int = 0,
        holdout: float = 0.5,
        shorter_side: int = 0,
    ):
        self.folder = folder
        self.examples: list[Any] = []
        transform = Transform(
            size=size, test_shorter_side=round(size * 8 / 7), shorter_side=shorter_side
        )
        config = Config(
            name="beam",
            root=folder,
            data=Data(kind="folder", source=source, train_shards=shards, holdout=holdout),
            transform=transform,
            model=Model(depth=depth or 18),
            evaluate=Evaluate(protocols=tuple(protocols), protocol=protocols[0]),
        )
        config.check()
        self._nodes = {node.id: node for node in create_pipeline(config).components}
        schema = os.path.join(self._new("inputs", "schema"), "schema.pbtxt")
        shutil.copy(self._nodes["SchemaGen"].exec_properties["schema_file"], schema)
        if depth:
            model = os.path.join(self._new("inputs", "model"), "Format-Serving")
            evaluation.make_model(model, depth, size, sources.CLASSES, list(protocols))

    def run(
        self, job: str, runner: str, settings: Beam | None = None
    ) -> tuple[dict[str, Any], float, float]:
        """Runs a job; returns its output artifacts by name, its seconds and this process's
        processor time.
        """
        node = self._nodes[job]
        outputs = {name: [channel.type()] for name, channel in node.outputs.items()}
        for name, [artifact] in outputs.items():
            artifact.uri = self._new(runner, job, name, "1")
        executor = node.executor_spec.executor_class
        args = beam_arguments.arguments(settings or RUNNERS[runner])
        context = executor.Context(
            beam_pipeline_args=args, tmp_dir=self._new(runner, "tmp"), unique_id="1"
        )
        properties = self._properties(job)
        start, busy = time.perf_counter(), time.process_time()
        executor(context).Do(self._inputs(job), outputs, properties)
        seconds, busy = time.perf_counter() - start, time.process_time() - busy
        if job == "ExampleGen" and runner == "direct":
            self.examples = outputs["examples"]
        return {name: artifact for name, [artifact] in outputs.items()}, seconds, busy

    def read(self, uri: str) -> None:
        """Takes the Examples of another process, in this folder of an artifact, for all jobs."""
        examples = standard_artifacts.Examples()
        examples.uri, examples.split_names = (
            uri,
            artifact_utils.encode_split_names(["train", "eval"]),
        )
        self.examples = [examples]

    def staging(self, runner: str) -> str:
        """Where the ingestion writes its shards before they are the artifact."""
        return os.path.join(self.folder, runner, "ExampleGen", "staging")

    def _inputs(self, job: str) -> dict[str, list[Any]]:
        if job == "ExampleGen":
            return {}
        schema, model = standard_artifacts.Schema(), standard_artifacts.Model()
        schema.uri = os.path.join(self.folder, "inputs", "schema")
        model.uri = os.path.join(self.folder, "inputs", "model")
        own = {"model": [model]} if job == "Evaluator" else {"schema": [schema]}
        return {"examples": self.examples, **own}

    def _properties(self, job: str) -> dict[str, Any]:
        properties = dict(self._nodes[job].exec_properties)
        return resolved(properties) if job == "ExampleGen" else properties

    def _new(self, *names: str) -> str:
        path = os.path.join(self.folder, *names)
        shutil.rmtree(path, ignore_errors=True)
        os.makedirs(path)
        return path


def compare(graph: Graph, runners: list[str], jobs: list[str]) -> dict[str, tuple[int, float]]:
    """Prints the line of every job; returns its records and processor seconds in one process."""
    measured = {}
    for job in jobs:
        outputs, seconds, busy = graph.run(job, "direct")
        count = beam_outputs.records(job, outputs)
        measured[job] = count, busy
        cells = [f"{seconds:.1f} ({busy:.1f})"]
        for runner in runners:
            other, seconds, _ = graph.run(job, runner)
            cells += [f"{seconds:.1f}", beam_outputs.compare(job, outputs, other)]
        print(f"| {job} | {count} | {' | '.join(cells)} |", flush=True)
    return measured


def fit(measured: list[dict[str, tuple[int, float]]]) -> None:
    """Prints the processor time that is fixed and that of a record: the line through the measured
    sizes.
    """
    for job in measured[0]:
        slope, fixed = np.polyfit(*zip(*(size[job] for size in measured), strict=True), 1)
        print(f"{job:<14} {fixed:6.1f} s fixed, {slope * 1000:7.2f} ms a record")


def kill(graph: Graph, name: str, retries: int, cluster: flink_cluster.Cluster) -> None:
    """Prints what becomes of an ingestion when a process of the cluster ends in its middle."""
    expected, seconds, _ = graph.run("ExampleGen", "direct")
    print(f"one process: {seconds:.1f} s")
    _, undisturbed, _ = graph.run("ExampleGen", "Flink")
    print(f"Flink, nothing killed: {undisturbed:.1f} s", flush=True)
    shards = beam_outputs.shard_count(expected["examples"])
    target = (cluster, graph.staging("killed"), shards // 4, name)
    threading.Thread(target=_kill_after, args=target, daemon=True).start()
    start = time.perf_counter()
    try:
        outputs, seconds, _ = graph.run(
            "ExampleGen", "killed", dataclasses.replace(CLUSTER, retries=retries)
        )
        print(
            f"Flink, {name} killed: {seconds:.1f} s;"
            f" {beam_outputs.compare('ExampleGen', expected, outputs)}"
        )
    except RuntimeError as error:
        print(f"Flink, {name} killed: failed after {time.perf_counter() - start:.1f} s: {error}")


def _kill_after(cluster: flink_cluster.Cluster, staging: str, shards: int, name: str) -> None:
    _wait(lambda: beam_outputs.written(staging) >= shards)
    before = beam_outputs.written(staging)
    pid = cluster.kill_worker() if name == "python-worker" else cluster.kill_task_manager()
    print(f"killed {name} (process {pid}) when {before} shards were written", flush=True)


def _wait(condition: Callable[[], bool]) -> None:
    while not condition():
        time.sleep(0.05)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, nargs="+", default=[500, 2000])
    parser.add_argument(
        "--size", type=int, default=224, help="side of the network's images in pixels"
    )
    parser.add_argument("--depth", type=int, default=18)
    parser.add_argument("--protocols", default="center")
    parser.add_argument("--jobs", nargs="+", default=list(JOBS), choices=JOBS)
    parser.add_argument("--two", action="store_true", help="with two processes on this machine")
    parser.add_argument("--flink", action="store_true", help="with the cluster")
    parser.add_argument("--kill", default="", choices=["", "task-manager", "python-worker"])
    parser.add_argument("--folder", default=".flink", help="folder of the cluster, for --kill")
    parser.add_argument(
        "--retries", type=int, default=Beam().retries, help="beam.retries of --kill"
    )
    options = parser.parse_args()
    runners = ["2 processes"] * options.two + ["Flink"] * options.flink
    protocols, measured = options.protocols.split(","), []
    for images in options.images:
        with tempfile.TemporaryDirectory() as folder:
            shards = 32 if options.kill else 0
            source = sources.write_tar(os.path.join(folder, "source"), photos(images))
            graph = Graph(folder, source, options.size, options.depth, protocols, shards)
            if options.kill:
                kill(graph, options.kill, options.retries, flink_cluster.Cluster(options.folder))
                continue
            heads = "".join(f" {runner}, s | equal |" for runner in runners)
            print(f"{images} images\n| job | records | direct, s (processor) |{heads}")
            if "ExampleGen" not in options.jobs:
                graph.run("ExampleGen", "direct")
            if not measured:
                # What happens once in a process, imports and compilation, belongs to no size.
                for job in options.jobs:
                    graph.run(job, "direct")
            measured.append(compare(graph, runners, options.jobs))
    if len(measured) > 1:
        fit(measured)


if __name__ == "__main__":
    main()
