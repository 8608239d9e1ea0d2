"""The settings of the data. Standard library only: the command line and Airflow read them."""

from __future__ import annotations

import dataclasses
from typing import Any

# Value of data.eval_split that takes a part of train although there is an evaluation split.
HOLDOUT = "holdout"


def _records(default: Any) -> Any:
    """A field that changes which records are written, and their order."""
    return dataclasses.field(default=default, metadata={"changes": "records"})


def _verdict(default: Any) -> Any:
    """A field that changes whether the records may pass."""
    return dataclasses.field(default=default, metadata={"changes": "verdict"})


@dataclasses.dataclass(frozen=True)
class Data:
    """Where the images come from."""

    # "digits" (embedded), "ilsvrc" (archives as downloaded), "folder" (class
    # folders, or tars of them) or "tfds".
    kind: str = _records("digits")
    # It is not marked: the cache sees what was found there, or its one spelling.
    # ilsvrc: folder of the three archives. folder: folder with train/ and val/
    # (or train.tar and val.tar). tfds: the data_dir, "" for TFDS's own. digits: not used.
    source: str = ""
    # TFDS name, for kind "tfds": imagenet2012, imagenette/full-size-v2, cifar10.
    tfds_name: str = _records("")
    # Split names in the source that become `train` and `eval`; "" is the usual
    # name of the kind. With no evaluation split, or with eval_split="holdout",
    # `holdout` of train becomes it, chosen by a hash of the file name;
    # every class of two or more images keeps one in each.
    train_split: str = _records("")
    eval_split: str = _records("")
    holdout: float = _records(0.1)
    # Number of classes; 0 takes what the source has. When set, a source with
    # another number is an anomaly.
    classes: int = 0
    # Output shards; 0 chooses them from the size of the data.
    train_shards: int = _records(0)
    eval_shards: int = _records(0)
    # Seed of the global shuffle, recorded in the artifact.
    seed: int = _records(0)
    # Part of all images that may be quarantined before the run stops; `max_bad_images` may be in
    # any case, up to a quarter of all.
    max_bad_fraction: float = _verdict(0.01)
    max_bad_images: int = _verdict(10)
    # A class may have no image in the evaluation split. A class folder without images, and
    # evaluation images of classes that the training split lacks, are left out then.
    allow_missing_classes: bool = _records(False)
    # Images of more pixels are quarantined before they are decoded.
    max_pixels: int = _records(100_000_000)
    # "curated" imports our schema with the classes of the source; "infer" lets
    # SchemaGen make one; anything else is the path of a schema.pbtxt.
    schema: str = "curated"
    # A source that grows: with {SPAN} in `source` (such as /data/flowers/span-{SPAN}) the newest
    # `spans` spans are one data set, a rolling window.
    spans: int = 1
    # Most that a span may differ from the one before it: of labels and formats the largest
    # difference of a value's share (L-infinity), of heights and widths the Jensen-Shannon
    # divergence, 0..1 both; 1 asks nothing.
    max_label_drift: float = 0.3
    max_size_drift: float = 0.4
    max_format_drift: float = 0.3
    # The same between a span's train and eval splits, for all three.
    max_skew: float = 0.6


def changing(data: Data, *what: str) -> dict[str, Any]:
    """The fields that the cache of ImageExampleGen must see, by name.

    Args:
      what: what the fields change: "records", "verdict" or both.
    """
    fields = dataclasses.fields(data)
    return {f.name: getattr(data, f.name) for f in fields if f.metadata.get("changes") in what}
