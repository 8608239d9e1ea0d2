"""ImageExampleGen: ILSVRC archives, class folders and TFDS data sets -> tf.Examples."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Sequence
from typing import Any

import apache_beam as beam
import pyarrow as pa
from tfx.components.example_gen import component, utils
from tfx.dsl.components.base import base_beam_executor, executor_spec
from tfx.proto import example_gen_pb2
from tfx.types import artifact_utils, standard_component_specs
from tfx.utils import proto_utils

from components import code_digest, files
from components.compat import tfx_beam
from components.example_gen import holdout, ingest_summary, marks, names, properties, source
from components.example_gen.settings import Data, changing
from components.example_gen.writing import duplicates, index, shards

_SPLITS = ("train", "eval")
# In the working folder: what was left out of each split.
_LEFT_OUT = "left_out.json"


class Executor(base_beam_executor.BaseBeamExecutor):
    """Indexes the source, then writes shuffled, uncompressed shards in parallel.

    Unlike in TFX's executors no image passes through a Beam shuffle, and JPEGs are not compressed
    again.
    """

    def Do(self, input_dict: Any, output_dict: Any, exec_properties: dict[str, Any]) -> None:
        """Writes Split-*/, the quarantine and the summary into the `examples` artifact.

        Raises:
          SourceError: the source is missing or damaged.
          TooManyBadError: more than `data.max_bad_fraction` of the images are bad, or all of a
            split.
        """
        artifact = artifact_utils.get_single_instance(
            output_dict[standard_component_specs.EXAMPLES_KEY]
        )
        run = _Run(properties.resolved(exec_properties))
        artifact.split_names = artifact_utils.encode_split_names(run.output_splits())
        # Beside the artifacts: it outlives a failed or killed execution, whose artifact is removed.
        staging = os.path.join(os.path.dirname(os.path.dirname(artifact.uri)), "staging")
        folder = os.path.join(staging, run.key())
        shards.remove_leftovers(staging, folder)
        if shards.jobs(folder) is None:
            _plan(folder, run)
        jobs = shards.jobs(folder) or []
        with tfx_beam.pipeline(self) as pipeline:
            _ = (
                pipeline
                | "Shards" >> beam.Create(jobs)  # spreads them over the workers itself
                | "Write" >> beam.Map(shards.write_shard, run.reading())
            )
        report = _finish(artifact, folder, jobs, run)
        files.remove_tree(staging)
        for split, figures in report["splits"].items():
            artifact.set_int_custom_property(f"{split}_examples", figures["examples"])
            artifact.set_int_custom_property(f"{split}_quarantined", figures["quarantined"])
        artifact.set_int_custom_property("seed", run.data.seed)
        if report["spans"]:
            artifact.set_int_custom_property(utils.SPAN_PROPERTY_NAME, report["span"])
        artifact.set_string_custom_property(
            utils.PAYLOAD_FORMAT_PROPERTY_NAME,
            example_gen_pb2.PayloadFormat.Name(example_gen_pb2.FORMAT_TF_EXAMPLE),
        )


class ImageExampleGen(component.FileBasedExampleGen):
    """TFX's file-based ExampleGen (spans, splits, fingerprints) with our executor."""

    DRIVER_CLASS = properties.Driver
    EXECUTOR_SPEC = executor_spec.BeamExecutorSpec(Executor)


