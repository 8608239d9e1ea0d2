"""What the report of each kind of study shows: a figure, its caption, columns of the table."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

from components.evaluator.metric_table import METRICS
from pipeline.study import plots
from pipeline.study.definitions import Member, Result, Study

NONE = "–"
# Training images that layers are studied on.
RESPONSE_IMAGES, GRADIENT_IMAGES = 1024, 512


class Net(NamedTuple):
    """A member and its runs, one for each seed."""

    member: Member
    results: list[Result]

    @property
    def label(self) -> str:
        return self.member.label

    @property
    def depth(self) -> int:
        return self.results[0].config.model.depth

    @property
    def residual(self) -> bool:
        return self.results[0].config.model.residual

    def errors(self, protocol: str, key: str) -> list[float]:
        """What was measured with each seed, errors in percent; `key` is one of METRICS."""
        found = [result.errors.get(protocol, {}).get(key, math.nan) for result in self.results]
        factor = 100 if METRICS[key].error else 1
        return [factor * value for value in found if not math.isnan(value)]

    def training_errors(self) -> list[float]:
        """Top-1 error in the last epoch of training, in percent, of each seed."""
        return [100 * result.history[-1]["top1_error"] for result in self.results if result.history]


class Shown(NamedTuple):
    """What a kind of study shows: SVG ("" for none), its caption, columns of the table."""

    figure: str
    caption: str
    header: list[str] = []
    cells: dict[str, list[str]] = {}  # label -> one cell for each of `header`
    layers: list[list[object]] = []  # rows of layers.csv


def of(study: Study, nets: Sequence[Net]) -> Shown:
    """What to show of the runs; responses and gradients are computed now."""
    return KINDS[study.kind](study, nets)


def shown_errors(study: Study) -> list[str]:
    """Keys of METRICS that are worth a column: all but top-5, which is where the paper has it."""
    published = {key for member in study.members for key in member.paper or {}}
    return [key for key in METRICS if key != "top5" or key in published]


def mean(values: Sequence[float]) -> str:
    """Mean of the seeds, with the standard deviation where there are several."""
    if not values:
        return NONE
    text = f"{statistics.fmean(values):.2f}"
    return f"{text} ± {statistics.stdev(values):.2f}" if len(values) > 1 else text


def group(study: Study, results: Sequence[Result]) -> list[Net]:
    """The members that have run, in the study's order, with their runs by seed."""
    runs = [
        (member, sorted((r for r in results if r.member == member.label), key=lambda r: r.seed))
        for member in study.members
    ]
    return [Net(member, found) for member, found in runs if found]


def missing(study: Study, nets: Sequence[Net]) -> list[str]:
    """Members without a run, and those that lack seeds which others have."""
    seeds = {net.label: {result.seed for result in net.results} for net in nets}
    every = set().union(*seeds.values())
    found = []
    for member in study.members:
        lacking = sorted(every - seeds.get(member.label, set()))
        if member.label not in seeds:
            found.append(member.label)
        elif lacking:
            found.append(f"{member.label} with seed {' and '.join(map(str, lacking))}")
    return found


def _curves(study: Study, nets: Sequence[Net]) -> Shown:
    trained = [net for net in nets if all(result.history for result in net.results)]
    panels = {
        "plain nets": [_curve(net) for net in trained if not net.residual],
        "residual nets": [_curve(net) for net in trained if net.residual],
    }
    caption = (
        "Training error (thin, dashed) is the mean over an epoch, of augmented images as they were"
        " learnt from; test error (bold) is that of the central crop after the epoch."
    )
    if any(len(net.results) > 1 for net in trained):
        caption += " Means over seeds."
    cells = {net.label: [mean(net.training_errors())] for net in nets}
    figure = plots.curves(panels) if trained else ""
    return Shown(figure, caption, ["training error"], cells)


