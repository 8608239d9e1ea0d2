"""What an ingestion did: summary.json, labels.txt, synsets.txt and the quarantine, beside the
splits.
"""

from __future__ import annotations

import itertools
import json
import math
import os
from collections.abc import Mapping, Sequence
from typing import Any

from components import files
from components.example_gen.errors import ABSENT, TooManyBadError

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
    """Adds up the reports of a split's shards (paths): its figures, and its quarantine by name."""
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
    folder: str,
    splits: Mapping[str, Mapping[str, int]],
    quarantines: Mapping[str, Sequence[Mapping[str, Any]]],
    limit: float,
    few: int,
) -> None:
    """Stops the run when too much of a source is bad.

    Args:
      folder: where the quarantines are.
      splits: figures of `merge`, by split.
      quarantines: by split.
      limit: the part of all images (0..1) that may be bad.
      few: as many may be bad in any case, up to a quarter of all images.

    Raises:
      TooManyBadError: more are, or all images of a split.
    """
    bad = {split: figures["quarantined"] for split, figures in splits.items()}
    totals = {split: figures["examples"] + bad[split] for split, figures in splits.items()}
    count, total = sum(bad.values()), sum(totals.values())
    lost = [split for split, figures in splits.items() if not figures["examples"]]
    if count <= max(limit * total, min(few, total // 4)) and not lost:
        return
    where = ", ".join(
        f"{bad[split]:,} of {totals[split]:,} in {split}" for split in splits if bad[split]
    )
    first = "; ".join(
        f"{item['name']}: {item['reason']}" for item in itertools.chain(*_each(quarantines, _SHOWN))
    )
    paths = " and ".join(quarantine_path(folder, split) for split in splits if bad[split])
    mend = "mend or remove them"
    if lost:
        mend += f": no image of {' and '.join(lost)} is left"
    else:
        wanted = math.ceil(count / total * 1000) / 1000
        mend += f", or let them pass with --set data.max_bad_fraction={wanted:.3f}"
    if any(item["reason"].endswith(ABSENT) for item in itertools.chain(*quarantines.values())):
        mend += (
            "; --set data.allow_missing_classes=true leaves those out that train has no class for"
        )
    raise TooManyBadError(
        f"{count:,} of {total:,} images cannot be used ({where}; {count / total:.1%}, and"
        f" data.max_bad_fraction allows {limit:.1%}, data.max_bad_images {few:,}): {first}; all are"
        f" listed in {paths}: {mend}."
    )


def _each(lists: Mapping[str, Sequence[Any]], number: int) -> list[Sequence[Any]]:
    """The first items of each list, about `number` together."""
    full = [items for items in lists.values() if items]
    return [items[: max(number // len(full), 1)] for items in full]


def write_summary(folder: str, content: dict[str, Any]) -> None:
    """Writes the summary and the two class lists (one class a line, in the order of the labels)."""
    for name, lines in ((LABELS, content["labels"]), (SYNSETS, content["classes"])):
        files.write(os.path.join(folder, name), "".join(f"{line}\n" for line in lines))
    files.write(os.path.join(folder, SUMMARY), json.dumps(content, indent=2))


def read_summary(uri: str) -> dict[str, Any]:
    """The summary in an Examples artifact of ImageExampleGen.

    Keys: `kind`, `source`, `span` (the newest), `spans` (all; none in a source without), `seed`,
    `classes` (identifiers), `labels` (names for people), `splits`: name -> examples, quarantined,
    converted, bytes (of the records), shards, deep (images of 16 bits a channel), deepest (the
    largest value in them), left_out (`count`, and `names` of three: files that are no images), and
    `duplicates`: of `duplicates.write`.

    Raises:
      FileNotFoundError: the artifact is not one of ours.
    """
    path = os.path.join(uri, SUMMARY)
    if not files.is_file(path):
        raise FileNotFoundError(f"{path} is missing: {uri} was not written by ImageExampleGen.")
    return json.loads(files.read(path))


def describe(summary: dict[str, Any]) -> str:
    """One line for a progress view: "6,000 train, 500 eval, 3 quarantined, 48 MB".

    What was left out, and the same images in train and eval or in two classes, follow where there
    are any.
    """
    splits = summary["splits"]
    parts = [f"{figures['examples']:,} {name}" for name, figures in splits.items()]
    parts.append(f"{sum(f['quarantined'] for f in splits.values()):,} quarantined")
    parts.append(f"{sum(f['bytes'] for f in splits.values()) / 1e6:,.0f} MB")
    if deep := sum(f["deep"] for f in splits.values()):
        deepest = max(f["deepest"] for f in splits.values())
        dark = " and look nearly black: scale them to the full range" if deepest < _DARK else ""
        parts.append(f"{deep:,} of 16 bits reach {deepest:,} of 65,535{dark}")
    left_out = [figures["left_out"] for figures in splits.values()]
    if number := sum(one["count"] for one in left_out):
        shown = [name for one in left_out for name in one["names"]][:_SHOWN]
        parts.append(
            f"{number:,} no images, left out ({', '.join(shown)}{', ...' * (number > len(shown))})"
        )
    for kind, where in (("train_and_eval", "train and eval"), ("two_classes", "two classes")):
        same = summary["duplicates"][kind]
        if same["count"]:
            pair = " = ".join(same["names"][0])
            parts.append(
                f"{same['count']:,} the same in {where} ({pair}{', ...' * (same['count'] > 1)})"
            )
    if spans := summary["spans"]:
        parts.append(f"span{'s' * (len(spans) > 1)} {', '.join(map(str, spans))}")
    return ", ".join(parts)