def example_gen(data: Data, parts: Sequence[source.Part] = ()) -> ImageExampleGen:
    """The ExampleGen of a source; its output splits are `train` and `eval`.

    Args:
      data: of `Source.prepared`.
      parts: of `source.parts`; () looks for them.

    Raises:
      SourceError: a part of the source is missing.
    """
    newest = (parts or source.parts(data))[-1]
    where = newest.where
    settings: dict[str, Any] = {
        "data": changing(data, "records", "verdict"),
        "code": code_digest.digest(__name__, type(where).__module__),
    }
    if newest.span:
        # What the spans are is looked up when the component runs.
        settings["data"] |= {"source": source.one_spelling(data), "spans": data.spans}
        base = marks.folder(settings["data"]["source"])
    else:
        settings["where"] = dataclasses.asdict(where)
        base = where.base
    patterns = {name: pattern for name in _SPLITS if (pattern := getattr(where, name))}
    splits = [
        # The driver looks for the files of `where`. With spans the pattern of the newest one would
        # be another graph every time.
        example_gen_pb2.Input.Split(name=name, pattern=name if newest.span else pattern)
        for name, pattern in patterns.items()
    ]
    return ImageExampleGen(
        input_base=base,
        input_config=example_gen_pb2.Input(splits=splits),
        output_config=example_gen_pb2.Output() if where.eval else holdout.output(data.holdout),
        custom_config=properties.pack(settings),
        # TFX knows gzip only; its readers go by the suffix and read plain TFRecords as well.
        output_file_format=example_gen_pb2.FILE_FORMAT_UNSPECIFIED,
    )


class _Run:
    """The execution properties, as the driver leaves them, read."""

    def __init__(self, exec_properties: dict[str, Any]) -> None:
        self._properties = exec_properties
        self._input, self._output = example_gen_pb2.Input(), example_gen_pb2.Output()
        proto_utils.json_to_proto(
            exec_properties[standard_component_specs.INPUT_CONFIG_KEY], self._input
        )
        proto_utils.json_to_proto(
            exec_properties[standard_component_specs.OUTPUT_CONFIG_KEY], self._output
        )
        self._settings = properties.unpack(exec_properties)
        self.data = properties.data(exec_properties)
        self.parts = properties.parts(exec_properties)
        self.classes = source.classes_of(self.parts)
        # By output split; filled while the tables are made.
        self.left_out = {name: names.LeftOut() for name in self.output_splits()}

    def output_splits(self) -> list[str]:
        return utils.generate_output_split_names(self._input, self._output)

    def key(self) -> str:
        """Names the working folder: runs that would write the same shards share it."""
        parts = [
            {**self._settings, "data": [changing(self.data, "records"), self.data.source]},
            proto_utils.proto_to_json(self._input),
            proto_utils.proto_to_json(self._output),
            self._properties.get(utils.FINGERPRINT_PROPERTY_NAME, ""),
        ]
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]

    def tables(self) -> dict[str, pa.Table]:
        """The index of every output split, over all spans."""
        found = [self._tables(part) for part in self.parts]
        return {
            name: (
                pa.concat_tables(tables[name] for tables in found)
                .unify_dictionaries()
                .combine_chunks()
            )
            for name in self.output_splits()
        }

    def _tables(self, part: source.Part) -> dict[str, pa.Table]:
        number = part.span.number if part.span else None
        splits = [split.name for split in self._input.splits]
        tables = {
            name: index.build(part.where, name, self.classes, number, self.left_out[name].add)
            for name in splits
        }
        config = self._output.split_config
        if not config.splits:
            return tables
        table = tables["train"]
        labels = index.labels(table, part.where, self.classes)
        # Each span by itself: its images stay on their side as others come and go.
        held = holdout.assign(table["name"].to_pylist(), labels, config)
        result = {s.name: table.filter(pa.array(held == i)) for i, s in enumerate(config.splits)}
        for name, rows in result.items():
            if not rows.num_rows:
                raise source.SourceError(
                    f"No image of {part.where.base} falls into the {name} split:"
                    f" data.holdout={self.data.holdout} is too extreme for {table.num_rows}"
                    " images."
                )
        return result

    def shard_counts(self) -> dict[str, int]:
        return {name: getattr(self.data, f"{name}_shards") for name in self.output_splits()}

    def reading(self) -> shards.Reading:
        return shards.Reading(self.data.max_pixels, self.classes, self.parts[-1].where)

    def summary(self) -> dict[str, Any]:
        [*_, (newest, where)] = self.parts
        return {
            "kind": self.data.kind,
            "source": self.data.source if newest else where.base,
            "span": self._properties.get(utils.SPAN_PROPERTY_NAME, 0),
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
    for split in run.output_splits():
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
