"""A run's report, put together: `report.html` for people, `results.json` for machines."""

from __future__ import annotations

import base64
import json
import logging
import math
import os
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from markupsafe import Markup

from components import files
from components.evaluator import predictions
from components.evaluator.metric_table import METRICS
from components.example_gen import ingest_summary
from components.report import charts, counting, drawing, gallery, gathering
from components.report.counting import Answers
from components.report.gathering import Sources
from models.settings import Transform

PAGE, RESULTS = "report.html", "results.json"
TEMPLATE = "run.html"
# Images of each gallery.
_SHOWN = 12
# Up to so many classes the confusion is a table; above, a picture with a pixel for each pair.
_MATRIX = 30
# A picture of more classes would be too large for a browser.
_MOST_CLASSES = 4000
# Pixels of the picture's side, at least, and how much larger it can be made.
_SIDE, _ZOOMS = 500, (1, 2, 4, 8)

Part = TypeVar("Part")


def write(sources: Sources, folder: str) -> list[str]:
    """Writes both files.

    A part that cannot be made is missing, and the page says so: a run that ended well does not
    fail because of its report.

    Args:
      sources: of the run.
      folder: that is there.

    Returns:
      What is missing and why, a sentence each.
    """
    made = _Report(sources)
    page = drawing.template(__package__, TEMPLATE).render(made.context())
    files.write(os.path.join(folder, RESULTS), json.dumps(made.results, indent=1, allow_nan=False))
    files.write(os.path.join(folder, PAGE), page)
    return made.problems


def read(folder: str) -> dict[str, Any]:
    """The results in the folder of a report."""
    return json.loads(files.read(os.path.join(folder, RESULTS)))


