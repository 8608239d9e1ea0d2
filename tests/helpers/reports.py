"""Artifacts of a made-up run, as far as its report reads them: of any size, without a run.

`python -m tests.helpers.reports FOLDER CLASSES IMAGES` writes one and says how long its report
takes.
"""

import json
import os
import sys
import time

import numpy as np
import pyarrow as pa
import tensorflow as tf
from pyarrow import parquet
from tensorflow_metadata.proto.v0 import anomalies_pb2, statistics_pb2
from tensorflow_model_analysis.proto import metrics_for_slice_pb2, validation_result_pb2

from components.evaluator import predictions
from components.report import gathering, rendering
from pipeline.config import presets
from pipeline.config.options import assign, changes
from pipeline.config.settings import to_dict
from tests.helpers import data

NAMES = ("ant", "bee", "cat")


class Made:
    """A made-up run of n images.

    Args:
      folder: for its artifacts.
      names: of the classes.
      images: n.
      seed: of what the model says.
      file_name: number of an image -> name of its file.
      settings: of the configuration, on top of the preset `digits`.
      baseline: top-1 error of the model that it was compared with, under `center`.

    Attributes:
      labels: int [n].
      scores: what the candidate said, by protocol: float32 [n, classes], rows that add up to 1.
      sources: what the report is made from.
    """

    def __init__(
        self,
        folder,
        names=NAMES,
        images=40,
        seed=0,
        file_name="{}.jpg".format,
        settings=(),
        baseline=None,
    ):
        self.folder, self.names = str(folder), list(names)
        rng = np.random.default_rng(seed)
        classes = len(names)
        self.labels = rng.integers(0, classes, images)
        self.files = [file_name(number) for number in range(images)]
        self.scores = {name: _scores(rng, self.labels, classes) for name in ("center", "ten_crop")}
        self.baseline = baseline
        self.config = assign(presets.get("digits"), settings)
        folders = ("examples", "statistics", "anomalies", "model_run", "evaluation")
        for name in folders:
            os.makedirs(self.path(name))
        self._examples()
        self._statistics()
        self._model_run()
        self._evaluation()
        self.sources = gathering.Sources(
            **{name: self.path(name) for name in folders},
            serving="",
            baseline="",
            baseline_note="",
            pushed="/models/resnet/1700000000",
            fingerprint="abc",
            settings={
                "config": to_dict(self.config),
                "changed": changes(to_dict(self.config)),
                "commands": [{"title": "Serve", "command": "python -m serving.server"}],
            },
            seconds=[{"node": "Trainer", "seconds": 12.5, "state": "done"}],
        )

    def path(self, *parts):
        return os.path.join(self.folder, *parts)

    def written(self, **changed):
        """(results, page) of the report of these sources, with some changed."""
        os.makedirs(self.path("report"), exist_ok=True)
        rendering.write(self.sources._replace(**changed), self.path("report"))
        with open(self.path("report", "report.html"), encoding="utf-8") as file:
            return rendering.read(self.path("report")), file.read()

    def _examples(self):
        split = {
            "examples": len(self.labels), "quarantined": 1, "converted": 2, "bytes": 1000,
            "shards": 1, "deep": 0, "deepest": 0,
            "left_out": {"count": 1, "names": ["notes <b>.txt"]},
        }  # fmt: skip
        summary = {
            "kind": "folder", "source": "photos", "span": 0, "spans": [], "seed": 0,
            "classes": self.names, "labels": self.names, "splits": {"train": split, "eval": split},
            "duplicates": {k: {"count": 0, "names": []} for k in ("train_and_eval", "two_classes")},
        }  # fmt: skip
        self._write(json.dumps(summary), "examples", "summary.json")
        bad = {"name": "bad <i>.jpg", "source": "photos", "reason": "is cut off"}
        for name in summary["splits"]:
            self._write(json.dumps(bad) + "\n", "examples", f"quarantine-{name}.jsonl")
        os.makedirs(self.path("examples", "Split-eval"))
        images = [data.jpeg(seed, 96, 128) for seed in range(16)]
        with tf.io.TFRecordWriter(self.path("examples", "Split-eval", "data")) as writer:
            for number, (name, label) in enumerate(zip(self.files, self.labels, strict=True)):
                writer.write(_example(name, int(label), images[number % len(images)]))

    def _statistics(self):
        counts = np.bincount(self.labels, minlength=len(self.names))
        dataset = statistics_pb2.DatasetFeatureStatistics(num_examples=len(self.labels))
        words = {"image/class/synset": dict(zip(self.names, counts, strict=True))}
        for name, values in {**words, "image/format": {"JPEG": len(self.labels)}}.items():
            feature = dataset.features.add(path={"step": [name]})
            buckets = feature.string_stats.rank_histogram.buckets
            for value, count in values.items():
                if count:
                    buckets.add(label=value, sample_count=int(count))
        for name, side in (("image/height", 96), ("image/width", 128)):
            numbers = dataset.features.add(path={"step": [name]}).num_stats
            numbers.min, numbers.max, numbers.mean, numbers.median = side, side, side, side
        whole = statistics_pb2.DatasetFeatureStatisticsList(datasets=[dataset])
        for split in ("train", "eval"):
            self._write(
                whole.SerializeToString(), "statistics", f"Split-{split}", "FeatureStats.pb"
            )
            nothing = anomalies_pb2.Anomalies().SerializeToString()
            self._write(nothing, "anomalies", f"Split-{split}", "SchemaDiff.pb")

    def _model_run(self):
        rows = ["epoch,top1_error,val_top1_error,learning_rate"]
        rows += [f"{epoch},{0.9 / epoch},{0.95 / epoch},{0.1 / epoch}" for epoch in range(1, 13)]
        self._write("\n".join(rows), "model_run", "history.csv")
        summary = {
            "seconds": 12.5, "fit_seconds": 10.25, "images_per_second": 1234.5, "epochs": 12,
            "steps": 240, "parameters": 75770, "replicas": 1, "resumed_from": None,
        }  # fmt: skip
        self._write(json.dumps(summary), "model_run", "summary.json")

    def _evaluation(self):
        tables = [self._rows(protocol, scores) for protocol, scores in self.scores.items()]
        table = pa.concat_tables(tables)
        order = np.random.default_rng(1).permutation(table.num_rows)  # Beam's order is none
        parquet.write_table(table.take(order), self.path("evaluation", predictions.FILE))
        overall = metrics_for_slice_pb2.MetricsForSlice()
        _metric(overall, "example_count", len(self.labels))
        for protocol, scores in self.scores.items():
            for k in (1, 5):
                if k < len(self.names):
                    _metric(overall, f"{protocol}_top{k}", 1 - self.wrong(scores, k).mean())
        if self.baseline is not None:
            _metric(overall, "center_top1", 1 - self.baseline, "baseline")
        _records(self.path("evaluation", "metrics-00000-of-00001.tfrecord"), overall)
        verdict = validation_result_pb2.ValidationResult(validation_ok=True)
        _records(self.path("evaluation", "validations.tfrecord"), verdict)

    def wrong(self, scores, k=1):
        """Whether the label is not among the k best, bool [n]."""
        own = np.take_along_axis(scores, self.labels[:, None], axis=1)
        return (scores >= own).sum(axis=1) > k

    def _rows(self, protocol, scores):
        count = len(self.labels)
        top = np.argsort(-scores, axis=1, kind="stable")[:, : predictions.TOP]
        best = np.take_along_axis(scores, top, axis=1)
        own = np.take_along_axis(scores, self.labels[:, None], axis=1)
        columns = {
            "file": self.files,
            "label": self.labels,
            "model": ["candidate"] * count,
            "protocol": [protocol] * count,
            "top": list(top),
            "top_probabilities": list(best),
            "rank": (scores >= own).sum(axis=1),
            "probabilities": _lists(scores),
        }
        return pa.table(
            [pa.array(columns[field.name], field.type) for field in predictions.SCHEMA],
            schema=predictions.SCHEMA,
        )

    def _write(self, content, *parts):
        os.makedirs(os.path.dirname(self.path(*parts)), exist_ok=True)
        with open(self.path(*parts), "w" if isinstance(content, str) else "wb") as file:
            file.write(content)


