"""What to do with a candidate that was not pushed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.markup import escape
from tfx.utils import path_utils

from components.evaluator import evaluation
from pipeline.local import figures, summary
from pipeline.local.terminal_view import View


def show(view: View, nodes: Mapping[str, Any]) -> None:
    """Where the candidate lies, and the next step.

    Args:
      view: of the run.
      nodes: outputs by name, by node.
    """
    model = path_utils.serving_model_path(figures.uri(nodes["Trainer"], "model"))
    view.line(f"Candidate {escape(summary.short(model))}")
    if evaluation.verdict(figures.uri(nodes["Evaluator"], "evaluation"))[0]:
        step = "change what the server did not bear (serve.max_latency_ms, serve.max_memory_mb)"
    else:
        step = (
            "train longer or otherwise (train.epochs, train.learning_rate, data), or change the"
            " bound"
        )
    view.line(f"Next      {step}, and run the command again: a new bound needs no new training.")
