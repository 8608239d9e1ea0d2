"""The doors through which a file comes to a network, each to pixels or to the sentence that refuses
it.

The network shows its input: the probabilities of its classes tell the pixels of the crop.
"""

from __future__ import annotations

import contextlib
import functools
import json
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import grpc
import keras
import numpy as np
import tensorflow as tf
from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

from components.example_gen.errors import BadImage
from components.example_gen.writing import image_files
from components.serving_validator import model_server
from models import preprocessing
from models.export import export, protocols
from models.pixels import augmentation
from models.settings import Transform
from serving.client import Client, ClientError
from serving.client import images as client_images

SIZE = 16
# As published, and with all that is done to a photograph of one's own.
STORED = Transform(
    size=SIZE, crop="none", flip=False, colour=0.0, mean="channel", test_shorter_side=18
)
OWN = Transform(**{**vars(STORED), "upright": True, "shorter_side": 48})
MAX_PIXELS = 100_000_000
_CLASSES = 3 * SIZE * SIZE + 1
# Of the logits for a level: all of them are within 8 of each other.
_SCALE = np.float32(1 / 32)
CONSTANTS = augmentation.Constants(
    pixel_mean=np.zeros([SIZE, SIZE, 3], np.float32),
    channel_mean=np.zeros([3], np.float32),
    covariance=np.eye(3, dtype=np.float32),
    labels=tuple(f"c{number:03d}" for number in range(_CLASSES)),
    class_counts=(1,) * _CLASSES,
)
_PAGE = Path(__file__).parents[2] / "serving" / "server" / "static"
_ASK_PAGE = """
import { check } from "./images.mjs";
import { readFile, readdir } from "node:fs/promises";
const folder = process.argv[2], answers = {};
for (const name of await readdir(folder)) {
  const file = new File([await readFile(folder + "/" + name)], name);
  try {
    await check(file);
    answers[name] = "";
  } catch (error) {
    answers[name] = error.message;
  }
}
console.log(JSON.stringify(answers));
"""


class Refused(NamedTuple):
    """What a person reads."""

    sentence: str


Seen = np.ndarray | Refused
Door = Callable[[bytes], Seen]


