"""How the figures and pages of reports look: of runs, and of studies. Equal inputs give equal
bytes.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import jinja2
import numpy as np
from markupsafe import Markup, escape
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

# From shallow to deep; told apart by people who see few colours, and on paper.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#aa4499", "#7a5c00", "#56b4e9", "#333333")
INK, GRID = "#262626", "#e4e4e4"
STYLE: Any = {
    "svg.hashsalt": "resnet-tfx",
    "svg.fonttype": "path",  # equal in every browser
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "text.color": INK,
    "axes.titlesize": 10,
    "axes.labelcolor": INK,
    "axes.edgecolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.7,
    "axes.grid": True,
    "axes.axisbelow": True,
    "xtick.color": INK,
    "ytick.color": INK,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "legend.frameon": False,
}
WIDTH = 9.0  # inches
DASHED: Any = (0, (3, 1.5))
# Lines of the paper's Figure 4: training thin, tests bold.
THIN, BOLD = 0.8, 1.6


def svg(figure: Figure) -> str:
    """The SVG document of a figure that was drawn in STYLE."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    return buffer.getvalue().decode()


def inline(document: str, name: str, label: str) -> Markup:
    """An SVG document as a part of a page, in the page's colours, light or dark.

    Args:
      document: of `svg`.
      name: begins its ids, which must differ from those of the page's other figures.
      label: says to those who cannot see it what it shows.
    """
    # Without the XML declaration, which is for files of their own.
    text = document[max(0, document.find("<svg")) :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{name}-", text)
    for number, colour in enumerate(COLOURS):
        text = text.replace(colour, f"var(--series-{number}, {colour})")
    text = text.replace("#ffffff", "none").replace(INK, "currentColor")
    text = text.replace(GRID, f"var(--grid, {GRID})")
    return Markup(text.replace("<svg ", f'<svg role="img" aria-label="{escape(label)}" ', 1))


def key(figure: Figure, entries: Mapping[str, tuple[str, float, Any]]) -> None:
    """A legend above the panels: label -> colour, width and style of its line."""
    handles = [
        Line2D([], [], color=colour, linewidth=width, linestyle=style, label=label)
        for label, (colour, width, style) in entries.items()
    ]
    figure.legend(handles=handles, loc="outside upper center", ncols=min(len(handles), 6))


def error_limits(curves: Sequence[Sequence[float]]) -> tuple[float, float]:
    """Round limits (percent) for what curves of errors do once the first, steep part is over."""
    values = [np.asarray(errors, float) for errors in curves]
    late = [np.percentile(errors, 75) for errors in values] + [
        1.15 * errors[-1] for errors in values
    ]
    high = max(5.0, min(100.0, 5 * math.ceil(max(late) * 1.05 / 5)))
    lowest = min(errors.min() for errors in values)
    low = min(5.0 * math.floor(lowest / 5), high - 5) if lowest > high / 2 else 0.0
    return low, high


def template(package: str, name: str) -> jinja2.Template:
    """A template of a package; pages extend `base.html` of this one.

    Args:
      package: dotted name; its folder `templates` is looked into first.
      name: of the file.
    """
    packages = dict.fromkeys((package, __package__))
    environment = jinja2.Environment(
        loader=jinja2.ChoiceLoader([jinja2.PackageLoader(one) for one in packages]),
        autoescape=jinja2.select_autoescape(["html"]),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    return environment.get_template(name)