def _scores(rng, labels, classes):
    """Right two times of three; the mistakes like some classes more than others."""
    count = len(labels)
    meant = np.where(rng.random(count) < 2 / 3, labels, (labels * 7 + rng.integers(1, 4, count)))
    scores = rng.random((count, classes), np.float32) ** 8
    scores[np.arange(count), meant % classes] += rng.random(count, np.float32) * classes / 4 + 0.1
    return scores / scores.sum(axis=1, keepdims=True)


def _lists(values):
    rows, width = values.shape
    return pa.ListArray.from_arrays(np.arange(rows + 1, dtype=np.int32) * width, np.ravel(values))


def _example(name, label, image):
    def feature(**value):
        kind, one = next(iter(value.items()))
        made = {"text": tf.train.BytesList, "number": tf.train.Int64List}[kind](value=[one])
        return tf.train.Feature(**{"bytes_list" if kind == "text" else "int64_list": made})

    features = {
        "image/filename": feature(text=name.encode()),
        "image/class/label": feature(number=label),
        "image/encoded": feature(text=image),
    }
    return tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString()


def _metric(overall, name, value, model="candidate"):
    item = overall.metric_keys_and_values.add()
    item.key.name, item.key.model_name = name, model
    item.value.double_value.value = value


def _records(path, message):
    with tf.io.TFRecordWriter(path) as writer:
        writer.write(message.SerializeToString())


def main():
    folder, classes, images = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    names = [f"class {number}, of {classes}" for number in range(classes)]
    made = Made(folder, names, images)
    start = time.monotonic()
    results, page = made.written()
    seconds = time.monotonic() - start
    print(f"{seconds:.1f} s, {len(page) / 1e6:.2f} MB, problems: {results['problems']}")


if __name__ == "__main__":
    main()
