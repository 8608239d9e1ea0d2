"""Small exported models whose answers are known in closed form."""

import io
import shutil
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
from PIL import Image
from tensorflow_serving.apis.prediction_log_pb2 import PredictionLog

COLOURS = ["red", "green", "blue"]
KERNEL = np.array([[1, 2, 3], [4, 5, 6]], np.float32)


def png(colour, size=(8, 6)):
    """PNG bytes of one RGB colour."""
    stream = io.BytesIO()
    Image.new("RGB", size, tuple(colour)).save(stream, "PNG")
    return stream.getvalue()


def _dense(scale):
    model = keras.Sequential([keras.layers.Input((2,)), keras.layers.Dense(3, use_bias=False)])
    model.layers[0].set_weights([KERNEL * scale])
    return model


def export_dense(path, scale=1.0, classes=()):
    """x float32 [N, 2] -> y = x @ KERNEL * scale, and small signatures for every JSON type."""
    model = _dense(scale)
    archive = keras.export.ExportArchive()
    archive.track(model)
    vector = tf.TensorSpec([None, 2], tf.float32, name="x")
    archive.add_endpoint("serving_default", lambda x: {"y": model(x)}, [vector])
    archive.add_endpoint(
        "two",
        lambda a, b: {"sum": a + b, "product_bytes": tf.strings.as_string(a * b)},
        [tf.TensorSpec([None], tf.float32, name="a"), tf.TensorSpec([None], tf.float32, name="b")],
    )
    archive.add_endpoint("scalar", lambda x: {"total": tf.reduce_sum(model(x))}, [vector])
    archive.add_endpoint(
        "ragged_batch",
        lambda x: {"one": model(x), "other": tf.concat([x, x], axis=0)},
        [vector],
    )
    for dtype in (tf.int32, tf.uint8, tf.int64, tf.uint64, tf.bool, tf.float64, tf.half, tf.string):
        spec = tf.TensorSpec(None, dtype, name="x")
        archive.add_endpoint(f"echo_{dtype.name}", lambda x: {"x": tf.identity(x)}, [spec])
    archive.add_endpoint(
        "regress",
        lambda inputs: {
            "outputs": tf.io.parse_example(inputs, {"v": tf.io.FixedLenFeature([1], tf.float32)})[
                "v"
            ]
        },
        [tf.TensorSpec([None], tf.string, name="inputs")],
    )
    archive.add_endpoint("no_rows", lambda x: {"y": model(x)[:0]}, [vector])
    archive.add_endpoint("slow", _slow, [tf.TensorSpec([], tf.int64, name="steps")])
    archive.write_out(str(path), verbose=False)
    return path


def _slow(steps):
    count = tf.while_loop(lambda i: i < steps, lambda i: [i + 1], [tf.constant(0, tf.int64)])
    return {"count": count[0]}


def export_image(path, names=COLOURS):
    """Encoded images -> shares of red, green and blue, by these names, in their mean colour (sum
    1).
    """
    model = keras.Sequential(
        [
            keras.layers.Input((3,)),
            keras.layers.Dense(3, use_bias=False, kernel_initializer="identity"),
        ]
    )

    def shares(image_bytes):
        def colour(encoded):
            image = tf.io.decode_image(encoded, channels=3, expand_animations=False)
            mean = tf.reduce_mean(tf.cast(image, tf.float32), axis=(0, 1))
            return mean / tf.reduce_sum(mean)

        return model(
            tf.map_fn(colour, image_bytes, fn_output_signature=tf.TensorSpec([3], tf.float32))
        )

    def top_k(image_bytes):
        scores, index = tf.math.top_k(shares(image_bytes), 2)
        return {"classes": tf.gather(tf.constant(names), index), "scores": scores}

    def classify(inputs):
        parsed = tf.io.parse_example(
            inputs, {"image/encoded": tf.io.FixedLenFeature([], tf.string)}
        )
        return top_k(parsed["image/encoded"])

    archive = keras.export.ExportArchive()
    archive.track(model)
    encoded = tf.TensorSpec([None], tf.string, name="image_bytes")
    archive.add_endpoint(
        "serving_default", lambda image_bytes: {"probabilities": shares(image_bytes)}, [encoded]
    )
    archive.add_endpoint("top_k", top_k, [encoded])
    archive.add_endpoint("classify", classify, [tf.TensorSpec([None], tf.string, name="inputs")])
    archive.write_out(str(path), verbose=False)
    write_warmup(path, [("top_k", "image_bytes", png((255, 0, 0)))])
    return path


def export_broken(path):
    """The export that predicts in Python and in no Session: a tf.Module around a Keras 3 model."""
    module = tf.Module()
    module.model = _dense(1.0)
    module.serve = tf.function(
        lambda x: {"y": module.model(x)},
        input_signature=[tf.TensorSpec([None, 2], tf.float32, name="x")],
    )
    tf.saved_model.save(module, str(path), signatures={"serving_default": module.serve})
    return path


def write_warmup(path, requests):
    """Warm-up file of (signature, input, bytes) predict requests."""
    (path / "assets.extra").mkdir(exist_ok=True)
    with tf.io.TFRecordWriter(str(path / "assets.extra" / "tf_serving_warmup_requests")) as writer:
        for signature, name, value in requests:
            log = PredictionLog()
            log.predict_log.request.model_spec.signature_name = signature
            log.predict_log.request.inputs[name].CopyFrom(tf.make_tensor_proto([value]))
            writer.write(log.SerializeToString())


def publish(export: Path, base: Path, number: int):
    """Puts an export into a folder of versions at one stroke."""
    base.mkdir(parents=True, exist_ok=True)
    staged = base.parent / f".{base.name}-{number}"
    shutil.copytree(export, staged)
    staged.rename(base / str(number))
