"""Runs as ML Metadata remembers them, and what a pushed version was made from.

It is read on whatever `metadata` says: a file of SQLite, or a server.
"""

from __future__ import annotations

import datetime
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import ml_metadata
from ml_metadata.proto import metadata_store_pb2 as mlmd
from tfx.dsl.compiler import constants

from components import files
from components.example_gen import ingest_summary

# Custom properties of a run's context: its settings as JSON, the commit or release of its code.
SETTINGS, CODE = "settings", "code"
_STATES = {
    mlmd.Execution.COMPLETE: "done",
    mlmd.Execution.CACHED: "cached",
    mlmd.Execution.RUNNING: "running",
    mlmd.Execution.CANCELED: "skipped",
}
_RUN, _NODE = constants.PIPELINE_RUN_CONTEXT_TYPE_NAME, constants.NODE_CONTEXT_TYPE_NAME


class Node(NamedTuple):
    """How a node ended in a run.

    Attributes:
      state: done, cached, running, skipped or failed; a run that was killed leaves `running`.
      seconds: from its start to its last sign of life.
      execution: its number in ML Metadata.
    """

    state: str
    seconds: float
    execution: int


class Run(NamedTuple):
    """A run of a pipeline.

    Attributes:
      id: its name in ML Metadata.
      pipeline: the setting `name`.
      started: in local time.
      nodes: those that were started, in their order, by name.
      settings: the whole configuration; {} of a run by an earlier release.
      code: commit, or release; "" likewise.
    """

    id: str
    pipeline: str
    started: datetime.datetime
    nodes: Mapping[str, Node]
    settings: dict[str, Any]
    code: str

    @property
    def seconds(self) -> float:
        """Of all nodes together."""
        return sum(node.seconds for node in self.nodes.values())


def note(store: ml_metadata.MetadataStore, run_id: str, settings: Any, code: str) -> None:
    """Keeps with a run what ML Metadata does not know of itself."""
    context = store.get_context_by_type_and_name(_RUN, run_id)
    if context is None or SETTINGS in context.custom_properties:
        return
    context.custom_properties[SETTINGS].string_value = json.dumps(settings, sort_keys=True)
    context.custom_properties[CODE].string_value = code
    store.put_contexts([context])


def runs(store: ml_metadata.MetadataStore, pipeline: str = "") -> list[Run]:
    """All runs of a pipeline, or of all pipelines, the newest first."""
    found = [_run(store, context) for context in store.get_contexts_by_type(_RUN)]
    wanted = [run for run in found if run.nodes and pipeline in ("", run.pipeline)]
    return sorted(wanted, key=lambda run: run.started, reverse=True)


def run(store: ml_metadata.MetadataStore, run_id: str) -> Run:
    """One run; raises KeyError for one that is not there."""
    context = store.get_context_by_type_and_name(_RUN, run_id)
    if context is None:
        raise KeyError(run_id)
    return _run(store, context)


def _run(store: ml_metadata.MetadataStore, context: mlmd.Context) -> Run:
    nodes: dict[str, Node] = {}
    pipeline = ""
    # Of a node that was tried again the last one counts.
    for execution in sorted(store.get_executions_by_context(context.id), key=lambda e: e.id):
        pipeline, name = node_name(store, execution.id)
        took = execution.last_update_time_since_epoch - execution.create_time_since_epoch
        state = _STATES.get(execution.last_known_state, "failed")
        nodes[name] = Node(state, took / 1000, execution.id)
    known = context.custom_properties
    return Run(
        id=context.name,
        pipeline=pipeline,
        started=_time(context),
        nodes=nodes,
        settings=json.loads(known[SETTINGS].string_value) if SETTINGS in known else {},
        code=known[CODE].string_value if CODE in known else "",
    )


def node_name(store: ml_metadata.MetadataStore, execution: int) -> tuple[str, str]:
    """Pipeline and node of an execution."""
    contexts = store.get_contexts_by_execution(execution)
    [name] = [context.name for context in contexts if context.type == _NODE]
    pipeline, _, node = name.rpartition(".")
    return pipeline, node


def outputs(store: ml_metadata.MetadataStore, execution: int) -> dict[str, mlmd.Artifact]:
    """The newest artifact under each name of an execution's outputs."""
    return _artifacts(store, [execution], mlmd.Event.OUTPUT)


def _artifacts(
    store: ml_metadata.MetadataStore, executions: Iterable[int], kind: Any
) -> dict[str, mlmd.Artifact]:
    events = store.get_events_by_execution_ids(list(executions))
    named = {event.artifact_id: event.path.steps[0].key for event in events if event.type == kind}
    return {named[one.id]: one for one in store.get_artifacts_by_id(sorted(named))}


class Origin(NamedTuple):
    """What an artifact comes from: the execution that made it, and the artifacts that went in."""

    node: str
    execution: mlmd.Execution
    artifacts: Mapping[str, mlmd.Artifact]


def pushed(store: ml_metadata.MetadataStore, version: str, directory: str) -> mlmd.Artifact | None:
    """The newest record of a pushed version in a folder of versions; None where there is none."""
    found = [
        one
        for one in store.get_artifacts_by_type("PushedModel")
        if one.custom_properties["pushed_version"].string_value == version
        and os.path.dirname(one.custom_properties["pushed_destination"].string_value) == directory
    ]
    return max(found, key=lambda one: one.id, default=None)


