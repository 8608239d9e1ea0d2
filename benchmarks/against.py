"""This checkout against another one of the project: what a change costs, or has won.

    git worktree add /tmp/before COMMIT
    python -m benchmarks.against /tmp/before [--stages input ingestion ...] [--rounds 4]

Both use the Python that runs this and the same files. Each is a process of its own, and they take
turns; a stage calls what its own checkout's benchmark of it calls. Prints ratios of speed, this
checkout's over the other's: median of the rounds, and their range. On a machine that others use,
take a dozen rounds.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks import rounds

STAGES = ("input scale", "input inception", "ingestion", "center", "ten_crop", "serving")
_IMAGES = {"center": 96, "ten_crop": 12}


def speed(stage: str, folder: str) -> Callable[[], float]:
    """What measures the stage in the checkout on the path: images or requests a second."""
    if stage.startswith("input "):
        return _input(stage.removeprefix("input "), folder)
    return {"ingestion": _ingestion, "serving": _serving}.get(
        stage, lambda f: _evaluation(stage, f)
    )(folder)


def _input(crop: str, folder: str) -> Callable[[], float]:
    from benchmarks import training_input
    from benchmarks.input_peers import rate

    return lambda: rate(training_input.ours(folder, crop), 2.0, 6.0)


def _ingestion(folder: str) -> Callable[[], float]:
    from benchmarks import ingestion
    from components.example_gen.settings import Data

    tar = os.path.join(folder, "tar")
    config = Data(kind="folder", source=tar, train_shards=32, eval_shards=4)
    return lambda: ingestion.measure("1", config)["steady"]


def _evaluation(protocol: str, folder: str) -> Callable[[], float]:
    from benchmarks import evaluation

    base, number = tempfile.mkdtemp(dir=folder), _IMAGES[protocol]
    model, examples = (os.path.join(base, name) for name in ("model", "examples"))
    evaluation.make_model(os.path.join(model, "Format-Serving"), 18, 224, 1000, [protocol])
    evaluation.make_examples(examples, number, 1000)
    case = evaluation.Case(model, examples, (protocol,), number, 1000)

    def once() -> float:
        start = time.perf_counter()
        case.bare()
        return number / (time.perf_counter() - start)

    return once


def _serving(folder: str) -> Callable[[], float]:
    from benchmarks import evaluation, photos
    from components.serving_validator import model_server
    from serving.client import Client

    model = os.path.join(tempfile.mkdtemp(dir=folder), "model")
    evaluation.make_model(model, 50, 224, 1000, ["center"])
    [photo] = photos.photos(1)

    def once() -> float:
        times = []
        with model_server.running(model, model_server.EMBEDDED, 120) as started:
            client = Client(started.url, model_server.NAME)
            for _ in range(60):
                start = time.perf_counter()
                client.predict([photo])
                times.append(time.perf_counter() - start)
        return 1 / statistics.median(times[10:])

    return once


def _prepare(folder: str) -> None:
    """The files that both checkouts read: records of photographs, and a tar of class folders."""
    from benchmarks import sources, training_input

    training_input.write(folder, 1000)
    sources.write_tar(os.path.join(folder, "tar"), sources.many_photos(16_000))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("other", help="folder of the other checkout")
    parser.add_argument("--stages", nargs="+", default=STAGES, choices=STAGES)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--measure", nargs=2, metavar=("STAGE", "FOLDER"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        rounds.answer(speed(*options.measure))
        return
    here, other = (str(Path(path).resolve()) for path in (Path(__file__).parents[1], options.other))
    with tempfile.TemporaryDirectory() as folder:
        _prepare(folder)
        for stage in options.stages:
            # -P: the folder of this file must not come before the checkout that is measured.
            command = (sys.executable, "-P", __file__, "-", "--measure", stage, folder)
            workers = {
                path: rounds.Worker(*command, environment={"PYTHONPATH": path})
                for path in (here, other)
            }
            try:
                found = rounds.take_turns({p: w.ask for p, w in workers.items()}, options.rounds)
            finally:
                for worker in workers.values():
                    worker.close()
            ratios = [a / b for a, b in zip(found[here], found[other], strict=True)]
            mine, theirs = (statistics.median(found[path]) for path in (here, other))
            print(
                f"{stage}: {mine:,.4g} against {theirs:,.4g} a second, ratio"
                f" {statistics.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f})",
                flush=True,
            )


if __name__ == "__main__":
    main()
