"""What an ingestion did: summary.json, labels.txt, synsets.txt and the quarantine, beside the splits."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from typing import Any

from components.example_gen import files
from components.example_gen.errors import TooManyBadError

SUMMARY = "summary.json"
LABELS = "labels.txt"
SYNSETS = "synsets.txt"
_SHOWN = 3
# Of 65,535: the high byte, which is used of 16 bits, stays below 32 of 255.
_DARK = 8192


def quarantine_path(folder: str, split: str) -> str:
    """The split's quarantine: a JSON object a line (name, source, reason, offset, size, span)."""
    return os.path.join(folder, f"quarantine-{split}.jsonl")


def merge(reports: Sequence[str]) -> tuple[dict[str, int], list[dict[str, Any]]]:
    """Adds up the reports of a split's shards (paths); returns its figures and its quarantine by name."""
    added = ("examples", "converted", "bytes", "deep")
    figures = {**dict.fromkeys((*added, "quarantined", "deepest"), 0), "shards": len(reports)}
    quarantine: list[dict[str, Any]] = []
    for path in reports:
        report = json.loads(files.read(path))
        for key in added:
            figures[key] += report[key]
        figures["deepest"] = max(figures["deepest"], report["deepest"])
        quarantine += report["quarantined"]
    figures["quarantined"] = len(quarantine)
    return figures, sorted(quarantine, key=lambda item: item["name"])


def write_quarantine(folder: str, split: str, quarantine: Sequence[dict[str, Any]]) -> str:
    """Writes the list, empty or not; returns its path."""
    path = quarantine_path(folder, split)
    files.write(path, "".join(json.dumps(item) + "\n" for item in quarantine).encode())
    return path


def check(
    split: str, figures: dict[str, int], quarantine: Sequence[dict[str, Any]], limit: float, path: str
) -> None:
    """Stops the run when too much of a split is bad.

    Raises:
      TooManyBadError: more than `limit` (0..1) of the images, or all of them.
    """
    total = figures["examples"] + figures["quarantined"]
    part = figures["quarantined"] / total
    if part <= limit and figures["examples"]:
        return
    first = "; ".join(f"{q['name']}: {q['reason']}" for q in quarantine[:_SHOWN])
    raise TooManyBadError(
        f"{figures['quarantined']:,} of {total:,} images of the {split} split cannot be used "
        f"({part:.1%}, data.max_bad_fraction allows {limit:.1%}): {first}; all are listed in {path}."
    )


def write_summary(folder: str, content: dict[str, Any]) -> None:
    """Writes the summary and the two class lists (one class a line, in the order of the labels)."""
    files.write(os.path.join(folder, LABELS), "".join(f"{n}\n" for n in content["labels"]).encode())
    files.write(os.path.join(folder, SYNSETS), "".join(f"{n}\n" for n in content["classes"]).encode())
    files.write(os.path.join(folder, SUMMARY), json.dumps(content, indent=2).encode())


def read_summary(uri: str) -> dict[str, Any]:
    """The summary in an Examples artifact of ImageExampleGen.

    Keys: `kind`, `source`, `span` (the newest), `spans` (all; none in a source without), `seed`,
    `classes` (identifiers), `labels` (names for people) and `splits`: name -> examples, quarantined,
    converted, bytes (of the records), shards, deep (images of 16 bits a channel) and deepest (the largest
    value in them).

    Raises:
      FileNotFoundError: the artifact is not one of ours.
    """
    path = os.path.join(uri, SUMMARY)
    if not files.is_file(path):
        raise FileNotFoundError(f"{path} is missing: {uri} was not written by ImageExampleGen.")
    return json.loads(files.read(path))


def describe(summary: dict[str, Any]) -> str:
    """One line for a progress view: "6,000 train, 500 eval, 3 quarantined, 48 MB"."""
    splits = summary["splits"]
    parts = [f"{figures['examples']:,} {name}" for name, figures in splits.items()]
    parts.append(f"{sum(f['quarantined'] for f in splits.values()):,} quarantined")
    parts.append(f"{sum(f['bytes'] for f in splits.values()) / 1e6:,.0f} MB")
    if deep := sum(f["deep"] for f in splits.values()):
        deepest = max(f["deepest"] for f in splits.values())
        dark = " and look nearly black: scale them to the full range" if deepest < _DARK else ""
        parts.append(f"{deep:,} of 16 bits reach {deepest:,} of 65,535{dark}")
    spans = summary["spans"]
    if spans:
        parts.append(f"span {spans[0]}" if len(spans) == 1 else f"spans {', '.join(map(str, spans))}")
    return ", ".join(parts)
