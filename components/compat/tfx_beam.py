"""The Beam pipeline of a TFX component that has a class as its executor."""

from __future__ import annotations

import apache_beam as beam
from tfx.dsl.components.base import base_beam_executor


def pipeline(executor: base_beam_executor.BaseBeamExecutor) -> beam.Pipeline:
    """An empty pipeline with the options that the run gives its Beam jobs."""
    return executor._make_beam_pipeline()
