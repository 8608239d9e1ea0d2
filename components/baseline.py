"""The pushed models as a run's input: what a candidate is compared with, what a training starts from.

Both look into the folder of pushed models, the only record of what serves that every runner has; neither
needs ML Metadata. A model artifact without a model in it says that there is none.
"""

from __future__ import annotations

import json
import logging
import os
from typing import Any

import tensorflow as tf
from google.protobuf import message
from tensorflow.core.protobuf import saved_model_pb2
from tfx import types
from tfx.components.evaluator import component, executor
from tfx.dsl.components.base import base_component, base_driver, base_executor, executor_spec
from tfx.orchestration.portable import base_driver as ir_base_driver
from tfx.orchestration.portable import data_types
from tfx.proto.orchestration import driver_output_pb2
from tfx.types import artifact_utils, component_spec, standard_artifacts, standard_component_specs
from tfx.utils import path_utils

from components import evaluated_model, pushed
from models import finetune, pretrained, task
from models.settings import Model, Transform

_NO_VERSION = "none"


def newest_comparable(folder: str, candidate: str) -> str:
    """The newest version that the Evaluator can compare the candidate with; "" when there is none.

    Not the candidate's own copy: an unchanged pipeline that runs again would compare it with itself and push
    it twice. A version with other classes, or without one of the candidate's test protocols, is passed over:
    it would be scored on other labels and always lose.

    Args:
      folder: of pushed versions.
      candidate: folder of a SavedModel.
    """
    own, (labels, ours) = pushed.digest(candidate), _described(candidate)
    for version in pretrained.versions(folder):
        try:
            old_labels, theirs = _described(version)
        except (tf.errors.NotFoundError, message.DecodeError, LookupError, ValueError) as error:
            # Somebody else's, or damaged: it must not stand in the way of every model that comes.
            why = (str(error) or type(error).__name__).splitlines()[0]
            logging.warning("Passed over as a baseline, no whole model of this project: %s: %s", version, why)
            continue
        # TFMA knows a single output by no name, and one of several by its own: not both in one evaluation.
        alike = old_labels == labels and theirs >= ours and (len(theirs) > 1) == (len(ours) > 1)
        if alike and pushed.digest(version) != own:
            return version
    return ""


def _described(path: str) -> tuple[str, set[str]]:
    """Classes and test protocols of a SavedModel."""
    return _labels(path), _protocols(path)


def _labels(path: str) -> str:
    with tf.io.gfile.GFile(os.path.join(path, "assets", "labels.txt")) as file:
        return file.read()


def _protocols(path: str) -> set[str]:
    """Outputs of the `evaluate` signature."""
    with tf.io.gfile.GFile(os.path.join(path, "saved_model.pb"), "rb") as file:
        model = saved_model_pb2.SavedModel.FromString(file.read())
    return set(model.meta_graphs[0].signature_def["evaluate"].outputs)


def newest_same_network(folder: str, model: Model, transform: Transform) -> str:
    """The newest version that a training of `model` can start from; "" when there is none."""
    for version in pretrained.versions(folder):
        try:
            finetune.check(version, pretrained.load(version, model), model, transform)
            return version
        except ValueError as error:
            logging.warning("Passed over as a start: %s", error)
    return ""


def _store(version: str, artifact: types.Artifact) -> None:
    """Copies a version into a model artifact, so that it stays when the version goes."""
    artifact.set_string_custom_property("version", version)
    if version:
        pushed.copy(version, path_utils.serving_model_dir(artifact.uri))


def is_empty(artifact: types.Artifact) -> bool:
    """Whether there is no model in a model artifact."""
    return not tf.io.gfile.exists(os.path.join(path_utils.serving_model_dir(artifact.uri), "saved_model.pb"))


class BaselineSpec(component_spec.ComponentSpec):
    """`version` is what the driver has found; where no driver runs, the executor looks itself."""

    PARAMETERS = {
        "serving": component_spec.ExecutionParameter(type=str),
        "version": component_spec.ExecutionParameter(type=str, optional=True),
    }
    INPUTS = {"candidate": component_spec.ChannelParameter(type=standard_artifacts.Model)}
    OUTPUTS = {"model": component_spec.ChannelParameter(type=standard_artifacts.Model)}


