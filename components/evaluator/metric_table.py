"""What the Evaluator measures under every test protocol. Standard library only.

The summary of a run, its progress view, the evaluation that a pushed version carries, the server's
page and the reports of studies show every line of `METRICS`.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple


class Metric(NamedTuple):
    """A number a protocol.

    Attributes:
      name: in the evaluation of a pushed version; "..._error" is from 0 to 1.
      title: what people read.
      config: arguments of the TFMA metric.
      class_name: of the TFMA metric: of components.evaluator.tfma_metrics, TFMA or Keras.
      error: whether TFMA measures the accuracy, 1 less the error.
      least_classes: with fewer it is not measured.
    """

    name: str
    title: str
    config: dict[str, Any] = {}
    class_name: str = "TopKAccuracy"
    error: bool = True
    least_classes: int = 1

    def text(self, value: float) -> str:
        """The value as people read it."""
        if math.isnan(value):
            return "-"
        return f"{value:.2%}" if self.error else f"{value:.4g}"


# Ends of TFMA's names, such as center_top1. A new metric is a line here, such as
# "loss": Metric("cross_entropy", "cross-entropy", {}, "SparseCategoricalCrossentropy", False).
METRICS = {
    "top1": Metric("top1_error", "top-1 error", {"k": 1}),
    "top5": Metric("top5_error", "top-5 error", {"k": 5}, least_classes=6),
}
