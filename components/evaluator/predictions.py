"""What a model said of every evaluation image: `predictions.parquet` beside TFMA's metrics.

The Evaluator's pass over the images writes it, so that no image is looked at twice.
"""

from __future__ import annotations

import contextlib
import contextvars
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa
import tensorflow_model_analysis as tfma
from pyarrow import parquet
from tensorflow_model_analysis.extractors import extractor, unbatch_extractor
from tensorflow_model_analysis.utils import util

from components import files
from components.evaluator import evaluation

FILE = "predictions.parquet"
TOP = 5
# One row an image, model and protocol, in no order.
SCHEMA = pa.schema(
    [
        ("file", pa.string()),  # image/filename of the record
        ("label", pa.int32()),
        ("model", pa.string()),  # candidate or baseline
        ("protocol", pa.string()),
        ("top", pa.list_(pa.int32())),  # the best classes, at most TOP, best first
        ("top_probabilities", pa.list_(pa.float32())),
        ("rank", pa.int32()),  # of the label, from 1; ties count against it; 0: scores not finite
        ("probabilities", pa.list_(pa.float32())),  # of all classes
    ]
)
_FILENAME = "image/filename"
_target: contextvars.ContextVar[str] = contextvars.ContextVar("target")


@contextlib.contextmanager
def written_to(folder: str) -> Iterator[None]:
    """An Evaluator that runs in this block writes FILE into `folder`."""
    token = _target.set(folder)
    try:
        yield
    finally:
        _target.reset(token)


def read(uri: str, columns: Sequence[str] | None = None) -> pa.Table:
    """The predictions of a ModelEvaluation artifact, with the columns of SCHEMA.

    Args:
      uri: folder of the artifact.
      columns: those that are wanted; None for all. `probabilities` is by far the largest.

    Raises:
      FileNotFoundError: an Evaluator without predictions has written it.
    """
    path = os.path.join(uri, FILE)
    if not files.is_file(path):
        raise FileNotFoundError(f"{path} is missing: --no-cache Evaluator writes it.")
    # Of a local file only the columns that are wanted are read.
    source = pa.BufferReader(files.read(path)) if files.is_remote(path) else path
    return parquet.read_table(source, columns=columns and list(columns))


def custom_extractors(
    eval_config: tfma.EvalConfig, eval_shared_model: Any, **settings: Any
) -> list[extractor.Extractor]:
    """TFMA's extractors, with one that writes FILE where `written_to` says; TFX's executor calls
    this.

    Args:
      eval_config: of components.evaluator.evaluation.
      eval_shared_model: the candidate, or a list of candidate and baseline.
      settings: further arguments of tfma.default_extractors.
    """
    found = tfma.default_extractors(
        eval_config=eval_config, eval_shared_model=eval_shared_model, **settings
    )
    folder = _target.get("")
    if not folder:
        return found
    names = [spec.name for spec in eval_config.model_specs]
    models = dict(zip(names, names, strict=True)) if len(names) > 1 else {None: "candidate"}
    rows = _Rows(models, evaluation.measured_protocols(eval_config))
    # Before it, examples come in batches.
    place = [one.stage_name for one in found].index(unbatch_extractor.UNBATCH_EXTRACTOR_STAGE_NAME)
    found.insert(place, extractor.Extractor("WritePredictions", _Write(rows, folder)))
    return found


class _Write(beam.PTransform):
    """Batches of extracts -> the same; their rows are written on the way."""

    def __init__(self, rows: _Rows, folder: str) -> None:
        super().__init__()
        self._rows, self._folder = rows, folder

    def expand(self, extracts: beam.PCollection) -> beam.PCollection:
        name, end = os.path.splitext(FILE)
        _ = (
            extracts
            | "Rows" >> beam.Map(self._rows)
            | "Write"
            >> beam.io.WriteToParquetBatched(
                os.path.join(self._folder, name),
                SCHEMA,
                codec="zstd",
                file_name_suffix=end,
                num_shards=1,
                shard_name_template="",
            )
        )
        return extracts


class _Rows:
    """A batch of extracts -> a table of SCHEMA.

    Args:
      models: name in the extracts, None where there is one -> name in the table.
      protocols: outputs that are measured.
    """

    def __init__(self, models: Mapping[str | None, str], protocols: Sequence[str]) -> None:
        self._models, self._protocols = models, protocols

    def __call__(self, extracts: Any) -> pa.Table:
        extracts = util.StandardExtracts(extracts)
        names = [name.decode() for name in np.ravel(extracts.get_features()[_FILENAME])]
        tables = [SCHEMA.empty_table()]
        for key, model in self._models.items():
            labels = np.ravel(extracts.get_labels(key)).astype(np.int32)
            for protocol in self._protocols:
                scores = np.asarray(extracts.get_predictions(key, protocol), np.float32)
                if scores.size:  # a baseline need not have every protocol
                    tables.append(_table(names, labels, model, protocol, scores))
        return pa.concat_tables(tables)


def _table(
    names: Sequence[str], labels: np.ndarray, model: str, protocol: str, scores: np.ndarray
) -> pa.Table:
    """Rows of `labels` [n] and `scores` [n, classes]."""
    top = np.argsort(-scores, axis=1, kind="stable")[:, :TOP]
    own = np.take_along_axis(scores, labels[:, None], axis=1)
    rank = np.where(np.isfinite(scores).all(1), (scores >= own).sum(1), 0)
    count = len(names)
    columns = [
        names,
        labels,
        [model] * count,
        [protocol] * count,
        _lists(top.astype(np.int32)),
        _lists(np.take_along_axis(scores, top, axis=1)),
        rank.astype(np.int32),
        _lists(scores),
    ]
    return pa.Table.from_arrays(
        [pa.array(column, field.type) for column, field in zip(columns, SCHEMA, strict=True)],
        schema=SCHEMA,
    )


def _lists(values: np.ndarray) -> pa.Array:
    """[n, k] -> n lists of k values."""
    rows, width = values.shape
    offsets = np.arange(rows + 1, dtype=np.int32) * width
    return pa.ListArray.from_arrays(offsets, np.ravel(values))
