"""How far random spans of the same images are apart: what the limits of drift and skew have to let
pass.

    python -m benchmarks.drift_noise --source ILSVRC2012 [--images 60 300 600] [--rounds 4]

Classes and file names are the source's (kind ilsvrc). Heights and widths are drawn: three quarters
are ImageNet's most frequent sizes, the rest is log-normal; `--sizes FILE` takes lines of "height
width" instead. A tenth of every span is held out, as ExampleGen does it. One line a feature and
span size: how many pairs were compared, the median and the largest distance, and the part above
0.3, 0.4, 0.5, 0.6.
"""

from __future__ import annotations

import argparse
import os
import tempfile

import apache_beam as beam
import numpy as np
import pyarrow as pa
import tensorflow_data_validation as tfdv

from components.data_validation import component as data_validation
from components.data_validation import drift
from components.example_gen import holdout, source
from components.example_gen.settings import Data
from components.example_gen.writing import index

_COMMON = (
    (375, 500),
    (500, 375),
    (333, 500),
    (500, 333),
    (500, 500),
    (334, 500),
    (480, 640),
    (768, 1024),
)
_WEIGHTS = (0.47, 0.14, 0.18, 0.06, 0.05, 0.04, 0.04, 0.02)
_LIMITS = (0.3, 0.4, 0.5, 0.6)
_NONE = dict.fromkeys(drift.limits(Data()), 1.0)


def draw_sizes(count: int, rng: np.random.Generator) -> np.ndarray:
    """Heights and widths like ImageNet's, int [count, 2]."""
    common = np.array(_COMMON)[rng.choice(len(_COMMON), count, p=_WEIGHTS)]
    other = np.exp(rng.normal((5.8, 6.0), 0.5, (count, 2))).astype(int)
    return np.where(rng.random((count, 1)) < 0.75, common, other)


def measure(
    columns: dict[str, np.ndarray], spans: np.ndarray, classes: int
) -> dict[int, drift.Statistics]:
    """TFDV's statistics of every span, as StatisticsGen makes them."""
    arrays = {**columns, drift.SPAN: spans}
    batch = pa.record_batch(
        {name: pa.array([[v] for v in values]) for name, values in arrays.items()}
    )
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "FeatureStats.pb")
        with beam.Pipeline(argv=["--runner=FnApiRunner"]) as pipeline:
            _ = (
                pipeline
                | beam.Create([batch])
                | tfdv.GenerateStatistics(data_validation.stats_options(classes, spans=True))
                | tfdv.WriteStatisticsToBinaryFile(path)
            )
        return drift.by_span(tfdv.load_stats_binary(path))


def held_out(names: np.ndarray, labels: np.ndarray, spans: np.ndarray) -> np.ndarray:
    """The images that ExampleGen would hold out of each span, bool [images]."""
    held = np.zeros(len(names), bool)
    for span in np.unique(spans):
        of_span = spans == span
        held[of_span] = holdout.assign(list(names[of_span]), labels[of_span], 0.1)
    return held


def distances(
    rows: dict[str, np.ndarray], images: int, rng: np.random.Generator
) -> dict[str, list[float]]:
    """Distances of neighbouring spans and of their splits, for one random order of all images."""
    order = rng.permutation(len(rows["name"]))[: len(rows["name"]) // images * images]
    spans = np.arange(len(order)) // images
    synsets = rows["synset"][order]
    columns = {"image/class/synset": synsets, "image/height": rows["height"][order]}
    columns["image/width"] = rows["width"][order]
    classes = len(np.unique(synsets))
    found: dict[str, list[float]] = {}

    def add(kind: str, measured: dict[str, float]) -> None:
        for name, distance in measured.items():
            found.setdefault(f"{kind} {name}", []).append(distance)

    whole = measure(columns, spans, classes)
    for span in range(1, len(whole)):
        add("drift", drift.drift(whole[span], whole[span - 1], _NONE)[0])
    held = held_out(rows["name"][order], rows["label"][order], spans)
    parts = measure(columns, 2 * spans + held, classes)
    for span in range(len(whole)):
        add("skew", drift.skew(parts[2 * span], parts[2 * span + 1], _NONE)[0])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--source", required=True, help="folder of the ILSVRC archives")
    parser.add_argument("--sizes", default="", help="file of heights and widths")
    parser.add_argument("--images", type=int, nargs="+", default=[60, 300, 600], help="in a span")
    parser.add_argument(
        "--rounds", type=int, default=4, help="random orders for spans of 60 images"
    )
    options = parser.parse_args()
    rng = np.random.default_rng(0)
    table = index.build(source.find(Data(kind="ilsvrc", source=options.source)), "train")
    rows = {name: np.array(table[name].to_pylist()) for name in ("name", "label", "synset")}
    sizes = np.loadtxt(options.sizes, int) if options.sizes else draw_sizes(table.num_rows, rng)
    rows["height"], rows["width"] = sizes[rng.integers(len(sizes), size=table.num_rows)].T
    for images in options.images:
        found: dict[str, list[float]] = {}
        for _ in range(max(1, options.rounds * images // options.images[0])):
            for name, values in distances(rows, images, rng).items():
                found.setdefault(name, []).extend(values)
        for name, values in found.items():
            above = " ".join(f"{np.mean(np.array(values) > limit):.3f}" for limit in _LIMITS)
            print(
                f"{images:5} {name:<26} {len(values):5} pairs, "
                f"median {np.median(values):.3f}, largest {max(values):.3f}, above: {above}",
                flush=True,
            )


if __name__ == "__main__":
    main()
