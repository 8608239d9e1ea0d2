"""How the nodes that are Beam jobs get their Beam pipeline."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import apache_beam as beam
import pyarrow as pa
from apache_beam import coders
from apache_beam.options import pipeline_options
from tensorflow_data_validation import types as tfdv_types
from tfx.orchestration.portable import beam_executor_operator

View = TypeVar("View", bound=pipeline_options.PipelineOptions)


class Options(pipeline_options.PipelineOptions):
    """Beam's options that build each view once.

    Beam asks for a view several times a transform and builds an argument parser every time: a
    quarter of the Evaluator's time on little data. Views share their values, so that one is as good
    as another.
    """

    def view_as(self, cls: type[View]) -> View:
        """See the base class."""
        # Past __setattr__, which takes options only.
        views = self.__dict__.setdefault("_views", {})
        if cls not in views:
            views[cls] = super().view_as(cls)
        return views[cls]

    def __getstate__(self) -> dict[str, Any]:
        """Without the views: the copy makes its own."""
        return {name: value for name, value in super().__getstate__().items() if name != "_views"}


_TFDV_CODER = tfdv_types._ArrowRecordBatchCoder()


class RecordBatchCoder(coders.Coder):
    """TFDV's coder, but for how it tells the size of a batch.

    Beam asks for that of each of the first batches in every place, and TFDV's serializes all images
    for
    it: a third of what the Evaluator costs for each image beside the model.
    """

    def encode(self, value: pa.RecordBatch) -> bytes:
        """See the base class."""
        return _TFDV_CODER.encode(value)

    def decode(self, encoded: bytes) -> pa.RecordBatch:
        """See the base class."""
        return _TFDV_CODER.decode(encoded)

    def estimate_size(self, value: pa.RecordBatch) -> int:
        """Bytes in memory."""
        return value.nbytes

    def to_type_hint(self) -> type:
        """See the base class."""
        return pa.RecordBatch


class Operator(beam_executor_operator.BeamExecutorOperator):
    """TFX's way to run a Beam component, with `Options`."""

    def run_executor(
        self, execution_info: Any, make_beam_pipeline_fn: Callable[[], beam.Pipeline] | None = None
    ) -> Any:
        """See the base class."""
        return super().run_executor(execution_info, make_beam_pipeline_fn or self._pipeline)

    def _pipeline(self) -> beam.Pipeline:
        return pipeline(self.beam_pipeline_args)


def pipeline(arguments: list[str]) -> beam.Pipeline:
    """An empty Beam pipeline in this process, with such options and such a coder."""
    # Not on import: a cluster's workers would need this module.
    coders.registry.register_coder(pa.RecordBatch, RecordBatchCoder)
    return beam.Pipeline(options=Options(arguments))