def _curve(net: Net) -> plots.Curve:
    epochs = min(len(result.history) for result in net.results)
    first = net.results[0]

    def errors(name: str) -> list[float]:
        rows = zip(*(result.history[:epochs] for result in net.results), strict=True)
        return [100 * statistics.fmean(row[name] for row in seeds) for seeds in rows]

    iterations = [row["epoch"] * first.steps_per_epoch for row in first.history[:epochs]]
    return plots.Curve(
        net.label, net.depth, iterations, errors("top1_error"), errors("val_top1_error")
    )


def _responses(study: Study, nets: Sequence[Net]) -> Shown:
    from pipeline.study import analysis  # TensorFlow

    found = {
        net.label: _over_seeds(
            analysis.responses(result, RESPONSE_IMAGES) for result in net.results
        )
        for net in nets
    }
    lines = [_line(net, found[net.label]) for net in nets]
    caption = (
        "Standard deviation of the outputs of each 3x3 layer, after batch normalisation and before"
        f" ReLU or addition, over {_first(RESPONSE_IMAGES)}, all places and channels; the trained"
        " networks work as in tests, with moving averages. Above: layers in their order; below: by"
        " magnitude."
    )
    cells = {
        label: [
            str(len(layers)),
            f"{statistics.fmean(layers.values()):.3f}",
            f"{max(layers.values()):.3f}",
        ]
        for label, layers in found.items()
    }
    rows: list[list[object]] = [["member", "layer", "std"]]
    rows += [
        [label, layer, value] for label, layers in found.items() for layer, value in layers.items()
    ]
    header = ["3x3 layers", "mean response std", "largest"]
    return Shown(plots.responses(lines), caption, header, cells, layers=rows)


def _gradients(study: Study, nets: Sequence[Net]) -> Shown:
    from pipeline.study import analysis  # TensorFlow

    moments = {"at initialisation": True, "after training": False}
    norms = ("kernel gradient", "response gradient, by image")
    panels: dict[str, dict[str, list[plots.Line]]]
    panels = {norm: {moment: [] for moment in moments} for norm in norms}
    cells: dict[str, list[str]] = {net.label: [] for net in nets}
    rows: list[list[object]] = [["member", "moment", "norm", "layer", "value"]]
    for net in nets:
        for moment, initial in moments.items():
            pairs = [analysis.gradients(result, GRADIENT_IMAGES, initial) for result in net.results]
            for norm, seeds in zip(norms, zip(*pairs, strict=True), strict=True):
                layers = _over_seeds(seeds)
                panels[norm][moment].append(_line(net, layers))
                rows += [[net.label, moment, norm, layer, value] for layer, value in layers.items()]
                if norm == norms[0]:
                    cells[net.label].append(
                        f"{min(layers.values()):.3g} to {max(layers.values()):.3g}"
                    )
    caption = (
        "L2 norms of the gradient of the cross-entropy (without weight decay) at each convolution"
        f" but projections, on full batches of {_first(GRADIENT_IMAGES)}; batch normalisation works"
        " as in training. Above: with respect to the kernel, of the mean loss. Below: with respect"
        " to the layer's output after batch normalisation, of an image's own loss (root of the"
        " mean square over images)."
    )
    header = [f"kernel gradient {moment}" for moment in moments]
    return Shown(plots.gradients(panels), caption, header, cells, layers=rows)


def _first(images: int) -> str:
    return f"the first {images:,} training images (all, where there are fewer) without augmentation"


def _line(net: Net, layers: Mapping[str, float]) -> plots.Line:
    return plots.Line(net.label, net.depth, net.residual, list(layers.values()))


def _over_seeds(seeds: Iterable[Mapping[str, float]]) -> dict[str, float]:
    """Mean over seeds, layer by layer."""
    runs = list(seeds)
    return {layer: statistics.fmean(run[layer] for run in runs) for layer in runs[0]}


KINDS: dict[str, Callable[[Study, Sequence[Net]], Shown]] = {
    "curves": _curves,
    "table": lambda study, nets: Shown("", ""),
    "responses": _responses,
    "gradients": _gradients,
}
