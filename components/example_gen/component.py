"""ImageExampleGen: ILSVRC archives, class folders and TFDS data sets -> tf.Examples."""

import dataclasses
import hashlib
import json
import os
from collections.abc import Sequence
from typing import Any

import apache_beam as beam
import pyarrow as pa
from tfx.components.example_gen import utils
from tfx.dsl.component.experimental.annotations import (
    BeamComponentParameter,
    OutputArtifact,
    Parameter,
)
from tfx.dsl.component.experimental.decorators import component
from tfx.dsl.components.base import base_node
from tfx.types import artifact_utils, standard_artifacts

from components import code_digest, files
from components.example_gen import holdout, ingest_summary, names, properties, source
from components.example_gen.settings import Data, changing
from components.example_gen.writing import duplicates, index, shards

SPLITS = ("train", "eval")
# In the working folder: what was left out of each split.
_LEFT_OUT = "left_out.json"


@component(use_beam=True)
def ImageExampleGen(
    examples: OutputArtifact[standard_artifacts.Examples],
    settings: Parameter[str],
    span: Parameter[int] = 0,
    input_fingerprint: Parameter[str] = "",
    window: Parameter[str] = "",
    beam_pipeline: BeamComponentParameter[beam.Pipeline] = None,
) -> None:
    """Indexes the source, then writes shuffled, uncompressed shards in parallel.

    Unlike in TFX's own ExampleGen no image passes through a Beam shuffle, and JPEGs are not
    compressed again.

    Args:
      examples: gets Split-train/, Split-eval/, the quarantine and the summary.
      settings: of `example_gen`.
      span, input_fingerprint, window: of the driver (`properties.resolved`); where none runs, they
        are looked for here.
      beam_pipeline: of TFX.

    Raises:
      SourceError: the source is missing or damaged.
      TooManyBadError: more than `data.max_bad_fraction` of the images are bad, or all of a split.
    """
    given = {"settings": settings, "span": span, "window": window}
    run = _Run(properties.resolved({**given, "input_fingerprint": input_fingerprint}))
    examples.split_names = artifact_utils.encode_split_names(list(SPLITS))
    # Beside the artifacts: it outlives a failed or killed execution, whose artifact is removed.
    staging = os.path.join(os.path.dirname(os.path.dirname(examples.uri)), "staging")
    folder = os.path.join(staging, run.key())
    shards.remove_leftovers(staging, folder)
    if shards.jobs(folder) is None:
        _plan(folder, run)
    jobs = shards.jobs(folder) or []
    with beam_pipeline as pipeline:
        _ = (
            pipeline
            | "Shards" >> beam.Create(jobs)  # spreads them over the workers itself
            | "Write" >> beam.Map(shards.write_shard, run.reading())
        )
    report = _finish(examples, folder, jobs, run)
    files.remove_tree(staging)
    for split, figures in report["splits"].items():
        examples.set_int_custom_property(f"{split}_examples", figures["examples"])
        examples.set_int_custom_property(f"{split}_quarantined", figures["quarantined"])
    examples.set_int_custom_property("seed", run.data.seed)
    if report["spans"]:
        examples.set_int_custom_property(utils.SPAN_PROPERTY_NAME, report["span"])
    examples.set_string_custom_property(utils.PAYLOAD_FORMAT_PROPERTY_NAME, "FORMAT_TF_EXAMPLE")


ImageExampleGen.DRIVER_CLASS = properties.Driver


def example_gen(data: Data, parts: Sequence[source.Part] = ()) -> base_node.BaseNode:
    """The ExampleGen of a source; its output splits are `train` and `eval`.

    Args:
      data: of `Source.prepared`.
      parts: of `source.parts`; () looks for them.

    Raises:
      SourceError: a part of the source is missing.
    """
    newest = (parts or source.parts(data))[-1]
    settings: dict[str, Any] = {
        "data": changing(data, "records", "verdict"),
        "code": code_digest.digest(__name__, type(newest.where).__module__),
    }
    if newest.span:
        # What the spans are is looked up when the component runs.
        settings["data"] |= {"source": source.one_spelling(data), "spans": data.spans}
    else:
        settings["where"] = dataclasses.asdict(newest.where)
    return ImageExampleGen(settings=json.dumps(settings, sort_keys=True))


