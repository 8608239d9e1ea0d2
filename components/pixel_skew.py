"""Whether a server sees original files as the model was evaluated on them.

A file goes two ways, as it came: through ingestion to the model's signature `evaluate`, and to a
server. Both refuse it, or both give the same probabilities; what ingestion converts, the server may
refuse.
"""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Callable, Iterator

import numpy as np
import tensorflow as tf

from components.example_gen.errors import BadImage
from components.example_gen.writing import image_files
from models.export import export

_MAX_PIXELS = 100_000_000  # ingestion's default
_STARTS = {b"\xff\xd8\xff": "JPEG", b"\x89PNG\r\n\x1a\n": "PNG"}
# Signature, input, output.
_CENTER = ("evaluate", "examples", "center")
_SERVED = ("serving_default", "image_bytes", "probabilities")

Ask = Callable[[bytes], "np.ndarray | str"]


class SkewError(Exception):
    """Nothing can be compared; the message is one sentence for a person."""


@dataclasses.dataclass
class Compared:
    """One file.

    Attributes:
      name: its path below the folder.
      format: by content; "other" is what ingestion does not read.
      ingestion, server: why it is refused there; "" where it is not.
      converted: whether ingestion made a PNG of it.
      probability: largest difference of a probability; NaN where not both gave some.
      labels: best class as evaluated and as served; "" likewise.
    """

    name: str
    format: str
    ingestion: str = ""
    server: str = ""
    converted: bool = False
    probability: float = math.nan
    labels: tuple[str, str] = ("", "")

    def skew(self, tolerance: float) -> str:
        """What differs, for a person; "" where nothing does. `tolerance`: of probabilities."""
        if self.ingestion and not self.server:
            return f"the server answers what ingestion refuses: {self.ingestion}"
        if self.server and not self.ingestion and not self.converted:
            return f"the server refuses what ingestion takes: {self.server}"
        parts = []
        if self.relabelled:
            parts.append(f"evaluated as {self.labels[0]}, served as {self.labels[1]}")
        if self.probability > tolerance:
            parts.append(f"a probability differs by {self.probability:.2g}")
        return "; ".join(parts)

    @property
    def relabelled(self) -> bool:
        """Whether another class is served than was evaluated."""
        return self.labels[0] != self.labels[1]

    @property
    def badness(self) -> tuple[bool, float]:
        """Larger is worse: another answer, then another probability."""
        alone = bool(self.ingestion) != bool(self.server) and not self.converted
        return alone or self.relabelled, float(np.nan_to_num(self.probability))


class Model:
    """The model as it was evaluated.

    Args:
      path: folder of a SavedModel that models.export.export wrote.

    Raises:
      SkewError: it is none.
    """

    def __init__(self, path: str) -> None:
        try:
            self._loaded = tf.saved_model.load(path)  # holds the variables
            self._signatures = self._loaded.signatures
            with tf.io.gfile.GFile(os.path.join(path, "assets", export.LABELS_FILE)) as file:
                self._labels = file.read().splitlines()
            # Without the protocol `center`, serving_default shows its crop.
            has_center = _CENTER[2] in self._signatures[_CENTER[0]].structured_outputs
        except (OSError, KeyError, ValueError, tf.errors.OpError) as error:
            said = " ".join(str(error).split())[:200]
            raise SkewError(
                f"{path} is no model that this project has exported ({said})."
            ) from None
        self._way = _CENTER if has_center else _SERVED

    def probabilities(self, encoded: bytes) -> np.ndarray:
        """The probabilities of a record's image: float32 [classes]."""
        signature, name, output = self._way
        if name == "examples":
            feature = tf.train.Feature(bytes_list=tf.train.BytesList(value=[encoded]))
            features = tf.train.Features(feature={"image/encoded": feature})
            encoded = tf.train.Example(features=features).SerializeToString()
        return self._signatures[signature](**{name: tf.constant([encoded])})[output].numpy()[0]

    def best(self, probabilities: np.ndarray) -> str:
        """Name of the most probable class."""
        number = int(probabilities.argmax())
        return self._labels[number] if number < len(self._labels) else f"class {number}"


def compare(folder: str, model: Model, ask: Ask) -> Iterator[Compared]:
    """Compares all files in and below a folder.

    Args:
      folder: of original files.
      model: as it was evaluated.
      ask: the bytes of a file -> the server's probabilities, float32 [classes], or why it refuses
        them.

    Raises:
      SkewError: there is no file, or one cannot be read.
    """
    for path in files(folder):
        yield _compared(os.path.relpath(path, folder), _read(path), model, ask)


def files(folder: str) -> list[str]:
    """Paths of all files in and below a folder, sorted.

    Raises:
      SkewError: there are none.
    """
    if not os.path.isdir(folder):
        raise SkewError(f"{folder} is not a folder; name one of images as you have them.")
    found = [os.path.join(root, name) for root, _, names in os.walk(folder) for name in names]
    if not found:
        raise SkewError(f"{folder} holds no file; name a folder of images as you have them.")
    return sorted(found)


def _read(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError as error:
        raise SkewError(f"{path} cannot be read ({error.strerror}).") from None


def _compared(name: str, data: bytes, model: Model, ask: Ask) -> Compared:
    served = ask(data)
    refused = served if isinstance(served, str) else ""
    try:
        image = image_files.normalize(data, _MAX_PIXELS)
    except BadImage as reason:
        kinds = [kind for start, kind in _STARTS.items() if data.startswith(start)]
        return Compared(name, [*kinds, "other"][0], ingestion=str(reason), server=refused)
    found = Compared(name, image.source_format, server=refused, converted=bool(image.original))
    if not isinstance(served, str):
        right = model.probabilities(image.encoded)
        # Where the numbers of classes differ, another model is served.
        alike = served.shape == right.shape
        found.probability = float(np.abs(served - right).max()) if alike else 1.0
        found.labels = model.best(right), model.best(served)
    return found
