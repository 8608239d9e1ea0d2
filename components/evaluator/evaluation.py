"""What the Evaluator measures and what its verdict says, on top of TFMA.

The model's `evaluate` signature gives one probability vector a protocol, so
every image is read and counted once; TFMA aggregates. Thresholds hold for the
overall slice only: a plain `threshold` would apply to every class.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Sequence
from typing import Any

import tensorflow_model_analysis as tfma

from components.evaluator import tfma_metrics
from components.evaluator.metric_table import METRICS

LABEL = "image/class/label"
SIGNATURE = "evaluate"


def eval_config(
    protocols: Sequence[str],
    protocol: str,
    classes: int,
    max_top1_error: float,
    max_top5_error: float,
    max_top1_increase: float,
    per_class: bool = True,
) -> tfma.EvalConfig:
    """All of METRICS for every protocol, with bounds on `protocol`.

    Args:
      protocols: outputs of the `evaluate` signature, such as ("center", "ten_crop").
      protocol: the one that decides.
      classes: number of classes; with five or fewer, top-5 is not measured.
      max_top1_error: 0..1.
      max_top5_error: 0..1.
      max_top1_increase: -1..1, over the error of the baseline model; 1 compares with none.
      per_class: whether to slice by label.
    """
    increase = max_top1_increase if max_top1_increase < 1 else None
    decides = {"top1": (max_top1_error, increase), "top5": (max_top5_error, None)}
    specs = []
    for name in protocols:
        bounds = decides if name == protocol else {}
        measured = [
            _metric(name, key, *bounds.get(key, ()))
            for key, metric in METRICS.items()
            if classes >= metric.least_classes
        ]
        # TFMA unwraps the dictionary of a model with one output, which then has no name.
        output = [name] if len(protocols) > 1 else []
        specs.append(tfma.MetricsSpec(output_names=output, metrics=measured))
    counted = tfma.MetricsSpec(metrics=[tfma.MetricConfig(class_name="ExampleCount")])
    by_class = [tfma.SlicingSpec(feature_keys=[LABEL])] if per_class else []
    config = tfma.EvalConfig(
        model_specs=[tfma.ModelSpec(signature_name=SIGNATURE, label_key=LABEL)],
        slicing_specs=[tfma.SlicingSpec(), *by_class],
        metrics_specs=[*specs, counted],
    )
    config.options.include_default_metrics.value = False
    return config


def measured_protocols(config: tfma.EvalConfig) -> list[str]:
    """The protocols that a configuration of `eval_config` measures, in its order."""
    settings = [
        json.loads(m.config) for spec in config.metrics_specs for m in spec.metrics if m.config
    ]
    return list(dict.fromkeys(_parts(one["name"])[0] for one in settings))


def _metric(
    protocol: str, key: str, max_error: float | None = None, max_increase: float | None = None
) -> tfma.MetricConfig:
    metric = METRICS[key]
    # Without a module it is TFMA's or Keras'.
    module = tfma_metrics.__name__ if hasattr(tfma_metrics, metric.class_name) else ""
    settings = json.dumps({"name": f"{protocol}_{key}", **metric.config})
    config = tfma.MetricConfig(class_name=metric.class_name, module=module, config=settings)
    if max_error is not None:
        bound = config.per_slice_thresholds.add(slicing_specs=[tfma.SlicingSpec()]).threshold
        bound.value_threshold.lower_bound.value = 1 - max_error
        if max_increase is not None:
            bound.change_threshold.direction = tfma.MetricDirection.HIGHER_IS_BETTER
            bound.change_threshold.absolute.value = -max_increase - 1e-9
    return config


def errors(uri: str, model: str = "") -> dict[str, dict[str, float]]:
    """Protocol -> key of METRICS -> value over all examples; NaN where it was not measured.

    Args:
      uri: folder of a ModelEvaluation artifact.
      model: "" or "candidate" for the new model, "baseline" for the one it was compared with.
    """
    found: dict[str, dict[str, float]] = {}
    for label, key, value in _measured(uri):
        protocol, metric = _parts(key.name)
        if label is None and metric and not key.is_diff and _is(model, key.model_name):
            nothing = dict.fromkeys(METRICS, math.nan)
            found.setdefault(protocol, nothing)[metric] = _value(metric, value)
    return found


def _value(metric: str, value: Any) -> float:
    measured = value.double_value.value
    return 1 - measured if METRICS[metric].error else measured


def example_count(uri: str) -> int:
    """Number of examples that were evaluated."""
    counts = {
        value.double_value.value
        for label, key, value in _measured(uri)
        if label is None and key.name == "example_count"
    }
    return int(max(counts)) if counts else 0


def per_class(uri: str, protocol: str) -> dict[int, float]:
    """Top-1 error (0..1) of each label."""
    return {
        label: _value("top1", value)
        for label, key, value in _measured(uri)
        if label is not None
        and _parts(key.name) == (protocol, "top1")
        and not key.is_diff
        and _is("", key.model_name)
    }


def verdict(uri: str) -> tuple[bool, list[str]]:
    """Whether the model was blessed, and the sentences that say why not."""
    result = tfma.load_validation_result(uri)
    reasons = []
    if result.missing_thresholds:
        reasons.append("no threshold is configured (evaluate.max_top1_error)")
    baseline = errors(uri, "baseline")
    for per_slice in result.metric_validations_per_slice:
        for failure in per_slice.failures:
            reasons.append(_reason(failure, baseline))
    return result.validation_ok, reasons


def _reason(failure: Any, baseline: dict[str, dict[str, float]]) -> str:
    key, threshold = failure.metric_key, failure.metric_threshold
    protocol, metric = _parts(key.name)
    what = f"{protocol} {METRICS[metric].title}"
    value = failure.metric_value.double_value.value
    if key.is_diff:
        old = baseline[protocol][metric]
        allowed = -threshold.change_threshold.absolute.value
        return (
            f"{what} is {old - value:.2%}, the blessed model has {old:.2%} "
            f"and may be exceeded by {abs(allowed) * 100:.2f} points (evaluate.max_top1_increase)"
        )
    bound = 1 - threshold.value_threshold.lower_bound.value
    return f"{what} is {1 - value:.2%}, the bound is {bound:.2%} (evaluate.max_{metric}_error)"


def _parts(metric: str) -> tuple[str, str]:
    """Protocol and key of METRICS in TFMA's name of a metric."""
    key = next((key for key in METRICS if metric.endswith(f"_{key}")), "")
    return metric.removesuffix(f"_{key}"), key


def _is(wanted: str, name: str) -> bool:
    return name == "baseline" if wanted == "baseline" else name != "baseline"


def _measured(uri: str) -> Iterator[tuple[int | None, Any, Any]]:
    """Label (None for all examples), TFMA's key, and value."""
    if not os.path.isdir(uri) and "://" not in uri:
        raise FileNotFoundError(f"{uri}: no evaluation here.")
    for record in tfma.load_metrics(uri):
        labels = record.slice_key.single_slice_keys
        label = int(labels[0].int64_value) if labels else None
        for item in record.metric_keys_and_values:
            yield label, item.key, item.value
