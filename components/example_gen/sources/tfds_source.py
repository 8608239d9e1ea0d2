"""TFDS data sets that are prepared on disk: where the records lie, what a record holds.

A TFRecord file is a run of framed records, so it is indexed like a tar: frame
headers are read, payloads are skipped. Nothing is ever downloaded.
"""

from __future__ import annotations

import functools
import os
import struct
from collections.abc import Iterator
from typing import Any, NamedTuple, Self

from components import files
from components.example_gen import names
from components.example_gen.errors import BadImage, SourceError
from components.example_gen.settings import HOLDOUT, Data
from components.example_gen.sources.kinds import File, Group, Record, Source

_LENGTH = struct.Struct("<Q")
_HEADER = 12  # length and its checksum
_FOOTER = 4  # checksum of the payload
_EVAL = ("validation", "test")


class _Keys(NamedTuple):
    """Names of the features of a record; `name` is "" when it has none.

    `classes`: the class names in the order of the records' labels.
    """

    image: str
    label: str
    name: str
    classes: tuple[str, ...]


class Tfds(Source):
    """TFRecord files as TFDS's own command prepares them."""

    @classmethod
    def usual_place(cls) -> str:
        """The data_dir that TFDS uses when none is named."""
        return os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets"

    @classmethod
    def find(cls, data: Data, shared: str) -> Self:
        base = _folder(data.tfds_name, data.source)
        train, evaluation = _split_names(base, data.train_split, data.eval_split)
        # Both patterns are all files of the data set: a slice such as train[:90%] is no pattern.
        return cls(base, "*", "*" if evaluation else "", train, evaluation)

    def classes(self) -> tuple[str, ...]:
        return tuple(sorted(_keys(self.base).classes))

    def groups(self, split: str, skip: names.Skip) -> Iterator[Group]:
        # A name such as train, or a slice such as train[:90%].
        for part in (
            _builder(self.base).info.splits[getattr(self, f"{split}_name")].file_instructions
        ):
            # Most data sets name no files: the place in the data set is the name until the record
            # is read.
            path, start = part.filename, os.path.basename(part.filename)
            found = _frames(path, part.skip, part.take)
            yield path, "", [File(f"{start}@{offset}", offset, size) for offset, size in found]

    def record(self, content: bytes) -> Record:
        """The parts of a record and its checksum; see the base class."""
        import tensorflow as tf

        from models.data.records import checksum

        fields, content, stored = _keys(self.base), content[:-_FOOTER], content[-_FOOTER:]
        if stored != checksum(content):
            raise BadImage("the record in the data set is damaged: its checksum differs")
        feature = tf.train.Example.FromString(content).features.feature
        label = feature[fields.label].int64_list.value[0]
        if not 0 <= label < len(fields.classes):
            raise BadImage(f"its label {label} is not one of the {len(fields.classes)} classes")
        name = feature[fields.name].bytes_list.value if fields.name else ()
        return Record(
            feature[fields.image].bytes_list.value[0],
            fields.classes[label],
            name[0].decode(errors="backslashreplace") if name else "",
        )


def _folder(name: str, data_dir: str) -> str:
    """The folder of the prepared data set."""
    if not name:
        raise SourceError(
            "data.tfds_name must name a TFDS data set, such as cifar10 (data.kind=tfds)."
        )
    from tensorflow_datasets.core import read_only_builder, registered

    try:
        base = str(read_only_builder.builder_from_files(name, data_dir=data_dir).data_dir)
    except registered.DatasetNotFoundError:
        raise SourceError(
            f"The TFDS data set {name} is not prepared in {data_dir}: run `tfds build {name} "
            f"--data_dir={data_dir}` first, or set data.source to the data_dir that has it."
        ) from None
    _keys(base)
    return base


def _split_names(base: str, train: str, evaluation: str) -> tuple[str, str]:
    """The splits that become train and eval; the latter is "" when a part of train is held out."""
    splits = _builder(base).info.splits
    train = train or "train"
    if evaluation == HOLDOUT:
        evaluation = ""
    elif not evaluation:
        evaluation = next((name for name in _EVAL if name in splits), "")
    for name in filter(None, (train, evaluation)):
        try:
            splits[name]
        except (KeyError, ValueError) as error:
            raise SourceError(f"{base} has no split {name}; it has {', '.join(splits)}.") from error
    return train, evaluation


@functools.lru_cache(maxsize=8)
def _keys(base: str) -> _Keys:
    """The features that hold the encoded image, the label and a name."""
    import tensorflow_datasets as tfds

    builder = _builder(base)
    if builder.info.file_format is not tfds.core.FileFormat.TFRECORD:
        raise SourceError(
            f"{base} is stored as {builder.info.file_format.value}: prepare it with"
            " --file_format=tfrecord."
        )
    features = builder.info.features
    image = [k for k, f in features.items() if isinstance(f, tfds.features.Image)]
    label = [k for k, f in features.items() if isinstance(f, tfds.features.ClassLabel)]
    if len(image) != 1 or ("label" not in label and len(label) != 1):
        raise SourceError(
            f"{base} is no image classification data set: it needs one image and one label. "
            f"Features: {', '.join(features)}."
        )
    name = next((k for k in ("file_name", "image/filename", "filename", "id") if k in features), "")
    key = "label" if "label" in label else label[0]
    return _Keys(image[0], key, name, tuple(features[key].names))


@functools.lru_cache(maxsize=8)
def _builder(base: str) -> Any:
    import tensorflow_datasets as tfds

    return tfds.builder_from_directory(base)


def _frames(path: str, skip: int, take: int) -> Iterator[tuple[int, int]]:
    """Offset and size of each record with its checksum."""
    from models.data.records import checksum  # half a second: only when records are read

    if not files.is_file(path):
        raise SourceError(f"{path} of the TFDS data set is missing: prepare the data set again.")
    with files.open_read(path) as stream:
        size = stream.seek(0, os.SEEK_END) or stream.tell()
        at = 0
        for number in range(skip + take):
            stream.seek(at)
            header = stream.read(_HEADER)
            length = _LENGTH.unpack_from(header)[0] if len(header) == _HEADER else size
            damaged = len(header) == _HEADER and header[8:] != checksum(header[:8])
            if damaged or at + _HEADER + length + _FOOTER > size:
                how = "damaged" if damaged else "truncated"
                raise SourceError(f"{path} is {how} at byte {at}: prepare the data set again.")
            if number >= skip:
                yield at + _HEADER, length + _FOOTER
            at += _HEADER + length + _FOOTER
