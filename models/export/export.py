"""One SavedModel for Evaluator, Pusher and TensorFlow Serving: a network, or an ensemble.

README.md has the table of its signatures, which take batches of any size. The 5 best classes are as
many as there are, when these are fewer. serving_default, top_k and classify use the central test
crop; the tf.Examples need `image/encoded` alone. `serving_tensor` takes images that are cropped
already and subtracts the mean; an ensemble has it when all its networks see the same size.
`features` subtracts the mean colour; an ensemble has none.

Batch normalisation is folded into the convolutions, in all signatures alike: what the Evaluator
judges is what is served.

Beside the model lie assets/labels.txt (names of the classes for people, in label order) and, in
assets.extra, tf_serving_warmup_requests and pixels.json (whether photographs are turned by their
EXIF). A single network also leaves there what it takes to go on with it: model.keras and
augmentation.npz (means, classes and the settings of its training); an ensemble leaves
ensemble.json, the folders of its members.
"""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Callable, Collection, Sequence

import tensorflow as tf
from tensorflow_serving.apis import predict_pb2, prediction_log_pb2

from models.export.protocols import Network, as_members, find, in_parts, predict, probabilities
from models.export.protocols import network as network_of
from models.network import architecture, folding
from models.pixels import augmentation

TOP_K = 5
EXTRA = "assets.extra"
LABELS_FILE = "labels.txt"
KERAS_FILE = "model.keras"
ENSEMBLE_FILE = "ensemble.json"
WARMUP_FILE = "tf_serving_warmup_requests"
PIXELS_FILE = "pixels.json"

# Most pixels of one request to `features`, whose answer has up to 30 numbers for each.
MAX_FEATURE_PIXELS = 2**21
_EXAMPLE = {"image/encoded": tf.io.FixedLenFeature([], tf.string)}
_Signature = tuple[str, Callable[[tf.Tensor], dict[str, tf.Tensor]], tf.TensorSpec]


def export(
    networks: Network | Sequence[Network],
    path: str,
    names: Sequence[str] | None,
    protocols: Sequence[str],
    sub_batch: int = 32,
    members: Sequence[str] = (),
) -> None:
    """Writes the SavedModel beside `path` and then renames it, in the place of what was there.

    Args:
      networks: one, or the members of an ensemble, whose probabilities are averaged.
      path: folder to write.
      names: of the classes, for people, in label order; by default the class names of the data.
      protocols: names of models.settings.PROTOCOLS, the outputs of `evaluate`.
      sub_batch: most images that are in the network at a time, whatever batch comes in (except into
        `features`, which refuses more than MAX_FEATURE_PIXELS).
      members: where the networks of an ensemble came from, for the record.

    Raises:
      ValueError: unknown or no protocol, names or a model with another number of classes than the
        data, or networks with different classes.
    """
    networks = as_members(networks)
    names = tuple(names or networks[0].constants.labels)
    _check(networks, names, protocols)
    # TensorFlow fuses no convolution with the batch normalisation behind it; folded, it fuses every
    # one with bias, addition and ReLU.
    folded = [network_of(folding.fold(one.model), one.settings, one.constants) for one in networks]
    signatures = _signatures(folded, names, protocols, sub_batch)
    # Only the variables of a network are saved: Keras's models bring functions of their own along,
    # and its ExportArchive traces every signature twice.
    saved = tf.Module()
    saved.weights = [weight.value for member in folded for weight in member.model.variables]
    functions = {
        name: tf.function(function, input_signature=[spec], autograph=False)
        for name, function, spec in signatures
    }
    part = f"{path.rstrip('/')}.{uuid.uuid4().hex[:8]}.part"
    try:
        tf.saved_model.save(saved, part, signatures=functions)
        _write_files(part, networks, names, members)
        _write_warm_up(part, [name for name, _, _ in signatures], networks[0].settings.size)
        if tf.io.gfile.exists(path):
            tf.io.gfile.rmtree(path)
        tf.io.gfile.rename(part, path)
    finally:
        if tf.io.gfile.exists(part):
            tf.io.gfile.rmtree(part)


