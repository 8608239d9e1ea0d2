"""ServingValidator: blesses what a real server serves as the Evaluator saw it."""

import dataclasses
import json
import os
from collections.abc import Mapping
from concurrent import futures
from typing import Any

import tensorflow as tf
from tfx import types
from tfx.components.util import model_utils
from tfx.dsl.component.experimental.annotations import InputArtifact, OutputArtifact, Parameter
from tfx.dsl.component.experimental.decorators import component
from tfx.types import artifact_utils, standard_artifacts
from tfx.utils import path_utils

from components import files
from components.serving_validator import checks, model_server

REPORT = "report.json"
# TFX's names.
_BLESSED, _NOT_BLESSED, _PROPERTY = "INFRA_BLESSED", "INFRA_NOT_BLESSED", "blessed"


@component
def ServingValidator(
    model: InputArtifact[standard_artifacts.Model],
    model_blessing: InputArtifact[standard_artifacts.ModelBlessing],
    examples: InputArtifact[standard_artifacts.Examples],
    blessing: OutputArtifact[standard_artifacts.InfraBlessing],
    settings: Parameter[str],
) -> None:
    """Serves the candidate, asks, and writes the blessing and its report.

    A candidate that fails is not blessed, and the run goes on.

    Args:
      model: the candidate.
      model_blessing: of the Evaluator; a model without it is not served.
      examples: the first images of the split `eval` are asked for.
      blessing: the verdict, with REPORT.
      settings: JSON of `server` (of model_server.running), `images`, `seconds` to start, and the
        fields of checks.Limits.

    Raises:
      model_server.StartError: where no server can be started: a verdict would be taken from the
        cache for ever.
    """
    if not model_utils.is_model_blessed(model_blessing):
        _write(blessing, checks.Report(("the Evaluator has not blessed the model",)))
        return
    wanted = json.loads(settings)
    found = _examples(examples, wanted["images"])
    _write(blessing, validate(path_utils.serving_model_path(model.uri), found, wanted))


def validate(model: str, examples: list[bytes], settings: Mapping[str, Any]) -> checks.Report:
    """Serves a model and checks it.

    Args:
      model: folder of the SavedModel.
      examples: serialized tf.Examples.
      settings: of ServingValidator.

    Raises:
      model_server.StartError: no server can be started here.
    """
    limits = checks.Limits(
        **{field.name: settings[field.name] for field in dataclasses.fields(checks.Limits)}
    )
    try:
        with futures.ThreadPoolExecutor(1) as pool:
            # The server imports TensorFlow for seconds, while the model can be loaded here.
            wanted = pool.submit(checks.expected, model, examples)
            with model_server.running(model, settings["server"], settings["seconds"]) as started:
                return checks.check(started, examples, wanted.result(), limits)
    except model_server.ServerError as error:
        return checks.Report((str(error),))


def read(uri: str) -> checks.Report:
    """The report in a blessing artifact."""
    report = json.loads(files.read(os.path.join(uri, REPORT)))
    return checks.Report(**{**report, "reasons": tuple(report["reasons"])})


def describe(uri: str) -> str:
    """One line on a blessing artifact, for a progress view."""
    report = read(uri)
    if report.reasons:
        return f"not to be pushed: {'; '.join(report.reasons)}"
    memory = f", {report.memory_mb:,.0f} MB" if report.memory_mb else ""
    times = f"{report.median_ms:.1f} ms an image (p99 {report.p99_ms:.1f})"
    refused = (
        f" ({report.converted} converted: their original files are refused)"
        if report.converted
        else ""
    )
    return f"{report.images} images served bit for bit as evaluated{refused}, {times}{memory}"


def _examples(examples: types.Artifact, number: int) -> list[bytes]:
    folder = artifact_utils.get_split_uri([examples], "eval")
    shards = files.glob(os.path.join(folder, "*"))
    return list(tf.data.TFRecordDataset(shards).take(number).as_numpy_iterator())


def _write(blessing: types.Artifact, report: checks.Report) -> None:
    files.make_dirs(blessing.uri)
    path = os.path.join(blessing.uri, REPORT)
    files.write(path, json.dumps(dataclasses.asdict(report), indent=2))
    # The flag comes last: its presence says that the report is whole.
    files.write(os.path.join(blessing.uri, _NOT_BLESSED if report.reasons else _BLESSED), "")
    blessing.set_int_custom_property(_PROPERTY, int(not report.reasons))
