"""Figures in the forms of the paper, as SVG. Equal inputs give equal bytes."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

from components.report.drawing import (
    BOLD,
    COLOURS,
    DASHED,
    STYLE,
    THIN,
    WIDTH,
    error_limits,
    key,
    svg,
)

Series = Sequence[float]


class Curve(NamedTuple):
    """Errors of one net, in percent, at numbers of iterations."""

    label: str
    depth: int
    iterations: Series
    training: Series
    test: Series


class Line(NamedTuple):
    """Figures of one net, layer by layer."""

    label: str
    depth: int
    residual: bool
    values: Series


class Bar(NamedTuple):
    """An error in percent: ours, its deviation over seeds, the paper's; NaN where there is none."""

    label: str
    ours: float
    deviation: float
    paper: float


def curves(panels: Mapping[str, Sequence[Curve]]) -> str:
    """Figures 1, 4 and 6: error by iterations, thin dashed in training and bold in tests.

    Args:
      panels: title -> nets, from left to right; all have the same axes.

    Returns:
      The SVG document.
    """
    shown = {title: nets for title, nets in panels.items() if nets}
    nets = [curve for panel in shown.values() for curve in panel]
    colours = _colours(curve.depth for curve in nets)
    last = max(max(curve.iterations) for curve in nets)
    unit, name = (1e4, "iterations (1e4)") if last >= 2e4 else (1.0, "iterations")
    low, high = error_range(nets)
    with matplotlib.rc_context(STYLE):
        figure = Figure(
            figsize=(WIDTH if len(shown) > 1 else 0.6 * WIDTH, 3.9), layout="constrained"
        )
        axes = figure.subplots(1, len(shown), squeeze=False)[0]
        for ax, (title, panel) in zip(axes, shown.items(), strict=True):
            ax.set(
                title=title,
                xlabel=name,
                ylabel="error (%)",
                xlim=(0, last / unit),
                ylim=(low, high),
            )
            for curve in panel:
                x, colour = np.asarray(curve.iterations) / unit, colours[curve.depth]
                marker = "." if len(x) == 1 else ""  # one epoch makes no line
                ax.plot(
                    x, curve.training, marker=marker, color=colour, linewidth=THIN, linestyle=DASHED
                )
                ax.plot(x, curve.test, marker=marker, color=colour, linewidth=BOLD)
            _end_labels(
                ax, [(curve.label, curve.test[-1], colours[curve.depth]) for curve in panel]
            )
        key(figure, [("training error", THIN, DASHED), ("test error", BOLD, "-")])
        return svg(figure)


def responses(lines: Sequence[Line]) -> str:
    """Figure 7: standard deviation of the responses of 3x3 layers, in their order and by magnitude.

    Returns:
      The SVG document.
    """
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, 6.2), layout="constrained")
        axes = figure.subplots(2, 1, sharey=True)
        by_magnitude = [line._replace(values=sorted(line.values, reverse=True)) for line in lines]
        orders = {"original": lines, "sorted by magnitude": by_magnitude}
        for ax, (order, shown) in zip(axes, orders.items(), strict=True):
            _layers(ax, shown)
            ax.set(xlabel=f"layer index ({order})", ylabel="standard deviation")
            ax.set_ylim(bottom=0)
        _nets_key(figure, lines)
        return svg(figure)


def gradients(panels: Mapping[str, Mapping[str, Sequence[Line]]]) -> str:
    """Gradient norms by layer on a logarithmic scale.

    Args:
      panels: name of the norm (a row, with one scale) -> moment (a column) -> nets.

    Returns:
      The SVG document.
    """
    rows, columns = len(panels), max(len(row) for row in panels.values())
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, 0.6 + 2.8 * rows), layout="constrained")
        axes = figure.subplots(rows, columns, squeeze=False, sharey="row", sharex=True)
        for row, (name, moments) in zip(axes, panels.items(), strict=True):
            row[0].set_ylabel(name)
            for ax, lines in zip(row, moments.values(), strict=True):
                ax.set_yscale("log")
                ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
                ax.yaxis.set_major_formatter("{x:g}")
                ax.yaxis.set_minor_formatter(NullFormatter())
                _layers(ax, lines)
        for ax, moment in zip(axes[0], next(iter(panels.values())), strict=True):
            ax.set_title(moment)
        for ax in axes[-1]:
            ax.set_xlabel("convolution layer, from the image to the classes")
        _nets_key(
            figure, [line for row in panels.values() for lines in row.values() for line in lines]
        )
        return svg(figure)


