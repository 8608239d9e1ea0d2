"""Reports of synthetic results: numbers, what is missing, and files that other programs can read."""

import csv
import dataclasses
import html.parser
import math
import os
import re
import xml.etree.ElementTree as ET

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from components.evaluator.metric_table import METRICS, Metric
from models.settings import PROTOCOLS
from pipeline.config import presets
from pipeline.config.options import assign
from pipeline.study import contents, plots, report
from pipeline.study.definitions import STUDIES, Member, Result, Study

MEMBERS = (
    Member("plain-8", ("model.residual=false",)),
    Member("plain-14", ("model.depth=14", "model.residual=false")),
    Member("ResNet-8", (), {"top1": 9.5}),
    Member("ResNet-14", ("model.depth=14",), {"top1": 8.25}),
)
COMMAND = "python -m pipeline.study tiny --set data.source='A & B'"
SVG = "{http://www.w3.org/2000/svg}"
FILES = ["figure.svg", "report.html", "results.csv", "results.md"]


def study(kind="curves", members=MEMBERS, **changes):
    return Study(
        "tiny", "Tiny nets", "Figure 6", "digits", members, kind, "center", "Found.", **changes
    )


def result(member, seed=0, errors=(0.1, 0.02), curve=(0.9, 0.3, 0.2), extra=()):
    config = assign(presets.get("digits"), [*member.settings, f"train.seed={seed}", *extra])
    history = [
        {"epoch": epoch, "top1_error": error + 0.01, "val_top1_error": error}
        for epoch, error in enumerate(curve, start=1)
    ]
    return Result(
        member=member.label,
        seed=seed,
        folder="",
        config=config,
        history=history,
        steps_per_epoch=20,
        errors={"center": dict(zip(("top1", "top5"), errors, strict=True))},
        parameters=1000 + config.model.depth,
        seconds=100.0,
        model="",
        transform_graph="",
        train_files="",
        commit="abc1234",
    )


def all_results():
    return [
        result(MEMBERS[0], errors=(0.1, 0.02)),
        result(MEMBERS[1], errors=(0.125, math.nan)),
        result(MEMBERS[2], 0, errors=(0.10, 0.03), curve=(0.8, 0.4, 0.30)),
        result(MEMBERS[2], 1, errors=(0.14, 0.05), curve=(0.6, 0.3, 0.26)),
        result(MEMBERS[3], errors=(0.0825, 0.02), curve=(0.7, 0.2, 0.1)),
    ]


def written(folder, of=None, results=None):
    """Contents of the files by name."""
    report.write(of or study(), all_results() if results is None else results, str(folder), COMMAND)
    texts = {}
    for name in os.listdir(folder):
        with open(os.path.join(folder, name), encoding="utf-8") as file:
            texts[name] = file.read()
    return texts


class Page(html.parser.HTMLParser):
    """Tables of a page as lists of cells; fails when tags are not balanced."""

    VOID = {"meta", "br", "img", "link", "hr"}

    def __init__(self, text):
        super().__init__()
        self.open, self.tables, self.text = [], [], ""
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attributes):
        for name, value in attributes:
            if name in ("src", "href", "xlink:href"):
                assert value.startswith("#"), value  # nothing from elsewhere
        if tag not in self.VOID:
            self.open.append(tag)
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")

    def handle_startendtag(self, tag, attributes):
        pass

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data
        if self.open and self.open[-1] in ("td", "th"):
            self.tables[-1][-1][-1] += data


def markdown_tables(text):
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in text.splitlines()
        if line.startswith("|")
    ]
    starts = [i - 1 for i, row in enumerate(rows) if set("".join(row)) <= set("-:")]
    return [
        [rows[start], *rows[start + 2 : end]]
        for start, end in zip(starts, [*starts[1:], None], strict=True)
    ]


def test_numbers_of_the_table_are_those_of_the_runs(tmp_path):
    texts = written(tmp_path)
    assert sorted(texts) == FILES
    header, *rows = Page(texts["report.html"]).tables[0]
    table = {row[0]: dict(zip(header, row, strict=True)) for row in rows}
    assert list(table) == [member.label for member in MEMBERS]
    assert table["plain-8"] == {
        "net": "plain-8",
        "parameters": "1,008",
        "seeds": "1",
        "training error": "21.00",
        "top-1, center": "10.00",
        "paper": "–",
        "difference": "–",
        "time for one": "2 min",
    }
    # Two seeds, 10 and 14 %: mean 12, deviation sqrt(8); the paper has 9.5.
    two = table["ResNet-8"]
    assert two["top-1, center"] == "12.00 ± 2.83"
    assert two["training error"] == "29.00 ± 2.83"
    assert (two["seeds"], two["paper"], two["difference"]) == ("2", "9.50", "+2.50")
    assert table["ResNet-14"]["difference"] == "+0.00"


