"""Data that changes: what is measured, what stops a run, what a later span is compared with."""

import glob
import json
import os

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_data_validation as tfdv
from apache_beam.options.pipeline_options import PipelineOptions
from scipy.spatial import distance
from tfx import v1 as tfx
from tfx.orchestration import metadata

from components.data_validation import component as data_validation
from components.data_validation import drift
from components.data_validation.component import DataError
from components.example_gen import component, source
from components.example_gen.settings import Data
from tests.helpers import data

CLASSES = ["n01", "n02", "n03"]
LIMITS = drift.limits(Data())
NONE = dict.fromkeys(LIMITS, 1.0)


def _feature(value):
    if isinstance(value, bytes):
        return tf.train.Feature(bytes_list=tf.train.BytesList(value=[value]))
    return tf.train.Feature(int64_list=tf.train.Int64List(value=[value]))


def _images(span, shares=(1, 1, 1), size=60, formats=("JPEG",), count=120):
    """Features of the images of a span: `shares` of the classes, sizes of up to `size` pixels."""
    rng = np.random.default_rng(span)
    labels = np.repeat(np.arange(3), np.array(shares) * count // sum(shares))
    for i, label in enumerate(labels):
        height, width = rng.integers(size // 2, size, 2)
        yield {
            "image/span": span, "image/height": int(height), "image/width": int(width),
            "image/class/label": int(label), "image/class/synset": CLASSES[label].encode(),
            "image/format": b"JPEG", "image/source_format": formats[i % len(formats)].encode(),
        }  # fmt: skip


SPANS = {
    "plain": list(_images(1)),
    "alike": list(_images(7)),
    "labels": list(_images(12, (6, 1, 1))),
    "large": list(_images(13, size=600)),
    "mixed": list(_images(14, (1, 1, 2), formats=("JPEG", "PNG", "PNG"), count=60)),
}
NUMBERS = {name: images[0]["image/span"] for name, images in SPANS.items()}


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """TFDV's statistics of all these spans, as StatisticsGen makes them."""
    path = str(tmp_path_factory.mktemp("examples") / "data.tfrecord")
    with tf.io.TFRecordWriter(path) as writer:
        for values in (values for images in SPANS.values() for values in images):
            features = tf.train.Features(feature={k: _feature(v) for k, v in values.items()})
            writer.write(tf.train.Example(features=features).SerializeToString())
    options = data_validation.stats_options(3, data_validation.curated_schema(CLASSES), spans=True)
    return tfdv.generate_statistics_from_tfrecord(
        path, stats_options=options, pipeline_options=PipelineOptions(["--runner=FnApiRunner"])
    )


@pytest.fixture
def spans(measured):
    found = drift.by_span(measured)
    return {name: found[number] for name, number in NUMBERS.items()}


@pytest.fixture
def window(measured):
    """Makes the statistics of a run that takes the named spans, as the numbers given."""

    def make(**numbers):
        result = drift.Statistics()
        for name, number in numbers.items():
            [found] = [d for d in measured.datasets if d.name == f"image/span_{NUMBERS[name]}"]
            result.datasets.add().CopyFrom(found)
            result.datasets[-1].name = f"image/span_{number}"
        return result

    return make


def test_spans_are_measured_by_themselves(measured):
    found = drift.by_span(measured)
    assert list(found) == [1, 7, 12, 13, 14]
    assert [found[n].datasets[0].num_examples for n in found] == [120, 120, 120, 120, 60]
    assert drift.overall(measured).num_examples == 540
    assert (
        data_validation._vanished(drift.overall(measured), data_validation.curated_schema(CLASSES))
        == []
    )


def test_distances_are_those_of_the_definitions(spans):
    distances, exceeded = drift.drift(spans["mixed"], spans["plain"], NONE)
    assert exceeded == []
    for name in ("image/class/synset", "image/source_format"):
        values = sorted({v[name] for v in [*SPANS["plain"], *SPANS["mixed"]]})
        plain, mixed = (
            [np.mean([image[name] == value for image in SPANS[span]]) for value in values]
            for span in ("plain", "mixed")
        )
        assert distances[name] == pytest.approx(distance.chebyshev(plain, mixed), abs=1e-6)
    # Of other sizes alone: all is in other bins.
    apart, _ = drift.drift(spans["large"], spans["plain"], NONE)
    assert apart["image/height"] == apart["image/width"] == pytest.approx(1, abs=1e-6)


def test_what_is_above_its_limit_is_named(spans):
    limits = {**NONE, "max_label_drift": 0.3, "max_format_drift": 0.5, "max_skew": 0.25}
    [label] = drift.drift(spans["labels"], spans["plain"], limits)[1]
    assert (
        label
        == "image/class/synset by 0.417 (L-infinity, most at n01), above data.max_label_drift=0.3"
    )
    [form] = drift.drift(spans["mixed"], spans["plain"], limits)[1]
    assert form.startswith("image/source_format by 0.667 (L-infinity, most at ")
    assert drift.drift(spans["mixed"], spans["plain"], {**limits, "max_format_drift": 1})[1] == []
    size = [
        text for text in drift.skew(spans["large"], spans["plain"], limits)[1] if "height" in text
    ]
    assert size == ["image/height by 1 (Jensen-Shannon divergence), above data.max_skew=0.25"]


def test_a_span_like_the_one_before_passes_and_is_kept(tmp_path, window, spans):
    accepted, report = str(tmp_path / "accepted"), str(tmp_path)
    both = window(plain=1, alike=10)
    data_validation.check_spans(both, both, LIMITS, accepted, report)
    assert drift.describe(report).startswith(
        "span 10 against span 1: format 0.00, label 0.00, size 0."
    )
    assert drift.accepted(accepted) == [1, 10]
    assert drift.read(accepted, 10) == (spans["alike"], spans["alike"])
    data_validation.check_spans(
        both, both, dict.fromkeys(LIMITS, 1e-6), accepted, report
    )  # has passed


def test_a_span_alone_is_compared_with_the_newest_that_has_passed(tmp_path, window, caplog):
    # ram:// is a file system of TensorFlow's, as gs:// is.
    accepted, report = f"ram://{tmp_path.name}/accepted", str(tmp_path)

    def check(**numbers):
        data_validation.check_spans(window(**numbers), window(**numbers), LIMITS, accepted, report)

    check(plain=2)
    assert "No span before span 2 is known" in caplog.text
    assert (
        drift.describe(report)
        == "no span before span 2 to compare it with, train against eval 0.00"
    )
    for _ in range(2):  # what was refused is not kept, so it is refused again
        with pytest.raises(
            DataError, match=r"span 4 differs from span 2 in image/height by .*max_size_drift"
        ):
            check(large=4)
    check(alike=5)
    assert drift.describe(report).startswith("span 5 against span 2")


def test_a_refused_span_stays_refused_while_it_is_in_the_window(tmp_path, window):
    accepted = str(tmp_path / "accepted")

    def check(**numbers):
        data_validation.check_spans(
            window(**numbers), window(**numbers), LIMITS, accepted, str(tmp_path)
        )

    check(plain=1)
    with pytest.raises(DataError, match="span 2 differs from span 1 in image/height"):
        check(plain=1, large=2)
    with pytest.raises(
        DataError, match=r"span 2 differs from span 1 .*; span 3 differs from span 2 "
    ):
        check(large=2, alike=3)
    assert drift.accepted(accepted) == [1]
    check(plain=1, alike=3)  # span 2 was taken away


def test_skew_is_looked_for_until_a_span_has_passed(tmp_path, window):
    accepted = str(tmp_path / "accepted")
    for later in ({}, {"plain": 5}):
        with pytest.raises(
            DataError, match="the train and eval splits of span 4 differ in image/height"
        ):
            data_validation.check_spans(
                window(alike=4, **later), window(large=4, **later), LIMITS, accepted, str(tmp_path)
            )
        with pytest.raises(DataError, match="span 4 has no evaluation image that can be used"):
            data_validation.check_spans(
                window(alike=4, **later), window(**later), LIMITS, accepted, str(tmp_path)
            )
    assert drift.accepted(accepted) == []


def test_what_is_before_the_first_refused_span_is_kept(tmp_path, window):
    accepted = str(tmp_path / "accepted")

    def check(**numbers):
        data_validation.check_spans(
            window(**numbers), window(**numbers), LIMITS, accepted, str(tmp_path)
        )

    with pytest.raises(DataError, match="span 3 differs from span 2 in image/height"):
        check(plain=1, alike=2, large=3)
    assert drift.accepted(accepted) == [1, 2]
    with pytest.raises(
        DataError, match=r"span 3 differs from span 2 .*; span 4 differs from span 3 "
    ):
        check(alike=2, large=3, plain=4)
    with pytest.raises(DataError, match="span 3 differs from span 2 in image/height"):
        check(large=3)


def test_a_span_that_came_late_or_again_is_compared_as_well(tmp_path, window):
    accepted = str(tmp_path / "accepted")

    def check(**numbers):
        data_validation.check_spans(
            window(**numbers), window(**numbers), LIMITS, accepted, str(tmp_path)
        )

    check(plain=1, alike=5)
    with pytest.raises(
        DataError, match="changed: span 3 differs from span 1 in image/height"
    ) as late:
        check(large=3, alike=5)
    assert "span 5" not in str(late.value), "It has passed."
    with pytest.raises(DataError, match="changed: span 5 differs from span 1 in image/height"):
        check(large=5)  # another version
    with pytest.raises(
        DataError, match="the train and eval splits of span 5 differ in image/height"
    ):
        data_validation.check_spans(
            window(alike=5), window(large=5), LIMITS, accepted, str(tmp_path)
        )
    check(alike=5)


def test_a_newest_span_without_an_image_in_one_split_is_refused(tmp_path, window):
    """All of its images are in quarantine; the span before it is not the newest."""
    accepted, both, one = str(tmp_path / "accepted"), window(plain=1, alike=2), window(plain=1)
    for train, evaluation, split in ((one, both, "training"), (both, one, "evaluation")):
        with pytest.raises(DataError, match=f"span 2 has no {split} image that can be used: look"):
            data_validation.check_spans(train, evaluation, LIMITS, accepted, str(tmp_path))
    assert drift.accepted(accepted) == [1]


def test_splits_that_differ_stop_the_run(tmp_path, window):
    accepted = str(tmp_path / "accepted")
    with pytest.raises(DataError) as error:
        data_validation.check_spans(
            window(plain=1), window(large=1), LIMITS, accepted, str(tmp_path)
        )
    assert str(error.value).startswith(
        "The data has changed: the train and eval splits of span 1 differ in image/height by 1"
    )
    assert not os.path.exists(accepted)


def _run(root, spans):
    """ExampleGen, statistics and the gate, over the newest spans."""
    config = Data(kind="folder", source=f"{root}/in/span-{{SPAN}}", spans=spans)
    examples = component.example_gen(config)
    schema = tfx.components.ImportSchemaGen(schema_file=f"{root}/schema.pbtxt")
    statistics = tfx.components.StatisticsGen(
        examples=examples.outputs["examples"],
        schema=schema.outputs["schema"],
        stats_options=data_validation.stats_options(2, spans=True),
    )
    gate = data_validation.ImageExampleValidator(
        statistics=statistics.outputs["statistics"],
        schema=schema.outputs["schema"],
        code="",
        limits=json.dumps(drift.limits(config)),
        accepted=f"{root}/out/spans/{source.key(config)}",
    )
    pipeline = tfx.dsl.Pipeline(
        pipeline_name="growing",
        pipeline_root=f"{root}/out",
        components=[examples, schema, statistics, gate],
        enable_cache=True,
        metadata_connection_config=metadata.sqlite_metadata_connection_config(
            f"{root}/mlmd.sqlite"
        ),
        beam_pipeline_args=["--runner=FnApiRunner"],
    )
    tfx.orchestration.LocalDagRunner().run(pipeline)
    return [
        len(glob.glob(f"{root}/out/{node}/*/[0-9]*"))
        for node in ("ImageExampleGen", "StatisticsGen")
    ]


def test_a_pipeline_runs_for_a_new_span_and_stops_for_a_changed_one(tmp_path):
    def arrive(number, side):
        images = {
            c: {f"{i}.jpg": data.jpeg(i, side, side) for i in range(6)} for c in ("ant", "bee")
        }
        data.class_folders(f"{tmp_path}/in/span-{number}", {"train": images, "val": images})

    schema = data_validation.curated_schema(["ant", "bee"])
    # A schema of one's own need not know what is there for spans.
    own = [
        feature
        for feature in schema.feature
        if feature.name not in ("image/span", "image/source_format")
    ]
    assert len(own) == len(schema.feature) - 2
    del schema.feature[:]
    schema.feature.extend(own)
    with open(tmp_path / "schema.pbtxt", "w") as file:
        file.write(str(schema))
    arrive(1, 16)
    assert _run(tmp_path, 1) == [1, 1]
    assert _run(tmp_path, 1) == [1, 1]
    [kept] = glob.glob(f"{tmp_path}/out/spans/*/span-1/FeatureStats.pb")
    written = os.stat(kept).st_mtime_ns
    arrive(2, 16)
    assert _run(tmp_path, 2) == [2, 2]
    assert os.stat(kept).st_mtime_ns == written, (
        "Measured again in another window, it is the same span."
    )
    arrive(3, 24)
    with pytest.raises(DataError, match="span 3 differs from span 2 in image/height by 1 "):
        _run(tmp_path, 1)
    assert len(glob.glob(f"{tmp_path}/out/spans/*/span-*/FeatureStats.pb")) == 2