def _check(networks: Sequence[Network], names: Sequence[str], protocols: Sequence[str]) -> None:
    classes = len(networks[0].constants.labels)
    if len(names) != classes:
        raise ValueError(
            f"There are {len(names)} label names for {classes} classes; give one for each."
        )
    for network in networks:
        if network.model.output_shape[-1] != classes:
            raise ValueError(
                f"The model has {network.model.output_shape[-1]} outputs but the data has {classes}"
                " classes; build the model with the number of classes of the TransformGraph."
            )
    if not protocols:
        raise ValueError("No test protocol was given to export; name at least one, such as center.")
    for name in protocols:
        find(name)


def _signatures(
    networks: Sequence[Network], names: Sequence[str], protocols: Sequence[str], sub_batch: int
) -> list[_Signature]:
    """Name, function and input of every signature."""

    def strings(name: str) -> tf.TensorSpec:
        return tf.TensorSpec([None], tf.string, name)

    # One graph for three signatures: deep networks take long to trace.
    @tf.function(input_signature=[strings("image_bytes")], autograph=False)
    def center(image_bytes: tf.Tensor) -> tf.Tensor:
        return predict(networks, image_bytes, ["center"], sub_batch)["center"]

    def serving_default(image_bytes: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"probabilities": center(image_bytes)}

    def top_k(image_bytes: tf.Tensor) -> dict[str, tf.Tensor]:
        best, index = tf.math.top_k(center(image_bytes), min(TOP_K, len(names)))
        return {"classes": tf.gather(tf.constant(names), index), "scores": best}

    def classify(inputs: tf.Tensor) -> dict[str, tf.Tensor]:
        return top_k(_images(inputs))

    def evaluate(examples: tf.Tensor) -> dict[str, tf.Tensor]:
        return predict(networks, _images(examples), protocols, sub_batch)

    return [
        ("serving_default", serving_default, strings("image_bytes")),
        ("top_k", top_k, strings("image_bytes")),
        ("classify", classify, strings("inputs")),
        *_tensor_signatures(networks, sub_batch),
        ("evaluate", evaluate, strings("examples")),
    ]


def _images(examples: tf.Tensor) -> tf.Tensor:
    """The encoded images of serialized tf.Examples, string [n]."""
    # TensorFlow's parser of Examples takes any bytes and crashes on some; protobuf's refuses them.
    # The op wants a message at least; an empty one is an Example.
    texts = tf.concat([examples, [b""]], axis=0)
    sizes, _ = tf.io.decode_proto(
        texts, "tensorflow.Example", ["features"], [tf.string], sanitize=True
    )
    # No size is less than 0. They are looked at, for what nobody looks at is not run.
    checked = tf.where(tf.reduce_min(sizes) < 0, b"", examples)
    return tf.io.parse_example(checked, _EXAMPLE)["image/encoded"]


def _finite(images: tf.Tensor) -> tf.Tensor:
    """The same images; raises tf.errors.InvalidArgumentError for NaN and infinity."""
    finite = tf.reduce_all(tf.math.is_finite(images))
    message = "The images hold NaN or infinity; send RGB values of 0 to 255."
    with tf.control_dependencies([tf.debugging.Assert(finite, [message])]):
        return tf.identity(images)


def _tensor_signatures(networks: Sequence[Network], sub_batch: int) -> list[_Signature]:
    """Those that take pixels; an ensemble lacks what its networks do not have in common."""

    def probability(network: Network, images: tf.Tensor) -> tf.Tensor:
        images = augmentation.subtract_mean(images, network.settings, network.constants)
        return probabilities(network.forward(images))

    def mean(images: tf.Tensor) -> tf.Tensor:
        return tf.reduce_mean([probability(network, images) for network in networks], axis=0)

    def serving_tensor(images: tf.Tensor) -> dict[str, tf.Tensor]:
        classes = len(networks[0].constants.labels)
        return {"probabilities": in_parts(mean, _finite(images), sub_batch, classes)}

    def pixels(size: int | None) -> tf.TensorSpec:
        return tf.TensorSpec([None, size, size, 3], tf.float32, "images")

    signatures: list[_Signature] = []
    sizes = {network.settings.size for network in networks}
    if len(sizes) == 1:
        signatures.append(("serving_tensor", serving_tensor, pixels(*sizes)))
    if len(networks) == 1:
        signatures.append(("features", _features(networks[0]), pixels(None)))
    return signatures


