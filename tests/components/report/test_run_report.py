"""The page and the file of a made-up run."""

import base64
import csv
import html.parser
import io
import json
import os
import re
import shlex
import shutil
import subprocess

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from components import code_version
from components.data_validation import drift
from components.report import charts, component, drawing, gallery, rendering
from models.settings import Transform
from pipeline.config import commands, options, presets
from pipeline.config.options import assign
from pipeline.config.settings import to_dict
from pipeline.local_runner import parse
from tests.helpers.reports import Made

EVIL = "<script>alert(1)</script>"
NAMES = ["ant", EVIL, "cat", "doe, deer", "elk", "fox", "gnu"]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Seven classes; names of files and of a class are markup."""
    folder = tmp_path_factory.mktemp("run") / "made"
    name = (EVIL + " \"'&{}.jpg\n").format
    return Made(folder, NAMES, 150, file_name=name, settings=["train.epochs=5"])


@pytest.fixture(scope="module")
def written(made):
    return made.written()


class Page(html.parser.HTMLParser):
    """Elements and headings of a page; fails when tags are not balanced."""

    VOID = {"meta", "br", "img", "link", "hr", "input"}

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.text, self.headings = [], [], "", []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in self.VOID:
            self.open.append(tag)
        if re.fullmatch("h[1-6]", tag):
            self.headings.append(int(tag[1]))

    def handle_startendtag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" not in self.open:
            self.text += data

    def all(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]


def test_the_page_needs_nothing_else_and_says_what_it_shows(written):
    _, text = written
    page = Page(text)
    for _, attributes in page.tags:
        for name in ("src", "href", "xlink:href"):
            value = attributes.get(name)
            assert value is None or value.startswith(("#", "data:image/")), value
    assert not re.search(r"@import|url\((?!#)", text)
    assert page.headings[0] == 1 and page.headings.count(1) == 1
    assert all(b - a <= 1 for a, b in zip(page.headings, page.headings[1:], strict=False))
    assert all(image["alt"] for image in page.all("img"))
    assert all(svg["role"] == "img" and svg["aria-label"] for svg in page.all("svg"))
    assert text.count("<caption>") >= text.count('<table class="results">')
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    targets = [a["href"][1:] for a in page.all("a")]
    assert set(targets) <= set(ids) and len(targets) > 10


def test_names_are_text_and_no_markup(written):
    results, text = written
    page = Page(text)
    assert not page.all("script")
    assert EVIL in page.text and results["classes"] and "notes <b>.txt" in page.text
    names = {row["name"] for row in results["classes"]}
    assert names == set(NAMES)
    shown = [row["file"] for rows in results["galleries"].values() for row in rows]
    # Files are shown in one line, with what a terminal would obey as text.
    assert all(name.startswith(EVIL) and name.endswith(r".jpg\n") for name in shown)
    assert all(name in page.text for name in shown)


def test_the_file_has_the_numbers_that_the_page_shows(made, written):
    results, text = written
    page = Page(text)
    assert results["problems"] == []
    assert results["verdict"]["images"] == 150
    for row in results["errors"]:
        assert f"{row['value']:.2%}" in page.text
        assert f"{100 * row['interval'][0]:.2f} to {100 * row['interval'][1]:.2f}%" in page.text
    error = results["reliability"]["expected_calibration_error"]
    assert f"Expected calibration error: {error:.2%}" in page.text and "over 15 bins" in page.text
    with open(made.path("model_run", "history.csv")) as file:
        wanted = [{k: float(v) for k, v in row.items()} for row in csv.DictReader(file)]
    assert results["training"]["history"] == wanted
    assert results["data"]["splits"]["eval"]["class_counts"] == {
        name: int((made.labels == label).sum()) for label, name in enumerate(NAMES)
    }
    assert results["changed"] == [{"setting": "train.epochs", "value": 5, "preset": 12}]
    assert results["left_out"]["splits"]["train"]["bad_images"] == [
        {"name": "bad <i>.jpg", "source": "photos", "reason": "is cut off"}
    ]
    for wanted in (
        "1,234 images/s",
        "Trainer",
        "12.5",
        "bad <i>.jpg",
        "is cut off",
        "train.epochs",
    ):
        assert wanted in page.text


def test_equal_runs_give_equal_bytes(made, written):
    assert made.written() == written


def pixels(address):
    kind, _, content = address.partition(";base64,")
    assert kind in ("data:image/png", "data:image/jpeg")
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(content))).convert("RGB"), float)


def records(made):
    """(file, label) -> encoded image."""
    found = {}
    for record in tf.data.TFRecordDataset(made.path("examples", "Split-eval", "data")):
        feature = tf.train.Example.FromString(record.numpy()).features.feature
        name = feature["image/filename"].bytes_list.value[0].decode()
        label = feature["image/class/label"].int64_list.value[0]
        found[name, label] = feature["image/encoded"].bytes_list.value[0]
    return found


def test_thumbnails_are_the_images_that_are_named(made, written):
    results, text = written
    encoded = {
        (name.replace("\n", r"\n"), label): jpeg for (name, label), jpeg in records(made).items()
    }
    shown = [attributes["src"] for attributes in Page(text).all("img")]
    rows = [row for rows in results["galleries"].values() for row in rows]
    assert len(shown) == len(rows) == 24
    for address, row in zip(shown, rows, strict=True):
        image = Image.open(io.BytesIO(encoded[row["file"], row["label"]])).convert("RGB")
        # 96 x 128 pixels are no larger than a thumbnail: only the JPEG differs.
        assert np.abs(pixels(address) - np.asarray(image, float)).mean() < 6


def test_records_are_read_up_to_the_last_image_that_is_wanted(made, tmp_path):
    folder = tmp_path / "Split-eval"
    folder.mkdir()
    with open(made.path("examples", "Split-eval", "data"), "rb") as file:
        content = file.read()
    (folder / "data").write_bytes(content[: len(content) - 100])
    found = list(records(made))
    first, last = found[0], found[-1]
    assert list(gallery.thumbnails(str(tmp_path), [first, first], Transform())) == [first]
    with pytest.raises(tf.errors.DataLossError):
        gallery.thumbnails(str(tmp_path), [last], Transform())


def test_images_are_turned_upright_where_the_network_sees_them_so():
    picture = Image.fromarray(np.arange(40 * 60 * 3, dtype=np.uint8).reshape(40, 60, 3))
    exif = Image.Exif()
    exif[0x0112] = 6
    out = io.BytesIO()
    picture.save(out, "JPEG", exif=exif)
    for upright, shape in ((False, (40, 60, 3)), (True, (60, 40, 3))):
        assert pixels(gallery.thumbnail(out.getvalue(), Transform(upright=upright))).shape == shape


def test_what_cannot_be_made_is_missing_and_named(made, caplog, tmp_path):
    """A run that ended well does not fail, and nothing is hidden."""
    results, text = made.written(evaluation=str(tmp_path / "gone"))
    assert results["errors"] is None and results["confusion"] is None
    assert any("predictions.parquet is missing" in problem for problem in results["problems"])
    assert "Some parts of this report could not be made" in text
    assert "could not be made: the verdict" in text
    assert results["training"]["history"] and results["data"]
    assert "The report has no errors." in caplog.text and "Traceback" in caplog.text
    Page(text)
    assert "without errors: " in component.describe(made.path("report"))
    assert made.written()[0]["problems"] == [], "Nothing is left of it in the next one."


def test_a_picture_that_cannot_be_drawn_fails_nothing(made, written, monkeypatch):
    def broken(*_):
        raise RuntimeError("no font")

    for name in ("learning", "reliability", "balance"):
        monkeypatch.setattr(charts, name, broken)
    monkeypatch.setattr(gallery, "thumbnail", broken)
    results, text = made.written()
    assert results["problems"] == [
        "drawing of learning: no font",
        "drawing of reliability: no font",
        "drawing of balance: no font",
        "pictures of single images: no font",
    ]
    assert {**results, "problems": []} == written[0]
    assert text.count("no picture</span>") == 24 and not Page(text).all("svg")


def test_trainings_without_epochs_and_ensembles_have_no_curves(made, tmp_path):
    for summary, said in (
        ({"seconds": 2.0, "epochs": 0, "steps": 0}, "Nothing was trained"),
        ({"seconds": 2.0, "members": ["a", "b"]}, "an ensemble of 2 pushed models"),
    ):
        (tmp_path / "summary.json").write_text(json.dumps(summary))
        results, text = made.written(model_run=str(tmp_path))
        assert results["problems"] == [] and results["training"]["history"] == []
        assert said in text


def test_other_ends_of_a_run_are_told(made):
    _, text = made.written(pushed="", baseline="/models/resnet/17", baseline_note="passed over 18")
    assert "Blessed, not pushed." in text
    assert "pushed version 17 (passed over 18)" in text
    _, text = made.written(seconds=[])
    assert "Components of this run" not in text


def test_a_server_that_did_not_pass_is_told(made, tmp_path):
    told = {"reasons": ["p99 is 30 ms, above serve.max_latency_ms=20"], "images": 16}
    (tmp_path / "report.json").write_text(json.dumps(told))
    results, text = made.written(serving=str(tmp_path), pushed="")
    assert results["verdict"]["served"] is False and results["verdict"]["pushed_version"] == ""
    assert "The server did not pass: p99 is 30 ms, above serve.max_latency_ms=20." in text


def test_drift_between_spans_is_a_table(made, tmp_path):
    folder = tmp_path / "anomalies"
    shutil.copytree(made.path("anomalies"), folder)
    drifted = {"image/class/synset": 0.125, "image/source_format": 0.5}
    skewed = {**drifted, "image/height": 0.125}
    told = {"span": 7, "previous": 6, "drift": drifted, "skew": skewed}
    drift.write_report(str(folder), told)
    results, text = made.written(anomalies=str(folder))
    assert results["data"]["drift"]["drift"]["image/source_format"] == 0.5
    rows = re.findall(
        r'<th scope="row">(image/\w+(?:/\w+)?)</th><td>(\S+)</td><td>(\S+)</td>', text
    )
    assert rows == [
        ("image/class/synset", "0.125", "0.125"), ("image/source_format", "0.500", "0.500"),
        ("image/height", "–", "0.125"),
    ]  # fmt: skip
    assert "Span 7 against span 6" in text


def test_many_classes_have_a_table_that_folds_and_a_picture(tmp_path):
    names = [f"class {number}" for number in range(40)]
    made = Made(tmp_path / "made", names, 300)
    results, text = made.written()
    page = Page(text)
    assert "All 40 classes, the worst first" in page.text and page.all("details")
    assert len(page.all("table")) and 'class="matrix"' not in text
    [picture] = [one for one in page.all("img") if one["alt"].startswith("Confusion of 40")]
    content = base64.b64decode(picture["src"].partition(",")[2])
    opacity = np.asarray(Image.open(io.BytesIO(content)))[..., 3]
    assert opacity.shape == (40, 40)
    counts = np.zeros((40, 40))
    for actual, answered, times in results["confusion"]["counts"]:
        counts[actual, answered] = times
    np.testing.assert_array_equal(opacity > 0, counts > 0)
    share = counts / counts.sum(1, keepdims=True)
    np.testing.assert_allclose(opacity, 255 * np.sqrt(share), atol=1)
    assert len(page.all("input")) == 4


def test_the_cache_knows_the_templates():
    assert len(component._templates()) == 64
    folder = os.path.join(os.path.dirname(component.__file__), "templates")
    assert sorted(os.listdir(folder)) == ["base.html", rendering.TEMPLATE]


def test_figures_of_one_page_share_no_ids_and_follow_its_colours():
    svg = charts.learning(
        [{"epoch": 1, "top1_error": 0.5, "val_top1_error": 0.6, "learning_rate": 1}]
    )
    one, other = (drawing.inline(svg, name, "5 < 6") for name in ("a", "b"))
    ids = [set(re.findall(r'\bid="([^"]+)"', text)) for text in (one, other)]
    assert ids[0] and not ids[0] & ids[1]
    for text, own in zip((one, other), ids, strict=True):
        used = re.findall(r'(?:href="#|url\(#)([^")]+)', text)
        assert used and set(used) <= own
        assert 'aria-label="5 &lt; 6"' in text and "currentColor" in text
        assert "var(--series-0, #0072b2)" in text
        bare = re.sub(r"var\(--[\w-]+, #\w+\)", "", text)
        assert not re.findall(r"(?:fill|stroke): #\w+", bare)


@pytest.mark.parametrize(
    "settings",
    [
        [],
        ["train.epochs=5", "train.boundaries=3,4", "evaluate.protocols=center", "data.source=/a b"],
        ["train.warm_start=true", "serve.labels=stable=3", "transform.flip=true", "name=other"],
        ["train.init_from=/models/x.pth", "serve.host=::1", "serve.canary_hours=2"],
    ],
)
def test_the_command_of_a_run_makes_its_configuration(settings):
    config = assign(presets.get("digits"), settings)
    [python, flag, module, *arguments] = shlex.split(commands.run(config))
    assert (python, flag, module) == ("python", "-m", "pipeline.local_runner")
    again = parse(arguments)
    assert assign(again, ["root=runs"]) == assign(config, ["root=runs"])
    titles = [one["title"] for one in commands.after(config)]
    assert len(titles) == (3 if config.train.warm_start else 4)
    assert commands.serve(config).startswith("python -m serving.server --model_")


def test_a_configuration_of_no_preset_is_compared_with_the_first():
    config = assign(presets.get("imagenet"), ["preset=mine"])
    changed = {one["setting"]: one["preset"] for one in options.changes(to_dict(config))}
    assert changed["model.depth"] == presets.get("digits").model.depth


def test_the_commit_is_what_git_says():
    root = os.path.dirname(os.path.dirname(os.path.abspath(code_version.__file__)))
    git = ["git", "-C", root, "rev-parse", "--short", "HEAD"]
    done = subprocess.run(git, capture_output=True, text=True)
    if done.returncode:
        pytest.skip("This is no checkout.")
    assert code_version.commit()[0] == done.stdout.strip()
