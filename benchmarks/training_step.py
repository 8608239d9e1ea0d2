"""Training steps a second of ResNet-18 and 50 on a CPU, against peers in TensorFlow and PyTorch.

    python -m benchmarks.training_step [--batch 16] [--steps 2] [--rounds 3] [--depths 18 50]

A step is forward, backward and update on a batch that is already in memory: reading images is the
stage "Training input". Every network is a process of its own (benchmarks.step_nets); those of a
group start and compile together, then take turns. ResNet-50 v1.5 (stride in the 3x3) is held
against the peers that are v1.5, and v1 (the paper's, stride in the 1x1) against keras.applications,
which is v1.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import report
from benchmarks.rounds import Worker, take_turns

PEERS = Path(__file__).resolve().parent.parent / ".venv-peers" / "bin" / "python"
PRECISIONS = {"float32": "fp32", "mixed_bfloat16": "bf16"}
# The ways of benchmarks.step_nets that run in TensorFlow, and the least ratio to each.
TENSORFLOW, BAR = ("official", "hub", "applications"), 1.0
# Differences of the work below this are not worth a remark.
_SAME = 0.001


def groups(depth: int, precision: str) -> list[tuple[str, ...]]:
    """Ways that are measured side by side, ours first."""
    if depth == 50:
        return [("ours", "official", "hub", "torch", "torch-compile"), ("ours-v1", "applications")]
    # The effect of XLA is shown once.
    xla = ("ours-xla",) if precision == "float32" else ()
    return [("ours", "official", "hub", "torch", "torch-compile", *xla)]


def measure(group: Sequence[str], depth: int, precision: str, options: argparse.Namespace) -> Any:
    """Images/s of each round and what the process says of its network, by way."""
    job = [str(depth), precision, str(options.batch), str(options.size)]
    print(
        f"ResNet-{depth} {PRECISIONS[precision]}: {', '.join(group)} compile",
        file=sys.stderr,
        flush=True,
    )
    workers, said = {}, {}
    with tempfile.TemporaryDirectory() as cache:
        try:
            for way in group:
                python = sys.executable if way.startswith("ours") else str(PEERS)
                workers[way] = Worker(
                    python, "-m", "benchmarks.step_nets", way, *job, environment=_environment(cache)
                )

            def ask(way: str) -> float:
                said[way] = workers[way].ask(steps=options.steps)
                return said[way]["rate"]

            for way in group:  # returns when all have compiled
                workers[way].ask(steps=1)
            return (
                take_turns({way: lambda way=way: ask(way) for way in group}, options.rounds),
                said,
            )
        finally:
            for worker in workers.values():
                worker.close()


def _environment(cache: str) -> dict[str, str]:
    """Keras on TensorFlow; PyTorch's compiled code where it goes away."""
    return {
        "KERAS_BACKEND": "tensorflow",
        "CUDA_VISIBLE_DEVICES": "-1",
        "TORCHINDUCTOR_CACHE_DIR": cache,
        "OMP_NUM_THREADS": str(len(os.sched_getaffinity(0))),
    }


def rows(
    found: dict[str, list[float]], said: dict[str, dict[str, Any]], depth: int, precision: str
) -> list[report.Row]:
    """Ours against each other way of a group."""
    first, *others = found
    return [
        report.Row(
            f"{network(depth, first)}, {PRECISIONS[precision]}",
            found[first],
            "images/s",
            said[way]["name"] + unlike(said[first], said[way]),
            found[way],
            BAR if way in TENSORFLOW else None,
        )
        for way in others
    ]


def unlike(ours: dict[str, Any], peer: dict[str, Any]) -> str:
    """How the peer's network differs in size, or nothing."""
    names = {"parameters": "parameters", "macs": "multiply-adds"}
    ratios = {text: peer[key] / ours[key] for key, text in names.items()}
    found = [f"{ratio:.3f}x our {text}" for text, ratio in ratios.items() if abs(ratio - 1) > _SAME]
    return f" ({', '.join(found)})" if found else ""


def network(depth: int, way: str) -> str:
    """Name of our network: without bottlenecks v1 and v1.5 are the same."""
    return f"ResNet-{depth}" + ("" if depth == 18 else " v1" if way == "ours-v1" else " v1.5")


def work(depth: int, said: dict[str, dict[str, Any]]) -> str:
    """The size of the group's own network."""
    first = next(iter(said))
    parameters, macs = f"{said[first]['parameters']:,}", f"{said[first]['macs'] / 1e9:.3f} billion"
    return (
        f"{network(depth, first)}: {parameters} trainable parameters, {macs} multiply-adds an image"
        " forward; the peers' have as many where their line says nothing."
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--depths", type=int, nargs="+", choices=(18, 50), default=[18, 50])
    parser.add_argument("--batch", type=int, default=16, help="images a step")
    parser.add_argument("--size", type=int, default=224, help="side of an image in pixels")
    parser.add_argument("--steps", type=int, default=2, help="of every measurement")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    if not PEERS.exists():
        parser.error(f"{PEERS} is not there; make peers-env makes it.")
    table, notes = [], []
    for depth in options.depths:
        for precision in PRECISIONS:
            for group in groups(depth, precision):
                found, said = measure(group, depth, precision, options)
                table += rows(found, said, depth, precision)
                if precision == "float32":
                    notes.append(work(depth, {way: said[way] for way in group}))
                if "ours-xla" in said:
                    notes.append(
                        f"ResNet-{depth}: the first two steps, compilation included, took "
                        f"{said['ours']['warm_up']:.1f} s, with jit_compile=True "
                        f"{said['ours-xla']['warm_up']:.1f} s, while the whole group started."
                    )
    notes.append(
        f"Batches of {options.batch} images of {options.size} x {options.size} pixels, "
        f"{options.steps} steps a measurement, {options.rounds} rounds; all on "
        f"{len(os.sched_getaffinity(0))} threads."
    )
    command = " ".join(["python -m benchmarks.training_step", *sys.argv[1:]])
    report.write("step", command, table, notes)


if __name__ == "__main__":
    main()
