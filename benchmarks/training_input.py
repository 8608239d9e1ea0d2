"""The training input against other projects' and against JPEG decoders alone.

    python -m benchmarks.training_input [--images 2000] [--rounds 3] [--seconds 8]

Every input is a process of its own that uses all cores and stands still while another one is
measured. Ours is `models.data.input.train_dataset` on the same records; colour noise is off, since
the others have none, and the mean colour is subtracted; theirs divide by the deviation as well.
Then how far our pixels are from those of resizing and cropping.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import io
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from benchmarks import report, rounds
from benchmarks.input_peers import BATCH, BUFFER, INPUTS, SCALES, SIZE, measure
from benchmarks.photos import HEIGHT, WIDTH, photos
from benchmarks.report import Row

PEERS = ".venv-peers/bin/python"
# What an input is held against, and the bar of the ratio.
AGAINST = {
    "scale": {
        "torchvision-scale-PIL": 1.6,
        "torchvision-scale-tensor": 1.6,
        "layers": 1.6,
        "tensorflow-decode": 1.0,
        "simplejpeg-decode": 0.8,
    },
    "inception": {
        "garden": 1.6,
        "torchvision-inception-PIL": 1.6,
        "torchvision-inception-tensor": 1.6,
        "tensorflow-decode": 1.0,
        "simplejpeg-decode": 0.8,
    },
}
WHAT = {"scale": "scale, crop and mirror (the paper's)", "inception": "Inception's crop and mirror"}


def write(folder: str, number: int) -> float:
    """Writes the photographs as records and as files; returns their mean size in bytes."""
    import tensorflow as tf

    total = 0
    writers = [tf.io.TFRecordWriter(os.path.join(folder, f"data-{shard}")) for shard in range(4)]
    for place, encoded in enumerate(photos(number)):
        image = tf.train.Feature(bytes_list=tf.train.BytesList(value=[encoded]))
        label = tf.train.Feature(int64_list=tf.train.Int64List(value=[place % 10]))
        features = tf.train.Features(feature={"image/encoded": image, "image/class/label": label})
        writers[place % 4].write(tf.train.Example(features=features).SerializeToString())
        path = Path(folder, "files", str(place % 10), f"{place}.jpg")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encoded)
        total += len(encoded)
    for writer in writers:
        writer.close()
    return total / number


def ours(folder: str, crop: str) -> Iterator[int]:
    """Our training input."""
    from models.data import input as batches
    from models.settings import Train, Transform

    files = batches.resolve([os.path.join(folder, "data-*")])
    settings = Transform(
        crop=crop, colour=0.0, mean="channel", scale_min=SCALES[0], scale_max=SCALES[1]
    )
    train = Train(batch_size=BATCH, shuffle_buffer=BUFFER)
    stream = batches.train_dataset(files, settings, _constants(), train, total=batches.count(files))
    return (len(labels) for _, labels in stream)


def _constants():
    from models.pixels.augmentation import Constants

    mean = np.array([123.675, 116.28, 103.53], np.float32)
    return Constants(
        np.broadcast_to(mean, [SIZE, SIZE, 3]), mean, np.eye(3, dtype=np.float32), ("a",), (1,)
    )


def differences(number: int) -> dict[str, np.ndarray]:
    """Levels between our views and the whole image, resized by PIL or TensorFlow and cropped."""
    import tensorflow as tf
    from PIL import Image

    from models.pixels import crops, fast_crops
    from models.settings import Transform

    settings = Transform(colour=0.0, flip=False)
    found: dict[str, list[np.ndarray]] = {"TensorFlow": [], "PIL": []}
    black, rng = np.zeros([SIZE, SIZE, 3], np.float32), np.random.default_rng(0)
    for encoded in photos(number, seed=1):
        view = crops.draw((HEIGHT, WIDTH), settings, np.eye(3), rng)
        scale, offset = view.scale, view.offset
        one = lambda _, encoded=encoded: encoded  # noqa: E731
        [mine] = fast_crops.look(one, 1, lambda *_, view=view: view, black, settings)
        top, left = (int(side) for side in offset)
        image = Image.open(io.BytesIO(encoded))
        sides = [round(side * zoom) for side, zoom in zip(image.size, scale[::-1], strict=True)]
        pixels = tf.io.decode_jpeg(encoded, dct_method="INTEGER_ACCURATE")
        wholes = {
            "TensorFlow": tf.image.resize(pixels, sides[::-1], antialias=True).numpy(),
            "PIL": np.asarray(image.resize(sides, Image.Resampling.BILINEAR), np.float32),
        }
        for name, whole in wholes.items():
            found[name].append(np.abs(mine - whole[top : top + SIZE, left : left + SIZE]).ravel())
    return {name: np.concatenate(levels) for name, levels in found.items()}


def describe(name: str, levels: np.ndarray) -> str:
    """One sentence about a distribution of differences."""
    high = ", ".join(f"{part:g} %: {np.percentile(levels, part):.2g}" for part in (50, 99, 99.9))
    return (
        f"Our views differ from resizing the whole image with {name} (antialiased bilinear) and"
        f" cropping, in levels of 255: mean {levels.mean():.2g}, {high}, largest"
        f" {levels.max():.2g}."
    )


def versions() -> dict[str, str]:
    """The names of the peers, with versions."""
    code = (
        "import importlib.metadata as m, json, sys; print(json.dumps([m.version(n) for n in"
        " sys.argv[1:]]))"
    )
    names = ["tf-models-official", "keras", "torchvision", "simplejpeg"]
    garden, keras, vision, jpeg = json.loads(subprocess.check_output([PEERS, "-c", code, *names]))
    return {
        "garden": f"Model Garden {garden}",
        "layers": f"Keras {keras} layers on tf.data",
        **{
            name: f"torchvision {vision}, {name.split('-')[2]}"
            for name in INPUTS
            if "torchvision" in name
        },
        "tensorflow-decode": (
            f"TensorFlow {importlib.metadata.version('tensorflow')}, full decode alone"
        ),
        "simplejpeg-decode": f"simplejpeg {jpeg}, full decode alone",
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--seconds", type=float, default=8, help="of a measurement; a third is added to warm up"
    )
    parser.add_argument("--ours", nargs=2, metavar=("CROP", "FOLDER"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.ours:
        measure(lambda: ours(options.ours[1], options.ours[0]))
        return
    names = versions()
    with tempfile.TemporaryDirectory() as folder:
        size = write(folder, options.images)
        command = [sys.executable, "-m", "benchmarks.training_input", "--ours"]
        workers = {crop: rounds.Worker(*command, crop, folder) for crop in AGAINST}
        workers |= {
            name: rounds.Worker(PEERS, "-m", "benchmarks.input_peers", name, folder)
            for name in INPUTS
        }
        time = {"warm_up": options.seconds / 3, "seconds": options.seconds}
        try:
            ways = {
                name: lambda worker=worker: worker.ask(**time) for name, worker in workers.items()
            }
            found = rounds.take_turns(ways, options.rounds)
        finally:
            for worker in workers.values():
                worker.close()
    rows = [
        Row(WHAT[crop], found[crop], "images/s", names[peer], found[peer], bar)
        for crop, peers in AGAINST.items()
        for peer, bar in peers.items()
    ]
    facts = [
        f"{options.images} photographs of {size / 1000:.0f} kB, batches of {BATCH}, warm file"
        " cache."
    ]
    facts += [describe(name, levels) for name, levels in differences(40).items()]
    arguments = "".join(
        f" --{name} {value:g}" for name, value in vars(options).items() if name != "ours"
    )
    report.write("input", f"python -m benchmarks.training_input{arguments}", rows, facts)


if __name__ == "__main__":
    main()
