"""The pushed models as a run's input: what a candidate is compared with, what a training starts
from.

Both look into the folder of pushed models, the only record of what serves that every runner has;
neither needs ML Metadata. A model artifact without a model in it says that there is none.
"""

from __future__ import annotations

import json
import os
from typing import Any

import tensorflow as tf
from tfx import types
from tfx.dsl.components.base import base_component, base_driver, base_executor, executor_spec
from tfx.orchestration.portable import base_driver as ir_base_driver
from tfx.orchestration.portable import data_types
from tfx.proto.orchestration import driver_output_pb2
from tfx.types import artifact_utils, component_spec, standard_artifacts
from tfx.utils import path_utils

from components import pushed
from components.evaluator import comparable
from models.settings import Model, Transform
from models.training import arguments

_NO_VERSION = "none"


def _store(found: comparable.Found, artifact: types.Artifact) -> None:
    """Copies a version into a model artifact, so that it stays when the version goes."""
    artifact.set_string_custom_property("version", found.path)
    artifact.set_string_custom_property("note", found.note)
    if found.path:
        pushed.copy(found.path, path_utils.serving_model_dir(artifact.uri))


def is_empty(artifact: types.Artifact) -> bool:
    """Whether there is no model in a model artifact."""
    return not tf.io.gfile.exists(
        os.path.join(path_utils.serving_model_dir(artifact.uri), "saved_model.pb")
    )


class BaselineSpec(component_spec.ComponentSpec):
    """`version` and `note` are what the driver has found; where no driver runs, the executor looks
    itself.
    """

    PARAMETERS = {
        "serving": component_spec.ExecutionParameter(type=str),
        "protocol": component_spec.ExecutionParameter(type=str),
        "version": component_spec.ExecutionParameter(type=str, optional=True),
        "note": component_spec.ExecutionParameter(type=str, optional=True),
    }
    INPUTS = {"candidate": component_spec.ChannelParameter(type=standard_artifacts.Model)}
    OUTPUTS = {"model": component_spec.ChannelParameter(type=standard_artifacts.Model)}


class BaselineDriver(base_driver.BaseDriver, ir_base_driver.BaseDriver):
    """Looks before the cache does: the same candidate and version give a cached result."""

    def run(self, execution_info: data_types.ExecutionInfo) -> driver_output_pb2.DriverOutput:
        """See the base class."""
        found = _look(execution_info.input_dict, execution_info.exec_properties)
        result = driver_output_pb2.DriverOutput()
        result.exec_properties["version"].string_value = found.path or _NO_VERSION
        result.exec_properties["note"].string_value = found.note
        return result


def _look(input_dict: Any, exec_properties: dict[str, Any]) -> comparable.Found:
    candidate = artifact_utils.get_single_instance(input_dict["candidate"])
    return comparable.newest_comparable(
        exec_properties["serving"],
        path_utils.serving_model_path(candidate.uri),
        exec_properties["protocol"],
    )


class BaselineExecutor(base_executor.BaseExecutor):
    """Copies the version to compare with."""

    def Do(self, input_dict: Any, output_dict: Any, exec_properties: dict[str, Any]) -> None:
        """See the base class."""
        version = exec_properties.get("version")
        if version:
            path = "" if version == _NO_VERSION else version
            found = comparable.Found(path, exec_properties.get("note", ""))
        else:
            found = _look(input_dict, exec_properties)
        _store(found, artifact_utils.get_single_instance(output_dict["model"]))


class Baseline(base_component.BaseComponent):
    """The model that a candidate is compared with.

    Args:
      candidate: model channel.
      serving: folder of pushed versions.
      protocol: the one that decides; "" compares with none.
    """

    SPEC_CLASS = BaselineSpec
    EXECUTOR_SPEC = executor_spec.ExecutorClassSpec(BaselineExecutor)
    DRIVER_CLASS = BaselineDriver

    def __init__(self, candidate: types.BaseChannel, serving: str, protocol: str) -> None:
        model = types.Channel(type=standard_artifacts.Model)
        spec = BaselineSpec(candidate=candidate, serving=serving, protocol=protocol, model=model)
        super().__init__(spec=spec)


class WarmStartSpec(component_spec.ComponentSpec):
    """`network` and `transform` are fields of models.settings, as JSON."""

    PARAMETERS = {
        "serving": component_spec.ExecutionParameter(type=str),
        "network": component_spec.ExecutionParameter(type=str),
        "transform": component_spec.ExecutionParameter(type=str),
    }
    INPUTS = {
        "transform_graph": component_spec.ChannelParameter(type=standard_artifacts.TransformGraph)
    }
    OUTPUTS = {"model": component_spec.ChannelParameter(type=standard_artifacts.Model)}


class WarmStartExecutor(base_executor.BaseExecutor):
    """Copies the version to start from."""

    def Do(self, input_dict: Any, output_dict: Any, exec_properties: dict[str, Any]) -> None:
        """See the base class."""
        config = {name: json.loads(exec_properties[name]) for name in ("network", "transform")}
        model = arguments.read_settings(Model, config, "network")
        transform = arguments.read_settings(Transform, config, "transform")
        found = comparable.newest_same_network(exec_properties["serving"], model, transform)
        _store(found, artifact_utils.get_single_instance(output_dict["model"]))


class WarmStart(base_component.BaseComponent):
    """The pushed model that a training starts from.

    What Transform measured is an input that is not read: the same data give the same start from the
    cache, so that a training which is repeated is the same training, and new data look for the
    newest model.

    Args:
      transform_graph: channel.
      serving: folder of pushed versions.
      network: fields of models.settings.Model.
      transform: fields of models.settings.Transform.
    """

    SPEC_CLASS = WarmStartSpec
    EXECUTOR_SPEC = executor_spec.ExecutorClassSpec(WarmStartExecutor)

    def __init__(
        self,
        transform_graph: types.BaseChannel,
        serving: str,
        network: dict[str, Any],
        transform: dict[str, Any],
    ) -> None:
        spec = WarmStartSpec(
            transform_graph=transform_graph,
            serving=serving,
            network=json.dumps(network, sort_keys=True),
            transform=json.dumps(transform, sort_keys=True),
            model=types.Channel(type=standard_artifacts.Model),
        )
        super().__init__(spec=spec)