def test_markdown_has_the_table_of_the_page(tmp_path):
    texts = written(tmp_path)
    page, markdown = Page(texts["report.html"]).tables, markdown_tables(texts["results.md"])
    assert markdown[0] == page[0]
    assert markdown[1][1:] == page[1]  # the setting
    assert ["Iterations", "240"] in page[1]  # 12 epochs of 20 steps
    assert ["Code", "abc1234"] in page[1]


def test_csv_has_every_run_exactly(tmp_path):
    results = all_results()
    rows = list(csv.DictReader(written(tmp_path, results=results)["results.csv"].splitlines()))
    assert len(rows) == len(results)
    for row, one in zip(rows, results, strict=True):
        assert (row["member"], int(row["seed"]), row["protocol"]) == (
            one.member,
            one.seed,
            "center",
        )
        top1, top5 = (one.errors["center"][key] for key in ("top1", "top5"))
        assert float(row["top1_error"]) == top1
        assert row["top5_error"] == "" if math.isnan(top5) else float(row["top5_error"]) == top5
        assert float(row["training_top1_error"]) == one.history[-1]["top1_error"]
        assert int(row["iterations"]) == 240


def test_what_is_missing_is_named(tmp_path):
    results = all_results()
    texts = written(tmp_path, results=results[:3])
    for name in ("report.html", "results.md"):
        assert "Not run yet: ResNet-14." in texts[name]
        assert "Not complete" in texts[name]
    assert "ResNet-14" not in texts["results.csv"]
    complete = [one for one in results if one.seed == 0]
    assert "Not complete" not in written(tmp_path / "all", results=complete)["report.html"]
    seeds = [*complete, *(result(member, seed) for member in MEMBERS[:3] for seed in (1, 2))]
    page = written(tmp_path / "seeds", results=seeds)["report.html"]
    assert "Not run yet: ResNet-14 with seed 1 and 2." in page


def test_a_report_of_nothing_says_so(tmp_path):
    texts = written(tmp_path, results=[])
    assert "Not run yet: plain-8, plain-14, ResNet-8, ResNet-14." in Page(texts["report.html"]).text
    assert "figure.svg" not in texts


def test_what_was_not_measured_is_not_made_up(tmp_path):
    runs = [
        dataclasses.replace(result(member), errors={"ten_crop": {"top1": 0.2, "top5": 0.1}})
        for member in MEMBERS
    ]
    texts = written(tmp_path, study("table"), runs)
    page = Page(texts["report.html"])
    assert "center, the protocol of the paper's numbers, was not measured" in page.text
    first, second = page.tables[:2]
    assert [row[first[0].index("top-1, center")] for row in first[1:]] == ["–"] * 4
    assert second[0] == ["net", "top-1, ten_crop"] and second[1] == ["plain-8", "20.00"]
    assert "figure.svg" not in texts


def test_page_and_figure_are_whole_documents(tmp_path):
    texts = written(tmp_path)
    page = texts["report.html"]
    Page(page)
    inline = ET.fromstring(page[page.index("<svg") : page.index("</svg>") + len("</svg>")])
    alone = ET.fromstring(texts["figure.svg"])
    # The page's figure has the page's colours and a text for those who cannot see it.
    drawn = [[one.get("d") for one in svg.iter(f"{SVG}path")] for svg in (inline, alone)]
    assert drawn[0] == drawn[1]
    assert inline.get("role") == "img" and inline.get("aria-label")
    assert not re.search(r"@import|url\((?!#)|<script", page)


@pytest.mark.parametrize("kind", ["curves", "table"])
def test_equal_results_give_equal_bytes(tmp_path, kind):
    first = written(tmp_path / "first", study(kind))
    again = written(tmp_path / "again", study(kind), list(reversed(all_results())))
    assert first == again


def test_names_are_text_and_no_markup(tmp_path):
    member = Member("<b>net</b>", ())
    page = written(tmp_path, study(members=(member,)), [result(member)])["report.html"]
    assert "<b>" not in page and "<b>net</b>" in Page(page).text
    assert COMMAND in Page(page).text