def bars(panels: Mapping[str, Sequence[Bar]]) -> str:
    """Tables 3, 4 and 6: our errors beside the paper's.

    Args:
      panels: name of the error -> nets, from top to bottom.

    Returns:
      The SVG document.
    """
    rows = max(len(panel) for panel in panels.values())
    with matplotlib.rc_context(STYLE):
        figure = Figure(
            figsize=(WIDTH if len(panels) > 1 else 0.7 * WIDTH, 1.2 + 0.3 * rows),
            layout="constrained",
        )
        axes = figure.subplots(1, len(panels), squeeze=False)[0]
        for ax, (name, panel) in zip(axes, panels.items(), strict=True):
            places = np.arange(len(panel))
            deviations = [0 if math.isnan(bar.deviation) else bar.deviation for bar in panel]
            ax.errorbar(
                [bar.ours for bar in panel],
                places,
                xerr=deviations,
                fmt="o",
                color=COLOURS[0],
                capsize=3,
            )
            ax.plot([bar.paper for bar in panel], places, "D", color=COLOURS[1], fillstyle="none")
            ax.set_yticks(
                places, [bar.label for bar in panel] if ax is axes[0] else [""] * len(panel)
            )
            ax.set(xlabel=name, ylim=(len(panel) - 0.5, -0.5))
            ax.margins(x=0.12)
        handles = [
            Line2D([], [], marker="o", linestyle="none", color=COLOURS[0], label="here"),
            Line2D(
                [],
                [],
                marker="D",
                linestyle="none",
                color=COLOURS[1],
                fillstyle="none",
                label="paper",
            ),
        ]
        figure.legend(handles=handles, loc="outside upper center", ncols=2)
        return svg(figure)


def _colours(depths: Iterable[int]) -> dict[int, str]:
    """A colour for each depth, the same for plain and residual nets."""
    return {depth: COLOURS[i % len(COLOURS)] for i, depth in enumerate(sorted(set(depths)))}


def error_range(nets: Sequence[Curve]) -> tuple[float, float]:
    """Round limits for what the curves do once the first, steep part is over."""
    return error_limits([errors for net in nets for errors in (net.training, net.test)])


def _end_labels(ax: Axes, labels: Sequence[tuple[str, float, str]]) -> None:
    """Names right of the ends of the curves, moved apart where they would overlap."""
    low, high = ax.get_ylim()
    ordered = sorted(labels, key=lambda entry: entry[1])
    places = spread([value for _, value, _ in ordered], 0.055 * (high - low), low, high)
    for (label, value, colour), place in zip(ordered, places, strict=True):
        ax.annotate(
            label,
            (1, value),
            (1.06, place),
            xycoords=ax.get_yaxis_transform(),
            textcoords=ax.get_yaxis_transform(),
            color=colour,
            va="center",
            fontsize=8,
            arrowprops={
                "arrowstyle": "-",
                "color": colour,
                "linewidth": 0.6,
                "shrinkA": 0,
                "shrinkB": 0,
            }
            | {"relpos": (0, 0.5)},
            annotation_clip=False,
        )


def spread(values: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Places near rising `values`, `gap` apart or more, from `low` to `high` as far as they fit."""
    groups: list[list[float]] = []

    def middle(group: list[float]) -> float:
        half = gap * len(group) / 2
        return max(low + half, min(high - half, sum(group) / len(group)))

    for value in values:
        groups.append([value])
        while len(groups) > 1:
            below, above = groups[-2:]
            if middle(above) - middle(below) >= gap * (len(below) + len(above)) / 2:
                break
            groups[-2:] = [below + above]
    return [
        middle(group) + gap * (i - (len(group) - 1) / 2)
        for group in groups
        for i in range(len(group))
    ]


def _layers(ax: Axes, lines: Sequence[Line]) -> None:
    colours = _colours(line.depth for line in lines)
    for line in lines:
        places = np.arange(1, len(line.values) + 1)
        ax.plot(
            places, line.values, color=colours[line.depth], linewidth=1.2, linestyle=_style(line)
        )
    ax.set_xlim(0, max(len(line.values) for line in lines) + 1)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True, steps=(1, 2, 5, 10)))


def _style(line: Line) -> Any:
    return "-" if line.residual else DASHED


def _nets_key(figure: Figure, lines: Sequence[Line]) -> None:
    colours = _colours(line.depth for line in lines)
    handles = {
        line.label: Line2D(
            [],
            [],
            color=colours[line.depth],
            linewidth=1.4,
            label=line.label,
            linestyle=_style(line),
        )
        for line in lines
    }
    figure.legend(
        handles=list(handles.values()), loc="outside upper center", ncols=min(len(handles), 6)
    )
