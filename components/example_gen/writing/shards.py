"""From an index to shuffled TFRecord shards.

Only the index is shuffled. A shard is a run of the shuffled index, and one Beam
element: its worker reads the images' byte ranges, checks and converts them, and
writes the shard. `plan` lays the shards down in a working folder, so a run that
was killed goes on with the shards that are not there yet.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Iterable, Iterator
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from components import files
from components.example_gen.errors import ABSENT, BadImage, SourceError
from components.example_gen.sources.kinds import WHOLE_FILE, Source
from components.example_gen.writing import duplicates, image_files, index, record_writer

# The span of an image and the format of its file; only in examples of a source that has spans.
SPAN, SOURCE_FORMAT = "image/span", "image/source_format"
# The file as it came, of an image that was converted: what a client would send.
ORIGINAL = "image/original"
_SHARD_BYTES = 128 * 2**20
# Small data still gives every worker, and the training's parallel readers, something to do.
_SMALL_SHARDS, _SMALL_ROWS = 8, 256
# Files whose size is looked at, evenly over the index.
_SAMPLE = 200
# Bytes a pixel of the largest file that a valid image fills: 16-bit RGBA, uncompressed.
_MAX_BYTES_PER_PIXEL = 8


@dataclasses.dataclass(frozen=True)
class Job:
    """A shard to write: `plan` is its part of the index, `done` the report written after it."""

    split: str
    plan: str
    shard: str
    done: str

    def finished(self) -> bool:
        """True when the shard is whole: it is renamed into place before its report is."""
        return files.is_file(self.done) and files.is_file(self.shard)


@dataclasses.dataclass(frozen=True)
class Reading:
    """What a worker must know to read any record; of several spans `source` is the newest."""

    max_pixels: int
    classes: tuple[str, ...]
    source: Source


def shard_count(table: pa.Table, wanted: int) -> int:
    """`wanted`, or by size when it is 0; never more than images."""
    rows = table.num_rows
    by_size = 0 if wanted else -(-_size(table) // _SHARD_BYTES)
    return min(wanted or max(by_size, min(_SMALL_SHARDS, -(-rows // _SMALL_ROWS))), rows)


def _size(table: pa.Table) -> int:
    """Bytes of the images; of single files by a sample: asking for each is slow when remote."""
    sizes = table["size"].to_numpy()
    known = int(sizes[sizes != WHOLE_FILE].sum())
    single = np.flatnonzero((sizes == WHOLE_FILE) & pc.equal(table["reason"], "").to_numpy())
    if not len(single):
        return known
    picked = single[np.linspace(0, len(single) - 1, min(len(single), _SAMPLE)).astype(int)]
    rows = table.select(["path", "name"]).take(picked).to_pylist()
    return known + int(
        len(single) * np.mean([files.size(os.path.join(r["path"], r["name"])) for r in rows])
    )


def plan(folder: str, tables: dict[str, pa.Table], shards: dict[str, int], seed: int) -> None:
    """Shuffles every split's index with `seed` and writes its shards' parts below `folder`."""
    for name in ("plan", "data", "done"):
        files.make_dirs(os.path.join(folder, name))
    counts = {}
    for number, (split, table) in enumerate(tables.items()):
        order = np.random.default_rng([seed, number]).permutation(table.num_rows)
        shuffled, counts[split] = table.take(order), shard_count(table, shards[split])
        edges = np.linspace(0, table.num_rows, counts[split] + 1).astype(int)
        made = _jobs(folder, split, counts[split])
        for job, start, stop in zip(made, edges[:-1], edges[1:], strict=True):
            files.write(job.plan, _to_bytes(shuffled.slice(start, stop - start)))
    # Last: its presence says that the plan is whole.
    files.write(os.path.join(folder, "plan.json"), json.dumps(counts).encode())


def remove_leftovers(staging: str, folder: str) -> None:
    """Removes what other data have left in `staging`, and what is half-written."""
    others = files.entries(staging)[0] if files.is_dir(staging) else []
    for name in others:
        if name != os.path.basename(folder):
            files.remove_tree(os.path.join(staging, name))
    for path in files.glob(files.temporary(os.path.join(folder, "*", "*"), "*")):
        files.remove(path)


def jobs(folder: str) -> list[Job] | None:
    """All shards of the plan in `folder`; None when there is no whole plan."""
    path = os.path.join(folder, "plan.json")
    if not files.is_file(path):
        return None
    counts = json.loads(files.read(path))
    return [job for split, count in counts.items() for job in _jobs(folder, split, count)]


def _jobs(folder: str, split: str, count: int) -> list[Job]:
    # TFX's own file name, less the .gz: readers choose the decompression by the suffix.
    names = [f"data_tfrecord-{i:05d}-of-{count:05d}" for i in range(count)]
    return [
        Job(
            split,
            os.path.join(folder, "plan", f"{split}-{name}.arrow"),
            os.path.join(folder, "data", f"{split}-{name}"),
            os.path.join(folder, "done", f"{split}-{name}.json"),
        )
        for name in names
    ]


# The index in memory has dictionaries; a plan has plain text, which Python reads in half the time.
_PLAIN = pa.schema(
    (f.name, pa.string() if pa.types.is_dictionary(f.type) else f.type) for f in index.SCHEMA
)


def _to_bytes(table: pa.Table) -> bytes:
    """A part of an index as compressed Arrow IPC."""
    sink = pa.BufferOutputStream()
    options = pa.ipc.IpcWriteOptions(compression="lz4")
    with pa.ipc.new_stream(sink, _PLAIN, options=options) as writer:
        writer.write_table(table.cast(_PLAIN))
    return sink.getvalue().to_pybytes()


def write_shard(job: Job, reading: Reading) -> None:
    """Writes a shard and then its report, unless they are there.

    The report is JSON: examples, converted, bytes, quarantined, deep (images of 16 bits), deepest
    (the largest value in them) and keys (`duplicates.key`, place in the shard and label of each
    image).
    """
    if job.finished():
        return
    counts = ("examples", "converted", "bytes", "deep", "deepest")
    report: dict[str, Any] = {**dict.fromkeys(counts, 0), "quarantined": [], "keys": []}
    rows = pa.ipc.open_stream(files.read(job.plan)).read_all().to_pylist()
    temp, place = files.temporary(job.shard), 0
    with files.open_write(temp) as stream:
        stream.write(b"")  # a remote file that is never written to is not there
        for row, result, image in convert(rows, reading):
            if isinstance(result, BadImage):
                report["quarantined"].append(_quarantined(row, result))
                continue
            size = record_writer.write(stream, result)
            report["keys"].append((duplicates.key(result[1]), place, row["label"]))
            place += record_writer.HEAD + size + record_writer.TAIL
            report["bytes"] += size
            report["examples"] += 1
            if image is not None:
                report["converted"] += bool(image.original)
                report["deep"] += image.deepest > 0
                report["deepest"] = max(report["deepest"], image.deepest)
    files.commit(temp, job.shard)
    files.write(job.done, json.dumps(report).encode())


def _quarantined(row: dict[str, Any], reason: BadImage) -> dict[str, Any]:
    place = {} if row["size"] == WHOLE_FILE else {"offset": row["offset"], "size": row["size"]}
    span = {} if row["span"] is None else {"span": row["span"]}
    return {"name": row["name"], "source": row["path"], "reason": str(reason), **place, **span}


def convert(
    rows: Iterable[dict[str, Any]], reading: Reading
) -> Iterator[tuple[dict[str, Any], record_writer.Parts | BadImage, image_files.Image | None]]:
    """Yields (row, parts of a tf.Example or why there is none, its image) for rows of an index."""
    streams: dict[str, BinaryIO] = {}
    try:
        for row in rows:
            try:
                example, image = _example(row, reading, streams)
                yield row, example, image
            except BadImage as reason:
                yield row, reason, None
    finally:
        for stream in streams.values():
            stream.close()


def _example(
    row: dict[str, Any], reading: Reading, streams: dict[str, BinaryIO]
) -> tuple[record_writer.Parts, image_files.Image]:
    if row["reason"]:
        raise BadImage(row["reason"])
    data = _read(row, reading.max_pixels * _MAX_BYTES_PER_PIXEL, streams)
    record = reading.source.record(data)
    synset = record.synset or row["synset"]
    if record.synset:
        if synset not in reading.classes:
            raise BadImage(f"its class {synset} {ABSENT}")
        row["label"] = reading.classes.index(synset)
    image = image_files.normalize(record.image, reading.max_pixels)
    return _features(image, record.name or row["name"], row["label"], synset, row["span"]), image


def _read(row: dict[str, Any], limit: int, streams: dict[str, BinaryIO]) -> bytes:
    whole = row["size"] == WHOLE_FILE
    path = os.path.join(row["path"], row["name"]) if whole else row["path"]
    size = files.size(path) if whole else row["size"]
    if size > limit:
        raise BadImage(f"{size} bytes, more than an image of data.max_pixels can have")
    if whole:
        return files.read(path)
    if path not in streams:
        streams[path] = files.open_read(path)
    streams[path].seek(row["offset"])
    data = streams[path].read(size)
    if len(data) != size:
        raise SourceError(
            f"{path} has become shorter while it was read ({row['name']}): run again."
        )
    return data


def _features(
    image: image_files.Image, name: str, label: int, synset: str, span: int | None
) -> record_writer.Parts:
    values: dict[str, bytes | int] = {
        "image/format": image.format.encode(),
        "image/filename": name.encode(),
        "image/height": image.height,
        "image/width": image.width,
        "image/channels": image.channels,
        "image/class/label": label,
        "image/class/synset": synset.encode(),
        **({ORIGINAL: image.original} if image.original else {}),
        **({} if span is None else {SPAN: span, SOURCE_FORMAT: image.source_format.encode()}),
    }
    return record_writer.example("image/encoded", image.encoded, values)