def ancestors(store: ml_metadata.MetadataStore, artifact: int) -> dict[str, Origin]:
    """By node, the executions that led to an artifact; those nearest to it win."""
    found: dict[str, Origin] = {}
    waiting = [artifact]
    while waiting:
        for execution in _makers(store, waiting.pop(0)):
            _, node = node_name(store, execution.id)
            if node in found:
                continue
            inputs = _artifacts(store, [execution.id], mlmd.Event.INPUT)
            found[node] = Origin(node, execution, inputs)
            waiting += [one.id for one in inputs.values()]
    return found


def _makers(store: ml_metadata.MetadataStore, artifact: int) -> Sequence[mlmd.Execution]:
    """The execution that wrote an artifact, not those that took it from the cache."""
    events = store.get_events_by_artifact_ids([artifact])
    made = [event.execution_id for event in events if event.type == mlmd.Event.OUTPUT]
    found = store.get_executions_by_id(made)
    written = [one for one in found if one.last_known_state == mlmd.Execution.COMPLETE]
    return sorted(written, key=lambda one: one.id)[:1]


def unused(
    store: ml_metadata.MetadataStore, pipeline: str, keep: int, folder: str
) -> list[mlmd.Artifact]:
    """Artifacts with files that neither the newest runs nor the pushed versions that are there
    come from.

    Args:
      pipeline: whose runs are looked at.
      keep: number of the newest runs whose artifacts stay.
      folder: of the pushed versions.
    """
    found = runs(store, pipeline)
    kept = _ids(store, (node.execution for run in found[:keep] for node in run.nodes.values()))
    for path in files.glob(os.path.join(folder, "*")):
        if record := pushed(store, os.path.basename(path), folder):
            origins = ancestors(store, record.id).values()
            kept |= {one.id for origin in origins for one in origin.artifacts.values()}
            kept |= _ids(store, (origin.execution.id for origin in origins))
    every = _ids(store, (node.execution for run in found for node in run.nodes.values()))
    rest = store.get_artifacts_by_id(sorted(every - kept))
    return [one for one in rest if files.is_dir(one.uri)]


def _ids(store: ml_metadata.MetadataStore, executions: Iterable[int]) -> set[int]:
    """Numbers of the artifacts that executions have written or taken from the cache."""
    events = store.get_events_by_execution_ids(list(executions))
    return {event.artifact_id for event in events if event.type == mlmd.Event.OUTPUT}


def forget(store: ml_metadata.MetadataStore, artifact: mlmd.Artifact) -> None:
    """Removes the files of an artifact; the cache takes it no longer, and its record stays."""
    artifact.state = mlmd.Artifact.DELETED
    store.put_artifacts([artifact])
    files.remove_tree(artifact.uri)


def fingerprint(examples: mlmd.Artifact) -> str:
    """The first digits of the fingerprint of what ingestion has read; "-" where it is unknown."""
    return examples.custom_properties["input_fingerprint"].string_value[:12] or "-"


def images(examples: mlmd.Artifact) -> str:
    """How many images of each split there are, as a person reads it."""
    known = examples.custom_properties
    return ", ".join(f"{known[f'{s}_examples'].int_value:,} {s}" for s in ("train", "eval"))


def lineage(store: ml_metadata.MetadataStore, artifact: int) -> dict[str, Any]:
    """What an artifact behind the Evaluator was made from.

    Args:
      artifact: its number in ML Metadata.

    Returns:
      `data`: `fingerprint`, `images` and `spans` (none of a source without); `parents`: the pushed
      versions that training `started from` and that the model was `compared with`, where there are
      some; `settings` of the run that trained; `nodes`: by name, the `run` in which each was done,
      when it `began`, and the `code` of that run.
    """
    made = ancestors(store, artifact)
    runs_of = {name: _context(store, origin.execution.id) for name, origin in made.items()}
    judged, trained = made["Evaluator"].artifacts, made["Trainer"].artifacts
    found = {
        "started from": trained.get("base_model"),
        "compared with": judged.get("baseline_model"),
    }
    parents = {
        name: os.path.basename(one.custom_properties["version"].string_value)
        for name, one in found.items()
        if one
    }
    examples = judged["examples"]
    # It may have been pruned.
    there = files.is_file(os.path.join(examples.uri, ingest_summary.SUMMARY))
    return {
        "data": {
            "fingerprint": fingerprint(examples),
            "images": images(examples),
            "spans": ingest_summary.read_summary(examples.uri)["spans"] if there else [],
        },
        "parents": {name: version for name, version in parents.items() if version},
        "settings": json.loads(runs_of["Trainer"].custom_properties[SETTINGS].string_value or "{}"),
        "nodes": {
            name: {
                "run": runs_of[name].name,
                "began": _time(origin.execution).isoformat(timespec="seconds"),
                "code": runs_of[name].custom_properties[CODE].string_value,
            }
            for name, origin in made.items()
        },
    }


def _context(store: ml_metadata.MetadataStore, execution: int) -> mlmd.Context:
    """The run of an execution."""
    return next(c for c in store.get_contexts_by_execution(execution) if c.type == _RUN)


def _time(node: Any) -> datetime.datetime:
    """When ML Metadata heard of it, in local time."""
    return datetime.datetime.fromtimestamp(node.create_time_since_epoch / 1000)
