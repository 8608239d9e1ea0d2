"""What runs leave that were killed: executions that never end, and folders that nobody owns.

The next run of the same pipeline removes it, under the lock that only one run has.
"""

from __future__ import annotations

import logging
import os

import ml_metadata
from ml_metadata.proto import metadata_store_pb2

from components import files
from pipeline.config import metadata
from pipeline.config.paths import Paths
from pipeline.config.settings import Config

_OPEN = (metadata_store_pb2.Execution.NEW, metadata_store_pb2.Execution.RUNNING)


def close(config: Config) -> int:
    """Closes executions that killed runs of this pipeline left open; removes what they wrote.

    A server of ML Metadata is left alone: the lock holds on this machine only, and a run of another
    one may be active. Returns the number of executions.
    """
    if config.metadata.kind != "sqlite":
        return 0
    store = ml_metadata.MetadataStore(metadata.connection(config))
    context = store.get_context_by_type_and_name("pipeline", config.name)
    if context is None:
        return 0
    executions = store.get_executions_by_context(context.id)
    stopped = [execution for execution in executions if execution.last_known_state in _OPEN]
    for execution in stopped:
        _remove_outputs(store, Paths(config).artifacts, config.name, execution.id)
        execution.last_known_state = metadata_store_pb2.Execution.CANCELED
    if stopped:
        # After the folders: what a kill leaves of them is found once more.
        store.put_executions(stopped)
        logging.warning(
            "Closed executions of runs that were stopped: %s", [one.id for one in stopped]
        )
    return len(stopped)


def _remove_outputs(
    store: ml_metadata.MetadataStore, artifacts: str, pipeline: str, execution: int
) -> None:
    """TFX calls an execution's folders NODE/OUTPUT/EXECUTION and NODE/.system/*/EXECUTION."""
    for context in store.get_contexts_by_execution(execution):
        if context.type != "node":
            continue
        node = os.path.join(artifacts, context.name.removeprefix(f"{pipeline}."))
        outputs = files.glob(os.path.join(node, "*", str(execution)))
        for folder in outputs + files.glob(os.path.join(node, ".system", "*", str(execution))):
            if not store.get_artifacts_by_uri(folder):
                files.remove_tree(folder)
        # Beam's, beside the outputs; no other run of this pipeline is active.
        for folder in files.glob(os.path.join(node, "*", "beam-temp-*")):
            files.remove_tree(folder)
