"""TFRecords of images -> batches of pixels.

The training stream is endless: epoch after epoch, each shuffled anew, of as many full batches as
the examples give. It is a pure function of its arguments, so a step can be found again after a
restart without reading earlier epochs.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable, Iterator, Sequence

import tensorflow as tf

from models.data import records
from models.pixels import augmentation
from models.pixels.augmentation import Constants
from models.pixels.compiled import cores
from models.settings import Train, Transform

_FEATURES = {
    records.IMAGE_KEY: tf.io.FixedLenFeature([], tf.string),
    records.LABEL_KEY: tf.io.FixedLenFeature([], tf.int64),
}
# Number of a file -> its records.
_Reader = Callable[[tf.Tensor], tf.data.Dataset]
# Files read at the same time.
_READERS = 16
# AutoGraph would rewrite the source of all that is called, for a second, and change nothing.
_unconverted = tf.autograph.experimental.do_not_convert


def resolve(patterns: Sequence[str]) -> list[str]:
    """The files that glob patterns name, sorted; raises ValueError when there is none."""
    files = sorted({file for pattern in patterns for file in tf.io.gfile.glob(pattern)})
    if not files:
        raise ValueError(
            f"There are no TFRecord files at {', '.join(patterns)}; run ingestion again."
        )
    return files


@contextlib.contextmanager
def named(files: Sequence[str]) -> Iterator[None]:
    """Says where the records are that TensorFlow could not read.

    Raises:
      ValueError: a file is damaged, or there are more or fewer records than there should be.
    """
    try:
        yield
    except (tf.errors.DataLossError, tf.errors.FailedPreconditionError) as error:
        found = re.search(
            r"(truncated|corrupted) record at \d+|expected to contain .* elements?", str(error)
        )
        if not found:
            raise
        raise ValueError(
            f"The records in {os.path.dirname(files[0])} are damaged or not all there ({found[0]}):"
            " run ingestion again."
        ) from error


def count(files: Sequence[str]) -> int:
    """Number of records; reads every file once, and raises ValueError where one is damaged."""
    with named(files):
        found = _records(_serialized(files), tf.data.Dataset.range(len(files)))
        return int(found.reduce(0, lambda n, _: n + 1))


def steps_per_epoch(total: int, batch_size: int) -> int:
    """Full batches in an epoch of `total` examples; 1 (with some twice) if they fill none."""
    return max(1, total // batch_size)


def place(step: int, batch_size: int, total: int) -> tuple[int, int]:
    """Where a step of the training stream begins: (epoch, records of it that come before)."""
    epoch, step = divmod(step, steps_per_epoch(total, batch_size))
    return epoch, step * batch_size


def train_dataset(
    files: Sequence[str],
    settings: Transform,
    constants: Constants,
    train: Train,
    *,
    total: int,
    start_step: int = 0,
    examples: int | None = None,
) -> tf.data.Dataset:
    """Endless augmented training batches.

    Args:
      files: TFRecords of tf.Examples, compressed where the name ends in .gz.
      settings: augmentation.
      constants: of the training split.
      train: `batch_size` (over all replicas), `seed` and `shuffle_buffer` are used.
      total: number of examples, which is `count(files)`, or `examples` where that is less. Other
        numbers end the stream with an error.
      start_step: batches to leave out at the beginning; their images are not decoded, but the
        records of the epoch under way are read, or their places.
      examples: only this many examples, the first ones; None is all.

    Returns:
      Batches (float32 [batch_size, size, size, 3], int64 [batch_size]). The order of examples
      depends on the arguments alone, the augmentation of the k-th example on (train.seed, k).
    """
    position = start_step * train.batch_size
    first_epoch, skip = place(start_step, train.batch_size, total)
    read: augmentation.Read = records.parse
    reader = _serialized(files)
    if all(map(records.seekable, files)):
        opened = records.Files(files)
        read, reader = opened.read, _placed(opened)

    def epoch(number: tf.Tensor) -> tf.data.Dataset:
        # Every shuffle mixes in the seed of its graph, which would be the caller's, and takes no 0
        # there.
        tf.random.set_seed(train.seed + 1)
        # Shuffling takes one seed; the constant keeps runs of neighbouring seeds apart.
        seed = train.seed * 1_000_003 + number
        numbers = tf.data.Dataset.range(len(files))
        if examples is None:
            found = _records(reader, numbers.shuffle(len(files), seed=seed))
        else:
            found = _records(reader, numbers).take(examples)
        # A lost file would be made up for by more of the others, in silence.
        found = found.apply(tf.data.experimental.assert_cardinality(total))
        # The buffer is allocated as large as it is asked for.
        shuffled = found.shuffle(min(train.shuffle_buffer, total), seed=seed)
        # Repeated only where an epoch is less than a batch.
        return shuffled.repeat().take(steps_per_epoch(total, train.batch_size) * train.batch_size)

    epochs = tf.data.Dataset.counter(first_epoch).flat_map(_unconverted(epoch))
    stream = epochs.skip(skip).enumerate(position)
    batch = train.batch_size
    images = augmentation.train_images(stream, read, batch, train.seed, settings, constants)
    return _finish(images, tf.data.INFINITE_CARDINALITY)


def eval_dataset(
    files: Sequence[str],
    settings: Transform,
    constants: Constants,
    batch_size: int,
    *,
    total: int,
    examples: int | None = None,
) -> tf.data.Dataset:
    """Every example exactly once, centre crops, in batches that are all full.

    The last batch is filled up with empty images of weight 0, so that no replica is left without
    rows (which turns Keras' validation loss into NaN) and nothing is dropped or counted twice.

    Args are those of `train_dataset`; `batch_size` is over all replicas.

    Returns:
      Batches (float32 [batch_size, size, size, 3], int64 [batch_size], float32 weights
      [batch_size]).
    """

    def example(serialized: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        found = tf.io.parse_single_example(serialized, _FEATURES)
        image = augmentation.center(found[records.IMAGE_KEY], settings, constants)
        return image, found[records.LABEL_KEY], tf.constant(1.0)

    empty = tf.zeros([settings.size, settings.size, 3])
    filler = (empty, tf.constant(0, tf.int64), tf.constant(0.0))
    found = _records(_serialized(files), tf.data.Dataset.range(len(files)))
    if examples is not None:
        found = found.take(examples)
    # A lost file would go unnoticed.
    found = found.apply(tf.data.experimental.assert_cardinality(total))
    padding = tf.data.Dataset.from_tensors(filler).repeat(-total % batch_size)
    images = found.map(_unconverted(example), cores()).concatenate(padding)
    return _finish(images.batch(batch_size, drop_remainder=True), -(-total // batch_size))


def _records(reader: _Reader, numbers: tf.data.Dataset) -> tf.data.Dataset:
    """What the reader gives of the files with these numbers, always in the same order."""
    return numbers.interleave(
        _unconverted(reader),
        cycle_length=_READERS,
        num_parallel_calls=min(cores(), _READERS),
        deterministic=True,
    )


def _serialized(files: Sequence[str]) -> _Reader:
    """Reads serialized examples."""

    def read(number: tf.Tensor) -> tf.data.Dataset:
        file = tf.gather(tf.constant(files), number)
        zipped = tf.strings.regex_full_match(file, r".*\.gz")
        return tf.data.TFRecordDataset(file, compression_type=tf.where(zipped, "GZIP", ""))

    return read


def _placed(files: records.Files) -> _Reader:
    """Reads the places of examples."""

    def read(number: tf.Tensor) -> tf.data.Dataset:
        def some(begin: tf.Tensor, _: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            kinds = [tf.int64, tf.int64]
            found, end = tf.numpy_function(files.places, [number, begin], kinds, stateful=False)
            return tf.ensure_shape(end, []), tf.ensure_shape(found, [None, 3])

        chunks = tf.data.Dataset.counter().scan(tf.constant(0, tf.int64), some)
        return chunks.take_while(lambda found: tf.shape(found)[0] > 0).unbatch()

    return read


def _finish(dataset: tf.data.Dataset, length: int) -> tf.data.Dataset:
    options = tf.data.Options()
    # One process reads for all replicas: there is nothing to shard.
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.OFF
    # An iterator ends only when its tuner wakes, which sleeps ever longer, up to a minute.
    options.autotune.enabled = False
    # Keras warns of data that end where it does not know their length.
    dataset = dataset.apply(tf.data.experimental.assert_cardinality(length))
    return dataset.with_options(options).prefetch(2)
