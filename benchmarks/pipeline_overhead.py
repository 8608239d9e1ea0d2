"""What the pipeline costs around the work that it is there for.

    python -m benchmarks.pipeline_overhead [--rounds 2]

Runs the demo's configuration (handwritten digits, every component) as a person does, each time in a
process of its own: `cold` in a fresh root, `cached`, where nothing has changed, and the same graph
with TFX's own LocalDagRunner, also cached. The overhead of a cold run is its wall time less what
Keras' `fit` took and less what the exported model takes for the evaluation images, in batches and
without TFX. Nodes are timed by the runner's own lines, all else by when a line comes.
"""

from __future__ import annotations

import argparse
import glob
import importlib.metadata
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from typing import NamedTuple

from benchmarks import report, rounds
from pipeline.config import presets

_OURS = (sys.executable, "-m", "pipeline.local_runner")
# As TFX's tutorials run a pipeline.
_UPSTREAM = """
import sys
from tfx import v1 as tfx
from pipeline import presets
from pipeline.config.options import assign
from pipeline.pipeline import create_pipeline
tfx.orchestration.LocalDagRunner().run(create_pipeline(assign(presets.digits(), [f"root={sys.argv[1]}"])))
"""
_NODE = re.compile(r"\s+(\S) (\w+)\s+([\d.]+) s   ")
_DONE, _CACHED = "✓", "·"
_COLD_BAR, _CACHED_BAR = 45.0, 15.0


class Run(NamedTuple):
    """One run of the pipeline; all in seconds.

    Attributes:
      wall: from the start of the process to its end.
      before: until the first node starts.
      after: from the end of the last node.
      nodes: of each node.
    """

    wall: float
    before: float
    after: float
    nodes: dict[str, float]


def run(root: str, cached: bool) -> Run:
    """Runs the demo's pipeline below a root.

    Raises:
      RuntimeError: it fails, or is not (all) from the cache as said.
    """
    lines, nodes = [], {}
    start = time.perf_counter()
    before = last = 0.0
    command = [*_OURS, "--set", f"root={root}"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        assert process.stdout
        for line in process.stdout:
            lines.append(line)
            if found := _NODE.match(line):
                last, seconds = time.perf_counter() - start, float(found[3])
                before = before or last - seconds
                nodes[found[2]] = seconds
                if found[1] != (_CACHED if cached else _DONE):
                    raise RuntimeError(
                        f"{line.strip()}: expected {'a cached' if cached else 'a new'} result"
                    )
    wall = time.perf_counter() - start
    if process.returncode or not nodes:
        raise RuntimeError(f"{' '.join(command)} failed:\n{''.join(lines[-10:])}")
    return Run(wall, before, wall - last, nodes)


def upstream(root: str) -> float:
    """Seconds of the cached run with TFX's LocalDagRunner.

    Raises:
      RuntimeError: it fails, or runs a node anew.
    """
    before = _outputs(root)
    start = time.perf_counter()
    quiet = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
    done = subprocess.run(
        [sys.executable, "-c", _UPSTREAM, root], capture_output=True, env=quiet, text=True
    )
    if done.returncode:
        raise RuntimeError(f"TFX's LocalDagRunner failed:\n{done.stderr[-2000:]}")
    seconds = time.perf_counter() - start
    if anew := sorted(_outputs(root) - before):
        raise RuntimeError(f"TFX's LocalDagRunner did not take all from the cache: {anew}")
    return seconds


def training(root: str) -> dict[str, float]:
    """What the Trainer wrote about itself: `seconds`, of which `fit_seconds` in Keras."""
    [path] = glob.glob(os.path.join(_artifacts(root), "Trainer", "model_run", "*", "summary.json"))
    with open(path) as file:
        return json.load(file)


def evaluation(root: str) -> float:
    """Seconds of the exported model for the evaluation images, in batches, graphs built."""
    import tensorflow as tf

    [model] = glob.glob(os.path.join(_artifacts(root), "Trainer", "model", "*", "Format-Serving"))
    [split] = glob.glob(os.path.join(_artifacts(root), "ExampleGen", "examples", "*", "Split-eval"))
    evaluate = tf.saved_model.load(model).signatures["evaluate"]
    files = sorted(tf.io.gfile.glob(os.path.join(split, "*")))
    compression = "GZIP" if files[0].endswith(".gz") else ""
    for _ in range(2):
        start = time.perf_counter()
        for batch in tf.data.TFRecordDataset(files, compression).batch(64):
            evaluate(examples=batch)
        seconds = time.perf_counter() - start
    return seconds


def _outputs(root: str) -> set[str]:
    return set(glob.glob(os.path.join(_artifacts(root), "*", "*", "*")))


def _artifacts(root: str) -> str:
    return os.path.join(root, presets.digits().name, "artifacts")


def table(
    colds: list[Run], cacheds: list[Run], theirs: list[float], roots: list[str]
) -> tuple[list[report.Row], list[str]]:
    """Rows and facts of as many rounds."""
    trained = [training(root) for root in roots]
    evaluated = [evaluation(root) for root in roots]
    fits = [one["fit_seconds"] for one in trained]
    over = [cold.wall - fit - work for cold, fit, work in zip(colds, fits, evaluated, strict=True)]
    cached = [one.wall for one in cacheds]
    upstream_runner = f"TFX {importlib.metadata.version('tfx')} LocalDagRunner"
    rows = [
        report.Row("cold run less training and evaluation", over, "s", bar=_COLD_BAR, at_most=True),
        report.Row("cached run", cached, "s", bar=_CACHED_BAR, at_most=True),
        report.Row("cached run", cached, "s", upstream_runner, theirs),
    ]
    outside = [one["seconds"] - fit for one, fit in zip(trained, fits, strict=True)]
    facts = [
        (
            f"The cold run: {_middle([cold.wall for cold in colds])} s, of which `fit`"
            f" {_middle(fits)} s and the model for the evaluation images {_middle(evaluated)} s."
        ),
        _parts("Cold", colds),
        f"The Trainer beside `fit` (the net and its first weights, export): {_middle(outside)} s.",
        _parts("Cached", cacheds),
    ]
    return rows, facts


def _parts(kind: str, runs: list[Run]) -> str:
    names = runs[0].nodes
    nodes = ", ".join(f"{name} {_middle([one.nodes[name] for one in runs])}" for name in names)
    before, after = (_middle([getattr(one, end) for one in runs]) for end in ("before", "after"))
    return (
        f"{kind}, in seconds: {before} until the first node (imports), {nodes}, {after} after the"
        " last."
    )


def _middle(values: list[float]) -> str:
    return f"{statistics.median(values):.1f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=2, help="cold and cached runs")
    options = parser.parse_args()
    colds: list[Run] = []
    cacheds: list[Run] = []
    with tempfile.TemporaryDirectory() as folder:
        roots: list[str] = []

        def cold() -> float:
            roots.append(os.path.join(folder, str(len(roots))))
            colds.append(run(roots[-1], cached=False))
            return colds[-1].wall

        def cached() -> float:
            cacheds.append(run(roots[-1], cached=True))
            return cacheds[-1].wall

        # Every other round begins with the cached ones: in the root of the round before.
        ways = {
            "cold": cold,
            "cached": cached,
            "LocalDagRunner, cached": lambda: upstream(roots[-1]),
        }
        found = rounds.take_turns(ways, options.rounds)
        rows, facts = table(colds, cacheds, found["LocalDagRunner, cached"], roots)
    report.write(
        "pipeline", " ".join(["python -m benchmarks.pipeline_overhead", *sys.argv[1:]]), rows, facts
    )


if __name__ == "__main__":
    main()