def network(settings: Transform) -> protocols.Network:
    """A network whose logits are the pixels, and a last one of 0: float32 [n, 3 * SIZE * SIZE + 1]."""
    inputs = keras.Input([None, None, 3], name="images")
    x, channels = inputs, 3
    kernels = []
    for stage, step in ((2, 4), (3, SIZE // 4)):
        filters = channels * step * step
        layer = keras.layers.Conv2D(
            filters, step, step, use_bias=False, name=f"conv{stage}_block1_out"
        )
        x = layer(x)
        # Every value of a patch in a channel of its own: the order is that of a reshaped patch.
        kernels.append(
            (layer, np.eye(filters, dtype=np.float32).reshape(step, step, channels, filters))
        )
        channels = filters
    x = keras.layers.GlobalAveragePooling2D(name="avg_pool")(x)
    logits = keras.layers.Dense(_CLASSES, use_bias=False, name="logits")
    model = keras.Model(inputs, logits(x))
    for layer, kernel in kernels:
        layer.set_weights([kernel])
    logits.set_weights([np.eye(channels, _CLASSES, dtype=np.float32) * _SCALE])
    return protocols.network(model, settings, CONSTANTS)


def pixels(probabilities: np.ndarray) -> np.ndarray:
    """The crop that `network` has seen, float64 [SIZE, SIZE, 3], from its probabilities [classes]."""
    logs = np.log(np.asarray(probabilities, np.float64))
    values = (logs[:-1] - logs[-1]) / _SCALE
    quarter = SIZE // 4
    patches = values.reshape(
        quarter, quarter, 4, 4, 3
    )  # place in the patch of patches, then in the patch
    return patches.transpose(0, 2, 1, 3, 4).reshape(SIZE, SIZE, 3)


def brightest(crop: np.ndarray) -> np.ndarray:
    """What `classify` tells of a crop: how far its brightest values are from the first of them,
    [5].
    """
    best = np.sort(crop, axis=None)[::-1][: export.TOP_K]
    return best - best[0]


def refusing(*errors: type[Exception]) -> Callable[[Door], Door]:
    """Turns the errors with which a door refuses into what they say."""

    def decorate(door: Door) -> Door:
        @functools.wraps(door)
        def ask(data: bytes) -> Seen:
            try:
                return door(data)
            except errors as error:
                return Refused(sentence(error))

        return ask

    return decorate


def sentence(error: Exception) -> str:
    """What an error says; of TensorFlow's, without the place in the graph where it arose."""
    said = (
        error.details()
        if isinstance(error, grpc.RpcError)
        else getattr(error, "message", str(error))
    )
    rule = re.search(r"Summarized data: b'(.*?)'", said, re.DOTALL)
    return rule[1] if rule else said.rpartition("<stack traces unavailable>\n")[2]


def example(encoded: bytes) -> bytes:
    """A serialized tf.Example with this image."""
    feature = tf.train.Feature(bytes_list=tf.train.BytesList(value=[encoded]))
    return tf.train.Example(
        features=tf.train.Features(feature={"image/encoded": feature})
    ).SerializeToString()


# Ingestion, and what is seen of its records.


@functools.cache
def ingest(data: bytes) -> image_files.Image | Refused:
    """The record's image."""
    try:
        return image_files.normalize(data, MAX_PIXELS)
    except BadImage as reason:
        return Refused(str(reason))


def trained(found: Sequence[image_files.Image], settings: Transform) -> np.ndarray:
    """The test's crops as Transform and the Trainer's input give them: float32 [n, size, size, 3]."""
    stored = _stored(found, settings)
    records = tf.data.Dataset.from_tensor_slices((np.arange(len(stored)), stored))
    batches = augmentation.train_images(
        records, lambda record: (record, 0), 1, 0, settings, CONSTANTS
    )
    return np.concatenate([batch for batch, _ in batches.as_numpy_iterator()])


def _stored(found: Sequence[image_files.Image], settings: Transform) -> tf.Tensor:
    """What Transform keeps of the records' images, string [n]."""
    columns = {
        "image/encoded": tf.constant([image.encoded for image in found]),
        "image/height": tf.constant([image.height for image in found], tf.int64),
        "image/width": tf.constant([image.width for image in found], tf.int64),
    }
    if settings.shorter_side:
        columns = tf.function(preprocessing.rescale)(columns, settings)
    return columns["image/encoded"]


def evaluated(encoded: Sequence[bytes], settings: Transform) -> np.ndarray:
    """The crops of evaluation: float32 [n, size, size, 3]."""
    crop = tf.function(lambda image: augmentation.center_pixels(image, settings))
    return np.stack([crop(tf.constant(image)) for image in encoded])


# The SavedModel, and a server of it.


def signatures(path: str) -> dict[str, Door]:
    """The doors of a SavedModel, by the names of its signatures; `classify` gives what `brightest`
    does.
    """
    loaded = tf.saved_model.load(path)
    found = loaded.signatures

    @refusing(tf.errors.InvalidArgumentError)
    def serving_default(data: bytes) -> Seen:
        assert loaded  # holds the variables
        return pixels(found["serving_default"](image_bytes=tf.constant([data]))["probabilities"][0])

    @refusing(tf.errors.InvalidArgumentError)
    def evaluate(data: bytes) -> Seen:
        return pixels(found["evaluate"](examples=tf.constant([example(data)]))["center"][0])

    @refusing(tf.errors.InvalidArgumentError)
    def classify(data: bytes) -> Seen:
        scores = np.log(found["classify"](inputs=tf.constant([example(data)]))["scores"][0])
        return (scores - scores[0]) / _SCALE

    return {"serving_default": serving_default, "evaluate": evaluate, "classify": classify}


@contextlib.contextmanager
def served(path: str) -> Iterator[dict[str, Door]]:
    """The doors of a server that serves a SavedModel in a process of its own."""
    with model_server.running(path, model_server.EMBEDDED, 120) as running:
        client = Client(running.url, model_server.NAME, timeout=120)
        with grpc.insecure_channel(running.grpc) as channel:
            stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)

            @refusing(ClientError)
            def rest(data: bytes) -> Seen:
                return pixels(client.predict([data])[0])

            @refusing(grpc.RpcError)
            def remote(data: bytes) -> Seen:
                request = predict_pb2.PredictRequest()
                request.model_spec.name = model_server.NAME
                request.inputs["image_bytes"].CopyFrom(tf.make_tensor_proto([data]))
                return pixels(
                    tf.make_ndarray(stub.Predict(request, 120).outputs["probabilities"])[0]
                )

            yield {"REST": rest, "gRPC": remote}


def exported(settings: Transform, path: str) -> str:
    """Writes the SavedModel of `network`."""
    export.export(network(settings), path, None, ["center"])
    return path


# What sends files: the client and the page.


def client(path: Path) -> str:
    """Why the client does not send a file; "" where it does."""
    try:
        client_images.read_image(path)
    except client_images.ImageError as error:
        return str(error)
    return ""


def page(files: Path, scratch: Path) -> dict[str, str] | None:
    """File name -> why the page does not send it as it is, "" where it does; None without Node.js."""
    node = shutil.which("node")
    if node is None:
        return None
    for script in _PAGE.glob("*.js"):
        text = script.read_text().replace('.js"', '.mjs"')
        (scratch / f"{script.stem}.mjs").write_text(text)
    (scratch / "ask.mjs").write_text(_ASK_PAGE)
    done = subprocess.run([node, scratch / "ask.mjs", files], check=True, capture_output=True)
    return json.loads(done.stdout)
