"""ServingValidator: blesses what a real server serves as the Evaluator saw it."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping
from concurrent import futures
from typing import Any

import tensorflow as tf
from tfx import types
from tfx.components.util import model_utils
from tfx.dsl.components.base import base_component, base_executor, executor_spec
from tfx.types import artifact_utils, component_spec, standard_artifacts
from tfx.utils import path_utils

from components.serving_validator import checks, model_server

REPORT = "report.json"
# TFX's names.
_BLESSED, _NOT_BLESSED, _PROPERTY = "INFRA_BLESSED", "INFRA_NOT_BLESSED", "blessed"


class Spec(component_spec.ComponentSpec):
    """`settings`: JSON of `server`, `images`, `seconds` and the fields of checks.Limits."""

    PARAMETERS = {"settings": component_spec.ExecutionParameter(type=str)}
    INPUTS = {
        "model": component_spec.ChannelParameter(type=standard_artifacts.Model),
        "model_blessing": component_spec.ChannelParameter(type=standard_artifacts.ModelBlessing),
        "examples": component_spec.ChannelParameter(type=standard_artifacts.Examples),
    }
    OUTPUTS = {"blessing": component_spec.ChannelParameter(type=standard_artifacts.InfraBlessing)}


class Executor(base_executor.BaseExecutor):
    """Serves the candidate, asks, and writes the blessing and its report."""

    def Do(self, input_dict: Any, output_dict: Any, exec_properties: dict[str, Any]) -> None:
        """See the base class; a candidate that fails is not blessed, and the run goes on.

        Raises:
          server.StartError: where no server can be started: a verdict would be taken from the cache
          for ever.
        """
        settings = json.loads(exec_properties["settings"])
        evaluated = artifact_utils.get_single_instance(input_dict["model_blessing"])
        blessing = artifact_utils.get_single_instance(output_dict["blessing"])
        if not model_utils.is_model_blessed(evaluated):
            _write(blessing, checks.Report(("the Evaluator has not blessed the model",)))
            return
        model = path_utils.serving_model_path(artifact_utils.get_single_uri(input_dict["model"]))
        found = _examples(input_dict["examples"], settings["images"])
        _write(blessing, validate(model, found, settings))


def validate(model: str, examples: list[bytes], settings: Mapping[str, Any]) -> checks.Report:
    """Serves a model and checks it.

    Args:
      model: folder of the SavedModel.
      examples: serialized tf.Examples.
      settings: of Spec.

    Raises:
      server.StartError: no server can be started here.
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


class ServingValidator(base_component.BaseComponent):
    """Blesses what a real server serves.

    Args:
      model: channel.
      model_blessing: channel of the Evaluator; a model without it is not served.
      examples: channel; the first images of its split `eval` are asked for.
      settings: `server` (of server.running), `images`, `seconds` to start, and the fields of
        checks.Limits.
    """

    SPEC_CLASS = Spec
    EXECUTOR_SPEC = executor_spec.ExecutorClassSpec(Executor)

    def __init__(
        self,
        model: types.BaseChannel,
        model_blessing: types.BaseChannel,
        examples: types.BaseChannel,
        settings: Mapping[str, Any],
    ) -> None:
        spec = Spec(
            model=model,
            model_blessing=model_blessing,
            examples=examples,
            settings=json.dumps(settings, sort_keys=True),
            blessing=types.Channel(type=standard_artifacts.InfraBlessing),
        )
        super().__init__(spec=spec)


def read(uri: str) -> checks.Report:
    """The report in a blessing artifact."""
    with tf.io.gfile.GFile(os.path.join(uri, REPORT)) as file:
        report = json.loads(file.read())
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


def _examples(examples: list[types.Artifact], number: int) -> list[bytes]:
    folder = artifact_utils.get_split_uri(examples, "eval")
    files = sorted(tf.io.gfile.glob(os.path.join(folder, "*")))
    return list(tf.data.TFRecordDataset(files).take(number).as_numpy_iterator())


def _write(blessing: types.Artifact, report: checks.Report) -> None:
    tf.io.gfile.makedirs(blessing.uri)
    with tf.io.gfile.GFile(os.path.join(blessing.uri, REPORT), "w") as file:
        file.write(json.dumps(dataclasses.asdict(report), indent=2))
    # The flag comes last: its presence says that the report is whole.
    with tf.io.gfile.GFile(
        os.path.join(blessing.uri, _NOT_BLESSED if report.reasons else _BLESSED), "w"
    ) as file:
        file.write("")
    blessing.set_int_custom_property(_PROPERTY, int(not report.reasons))
