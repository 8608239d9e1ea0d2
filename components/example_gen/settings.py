"""The settings of the data. No TensorFlow import: the command line and Airflow read them."""

from __future__ import annotations

import dataclasses
from typing import Annotated, Any

from pydantic import Field

from models.fields import CONFIG, Count, Part, PartBetween, Positive, PositivePart, Seed, Text

# Value of data.eval_split that takes a part of train although there is an evaluation split.
HOLDOUT = "holdout"


def _changes(what: str, default: Any) -> Any:
    """A field that changes which records ExampleGen writes, or whether they may pass (verdict)."""
    return dataclasses.field(default=default, metadata={"changes": what})


@dataclasses.dataclass(frozen=True)
class Data:
    """Where the images come from."""

    __pydantic_config__ = CONFIG

    kind: Text = _changes("records", "digits")
    """Kind of the source: a name in components/example_gen/sources/registry.py, which also says
    what `source` is for each kind. A wrong name is answered with the right ones.
    """
    source: Text = ""
    """Where the images lie: a folder, an archive or a URL."""
    tfds_name: Text = _changes("records", "")
    """Name of a data set of TFDS: imagenet2012, imagenette/full-size-v2, cifar10."""
    train_split: Text = _changes("records", "")
    """Split in the source that becomes `train`; "" is the usual name of the kind."""
    eval_split: Text = _changes("records", "")
    """Split in the source that becomes `eval`; "" is the usual name of the kind. Where there is
    none, or with "holdout", a part of train becomes it.
    """
    holdout: PartBetween = _changes("records", 0.1)
    """That part: it is chosen by a hash of the file name, and every class of two or more images
    keeps one in each split.
    """
    classes: Count = 0
    """Number of classes; 0 takes what the source has. When set, a source with another number is an
    anomaly.
    """
    train_shards: Count = _changes("records", 0)
    """Output shards of train; 0 chooses them from the size of the data."""
    eval_shards: Count = _changes("records", 0)
    """Output shards of eval; 0 chooses them from the size of the data."""
    seed: Seed = _changes("records", 0)
    """Seed of the global shuffle, recorded in the artifact."""
    max_bad_fraction: Part = _changes("verdict", 0.01)
    """Part of all images that may be quarantined before the run stops."""
    max_bad_images: Count = _changes("verdict", 10)
    """So many may be quarantined in any case, up to a quarter of all."""
    allow_missing_classes: bool = _changes("records", False)
    """A class may have no image in the evaluation split. A class folder without images, and
    evaluation images of classes that the training split lacks, are left out then.
    """
    max_pixels: Annotated[int, Field(ge=1, le=100_000_000)] = _changes("records", 100_000_000)
    """Images of more pixels are quarantined before they are decoded."""
    schema: Text = "curated"
    """Where the schema comes from: "curated" takes the schema of this project with the classes of
    the source, "infer" lets SchemaGen make one; anything else is the path of a schema.pbtxt.
    """
    spans: Positive = 1
    """A source that grows: with {SPAN} in `source` (such as /data/flowers/span-{SPAN}) the newest
    `spans` spans are one data set, a rolling window.
    """
    max_label_drift: PositivePart = 0.3
    """Most that a value's share of the labels may differ from the span before it (L-infinity); 1
    asks nothing.
    """
    max_size_drift: PositivePart = 0.4
    """Most that heights and widths may differ from the span before it (Jensen-Shannon divergence);
    1 asks nothing.
    """
    max_format_drift: PositivePart = 0.3
    """Most that a format's share may differ from the span before it; 1 asks nothing."""
    max_skew: PositivePart = 0.6
    """The same between a span's train and eval splits, for all three."""


def changing(data: Data, *what: str) -> dict[str, Any]:
    """The fields that the cache of ImageExampleGen must see, by name; it sees what was found at
    `source`.

    Args:
      what: what the fields change: "records", "verdict" or both.
    """
    fields = dataclasses.fields(data)
    return {f.name: getattr(data, f.name) for f in fields if f.metadata.get("changes") in what}
