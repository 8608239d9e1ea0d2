"""Figures in the forms of the paper, as texts of SVG. Equal inputs give equal bytes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
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


def curves(panels: Mapping[str, Sequence[Curve]]) -> str:
    """Figures 1, 4 and 6: error by iterations, thin dashed in training and bold in tests.

    `panels`: title -> nets, from left to right; all have the same axes.
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
                x = np.asarray(curve.iterations) / unit
                marker = "." if len(x) == 1 else ""  # one epoch makes no line
                style = {"marker": marker, "color": colours[curve.depth]}
                ax.plot(x, curve.training, linewidth=THIN, linestyle=DASHED, **style)
                ax.plot(x, curve.test, linewidth=BOLD, label=curve.label, **style)
            ax.legend(loc="upper right")
        grey = COLOURS[-1]
        key(figure, {"training error": (grey, THIN, DASHED), "test error": (grey, BOLD, "-")})
        return svg(figure)


def responses(lines: Sequence[Line]) -> str:
    """Figure 7: standard deviation of the responses of 3x3 layers, in order and by magnitude."""
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

    `panels`: name of the norm (a row, with one scale) -> moment (a column) -> nets.
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


def _colours(depths: Iterable[int]) -> dict[int, str]:
    """A colour for each depth, the same for plain and residual nets."""
    return {depth: COLOURS[i % len(COLOURS)] for i, depth in enumerate(sorted(set(depths)))}


def error_range(nets: Sequence[Curve]) -> tuple[float, float]:
    """Round limits for what the curves do once the first, steep part is over."""
    return error_limits([errors for net in nets for errors in (net.training, net.test)])


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
    key(figure, {line.label: (colours[line.depth], 1.4, _style(line)) for line in lines})
