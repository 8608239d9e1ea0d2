"""A Pusher that can be tried again: no half-copied version, and none twice; on request a canary
first.
"""

import contextlib
import dataclasses
import json
import math
import os
import time
from pathlib import Path
from typing import Any

from tfx.components.util import model_utils
from tfx.dsl.component.experimental.annotations import InputArtifact, OutputArtifact, Parameter
from tfx.dsl.component.experimental.decorators import component
from tfx.types import standard_artifacts
from tfx.utils import path_utils

from components import files, pushed
from components.evaluator import component as evaluator
from components.evaluator import evaluation as measures
from components.evaluator.metric_table import METRICS
from components.pusher import identity
from models.weights import pretrained
from serving import admin, rollout
from serving.server import textproto
from serving.server.server_config import ModelSettings
from serving.server.version_folders import EVALUATION_FILE


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


@component
def Pusher(
    model: InputArtifact[standard_artifacts.Model],
    model_blessing: InputArtifact[standard_artifacts.ModelBlessing],
    evaluation: InputArtifact[standard_artifacts.ModelEvaluation],
    pushed_model: OutputArtifact[standard_artifacts.PushedModel],
    directory: Parameter[str],
    protocol: Parameter[str],
    canary: Parameter[str] = "",
    lineage: Parameter[str] = "",
    infra_blessing: InputArtifact[standard_artifacts.InfraBlessing] = None,
) -> None:
    """Pushes a blessed model to a folder of versions, so that a version is whole or none.

    When the newest version is this very model already, as after a push that was killed before it
    was recorded, there is nothing to copy. Versions are Unix times in seconds, and always rise.

    Args:
      model: the candidate.
      model_blessing: of the Evaluator.
      evaluation: of the Evaluator; what was measured goes along.
      pushed_model: says whether, where to and as which version, as TFX's own Pusher says it.
      directory: folder of versions.
      protocol: the test protocol that decided.
      canary: fields of Canary, as JSON; "" pushes to all at once.
      lineage: what the model was made from, as JSON, which goes along; a runner that knows it sets
        it just before this runs, so that the cache does not look at it.
      infra_blessing: of the ServingValidator; None asks for none.
    """
    blessed = model_utils.is_model_blessed(model_blessing) and (
        infra_blessing is None or model_utils.is_infra_validated(infra_blessing)
    )
    pushed_model.set_int_custom_property("pushed", int(blessed))
    if not blessed:
        return
    path = path_utils.serving_model_path(model.uri)
    check_judged(path, model_blessing.get_string_custom_property(evaluator.JUDGED))
    version = push(path, directory, measured(evaluation.uri, protocol), lineage)
    name = os.path.basename(version)
    if canary:
        try_out(Canary(**json.loads(canary)), directory, int(name))
    pushed_model.set_string_custom_property("pushed_destination", version)
    pushed_model.set_string_custom_property("pushed_version", name)


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
        for protocol, found in measures.errors(uri).items()
    }
    return {"examples": measures.example_count(uri), "protocol": protocol, "protocols": errors}


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


def push(
    model: str, folder: str, evaluated: dict[str, Any] | None = None, lineage: str = ""
) -> str:
    """Makes `model` the newest version in `folder`, unless it is and is whole; returns the
    version's folder.

    Args:
      evaluated: of `measured`; goes along.
      lineage: JSON; goes along.
    """
    with pushed.alone(folder):
        versions = pretrained.versions(folder)
        newest = int(os.path.basename(versions[0])) if versions else 0
        number = max(int(time.time()), newest + 1)
        pushed.remove_unfinished(folder, number)
        network, sums = identity.of(model) if evaluated else "", pushed.checksums(model)
        if versions and _is(versions[0], sums, network) and not pushed.damage(versions[0]):
            return versions[0]
        version = os.path.join(folder, str(number))
        extra = {pushed.CHECKSUMS_FILE: sums}
        if evaluated:
            extra[EVALUATION_FILE] = json.dumps({**evaluated, "network": network}, indent=2)
        if lineage:
            extra[pushed.LINEAGE_FILE] = lineage
        pushed.copy(model, version, extra)
        return version


def _is(version: str, sums: str, network: str) -> bool:
    """Whether a version is a copy of a model, or the same network of a repeated training."""
    copied = pushed.checksums(version) == sums
    return copied or (network != "" and _network(version) == network)


def _network(version: str) -> object:
    """What `identity.of` gave of a version at its push; None of one that was pushed without."""
    with contextlib.suppress(ValueError, *files.errors()):
        found = json.loads(files.read(os.path.join(version, EVALUATION_FILE)))
        return found.get("network") if isinstance(found, dict) else None
    return None
