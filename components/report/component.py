"""Report: what a run did and found, as a page for people and a file for machines."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from typing import Any

from tfx import types
from tfx.dsl.components.base import base_component, base_executor, executor_spec
from tfx.types import artifact_utils, component_spec, standard_artifacts

from components import code_digest, files
from components.report import rendering
from components.report.gathering import Sources

# Execution property that a runner may add just before the node runs: JSON, a list of `node`,
# `seconds` and `state`. It is none of Spec's, so that the cache does not look at it.
SECONDS = "seconds"


class Spec(component_spec.ComponentSpec):
    """`settings`: JSON of `config` (all settings), `changed` (those that differ from the preset:
    `setting`, `value`, `preset`), `commands` (`title` and `command`) and `code`, for the cache.
    """

    PARAMETERS = {"settings": component_spec.ExecutionParameter(type=str)}
    INPUTS = {
        "examples": component_spec.ChannelParameter(type=standard_artifacts.Examples),
        "statistics": component_spec.ChannelParameter(type=standard_artifacts.ExampleStatistics),
        "anomalies": component_spec.ChannelParameter(type=standard_artifacts.ExampleAnomalies),
        "model_run": component_spec.ChannelParameter(type=standard_artifacts.ModelRun),
        "baseline": component_spec.ChannelParameter(type=standard_artifacts.Model),
        "evaluation": component_spec.ChannelParameter(type=standard_artifacts.ModelEvaluation),
        "serving": component_spec.ChannelParameter(
            type=standard_artifacts.InfraBlessing, optional=True
        ),
        "pushed_model": component_spec.ChannelParameter(type=standard_artifacts.PushedModel),
    }
    # Kubeflow knows TFX's own types alone, and this one is the record of a run.
    OUTPUTS = {"report": component_spec.ChannelParameter(type=standard_artifacts.ModelRun)}


class Executor(base_executor.BaseExecutor):
    """Writes the report; what cannot be made is missing there, and no reason to fail."""

    def Do(self, input_dict: Any, output_dict: Any, exec_properties: dict[str, Any]) -> None:
        """See the base class."""
        uri = artifact_utils.get_single_uri(output_dict["report"])
        files.make_dirs(uri)
        seconds = json.loads(exec_properties.get(SECONDS) or "[]")
        settings = json.loads(exec_properties["settings"])
        rendering.write(_sources(input_dict, settings, seconds), uri)


def _sources(
    input_dict: Mapping[str, list[types.Artifact]],
    settings: Mapping[str, Any],
    seconds: list[dict[str, Any]],
) -> Sources:
    given = {
        name: artifact_utils.get_single_instance(found)
        for name, found in input_dict.items()
        if found
    }
    folders = ("examples", "statistics", "anomalies", "model_run", "evaluation")
    baseline, pushed = given["baseline"], given["pushed_model"]
    was_pushed = pushed.get_int_custom_property("pushed") == 1
    return Sources(
        **{name: given[name].uri for name in folders},
        serving=given["serving"].uri if "serving" in given else "",
        baseline=baseline.get_string_custom_property("version"),
        baseline_note=baseline.get_string_custom_property("note"),
        pushed=pushed.get_string_custom_property("pushed_destination") if was_pushed else "",
        fingerprint=given["examples"].get_string_custom_property("input_fingerprint"),
        settings=settings,
        seconds=seconds,
    )


class Report(base_component.BaseComponent):
    """Reports on a run, whether its model was pushed or not.

    Args:
      channels: of Spec's inputs, by name; `serving` may be missing.
      settings: of Spec, without `code`.
    """

    SPEC_CLASS = Spec
    EXECUTOR_SPEC = executor_spec.ExecutorClassSpec(Executor)

    def __init__(
        self, channels: Mapping[str, types.BaseChannel], settings: Mapping[str, Any]
    ) -> None:
        code = [code_digest.digest(__name__), _templates()]
        spec = Spec(
            **channels,
            settings=json.dumps({**settings, "code": code}, sort_keys=True),
            report=types.Channel(type=standard_artifacts.ModelRun),
        )
        super().__init__(spec=spec)


def describe(uri: str) -> str:
    """One line on a report, for a progress view."""
    problems = rendering.read(uri)["problems"]
    return f"without {'; without '.join(problems)}" if problems else rendering.PAGE


def _templates() -> str:
    """sha256 of the templates, which are no code that code_digest sees; hexadecimal."""
    folder = os.path.join(os.path.dirname(__file__), "templates")
    found = hashlib.sha256()
    for name in sorted(os.listdir(folder)):
        found.update(files.read(os.path.join(folder, name)))
    return found.hexdigest()