class _Run:
    """The execution properties, as the driver leaves them, read."""

    def __init__(self, exec_properties: dict[str, Any]) -> None:
        self._properties = exec_properties
        self.data = properties.data(exec_properties)
        self.parts = properties.parts(exec_properties)
        self.classes = source.classes_of(self.parts)
        # Filled while the tables are made.
        self.left_out = {name: names.LeftOut() for name in SPLITS}

    def key(self) -> str:
        """Names the working folder: runs that would write the same shards share it."""
        settings = json.loads(self._properties["settings"])
        settings["data"] = [changing(self.data, "records"), self.data.source, self.data.spans]
        parts = [settings, self._properties[utils.FINGERPRINT_PROPERTY_NAME]]
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]

    def tables(self) -> dict[str, pa.Table]:
        """The index of every split, over all spans."""
        found = [self._tables(part) for part in self.parts]
        return {
            name: (
                pa.concat_tables(tables[name] for tables in found)
                .unify_dictionaries()
                .combine_chunks()
            )
            for name in SPLITS
        }

    def _tables(self, part: source.Part) -> dict[str, pa.Table]:
        number = part.span.number if part.span else None
        tables = {
            name: index.build(part.where, name, self.classes, number, self.left_out[name].add)
            for name in SPLITS
            if getattr(part.where, name)
        }
        if part.where.eval:
            return tables
        table = tables["train"]
        labels = index.labels(table, part.where, self.classes)
        # Each span by itself: its images stay on their side as others come and go.
        held = holdout.assign(table["name"].to_pylist(), labels, self.data.holdout)
        result = {"train": table.filter(pa.array(~held)), "eval": table.filter(pa.array(held))}
        for name, rows in result.items():
            if not rows.num_rows:
                raise source.SourceError(
                    f"No image of {part.where.base} falls into the {name} split:"
                    f" data.holdout={self.data.holdout} is too extreme for {table.num_rows}"
                    " images."
                )
        return result

    def shard_counts(self) -> dict[str, int]:
        return {name: getattr(self.data, f"{name}_shards") for name in SPLITS}

    def reading(self) -> shards.Reading:
        return shards.Reading(self.data.max_pixels, self.classes, self.parts[-1].where)

    def summary(self) -> dict[str, Any]:
        [*_, (newest, where)] = self.parts
        return {
            "kind": self.data.kind,
            "source": self.data.source if newest else where.base,
            "span": self._properties[utils.SPAN_PROPERTY_NAME],
            "spans": [span.number for span, _ in self.parts if span],
            "seed": self.data.seed,
            "classes": list(self.classes),
            "labels": list(source.labels_of(self.parts)),
        }


def _plan(folder: str, run: _Run) -> None:
    """Indexes the source and lays down the working folder."""
    tables = run.tables()
    left_out = {name: found.told() for name, found in run.left_out.items()}
    # First: a plan that is whole has it, whichever run goes on with it.
    files.make_dirs(folder)
    files.write(os.path.join(folder, _LEFT_OUT), json.dumps(left_out).encode())
    shards.plan(folder, tables, run.shard_counts(), run.data.seed)


def _finish(artifact: Any, folder: str, jobs: list[shards.Job], run: _Run) -> dict[str, Any]:
    """Checks the quarantines, then moves the shards into the artifact; the summary comes last."""
    report: dict[str, Any] = {**run.summary(), "splits": {}}
    left_out = json.loads(files.read(os.path.join(folder, _LEFT_OUT)))
    quarantines = {}
    for split in SPLITS:
        done = [job.done for job in jobs if job.split == split]
        figures, quarantines[split] = ingest_summary.merge(done)
        report["splits"][split] = {**figures, "left_out": left_out[split]}
        ingest_summary.write_quarantine(folder, split, quarantines[split])
    limits = run.data.max_bad_fraction, run.data.max_bad_images
    ingest_summary.check(folder, report["splits"], quarantines, *limits)
    written = [duplicates.Shard(job.split, job.shard, job.done) for job in jobs]
    files.make_dirs(artifact.uri)
    report["duplicates"] = duplicates.write(artifact.uri, duplicates.find(written))
    for split, quarantine in quarantines.items():
        target = artifact_utils.get_split_uri([artifact], split)
        files.make_dirs(target)
        for job in jobs:
            if job.split == split:
                name = os.path.basename(job.shard).removeprefix(f"{split}-")
                files.commit(job.shard, os.path.join(target, name))
        ingest_summary.write_quarantine(artifact.uri, split, quarantine)
    ingest_summary.write_summary(artifact.uri, report)
    return report