def _features(network: Network) -> Callable[[tf.Tensor], dict[str, tf.Tensor]]:
    backbone = architecture.feature_maps(network.model)

    def features(images: tf.Tensor) -> dict[str, tf.Tensor]:
        pixels = tf.reduce_prod(tf.cast(tf.shape(images)[:3], tf.int64))
        most = f"features takes at most {MAX_FEATURE_PIXELS:,} pixels a request"
        message = f"{most}; send less. Pixels:"
        few = tf.debugging.Assert(pixels <= MAX_FEATURE_PIXELS, [message, pixels])
        with tf.control_dependencies([few]):
            images = augmentation.subtract_channel_mean(_finite(images), network.constants)
        rows = tf.shape(images)[0]
        # Some of TensorFlow's fused kernels fail on an empty batch: an image is appended to one.
        images = tf.pad(images, [[0, tf.cast(rows == 0, tf.int32)], [0, 0], [0, 0], [0, 0]])
        maps = backbone(images, training=False)
        return {name: tf.cast(x[:rows], tf.float32) for name, x in maps.items()}

    return features


def _write_files(
    path: str, networks: Sequence[Network], names: Sequence[str], members: Sequence[str]
) -> None:
    assets, extra = os.path.join(path, "assets"), os.path.join(path, EXTRA)
    for folder in (assets, extra):
        tf.io.gfile.makedirs(folder)
    with tf.io.gfile.GFile(os.path.join(assets, LABELS_FILE), "w") as file:
        # Folders, and classes with them, may have line breaks in their names.
        file.write("".join(" ".join(name.splitlines()) + "\n" for name in names))
    with tf.io.gfile.GFile(os.path.join(extra, PIXELS_FILE), "w") as file:
        file.write(json.dumps({"upright": all(network.settings.upright for network in networks)}))
    if len(networks) == 1:
        [network] = networks
        network.model.save(os.path.join(extra, KERAS_FILE))
        constants = os.path.join(extra, augmentation.CONSTANTS_FILE)
        augmentation.write_constants(constants, network.constants, network.settings)
    else:
        with tf.io.gfile.GFile(os.path.join(extra, ENSEMBLE_FILE), "w") as file:
            file.write(json.dumps({"members": list(members)}, indent=1))


def _write_warm_up(path: str, signatures: Collection[str], size: int) -> None:
    """One request, a batch of one, for each serving signature that the model has."""
    photo = _photo(375, 500)  # the usual size of an ImageNet photograph
    jpeg = tf.io.encode_jpeg(photo, quality=90).numpy()
    feature = tf.train.Feature(bytes_list=tf.train.BytesList(value=[jpeg]))
    example = tf.train.Example(features=tf.train.Features(feature={"image/encoded": feature}))
    images = tf.image.resize(photo[tf.newaxis], [size, size], antialias=True).numpy()
    inputs = {
        ("serving_default", "image_bytes"): [jpeg],
        ("top_k", "image_bytes"): [jpeg],
        ("classify", "inputs"): [example.SerializeToString()],
        ("serving_tensor", "images"): images,
        ("features", "images"): images,
    }
    with tf.io.TFRecordWriter(os.path.join(path, EXTRA, WARMUP_FILE)) as writer:
        for (signature, name), value in inputs.items():
            if signature in signatures:
                # No model name: a server fills its own in.
                request = predict_pb2.PredictRequest()
                request.model_spec.signature_name = signature
                request.inputs[name].CopyFrom(tf.make_tensor_proto(value))
                log = prediction_log_pb2.PredictLog(request=request)
                entry = prediction_log_pb2.PredictionLog(predict_log=log)
                writer.write(entry.SerializeToString())


def _photo(height: int, width: int) -> tf.Tensor:
    """An image as costly to decode as a photograph, always the same: uint8 [height, width, 3]."""
    coarse = tf.random.stateless_uniform([height // 25, width // 25, 3], [0, 0], 0, 255)
    fine = tf.random.stateless_normal([height, width, 3], [0, 1], stddev=8.0)
    photo = tf.image.resize(coarse, [height, width]) + fine
    return tf.cast(tf.clip_by_value(photo, 0, 255), tf.uint8)
