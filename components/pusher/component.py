"""A Pusher that can be tried again: no half-copied version, and none twice; on request a canary
first.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import time
from pathlib import Path
from typing import Any

import tensorflow as tf
from tfx import types
from tfx.components.pusher import executor as pusher
from tfx.dsl.components.base import base_component, executor_spec
from tfx.proto import pusher_pb2
from tfx.types import artifact_utils, component_spec, standard_artifacts, standard_component_specs
from tfx.utils import proto_utils

from components import pushed
from components.evaluator import component as evaluator
from components.evaluator import evaluation
from components.evaluator.metric_table import METRICS
from components.pusher import identity
from models.weights import pretrained
from serving import admin, rollout
from serving.server import textproto
from serving.server.server_config import ModelSettings
from serving.server.version_folders import EVALUATION_FILE

_EVALUATION = "evaluation"


@dataclasses.dataclass(frozen=True)
class Canary:
    """A version that is pushed is on trial first.

    Attributes:
      hours: of the trial.
      model_config_file: of the servers; the new version is its canary beside the stable one.
      model_name: in that file.
    """

    hours: float
    model_config_file: str
    model_name: str


class Executor(pusher.Executor):
    """Pushes to a folder of versions, so that a version is whole or none (components.pushed).

    When the newest version is this very model already, as after a push that was killed before it
    was recorded, there is nothing to copy. Versions are Unix times in seconds, and always rise.
    """

    def Do(self, input_dict: Any, output_dict: Any, exec_properties: dict[str, Any]) -> None:
        """See the base class, of which only the file system as destination is supported."""
        record = artifact_utils.get_single_instance(
            output_dict[standard_component_specs.PUSHED_MODEL_KEY]
        )
        record.set_int_custom_property("pushed", 0)
        if not self.CheckBlessing(input_dict):
            return
        destination = pusher_pb2.PushDestination()
        proto_utils.json_to_proto(
            exec_properties[standard_component_specs.PUSH_DESTINATION_KEY], destination
        )
        folder = destination.filesystem.base_directory
        settings = json.loads(exec_properties[standard_component_specs.CUSTOM_CONFIG_KEY])
        uri = artifact_utils.get_single_uri(input_dict[_EVALUATION])
        model = self.GetModelPath(input_dict)
        blessing = artifact_utils.get_single_instance(
            input_dict[standard_component_specs.MODEL_BLESSING_KEY]
        )
        check_judged(model, blessing.get_string_custom_property(evaluator.JUDGED))
        version = push(model, folder, measured(uri, settings["protocol"]))
        if settings.get("canary"):
            try_out(Canary(**settings["canary"]), folder, int(os.path.basename(version)))
        # The names of TFX's own Pusher.
        record.set_int_custom_property("pushed", 1)
        record.set_string_custom_property("pushed_destination", version)
        record.set_string_custom_property("pushed_version", os.path.basename(version))


def check_judged(model: str, judged: str) -> None:
    """Raises ValueError when a model is not the one that the Evaluator has judged.

    Args:
      model: folder of a SavedModel.
      judged: its lines of pushed.checksums then; "" of an evaluation by an earlier release.
    """
    if judged and (change := pushed.difference(model, judged)):
        raise ValueError(
            f"{model} is not the model that was judged, {change}: --no-cache Trainer writes it"
            " anew."
        )


def measured(uri: str, protocol: str) -> dict[str, Any]:
    """What goes along with a pushed version, for those who look at it.

    Args:
      uri: folder of a ModelEvaluation artifact.
      protocol: the one that decided.
    """
    errors = {
        protocol: {METRICS[key].name: _number(value) for key, value in found.items()}
        for protocol, found in evaluation.errors(uri).items()
    }
    return {"examples": evaluation.example_count(uri), "protocol": protocol, "protocols": errors}


def _number(error: float) -> float | None:
    return None if math.isnan(error) else error


def try_out(canary: Canary, folder: str, version: int) -> None:
    """Makes a version that was just pushed the canary of the servers' file."""
    path = Path(canary.model_config_file)
    with admin.locked(path):
        models = textproto.read_models(path) if path.exists() else ()
        found = {model.name: model for model in models}
        ours = found.get(canary.model_name, ModelSettings(canary.model_name, Path(folder)))
        ours = dataclasses.replace(ours, base_path=Path(folder))
        found[ours.name] = rollout.on_trial(ours, version, 3600 * canary.hours, time.time())
        admin.write(path, textproto.models_text(found.values()))