class BaselineDriver(base_driver.BaseDriver, ir_base_driver.BaseDriver):
    """Looks before the cache does: the same candidate against the same version is a cached result."""

    def run(self, execution_info: data_types.ExecutionInfo) -> driver_output_pb2.DriverOutput:
        """See the base class."""
        candidate = artifact_utils.get_single_instance(execution_info.input_dict["candidate"])
        version = newest_comparable(
            execution_info.exec_properties["serving"], path_utils.serving_model_path(candidate.uri)
        )
        result = driver_output_pb2.DriverOutput()
        result.exec_properties["version"].string_value = version or _NO_VERSION
        return result


class BaselineExecutor(base_executor.BaseExecutor):
    """Copies the version to compare with."""

    def Do(self, input_dict: Any, output_dict: Any, exec_properties: dict[str, Any]) -> None:
        """See the base class."""
        self._log_startup(input_dict, output_dict, exec_properties)
        version = exec_properties.get("version")
        if not version:
            candidate = artifact_utils.get_single_instance(input_dict["candidate"])
            version = newest_comparable(
                exec_properties["serving"], path_utils.serving_model_path(candidate.uri)
            )
        _store(
            "" if version == _NO_VERSION else version,
            artifact_utils.get_single_instance(output_dict["model"]),
        )


class Baseline(base_component.BaseComponent):
    """The model that a candidate is compared with.

    Args:
      candidate: model channel.
      serving: folder of pushed versions.
    """

    SPEC_CLASS = BaselineSpec
    EXECUTOR_SPEC = executor_spec.ExecutorClassSpec(BaselineExecutor)
    DRIVER_CLASS = BaselineDriver

    def __init__(self, candidate: types.BaseChannel, serving: str) -> None:
        model = types.Channel(type=standard_artifacts.Model)
        super().__init__(spec=BaselineSpec(candidate=candidate, serving=serving, model=model))


class WarmStartSpec(component_spec.ComponentSpec):
    """`network` and `transform` are fields of models.settings, as JSON."""

    PARAMETERS = {
        "serving": component_spec.ExecutionParameter(type=str),
        "network": component_spec.ExecutionParameter(type=str),
        "transform": component_spec.ExecutionParameter(type=str),
    }
    INPUTS = {"transform_graph": component_spec.ChannelParameter(type=standard_artifacts.TransformGraph)}
    OUTPUTS = {"model": component_spec.ChannelParameter(type=standard_artifacts.Model)}


class WarmStartExecutor(base_executor.BaseExecutor):
    """Copies the version to start from."""

    def Do(self, input_dict: Any, output_dict: Any, exec_properties: dict[str, Any]) -> None:
        """See the base class."""
        self._log_startup(input_dict, output_dict, exec_properties)
        config = {name: json.loads(exec_properties[name]) for name in ("network", "transform")}
        model = task.read_settings(Model, config, "network")
        transform = task.read_settings(Transform, config, "transform")
        version = newest_same_network(exec_properties["serving"], model, transform)
        _store(version, artifact_utils.get_single_instance(output_dict["model"]))


class WarmStart(base_component.BaseComponent):
    """The pushed model that a training starts from.

    What Transform measured is an input that is not read: the same data give the same start from the cache, so
    that a training which is repeated is the same training, and new data look for the newest model.

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


class EvaluatorExecutor(executor.Executor):
    """Takes a baseline artifact without a model for no baseline, and loads models by `evaluated_model`."""

    def Do(self, input_dict: Any, output_dict: Any, exec_properties: dict[str, Any]) -> None:
        """See the base class."""
        key = standard_component_specs.BASELINE_MODEL_KEY
        kept = {k: v for k, v in input_dict.items() if k != key or not any(is_empty(a) for a in v)}
        # Here and not in the graph: how a model is called changes no result, so that caches stay valid.
        module = {standard_component_specs.MODULE_PATH_KEY: evaluated_model.__name__}
        super().Do(kept, output_dict, {**exec_properties, **module})


class Evaluator(component.Evaluator):
    """TFX's Evaluator after a Baseline."""

    EXECUTOR_SPEC = executor_spec.BeamExecutorSpec(EvaluatorExecutor)
