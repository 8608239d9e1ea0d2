"""The figures of a run's report, as SVG documents; one picture as PNG."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from PIL import Image

from components.report import drawing
from components.report.drawing import BOLD, COLOURS, DASHED, STYLE, THIN

_WIDTH = 7.2  # inches
# Of the confusion's picture: blue, whose opacity is the share, so that it suits every page.
_BLUE = (0, 114, 178)


def learning(history: Sequence[Mapping[str, float]]) -> str:
    """The paper's Figure 4 of one network: training thin, validation bold; below it the learning
    rate.

    Args:
      history: rows of history.csv, one or more.
    """
    epochs = [row["epoch"] for row in history]
    training, validation = (
        [100 * row[name] for row in history] for name in ("top1_error", "val_top1_error")
    )
    marker = "." if len(epochs) == 1 else ""  # one epoch makes no line
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(_WIDTH, 4.6), layout="constrained")
        top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
        top.plot(
            epochs, training, marker=marker, color=COLOURS[0], linewidth=THIN, linestyle=DASHED
        )
        top.plot(epochs, validation, marker=marker, color=COLOURS[0], linewidth=BOLD)
        top.set(ylabel="top-1 error (%)", ylim=drawing.error_limits([training, validation]))
        rates = [row["learning_rate"] for row in history]
        bottom.plot(epochs, rates, marker=marker, color=COLOURS[1], linewidth=1.2)
        bottom.set(xlabel="epoch", ylabel="learning rate")
        bottom.set_ylim(bottom=0)
        bottom.xaxis.set_major_locator(MaxNLocator(integer=True))
        grey = COLOURS[-1]
        drawing.key(figure, {"training": (grey, THIN, DASHED), "validation": (grey, BOLD, "-")})
        return drawing.svg(figure)


def reliability(found: Mapping[str, Any]) -> str:
    """Share of right answers by mean probability, of the bins of counting.reliability."""
    bins = found["bins"]
    confidence, accuracy = (
        np.array([one[name] for one in bins]) for name in ("confidence", "accuracy")
    )
    interval = np.array([one["interval"] for one in bins])
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(5.2, 4.6), layout="constrained")
        ax = figure.subplots()
        ax.plot([0, 1], [0, 1], color=COLOURS[-1], linewidth=THIN, linestyle=DASHED)
        distance = np.abs(interval.T - accuracy)
        ax.errorbar(
            confidence, accuracy, yerr=distance, fmt="o", color=COLOURS[0], markersize=4, capsize=2
        )
        ax.set(
            xlabel="mean probability of the answer",
            ylabel="share of right answers",
            xlim=(0, 1.02),
            ylim=(0, 1.02),
            aspect="equal",
        )
        return drawing.svg(figure)


def balance(splits: Mapping[str, Sequence[int]]) -> str:
    """Images of the classes, the largest class first.

    Args:
      splits: name -> a number of images for each class.
    """
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(_WIDTH, 2.6), layout="constrained")
        ax = figure.subplots()
        for number, (split, counts) in enumerate(splits.items()):
            steps = np.arange(len(counts) + 1) + 0.5
            ax.stairs(
                sorted(counts, reverse=True),
                steps,
                baseline=None,
                color=COLOURS[number],
                label=split,
            )
        ax.set(xlabel="class, the largest first", ylabel="images")
        ax.set_ylim(bottom=0)
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        figure.legend(loc="outside upper center", ncols=len(splits))
        return drawing.svg(figure)


def confusion(counts: Sequence[tuple[int, int, int]], classes: int) -> bytes:
    """A PNG with a pixel for each pair: actual class down, answer across, darker where the answer
    is more frequent among the images of the class.

    Args:
      counts: of counting.confusion.
      classes: number of classes, the picture's side.
    """
    actual, answered, times = np.array(counts, np.int64).reshape(-1, 3).T
    totals = np.bincount(actual, weights=times, minlength=classes)
    opacity = np.zeros((classes, classes), np.uint8)
    # The square root lets rare answers be seen.
    opacity[actual, answered] = np.ceil(255 * np.sqrt(times / totals[actual]))
    picture = np.empty((classes, classes, 4), np.uint8)
    picture[..., :3], picture[..., 3] = _BLUE, opacity
    out = io.BytesIO()
    Image.fromarray(picture, "RGBA").save(out, "PNG", optimize=True)
    return out.getvalue()
