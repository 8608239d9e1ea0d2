"""Whether a server sees original files as the model was trained and evaluated on them.

A file goes two ways, as it came: through ingestion to the model's signature `evaluate`, and to a
server. Both refuse it, or both give the same probabilities; what ingestion converts, the server may
refuse. Where the model says what its crops are, the test's crop is compared between Trainer and
Evaluator, pixel by pixel.
"""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import tensorflow as tf

from components.example_gen.errors import BadImage
from components.example_gen.writing import image_files
from models.export import export
from models.pixels import augmentation
from models.settings import Transform

# The Trainer's input is another program than the model's graph: its sums are rounded otherwise.
MAX_LEVELS = 0.01
_MAX_PIXELS = 100_000_000  # ingestion's default
_AT_A_TIME = 32
_STARTS = {b"\xff\xd8\xff": "JPEG", b"\x89PNG\r\n\x1a\n": "PNG"}
_CENTER, _SERVED = (
    ("evaluate", "examples", "center"),
    (
        "serving_default",
        "image_bytes",
        "probabilities",
    ),
)

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
      levels: largest difference of a pixel between Trainer and Evaluator; NaN where it is not
        known.
    """

    name: str
    format: str
    ingestion: str = ""
    server: str = ""
    converted: bool = False
    probability: float = math.nan
    labels: tuple[str, str] = ("", "")
    levels: float = math.nan

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
        if self.levels > MAX_LEVELS:
            parts.append(f"a pixel of training differs from evaluation by {self.levels:.2g} levels")
        return "; ".join(parts)

    @property
    def relabelled(self) -> bool:
        """Whether another class is served than was evaluated."""
        return self.labels[0] != self.labels[1]

    @property
    def badness(self) -> tuple[bool, float, float]:
        """Larger is worse: another answer, then another probability, then other pixels."""
        alone = bool(self.ingestion) != bool(self.server) and not self.converted
        return alone or self.relabelled, *np.nan_to_num([self.probability, self.levels]).tolist()


class Model:
    """The model as it was evaluated.

    Args:
      path: folder of a SavedModel that models.export.export wrote.

    Raises:
      SkewError: it is none.
    """

    def __init__(self, path: str) -> None:
        extra = os.path.join(path, export.EXTRA, augmentation.CONSTANTS_FILE)
        try:
            self._loaded = tf.saved_model.load(path)  # holds the variables
            self._signatures = self._loaded.signatures
            with tf.io.gfile.GFile(os.path.join(path, "assets", export.LABELS_FILE)) as file:
                self._labels = file.read().splitlines()
            # An ensemble has no crop of its own.
            self.settings = (
                augmentation.read_constants(extra)[1] if tf.io.gfile.exists(extra) else None
            )
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
    paths = files(folder)
    levels_of = _levels(model.settings) if model.settings else None
    for start in range(0, len(paths), _AT_A_TIME):
        found, taken = [], []
        for path in paths[start : start + _AT_A_TIME]:
            data = _read(path)
            image = _ingest(data)
            one = _asked(os.path.relpath(path, folder), data, image, model, ask)
            found.append(one)
            if isinstance(image, image_files.Image):
                taken.append((one, image))
        if levels_of and taken:
            levels = levels_of([image for _, image in taken])
            for (one, _), largest in zip(taken, levels, strict=True):
                one.levels = largest
        yield from found


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


def _ingest(data: bytes) -> image_files.Image | str:
    """The image of the record, or why there is none."""
    try:
        return image_files.normalize(data, _MAX_PIXELS)
    except BadImage as reason:
        return str(reason)


def _asked(
    name: str, data: bytes, image: image_files.Image | str, model: Model, ask: Ask
) -> Compared:
    if isinstance(image, str):
        kinds = [kind for start, kind in _STARTS.items() if data.startswith(start)]
        found = Compared(name, kinds[0] if kinds else "other", ingestion=image)
    else:
        found = Compared(name, image.source_format, converted=bool(image.original))
    served = ask(data)
    if isinstance(served, str):
        found.server = served
    elif isinstance(image, image_files.Image):
        right = model.probabilities(image.encoded)
        # Where the numbers of classes differ, another model is served.
        found.probability = (
            float(np.abs(served - right).max()) if served.shape == right.shape else 1.0
        )
        found.labels = model.best(right), model.best(served)
    return found


def _levels(settings: Transform) -> Callable[[Sequence[image_files.Image]], list[float]]:
    """Gives the largest difference of Trainer and Evaluator in each image, at the test's crop."""
    settings = dataclasses.replace(settings, crop="none", flip=False, colour=0.0, mean="channel")
    nothing = augmentation.Constants(
        pixel_mean=np.zeros([settings.size, settings.size, 3], np.float32),
        channel_mean=np.zeros([3], np.float32),
        covariance=np.eye(3, dtype=np.float32),
        labels=(),
        class_counts=(),
    )

    # Graphs, as in Transform and in the model: one by one, their many small steps take a second.
    @tf.function(autograph=False)
    def crop(encoded: tf.Tensor) -> tf.Tensor:
        return augmentation.center_pixels(encoded, settings)

    @tf.function(autograph=False, reduce_retracing=True)
    def stored(columns: dict[str, tf.Tensor]) -> tf.Tensor:
        if settings.shorter_side:
            from models import preprocessing  # slow to import

            columns = preprocessing.rescale(columns, settings)
        return columns["image/encoded"]

    def levels(found: Sequence[image_files.Image]) -> list[float]:
        columns = {
            "image/encoded": tf.constant([image.encoded for image in found]),
            "image/height": tf.constant([image.height for image in found], tf.int64),
            "image/width": tf.constant([image.width for image in found], tf.int64),
        }
        numbers = tf.range(len(found), dtype=tf.int64)
        records = tf.data.Dataset.from_tensor_slices((numbers, stored(columns)))
        batches = augmentation.train_images(
            records, lambda record: (record, 0), len(found), 0, settings, nothing
        )
        [(trained, _)] = batches.as_numpy_iterator()
        evaluated = [crop(tf.constant(image.encoded)).numpy() for image in found]
        pairs = zip(trained, evaluated, strict=True)
        return [float(np.abs(one - other).max()) for one, other in pairs]

    return levels
