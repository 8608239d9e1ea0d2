"""A Pusher that can be tried again: no half-copied version, and none twice."""

from __future__ import annotations

import os
import time
from typing import Any

from tfx import v1 as tfx
from tfx.components.pusher import executor as pusher
from tfx.dsl.components.base import executor_spec
from tfx.proto import pusher_pb2
from tfx.types import artifact_utils, standard_component_specs
from tfx.utils import proto_utils

from components import pushed
from models import pretrained


class Executor(pusher.Executor):
    """Pushes to a folder of versions, so that a version is whole or none (components.pushed).

    When the newest version is this very model already, as after a push that was killed before it was
    recorded, there is nothing to copy. Versions are Unix times in seconds, and always rise.
    """

    def Do(self, input_dict: Any, output_dict: Any, exec_properties: dict[str, Any]) -> None:
        """See the base class, of which only the file system as destination is supported."""
        self._log_startup(input_dict, output_dict, exec_properties)
        record = artifact_utils.get_single_instance(output_dict[standard_component_specs.PUSHED_MODEL_KEY])
        if not self.CheckBlessing(input_dict):
            self._MarkNotPushed(record)
            return
        destination = pusher_pb2.PushDestination()
        proto_utils.json_to_proto(exec_properties[standard_component_specs.PUSH_DESTINATION_KEY], destination)
        version = push(self.GetModelPath(input_dict), destination.filesystem.base_directory)
        self._MarkPushed(record, pushed_destination=version, pushed_version=os.path.basename(version))


def push(model: str, folder: str) -> str:
    """Makes `model` the newest version in `folder`, unless it is; returns the version's folder."""
    versions = pretrained.versions(folder)
    newest = int(os.path.basename(versions[0])) if versions else 0
    number = max(int(time.time()), newest + 1)
    pushed.remove_unfinished(folder, number)
    if versions and pushed.digest(versions[0]) == pushed.digest(model):
        return versions[0]
    version = os.path.join(folder, str(number))
    pushed.copy(model, version)
    return version


class Pusher(tfx.components.Pusher):
    """TFX's Pusher with our executor."""

    EXECUTOR_SPEC = executor_spec.ExecutorClassSpec(Executor)
