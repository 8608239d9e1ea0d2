"""The paper's CIFAR-10 training (section 4.2) where TensorFlow is not installed: any backend of
Keras.

    KERAS_BACKEND=jax python -m benchmarks.jax_cifar --data TREE_OR_TAR --depth 56 [--plain] --out
    new.csv

The networks are those of the pipeline. Needed: Python, Keras, its backend, NumPy, Pillow. One line
of the CSV, and of the screen, for every 400 steps. A run that is begun again starts anew.
"""

from __future__ import annotations

import argparse
import csv
import functools
import io
import pathlib
import tarfile
import time
from collections.abc import Iterator

import keras
import numpy as np
from PIL import Image

from models.network import architecture
from models.settings import Model

CHUNK = 400  # steps between two tests; divides the paper's 32k, 48k and 64k
PAD = 4
WARM_UP_DEPTH = 110  # layers


def read(source: str, splits: tuple[str, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Images of a tree SPLIT/CLASS/FILE, or of a tar of one, in the order of their names.

    Args:
      source: folder or tar, compressed or not.
      splits: names that the split may have; the first that is there is read.

    Returns:
      uint8 [n, height, width, 3] and labels int32 [n], classes in sorted order.

    Raises:
      FileNotFoundError: there is no such source or split.
    """
    found = [
        (*path.parts[-3:], data)
        for path, data in _files(pathlib.Path(source))
        if len(path.parts) >= 3 and path.suffix.lower() in (".jpg", ".jpeg", ".png")
    ]
    split = next((split for split in splits if any(split == part for part, *_ in found)), None)
    if split is None:
        wanted = " or ".join(splits)
        raise FileNotFoundError(
            f"{source} has no {wanted}/CLASS/IMAGE files; give --data one that has."
        )
    files = sorted(rest for part, *rest in found if part == split)
    names = sorted({name for name, _, _ in files})
    images = np.stack(
        [np.asarray(Image.open(io.BytesIO(data)).convert("RGB")) for _, _, data in files]
    )
    return images, np.array([names.index(name) for name, _, _ in files], np.int32)


def _files(source: pathlib.Path) -> Iterator[tuple[pathlib.PurePath, bytes]]:
    if source.is_dir():
        yield from ((path.relative_to(source), path.read_bytes()) for path in source.glob("*/*/*"))
        return
    with tarfile.open(source) as tar:
        for member in tar:
            if file := tar.extractfile(member):
                yield pathlib.PurePosixPath(member.name), file.read()


class Batches(keras.utils.PyDataset):
    """`CHUNK` steps an epoch of Keras, passes over the images following one another.

    Each pass is a new order of all images, the few that fill no batch left out. What a step sees
    depends on the seed and its number alone.
    """

    def __init__(self, images, labels, mean, batch: int, steps: int, seed: int):
        super().__init__(workers=2, max_queue_size=16)
        self.images, self.labels, self.mean = images, labels, mean
        self.batch, self.steps, self.seed = batch, steps, seed
        self.done = 0

    def __len__(self) -> int:
        return self.steps

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        number = self.done + index
        turn, at = divmod(number, len(self.images) // self.batch)
        chosen = _order(self.seed, turn, len(self.images))[at * self.batch : (at + 1) * self.batch]
        rng = np.random.default_rng([self.seed, 1, number])
        return augment(self.images[chosen] - self.mean, rng), self.labels[chosen]

    def on_epoch_end(self) -> None:
        self.done += self.steps


@functools.lru_cache(maxsize=4)
def _order(seed: int, turn: int, count: int) -> np.ndarray:
    return np.random.default_rng([seed, 0, turn]).permutation(count)


def augment(images: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Pads every image by 4 zeros, crops its size at random and mirrors every other one on average.

    float32 [n, height, width, 3], mean subtracted, to the same.
    """
    count, height, width, channels = images.shape
    padded = np.pad(images, ((0, 0), (PAD, PAD), (PAD, PAD), (0, 0)))
    y, x = rng.integers(0, 2 * PAD + 1, (2, count, 1))
    columns = np.where(rng.random((count, 1)) < 0.5, np.arange(width), np.arange(width)[::-1])
    rows = np.arange(count)[:, None] * padded.shape[1] + y + np.arange(height)
    places = rows[:, :, None] * padded.shape[2] + (x + columns)[:, None, :]
    # One take of whole pixels is twice as fast as windows and their mirrors.
    return padded.reshape(-1, channels).take(places, axis=0, mode="clip")


class Recipe(keras.callbacks.Callback):
    """Learning rate, and a line of history for every chunk.

    The rate is 0.1, a tenth of it after a half and a hundredth after three quarters of the steps;
    of deep networks it is 0.01 first, until the training error over a chunk is below 80 %.
    """

    def __init__(self, out: str, steps: int, chunk: int, batch: int, warm_up: bool):
        super().__init__()
        self.out, self.steps, self.chunk, self.batch, self.warm_up = (
            out,
            steps,
            chunk,
            batch,
            warm_up,
        )

    def on_epoch_begin(self, epoch: int, logs: dict | None = None) -> None:
        done = epoch * self.chunk / self.steps
        rate = 0.01 if self.warm_up else 0.1 * 0.1 ** ((done >= 0.5) + (done >= 0.75))
        self.model.optimizer.learning_rate = rate
        self.start = time.perf_counter()

    def on_test_begin(self, logs: dict | None = None) -> None:
        self.seconds = time.perf_counter() - self.start

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        logs = logs or {}
        self.warm_up = self.warm_up and 1 - logs["accuracy"] >= 0.8
        row = {
            "step": (epoch + 1) * self.chunk,
            "learning_rate": round(float(self.model.optimizer.learning_rate), 6),
            "loss": round(logs["loss"], 4),
            "train_error": round(1 - logs["accuracy"], 4),
            "test_error": round(1 - logs["val_accuracy"], 4),
            "images_per_second": round(self.chunk * self.batch / self.seconds, 1),
        }
        with open(self.out, "a" if epoch else "w", newline="") as file:
            writer = csv.DictWriter(file, row)
            if not epoch:
                writer.writeheader()
            writer.writerow(row)
        print("  ".join(f"{name} {value}" for name, value in row.items()), flush=True)


def train(
    data: str, model: Model, steps: int, seed: int, out: str, batch: int = 128
) -> keras.Model:
    """Trains one network by the paper's recipe; returns it.

    Raises:
      ValueError: steps that no whole number of chunks make. FileNotFoundError: no images at `data`.
    """
    chunk = min(CHUNK, steps)
    if steps < 1 or steps % chunk:
        raise ValueError(
            f"--steps must be a multiple of {CHUNK}, or less than that. Received: {steps}."
        )
    images, labels = read(data, ("train",))
    tests, test_labels = read(data, ("test", "val"))
    mean = images.mean(0, dtype=np.float64).astype(np.float32)
    keras.utils.set_random_seed(seed)
    network = architecture.build(model, int(labels.max()) + 1, weight_decay=1e-4)
    network.compile(
        keras.optimizers.SGD(0.1, momentum=0.9),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    batches = Batches(images, labels, mean, batch, chunk, seed)
    recipe = Recipe(out, steps, chunk, batch, model.depth == WARM_UP_DEPTH)
    network.fit(
        batches,
        epochs=steps // chunk,
        verbose=0,
        callbacks=[recipe],
        validation_data=(tests - mean, test_labels),
        validation_batch_size=500,
    )
    return network


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--data", required=True, help="train/ and test/ of CLASS/*.jpg, or a tar of them"
    )
    parser.add_argument("--depth", type=int, default=20, help="6n+2: 20, 32, 44, 56, 110, 1202")
    parser.add_argument("--plain", action="store_true", help="without shortcuts")
    parser.add_argument("--steps", type=int, default=64_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", required=True, help="CSV to write")
    options = parser.parse_args()
    model = Model(family="cifar", depth=options.depth, residual=not options.plain, shortcut="A")
    train(options.data, model, options.steps, options.seed, options.out)


if __name__ == "__main__":
    main()
