"""Figures in the forms of the paper, as texts of SVG. Equal inputs give equal bytes."""

from __future__ import annotations

import io
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

Series = Sequence[float]

# From shallow to deep; told apart by people who see few colours, and on paper.
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#aa4499", "#7a5c00", "#56b4e9", "#333333")
_STYLE: Any = {
    "svg.hashsalt": "resnet-tfx",
    "svg.fonttype": "path",  # equal in every browser
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.7,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e4e4e4",
    "grid.linewidth": 0.6,
    "legend.frameon": False,
}
_WIDTH = 9.0  # inches
_DASHED: Any = (0, (3, 1.5))


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
    with matplotlib.rc_context(_STYLE):
        figure = Figure(
            figsize=(_WIDTH if len(shown) > 1 else 0.6 * _WIDTH, 3.9), layout="constrained"
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
                ax.plot(x, curve.training, linewidth=0.8, linestyle=_DASHED, **style)
                ax.plot(x, curve.test, linewidth=1.6, label=curve.label, **style)
            ax.legend(loc="upper right")
        grey = _COLOURS[-1]
        _key(figure, {"training error": (grey, 0.8, _DASHED), "test error": (grey, 1.6, "-")})
        return _svg(figure)


def responses(lines: Sequence[Line]) -> str:
    """Figure 7: standard deviation of the responses of 3x3 layers, in order and by magnitude."""
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(_WIDTH, 6.2), layout="constrained")
        axes = figure.subplots(2, 1, sharey=True)
        by_magnitude = [line._replace(values=sorted(line.values, reverse=True)) for line in lines]
        orders = {"original": lines, "sorted by magnitude": by_magnitude}
        for ax, (order, shown) in zip(axes, orders.items(), strict=True):
            _layers(ax, shown)
            ax.set(xlabel=f"layer index ({order})", ylabel="standard deviation")
            ax.set_ylim(bottom=0)
        _nets_key(figure, lines)
        return _svg(figure)


def gradients(panels: Mapping[str, Mapping[str, Sequence[Line]]]) -> str:
    """Gradient norms by layer on a logarithmic scale.

    `panels`: name of the norm (a row, with one scale) -> moment (a column) -> nets.
    """
    rows, columns = len(panels), max(len(row) for row in panels.values())
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(_WIDTH, 0.6 + 2.8 * rows), layout="constrained")
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
        return _svg(figure)


def _colours(depths: Iterable[int]) -> dict[int, str]:
    """A colour for each depth, the same for plain and residual nets."""
    return {depth: _COLOURS[i % len(_COLOURS)] for i, depth in enumerate(sorted(set(depths)))}


def error_range(nets: Sequence[Curve]) -> tuple[float, float]:
    """Round limits for what the curves do once the first, steep part is over."""
    values = [
        np.asarray(errors, float) for curve in nets for errors in (curve.training, curve.test)
    ]
    late = [np.percentile(errors, 75) for errors in values] + [
        1.15 * errors[-1] for errors in values
    ]
    high = max(5.0, min(100.0, 5 * math.ceil(max(late) * 1.05 / 5)))
    lowest = min(errors.min() for errors in values)
    low = min(5.0 * math.floor(lowest / 5), high - 5) if lowest > high / 2 else 0.0
    return low, high


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
    return "-" if line.residual else _DASHED


def _nets_key(figure: Figure, lines: Sequence[Line]) -> None:
    colours = _colours(line.depth for line in lines)
    nets = {line.label: (colours[line.depth], 1.4, _style(line)) for line in lines}
    _key(figure, nets)


def _key(figure: Figure, entries: Mapping[str, tuple[str, float, Any]]) -> None:
    """A legend above the panels: label -> colour, width and style of its line."""
    handles = [
        Line2D([], [], color=colour, linewidth=width, linestyle=style, label=label)
        for label, (colour, width, style) in entries.items()
    ]
    figure.legend(handles=handles, loc="outside upper center", ncols=min(len(handles), 6))


def _svg(figure: Figure) -> str:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    return buffer.getvalue().decode()