def push(model: str, folder: str, evaluated: dict[str, Any] | None = None) -> str:
    """Makes `model` the newest version in `folder`, unless it is and is whole; returns the
    version's folder.

    Args:
      evaluated: of `measured`; goes along.
    """
    with pushed.alone(folder):
        versions = pretrained.versions(folder)
        newest = int(os.path.basename(versions[0])) if versions else 0
        number = max(int(time.time()), newest + 1)
        pushed.remove_unfinished(folder, number)
        network = identity.of(model) if evaluated else ""
        if versions and _is(versions[0], model, network) and not pushed.damage(versions[0]):
            return versions[0]
        version = os.path.join(folder, str(number))
        extra = {pushed.CHECKSUMS_FILE: pushed.checksums(model)}
        if evaluated:
            extra[EVALUATION_FILE] = json.dumps({**evaluated, "network": network}, indent=2)
        pushed.copy(model, version, extra)
        return version


def _is(version: str, model: str, network: str) -> bool:
    """Whether a version is this very model: a copy, or the same network of a training that was
    repeated.
    """
    return pushed.digest(version) == pushed.digest(model) or (
        network != "" and _network(version) == network
    )


def _network(version: str) -> object:
    """What `identity.of` gave of a version at its push; None of one that was pushed without."""
    try:
        with tf.io.gfile.GFile(os.path.join(version, EVALUATION_FILE)) as file:
            found = json.loads(file.read())
    except (tf.errors.OpError, ValueError):
        return None
    return found.get("network") if isinstance(found, dict) else None


class Spec(component_spec.ComponentSpec):
    """TFX's, with the evaluation as an input."""

    PARAMETERS = standard_component_specs.PusherSpec.PARAMETERS
    INPUTS = {
        **standard_component_specs.PusherSpec.INPUTS,
        _EVALUATION: component_spec.ChannelParameter(type=standard_artifacts.ModelEvaluation),
    }
    OUTPUTS = standard_component_specs.PusherSpec.OUTPUTS
    TYPE_ANNOTATION = standard_component_specs.PusherSpec.TYPE_ANNOTATION


class Pusher(base_component.BaseComponent):
    """Pushes blessed models.

    Args:
      model: channel.
      model_blessing: channel of the Evaluator.
      evaluation: channel of the Evaluator.
      infra_blessing: channel of the ServingValidator; None asks for none.
      directory: folder of versions.
      protocol: the test protocol that decided.
      canary: None pushes to all at once.
    """

    SPEC_CLASS = Spec
    EXECUTOR_SPEC = executor_spec.ExecutorClassSpec(Executor)

    def __init__(
        self,
        model: types.BaseChannel,
        model_blessing: types.BaseChannel,
        evaluation: types.BaseChannel,
        infra_blessing: types.BaseChannel | None,
        directory: str,
        protocol: str,
        canary: Canary | None = None,
    ) -> None:
        filesystem = pusher_pb2.PushDestination.Filesystem(base_directory=directory)
        settings = {"protocol": protocol, "canary": dataclasses.asdict(canary) if canary else None}
        spec = Spec(
            model=model,
            model_blessing=model_blessing,
            evaluation=evaluation,
            push_destination=pusher_pb2.PushDestination(filesystem=filesystem),
            custom_config=json.dumps(settings, sort_keys=True),
            pushed_model=types.Channel(type=standard_artifacts.PushedModel),
            **({"infra_blessing": infra_blessing} if infra_blessing else {}),
        )
        super().__init__(spec=spec)
