"""The pushed models as a run's input: what a candidate is compared with, what a training starts
from.

Both look into the folder of pushed models, the only record of what serves that every runner has;
neither needs ML Metadata. A model artifact without a model in it says that there is none.
"""

import json
import os

from tfx import types
from tfx.dsl.component.experimental.annotations import InputArtifact, OutputArtifact, Parameter
from tfx.dsl.component.experimental.decorators import component
from tfx.dsl.components.base import base_driver
from tfx.orchestration.portable import base_driver as ir_base_driver
from tfx.orchestration.portable import data_types
from tfx.proto.orchestration import driver_output_pb2
from tfx.types import artifact_utils, standard_artifacts
from tfx.utils import path_utils

from components import files, pushed
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
    model = path_utils.serving_model_dir(artifact.uri)
    return not files.is_file(os.path.join(model, "saved_model.pb"))


class BaselineDriver(base_driver.BaseDriver, ir_base_driver.BaseDriver):
    """Looks before the cache does: the same candidate and version give a cached result."""

    def run(self, execution_info: data_types.ExecutionInfo) -> driver_output_pb2.DriverOutput:
        """See the base class."""
        candidate = artifact_utils.get_single_instance(execution_info.input_dict["candidate"])
        settings = execution_info.exec_properties
        found = _look(candidate, settings["serving"], settings["protocol"])
        result = driver_output_pb2.DriverOutput()
        result.exec_properties["version"].string_value = found.path or _NO_VERSION
        result.exec_properties["note"].string_value = found.note
        return result


def _look(candidate: types.Artifact, serving: str, protocol: str) -> comparable.Found:
    model = path_utils.serving_model_path(candidate.uri)
    return comparable.newest_comparable(serving, model, protocol)


@component
def Baseline(
    candidate: InputArtifact[standard_artifacts.Model],
    model: OutputArtifact[standard_artifacts.Model],
    serving: Parameter[str],
    protocol: Parameter[str],
    version: Parameter[str] = "",
    note: Parameter[str] = "",
) -> None:
    """Copies the model that a candidate is compared with.

    Args:
      candidate: of the Trainer.
      model: the copy.
      serving: folder of pushed versions.
      protocol: the one that decides; "" compares with none.
      version, note: what the driver has found; where no driver runs, the executor looks itself.
    """
    if version:
        found = comparable.Found("" if version == _NO_VERSION else version, note)
    else:
        found = _look(candidate, serving, protocol)
    _store(found, model)


Baseline.DRIVER_CLASS = BaselineDriver


@component
def WarmStart(
    transform_graph: InputArtifact[standard_artifacts.TransformGraph],
    model: OutputArtifact[standard_artifacts.Model],
    serving: Parameter[str],
    network: Parameter[str],
    transform: Parameter[str],
) -> None:
    """Copies the pushed model that a training starts from.

    What Transform measured is an input that is not read: the same data give the same start from the
    cache, so that a training which is repeated is the same training, and new data look for the
    newest model.

    Args:
      transform_graph: of Transform.
      model: the copy.
      serving: folder of pushed versions.
      network: fields of models.settings.Model, as JSON.
      transform: fields of models.settings.Transform, as JSON.
    """
    config = {"network": json.loads(network), "transform": json.loads(transform)}
    found = comparable.newest_same_network(
        serving,
        arguments.read_settings(Model, config, "network"),
        arguments.read_settings(Transform, config, "transform"),
    )
    _store(found, model)