def test_differences_from_the_recipe_are_listed(tmp_path):
    everywhere = ("train.epochs=2", "root=/elsewhere", "train.strategy=one_device")
    runs = [
        result(MEMBERS[0], extra=everywhere),
        result(MEMBERS[2], extra=(*everywhere, "train.ema=0.9")),
    ]
    page = Page(written(tmp_path, results=runs)["report.html"]).text
    assert "train.epochs=2 instead of 12\n" in page
    assert "train.ema=0.9 instead of 0.0 (ResNet-8)\n" in page
    assert "/elsewhere" not in page and "one_device" not in page


def test_other_data_than_the_papers_are_said_to_be_so(tmp_path):
    other = result(MEMBERS[0], extra=("data.kind=folder", "data.source=photos"))
    page = Page(written(tmp_path, results=[other])["report.html"])
    assert ["Data", "folder"] in page.tables[1]
    assert "data.kind=folder instead of digits" in page.text


@pytest.mark.parametrize("name", STUDIES)
def test_studies_without_settings_have_their_own_recipe(name):
    one = STUDIES[name]
    assert one.kind in contents.KINDS and one.protocol in PROTOCOLS
    runs = []
    for member in one.members:
        config = assign(presets.get(one.preset), [*one.settings, *member.settings, "train.seed=3"])
        runs.append(dataclasses.replace(result(MEMBERS[0]), member=member.label, config=config))
    assert report.differences(one, contents.group(one, runs)) == []


def test_curves_are_drawn_where_they_are(tmp_path):
    """Reads the curves back from the SVG: one scale for both panels, means over seeds."""
    svg = ET.fromstring(written(tmp_path)["figure.svg"])
    drawn = {"0.8": [], "1.6": []}  # training, test
    for path in svg.iter(f"{SVG}path"):
        style = path.get("style", "")
        width = re.search(r"stroke-width: (0\.8|1\.6)(?![\d.])", style)
        points = np.array(re.findall(r"[ML] ([-\d.]+) ([-\d.]+)", path.get("d") or ""), float)
        if width and path.get("clip-path") and len(points) == 3:
            drawn[width[1]].append(points)
    errors = [(90, 30, 20), (90, 30, 20), (70, 35, 28), (70, 20, 10)]
    lines = np.array([*drawn["0.8"], *drawn["1.6"]])
    expected = np.array([*([e + 1 for e in curve] for curve in errors), *errors])
    assert lines.shape == (8, 3, 2)
    # Some of the curves begin above the panel and are drawn from there: the ends are all inside.
    fit, residue, *_ = np.polyfit(expected[:, 1:].ravel(), lines[:, 1:, 1].ravel(), 1, full=True)
    assert fit[0] < 0 and residue < 1e-6 * fit[0] ** 2
    x = lines[:, :, 0]
    np.testing.assert_allclose(x[:, 2] - x[:, 1], x[0, 2] - x[0, 1], rtol=1e-4)


@given(st.lists(st.lists(st.floats(0, 100), min_size=1, max_size=6), min_size=1, max_size=4))
@example([[100.0]])
def test_the_ends_of_all_curves_are_inside_the_panel(errors):
    low, high = plots.error_range([plots.Curve("net", 20, range(len(e)), e, e) for e in errors])
    assert 0 <= low < high <= 100
    assert all(low <= curve[-1] <= high for curve in errors)


def test_the_first_steep_part_is_cut_off():
    # As in Figure 6: 90 % in the beginning, 14 % at the first rate, 7 % at the end.
    curve = [90.0, 60.0, *[14.0] * 80, *[7.0] * 82]
    assert plots.error_range([plots.Curve("net", 20, range(len(curve)), curve, curve)]) == (0, 15)


def test_a_metric_of_the_table_is_a_column(tmp_path, monkeypatch):
    """Runs that have not measured it have none; an error is in percent, other values are not."""
    monkeypatch.setitem(METRICS, "top_3", Metric("top3_error", "top-3 error", {"k": 3}))
    monkeypatch.setitem(METRICS, "loss", Metric("cross_entropy", "cross-entropy", error=False))
    runs = all_results()
    measured = {"center": {"top1": 0.1, "top5": 0.02, "top_3": 0.05, "loss": 0.25}}
    runs[0] = dataclasses.replace(runs[0], errors=measured)
    texts = written(tmp_path, study("table"), runs)
    first, second, *_ = csv.DictReader(texts["results.csv"].splitlines())
    assert (first["top3_error"], first["cross_entropy"]) == ("0.05", "0.25")
    assert (second["top3_error"], second["cross_entropy"]) == ("", "")
    assert second["commit"] == runs[1].commit
    page = Page(texts["report.html"])
    [header, row, *_] = next(t for t in page.tables if "top-3, center" in t[0])
    assert row[header.index("top-3, center")] == "5.00"
    assert row[header.index("cross-entropy, center")] == "0.25"
