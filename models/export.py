"""One SavedModel for Evaluator, Pusher and TensorFlow Serving.

Signatures (the batch dimension is always None, all floats are float32):

| signature        | inputs                                         | outputs                               |
|------------------|------------------------------------------------|---------------------------------------|
| serving_default  | image_bytes: string, JPEG or PNG               | probabilities [n, classes]            |
| top_k            | image_bytes: string, JPEG or PNG               | classes string [n, k], scores [n, k]  |
| classify         | inputs: string, serialized tf.Example          | classes string [n, k], scores [n, k]  |
| serving_tensor   | images: float32 [n, size, size, 3], RGB 0..255 | probabilities [n, classes]            |
| evaluate         | examples: string, serialized tf.Example        | one [n, classes] a protocol, by name  |

k is 5, or the number of classes when that is less. All image signatures use the central test crop.
`serving_tensor` takes images that are cropped already and subtracts the mean. The tf.Examples need
`image/encoded` alone. Beside the model lie assets/labels.txt (class names in label order),
assets.extra/model.keras (the network, for warm starts) and assets.extra/tf_serving_warmup_requests.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Sequence

import keras
import numpy as np
import tensorflow as tf
from tensorflow_serving.apis import predict_pb2, prediction_log_pb2

from models import augmentation
from models.augmentation import Constants
from models.protocols import find, in_parts, predict, probabilities
from models.settings import Transform

TOP_K = 5
LABELS_FILE = "labels.txt"
KERAS_FILE = "model.keras"
WARMUP_FILE = "tf_serving_warmup_requests"

_EXAMPLE = {"image/encoded": tf.io.FixedLenFeature([], tf.string)}


def export(
    model: keras.Model,
    path: str,
    settings: Transform,
    constants: Constants,
    protocols: Sequence[str],
    sub_batch: int = 32,
) -> None:
    """Writes the SavedModel; what was at `path` before is removed first.

    It is written beside `path` and then renamed: where renaming a folder is atomic (local disks, HDFS) it is
    whole as soon as `path` exists; object stores copy file by file.

    Args:
      model: images float32 [n, size, size, 3], mean subtracted -> logits [n, classes] of any float type.
      path: folder to write.
      settings: what the crops are.
      constants: means and labels.
      protocols: names of models.protocols.PROTOCOLS, the outputs of `evaluate`.
      sub_batch: most images that are in the network at a time, whatever batch comes in.

    Raises:
      ValueError: unknown or no protocol, or a model with another number of classes than `constants`.
    """
    _check(model, constants, protocols)
    # Endpoints bring their variables along; tracking the model as well would store every weight twice.
    archive = keras.export.ExportArchive()
    for name, function, spec in _signatures(model, settings, constants, protocols, sub_batch):
        archive.add_endpoint(name, function, input_signature=[spec])
    part = f"{path.rstrip('/')}.{uuid.uuid4().hex[:8]}.part"
    try:
        archive.write_out(part, verbose=False)
        _write_files(part, model, settings, constants)
        if tf.io.gfile.exists(path):
            tf.io.gfile.rmtree(path)
        tf.io.gfile.rename(part, path)
    finally:
        if tf.io.gfile.exists(part):
            tf.io.gfile.rmtree(part)


def _check(model: keras.Model, constants: Constants, protocols: Sequence[str]) -> None:
    classes = len(constants.labels)
    if model.output_shape[-1] != classes:
        raise ValueError(
            f"The model has {model.output_shape[-1]} outputs but the data has {classes} classes; "
            "build the model with the number of classes of the TransformGraph."
        )
    if not protocols:
        raise ValueError("No test protocol was given to export; name at least one, such as center.")
    for name in protocols:
        find(name)


def _signatures(
    model: keras.Model, settings: Transform, constants: Constants, protocols: Sequence[str], sub_batch: int
) -> list[tuple[str, Callable, tf.TensorSpec]]:
    """Name, function and input of every signature."""
    classes = len(constants.labels)

    def forward(images: tf.Tensor) -> tf.Tensor:
        return model(images, training=False)

    def scores(image_bytes: tf.Tensor, names: Sequence[str]) -> dict[str, tf.Tensor]:
        return predict(forward, image_bytes, names, settings, constants, sub_batch)

    def serving_default(image_bytes: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"probabilities": scores(image_bytes, ["center"])["center"]}

    def top_k(image_bytes: tf.Tensor) -> dict[str, tf.Tensor]:
        best, index = tf.math.top_k(
            scores(image_bytes, ["center"])["center"], min(TOP_K, len(constants.labels))
        )
        return {"classes": tf.gather(tf.constant(constants.labels), index), "scores": best}

    def classify(inputs: tf.Tensor) -> dict[str, tf.Tensor]:
        return top_k(tf.io.parse_example(inputs, _EXAMPLE)["image/encoded"])

    def serving_tensor(images: tf.Tensor) -> dict[str, tf.Tensor]:
        def part(images: tf.Tensor) -> tf.Tensor:
            return probabilities(forward(augmentation.subtract_mean(images, settings, constants)))

        return {"probabilities": in_parts(part, images, sub_batch, classes)}

    def evaluate(examples: tf.Tensor) -> dict[str, tf.Tensor]:
        return scores(tf.io.parse_example(examples, _EXAMPLE)["image/encoded"], protocols)

    def strings(name: str) -> tf.TensorSpec:
        return tf.TensorSpec([None], tf.string, name)

    shape = [None, settings.size, settings.size, 3]
    return [
        ("serving_default", serving_default, strings("image_bytes")),
        ("top_k", top_k, strings("image_bytes")),
        ("classify", classify, strings("inputs")),
        ("serving_tensor", serving_tensor, tf.TensorSpec(shape, tf.float32, "images")),
        ("evaluate", evaluate, strings("examples")),
    ]


def _write_files(path: str, model: keras.Model, settings: Transform, constants: Constants) -> None:
    assets, extra = os.path.join(path, "assets"), os.path.join(path, "assets.extra")
    for folder in (assets, extra):
        tf.io.gfile.makedirs(folder)
    with tf.io.gfile.GFile(os.path.join(assets, LABELS_FILE), "w") as file:
        file.write("".join(f"{label}\n" for label in constants.labels))
    model.save(os.path.join(extra, KERAS_FILE))
    with tf.io.TFRecordWriter(os.path.join(extra, WARMUP_FILE)) as writer:
        for name, value in _warmup_inputs(settings).items():
            writer.write(_prediction_log(*name, value).SerializeToString())


def _warmup_inputs(settings: Transform) -> dict[tuple[str, str], np.ndarray]:
    """(signature, input) -> one request's batch, for each serving signature."""
    photo = _photo(375, 500)  # the usual size of an ImageNet photograph
    jpeg = tf.io.encode_jpeg(photo, quality=90).numpy()
    feature = tf.train.Feature(bytes_list=tf.train.BytesList(value=[jpeg]))
    example = tf.train.Example(features=tf.train.Features(feature={"image/encoded": feature}))
    images = tf.image.resize(photo[tf.newaxis], [settings.size, settings.size], antialias=True).numpy()
    return {
        ("serving_default", "image_bytes"): np.array([jpeg], object),
        ("top_k", "image_bytes"): np.array([jpeg], object),
        ("classify", "inputs"): np.array([example.SerializeToString()], object),
        ("serving_tensor", "images"): images,
    }


def _photo(height: int, width: int) -> tf.Tensor:
    """An image as costly to decode as a photograph, always the same: uint8 [height, width, 3]."""
    coarse = tf.random.stateless_uniform([height // 25, width // 25, 3], [0, 0], 0, 255)
    fine = tf.random.stateless_normal([height, width, 3], [0, 1], stddev=8.0)
    return tf.cast(tf.clip_by_value(tf.image.resize(coarse, [height, width]) + fine, 0, 255), tf.uint8)


def _prediction_log(signature: str, name: str, value: np.ndarray) -> prediction_log_pb2.PredictionLog:
    # No model name: a server fills its own in.
    request = predict_pb2.PredictRequest()
    request.model_spec.signature_name = signature
    request.inputs[name].CopyFrom(tf.make_tensor_proto(value))
    return prediction_log_pb2.PredictionLog(predict_log=prediction_log_pb2.PredictLog(request=request))