class _Report:
    """The parts of a report.

    Attributes:
      results: what `results.json` holds; None for a part that could not be made.
      problems: which parts could not be made, and why.
    """

    def __init__(self, sources: Sources) -> None:
        self._sources = sources
        self._config = sources.settings["config"]
        self.problems: list[str] = []
        summary = ingest_summary.read_summary(sources.examples)
        self._names = [files.one_line(name) for name in summary["labels"]]
        self._short = counting.first_synonyms(self._names)
        self._answers = self._part("answers of single images", self._read_answers)
        self.results: dict[str, Any] = _plain(
            {
                "name": self._config["name"],
                "verdict": self._part("verdict", lambda: gathering.verdict(sources)),
                "errors": self._part("errors", self._errors),
                "training": self._part("training", lambda: gathering.training(sources.model_run)),
                "classes": self._counted("classes", lambda a: counting.classes(a, self._names)),
                "confusion": self._counted("confusion", self._confusion),
                "galleries": self._counted("galleries", self._galleries),
                "left_out": self._part("left out", lambda: gathering.left_out(sources.examples)),
                "reliability": self._counted("reliability", counting.reliability),
                "data": self._part("data", lambda: gathering.data(sources)),
                "components": [dict(one) for one in sources.seconds],
                "configuration": self._config,
                "changed": sources.settings["changed"],
                "code": self._part("code", gathering.code),
                "fingerprint": gathering.fingerprint(sources),
                "environment": self._part("environment", gathering.environment),
                "commands": sources.settings["commands"],
                "problems": self.problems,
            }
        )

    def context(self) -> dict[str, Any]:
        """What the template needs."""
        figures = self._figures()
        pictures = self._part("pictures of single images", self._pictures) or {}
        # Pictures may have added some.
        self.results["problems"] = self.problems
        return {
            **self.results,
            "figures": figures,
            "pictures": pictures,
            "matrix": self._matrix(),
            "names": self._names,
            "short": self._short,
            "zooms": [max(1, _SIDE // max(1, len(self._names))) * zoom for zoom in _ZOOMS],
            "metrics": METRICS,
            "percent": _percent,
        }

    def _part(self, what: str, make: Callable[[], Part]) -> Part | None:
        try:
            return make()
        except Exception as error:  # whatever it is, the run has ended well and says so
            logging.exception("The report has no %s.", what)
            self.problems.append(f"{what}: {files.reason(error) or type(error).__name__}")
            return None

    def _counted(self, what: str, make: Callable[[Answers], Part]) -> Part | None:
        found = self._answers
        return None if found is None else self._part(what, lambda: make(found))

    def _read_answers(self) -> Answers:
        table = predictions.read(self._sources.evaluation, counting.COLUMNS)
        return counting.answers(table, self._config["evaluate"]["protocol"])

    def _errors(self) -> list[dict[str, Any]]:
        return counting.errors(self._sources.evaluation, self._config["evaluate"]["protocols"])

    def _confusion(self, found: Answers) -> dict[str, Any]:
        return {
            "without_answer": int((~found.finite).sum()),
            "most_confused": counting.most_confused(found, self._names),
            "counts": counting.confusion(found),
        }

    def _galleries(self, found: Answers) -> dict[str, list[dict[str, Any]]]:
        chosen = {
            "mistakes": counting.mistakes(found, _SHOWN),
            "least_certain": counting.least_certain(found, _SHOWN),
        }
        return {name: [self._image(found, row) for row in rows] for name, rows in chosen.items()}

    def _image(self, found: Answers, row: int) -> dict[str, Any]:
        label, answer = int(found.labels[row]), int(found.top[row, 0])
        return {
            "file": files.one_line(found.files[row]),
            "label": label,
            "actual": self._names[label],
            "answer": answer,
            "answered": self._names[answer],
            "probability": float(found.probabilities[row, 0]),
        }

    def _pictures(self) -> dict[str, str]:
        """Addresses of thumbnails, by file as shown and label."""
        found = self._answers
        if found is None:
            return {}
        rows = {*counting.mistakes(found, _SHOWN), *counting.least_certain(found, _SHOWN)}
        wanted = [(str(found.files[row]), int(found.labels[row])) for row in sorted(rows)]
        transform = Transform(upright=self._config["transform"]["upright"])
        made = gallery.thumbnails(self._sources.examples, wanted, transform)
        return {f"{files.one_line(name)} {label}": text for (name, label), text in made.items()}

    def _figures(self) -> dict[str, Markup | None]:
        """The drawings by name; None where there is nothing to draw."""
        history = (self.results["training"] or {}).get("history")
        calibration = (self.results["reliability"] or {}).get("bins")
        drawn: dict[str, Any] = {
            "learning": history and (lambda: _learning(history)),
            "reliability": calibration and (lambda: _reliability(self.results["reliability"])),
            "balance": self.results["data"] and (lambda: _balance(self.results["data"])),
            "confusion": self.results["confusion"] and self._confusion_picture,
        }
        return {
            name: self._part(f"drawing of {name}", make) if make else None
            for name, make in drawn.items()
        }

    def _confusion_picture(self) -> Markup | None:
        classes = len(self._names)
        if not _MATRIX < classes <= _MOST_CLASSES:
            return None
        picture = charts.confusion(self.results["confusion"]["counts"], classes)
        return Markup(f"data:image/png;base64,{base64.b64encode(picture).decode()}")

    def _matrix(self) -> list[list[int]] | None:
        """A row for each class where the classes are few: its images by the answer."""
        classes, found = len(self._names), self.results["confusion"]
        if not found or classes > _MATRIX:
            return None
        rows = [[0] * classes for _ in range(classes)]
        for actual, answered, times in found["counts"]:
            rows[actual][answered] = times
        return rows


def _learning(history: Sequence[dict[str, float]]) -> Markup:
    last = history[-1]
    label = (
        f"Top-1 error and learning rate over {len(history)} epochs; at the end training has"
        f" {last['top1_error']:.2%} and validation {last['val_top1_error']:.2%}."
    )
    return drawing.inline(charts.learning(history), "learning", label)


def _reliability(found: dict[str, Any]) -> Markup:
    label = (
        f"Share of right answers by their mean probability in {len(found['bins'])} bins; the"
        f" expected calibration error is {found['expected_calibration_error']:.2%}."
    )
    return drawing.inline(charts.reliability(found), "reliability", label)


def _balance(data: dict[str, Any]) -> Markup:
    counts = {}
    for split, one in data["splits"].items():
        present = list(one["class_counts"].values())
        counts[split] = present + [0] * (data["classes"] - len(present))
    parts = [f"{split} from {max(values):,} to {min(values):,}" for split, values in counts.items()]
    label = f"Images of the classes, the largest class first: {'; '.join(parts)}."
    return drawing.inline(charts.balance(counts), "balance", label)


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{value:.2%}"


def _plain(value: Any) -> Any:
    """What JSON can hold: numbers that are not finite are None."""
    if isinstance(value, dict):
        return {key: _plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
