"""Training inputs of other projects, measured when `benchmarks.training_input` asks (run in
.venv-peers).

    .venv-peers/bin/python -m benchmarks.input_peers NAME FOLDER

FOLDER has the photographs twice: as tf.Examples in data-*, and as files in class folders under
files/. Every input gives batches of 64 float32 images of 224 x 224, normalised, shuffled, mirrored
at random, on all cores.
"""

from __future__ import annotations

import glob
import os
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from benchmarks import rounds

BATCH, SIZE, BUFFER = 64, 224, 1000
SCALES = (256, 480)
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def garden(folder: str) -> Iterator[int]:
    """TensorFlow Model Garden's task input: Inception crop, bilinear without antialiasing."""
    from official.vision.configs import image_classification as configs
    from official.vision.tasks import image_classification as tasks

    data = configs.DataConfig(
        input_path=os.path.join(folder, "data-*"),
        is_training=True,
        global_batch_size=BATCH,
        shuffle_buffer_size=BUFFER,
    )
    model = configs.ImageClassificationModel(num_classes=1000, input_size=[SIZE, SIZE, 3])
    task = tasks.ImageClassificationTask(
        configs.ImageClassificationTask(model=model, train_data=data)
    )
    return (len(labels) for _, labels in task.build_inputs(data))


def layers(folder: str) -> Iterator[int]:
    """Keras' layers on tf.data: the paper's crop, which they leave to tf.image (images differ in
    shape).
    """
    import keras
    import tensorflow as tf

    flip = keras.layers.RandomFlip("horizontal", data_format="channels_last")
    normal = keras.layers.Normalization(
        mean=[255 * m for m in _MEAN], variance=[(255 * s) ** 2 for s in _STD]
    )

    def image(serialized):
        encoded = _parse(tf, serialized)
        pixels = tf.io.decode_jpeg(encoded, channels=3)
        shorter = tf.random.uniform([], SCALES[0], SCALES[1] + 1, tf.int32)
        shape = tf.shape(pixels)[:2]
        pixels = tf.image.resize(pixels, shape * shorter // tf.reduce_min(shape), antialias=True)
        return tf.image.random_crop(pixels, [SIZE, SIZE, 3])

    batches = (
        _records(tf, folder).shuffle(BUFFER).repeat().map(image, tf.data.AUTOTUNE).batch(BATCH)
    )
    batches = batches.map(lambda images: normal(flip(images, training=True)), tf.data.AUTOTUNE)
    return (len(images) for images in batches.prefetch(tf.data.AUTOTUNE))


def torchvision(folder: str, crop: str, backend: str) -> Iterator[int]:
    """torchvision's transforms v2 on a DataLoader with a process a core.

    `PIL` decodes and resamples with Pillow, as the reference scripts by default; `tensor` with
    torchvision's own decoder and uint8 kernels.
    """
    import torch
    from torchvision import datasets, io
    from torchvision.transforms import v2

    if crop == "inception":
        cropped = [v2.RandomResizedCrop(SIZE, antialias=True)]
    else:
        sides = list(range(SCALES[0], SCALES[1] + 1))
        cropped = [v2.RandomShortestSize(sides, antialias=True), v2.RandomCrop(SIZE)]
    steps = [*cropped, v2.RandomHorizontalFlip()]
    steps += [v2.PILToTensor()] if backend == "PIL" else []
    steps += [v2.ToDtype(torch.float32, scale=True), v2.Normalize(_MEAN, _STD)]
    loader = {} if backend == "PIL" else {"loader": _read_image(io)}
    images = datasets.ImageFolder(os.path.join(folder, "files"), v2.Compose(steps), **loader)
    batches = torch.utils.data.DataLoader(
        images, BATCH, shuffle=True, num_workers=_cores(), drop_last=True, persistent_workers=True
    )
    while True:
        yield from (len(labels) for _, labels in batches)


def _read_image(io) -> Callable:
    return lambda path: io.decode_jpeg(io.read_file(path), io.ImageReadMode.RGB)


def tensorflow_decode(folder: str) -> Iterator[int]:
    """TensorFlow's JPEG decoder and nothing else, with its default and fastest transform."""
    import tensorflow as tf

    options = tf.data.Options()
    options.deterministic = False
    records = _records(tf, folder).repeat().with_options(options)
    pixels = records.map(
        lambda serialized: (
            tf.shape(tf.io.decode_jpeg(_parse(tf, serialized), channels=3))[0] * 0 + 1
        ),
        tf.data.AUTOTUNE,
    )
    return (len(ones) for ones in pixels.batch(BATCH))


def simplejpeg_decode(folder: str) -> Iterator[int]:
    """libjpeg-turbo's decoder and nothing else, from bytes in memory, a thread a core."""
    import simplejpeg

    encoded = [path.read_bytes() for path in sorted(Path(folder, "files").rglob("*.jpg"))]
    with ThreadPoolExecutor(_cores()) as threads:
        while True:
            for begin in range(0, len(encoded) - BATCH, BATCH):
                yield len(list(threads.map(_decode(simplejpeg), encoded[begin : begin + BATCH])))


def _decode(simplejpeg) -> Callable:
    return lambda encoded: simplejpeg.decode_jpeg(encoded).shape


def _records(tf, folder: str):
    return tf.data.TFRecordDataset(sorted(glob.glob(os.path.join(folder, "data-*"))))


def _parse(tf, serialized):
    spec = {"image/encoded": tf.io.FixedLenFeature([], tf.string)}
    return tf.io.parse_single_example(serialized, spec)["image/encoded"]


def _cores() -> int:
    return len(os.sched_getaffinity(0))


INPUTS: dict[str, Callable[[str], Iterator[int]]] = {
    "garden": garden,
    "layers": layers,
    "torchvision-scale-PIL": lambda folder: torchvision(folder, "scale", "PIL"),
    "torchvision-scale-tensor": lambda folder: torchvision(folder, "scale", "tensor"),
    "torchvision-inception-PIL": lambda folder: torchvision(folder, "inception", "PIL"),
    "torchvision-inception-tensor": lambda folder: torchvision(folder, "inception", "tensor"),
    "tensorflow-decode": tensorflow_decode,
    "simplejpeg-decode": simplejpeg_decode,
}


def rate(batches: Iterator[int], warm_up: float, seconds: float) -> float:
    """Images a second that the iterator gives after the first `warm_up` seconds."""
    next(batches)
    end = time.perf_counter() + warm_up
    while time.perf_counter() < end:
        next(batches)
    start, count = time.perf_counter(), 0
    while time.perf_counter() < start + seconds:
        count += next(batches)
    return count / (time.perf_counter() - start)


def measure(make: Callable[[], Iterator[int]]) -> None:
    """Answers a `rounds.Worker`; every round has an input of its own, which stands still between
    rounds.
    """

    def once(warm_up: float, seconds: float) -> float:
        batches = make()
        found = rate(batches, warm_up, seconds)
        del batches
        return found

    rounds.answer(once)


if __name__ == "__main__":
    measure(lambda: INPUTS[sys.argv[1]](sys.argv[2]))
