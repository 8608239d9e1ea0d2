"""The tables that benchmarks write."""

import os
import sys

import pytest

from benchmarks import report, rounds
from benchmarks.report import Row


def test_a_stage_is_written_between_its_markers_and_nothing_else_changes(tmp_path, capsys):
    page = tmp_path / "speed.md"
    page.write_text(
        "A\n<!-- begin x -->\nold\n<!-- end x -->\nB\n<!-- begin y -->\nkept\n<!-- end y -->\n"
    )
    row = Row("decode", [200, 100, 300], "images/s", "peer 1.0", [100, 100, 100], bar=1.6)
    report.write("x", "make bench-x", [row], ["a fact"], page)
    text = page.read_text()
    assert (
        "| decode | 200 (100 to 300) images/s | peer 1.0 | 100 | 2 (1 to 3) | ≥ 1.6 | yes |" in text
    )
    assert "- a fact" in text and "old" not in text
    assert text.startswith("A\n") and text.endswith("B\n<!-- begin y -->\nkept\n<!-- end y -->\n")
    assert "decode" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("row", "met"),
    [
        (Row("a", [1.0], "s", "p", [2.0], bar=0.6, at_most=True), True),
        (Row("a", [1.0], "s", "p", [2.0], bar=0.4, at_most=True), False),
        (Row("a", [15.1], "s", bar=15, at_most=True), False),
        (Row("a", [1.0], "s", "p", [2.0]), None),
        (Row("a", [3.0, 1.0, 9.0], "images/s", "p", [2.0, 2.0, 2.0], bar=1.5), True),
    ],
)
def test_a_bar_is_for_the_median_ratio(row, met):
    assert row.met is met


def test_a_page_without_the_markers_is_refused(tmp_path):
    page = tmp_path / "speed.md"
    page.write_text("nothing")
    with pytest.raises(ValueError, match="begin x"):
        report.write("x", "c", [], page=page)


def test_ways_alternate():
    calls = []

    def way(name):
        return lambda: float(len(calls.append(name) or calls))

    found = rounds.take_turns({"a": way("a"), "b": way("b")}, 3)
    assert calls == ["a", "b", "b", "a", "a", "b"]
    assert found == {"a": [1, 4, 5], "b": [2, 3, 6]}


def test_a_worker_answers_and_says_when_it_ended(tmp_path):
    script = tmp_path / "work.py"
    script.write_text(
        "from benchmarks import rounds\nprint('noise')\n"
        "rounds.answer(lambda a, b: {'sum': a + b} if a else exit(3))\n"
    )
    worker = rounds.Worker(sys.executable, str(script), environment={"PYTHONPATH": os.getcwd()})
    try:
        assert worker.ask(a=1, b=2) == {"sum": 3}
        with pytest.raises(RuntimeError, match="status 3"):
            worker.ask(a=0, b=0)
    finally:
        worker.close()
