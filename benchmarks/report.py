"""Writes what a benchmark measured into docs/speed.md, between the markers of its stage.

The text around the markers is written by hand; what is between them is only ever written from here.
"""

from __future__ import annotations

import dataclasses
import datetime
import importlib.metadata
import os
import statistics
from collections.abc import Sequence
from pathlib import Path

PAGE = Path(__file__).resolve().parent.parent / "docs" / "speed.md"


@dataclasses.dataclass(frozen=True)
class Row:
    """One line of the table: a figure of ours beside a peer's, of the same rounds.

    Attributes:
      what: what was done.
      ours: one figure a round.
      peer: who or what it is held against, with its version; "" where there is none.
      theirs: the peer's figures, of the same rounds.
      unit: of both.
      bar: the limit of the ratio of ours to the peer's, or of ours alone without a peer; None: no
        limit.
      at_most: the bar is an upper limit (seconds, memory), not a lower one (images/s).
    """

    what: str
    ours: Sequence[float]
    unit: str
    peer: str = ""
    theirs: Sequence[float] = ()
    bar: float | None = None
    at_most: bool = False

    @property
    def ratios(self) -> list[float]:
        """Ours to the peer's, round by round; ours where there is no peer."""
        if not self.peer:
            return list(self.ours)
        return [one / other for one, other in zip(self.ours, self.theirs, strict=True)]

    @property
    def met(self) -> bool | None:
        """Whether the median ratio is within the bar."""
        if self.bar is None:
            return None
        middle = statistics.median(self.ratios)
        return middle <= self.bar if self.at_most else middle >= self.bar

    def cells(self) -> list[str]:
        """The cells of `HEAD`."""
        ratio = f"{_spread(self.ratios)}" if self.peer else ""
        bar = "" if self.bar is None else f"{'≤' if self.at_most else '≥'} {self.bar:g}"
        verdict = {None: "", True: "yes", False: "**no**"}[self.met]
        theirs = _spread(self.theirs) if self.peer else ""
        return [
            self.what,
            f"{_spread(self.ours)} {self.unit}",
            self.peer,
            theirs,
            ratio,
            bar,
            verdict,
        ]


HEAD = ["what", "ours", "against", "theirs", "ours / theirs", "bar", "met"]


def write(
    stage: str, command: str, rows: Sequence[Row], facts: Sequence[str] = (), page: Path = PAGE
) -> None:
    """Prints a stage's table and puts it into the page.

    Args:
      stage: the name in the markers `<!-- begin STAGE -->` and `<!-- end STAGE -->`.
      command: the command line that was run, as a reader would repeat it.
      rows: of the table; figures are medians over the rounds, with their range.
      facts: further sentences that were measured, a bullet each.
      page: the Markdown file.

    Raises:
      ValueError: the page has no such markers.
    """
    table = [HEAD, ["---"] * len(HEAD), *(row.cells() for row in rows)]
    lines = [f"`{command}`, {_machine()}:", "", *(f"| {' | '.join(cells)} |" for cells in table)]
    if facts:
        lines += ["", *(f"- {fact}" for fact in facts)]
    text = "\n".join(lines)
    print(text, flush=True)
    begin, end = f"<!-- begin {stage} -->", f"<!-- end {stage} -->"
    whole = page.read_text()
    if whole.count(begin) != 1 or whole.count(end) != 1:
        raise ValueError(
            f"{page} must have the lines {begin} and {end} once; add them where the table belongs."
        )
    before, rest = whole.split(begin)
    partial = page.with_suffix(".tmp")
    partial.write_text(f"{before}{begin}\n{text}\n{end}{rest.split(end)[1]}")
    partial.replace(page)


def _spread(values: Sequence[float]) -> str:
    """The median, and the range where there was more than one round."""
    middle = _figure(statistics.median(values))
    if len(values) == 1:
        return middle
    low, high = _figure(min(values)), _figure(max(values))
    return middle if low == high else f"{middle} ({low} to {high})"


def _figure(value: float) -> str:
    """Three digits, whole numbers from 100 on."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _machine() -> str:
    model = "unknown processor"
    if os.path.exists("/proc/cpuinfo"):
        names = [
            line
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ]
        model = names[0].split(":")[1].strip() if names else model
    cores = len(os.sched_getaffinity(0))
    version = importlib.metadata.version("tensorflow")
    date = datetime.date.today().isoformat()
    # Far above what the benchmark itself leaves behind when the machine has other work.
    load = os.getloadavg()[2]
    return f"{date}, {cores} cores ({model}), TensorFlow {version}, load over 15 minutes {load:.1f}"
