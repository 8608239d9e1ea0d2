"""The SavedModel in a Session, as TensorFlow Serving loads it, against the Keras model it came from."""

import os
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from tensorflow_serving.apis import prediction_log_pb2

from models import augmentation, export
from models.settings import Transform
from tests import data
from tests.models.memory import peak_rise

SETTINGS = Transform(size=24, test_shorter_side=28)
LABELS = ("n01", "n02", "n03", "n04", "n05", "n06", "n07")
CONSTANTS = augmentation.Constants(
    pixel_mean=np.random.default_rng(0).uniform(90, 150, [24, 24, 3]).astype(np.float32),
    channel_mean=np.full([3], 120, np.float32),
    covariance=np.eye(3, dtype=np.float32),
    labels=LABELS,
    class_counts=(1,) * 7,
)
IMAGES = [data.jpeg(number, 30 + number, 45) for number in range(8)] + [data.png(8)]
PROTOCOLS = ("center", "ten_crop")


def network(classes=7, precision="float32"):
    """A small net with batch normalization whose moving averages are not the initial ones."""
    keras.utils.set_random_seed(3)
    policy = keras.DTypePolicy(precision)
    inputs = keras.Input([None, None, 3])
    x = keras.layers.Conv2D(8, 3, 2, use_bias=False, dtype=policy)(inputs)
    x = keras.layers.BatchNormalization(dtype=policy, name="bn")(x)
    x = keras.layers.ReLU(dtype=policy)(x)
    x = keras.layers.GlobalAveragePooling2D(dtype=policy)(x)
    model = keras.Model(inputs, keras.layers.Dense(classes, dtype=policy)(x))
    gamma, beta, mean, variance = model.get_layer("bn").get_weights()
    model.get_layer("bn").set_weights([gamma, beta, mean + 5, variance * 2000])
    return model


def example(encoded):
    feature = tf.train.Feature(bytes_list=tf.train.BytesList(value=[encoded]))
    features = tf.train.Features(feature={"image/encoded": feature})
    return tf.train.Example(features=features).SerializeToString()


class Session:
    """The loaded SavedModel; calls a signature with its one input."""

    def __init__(self, path):
        self._session = tf.compat.v1.Session(graph=tf.Graph())
        with self._session.graph.as_default():
            self.signatures = tf.compat.v1.saved_model.loader.load(
                self._session, ["serve"], path
            ).signature_def

    def __call__(self, name, batch):
        signature = self.signatures[name]
        (tensor,) = signature.inputs.values()
        outputs = {key: value.name for key, value in signature.outputs.items()}
        return self._session.run(outputs, {tensor.name: batch})


@pytest.fixture(scope="module")
def model():
    return network()


@pytest.fixture(scope="module")
def exported(model, tmp_path_factory):
    path = str(tmp_path_factory.mktemp("export") / "1")
    export.export(model, path, SETTINGS, CONSTANTS, PROTOCOLS, sub_batch=4)
    return path


@pytest.fixture(scope="module")
def served(exported):
    return Session(exported)


def by_keras(model, view):
    """Probabilities of the images under a view ([..., 24, 24, 3] of one image), averaged."""
    return np.stack(
        [
            keras.ops.softmax(model.predict(np.reshape(view(image), [-1, 24, 24, 3]), verbose=0))
            .numpy()
            .mean(0)
            for image in IMAGES
        ]
    )


@pytest.fixture(scope="module")
def center(model):
    return by_keras(model, lambda image: augmentation.center(image, SETTINGS, CONSTANTS))


def test_signatures_names_types_and_shapes(served):
    described = {
        name: [
            {
                key: (tf.dtypes.as_dtype(value.dtype).name, [d.size for d in value.tensor_shape.dim])
                for key, value in side.items()
            }
            for side in (signature.inputs, signature.outputs)
        ]
        for name, signature in served.signatures.items()
        if not name.startswith("__")
    }
    string, scores, top = ("string", [-1]), ("float32", [-1, 7]), [-1, 5]
    ranked = {"classes": ("string", top), "scores": ("float32", top)}
    assert described == {
        "serving_default": [{"image_bytes": string}, {"probabilities": scores}],
        "top_k": [{"image_bytes": string}, ranked],
        "classify": [{"inputs": string}, ranked],
        "serving_tensor": [{"images": ("float32", [-1, 24, 24, 3])}, {"probabilities": scores}],
        "evaluate": [{"examples": string}, {"center": scores, "ten_crop": scores}],
    }


def test_serving_default_is_the_keras_model_on_the_central_crop(served, center):
    assert np.ptp(center, axis=0).max() > 0.05  # the images differ for this net
    np.testing.assert_allclose(served("serving_default", IMAGES)["probabilities"], center, atol=1e-5)


@pytest.mark.parametrize("batch", [IMAGES[:1], IMAGES[-1:], IMAGES])
def test_served_equals_evaluated_bit_for_bit(served, batch):
    evaluated = served("evaluate", [example(image) for image in batch])["center"]
    np.testing.assert_array_equal(served("serving_default", batch)["probabilities"], evaluated)


def test_ten_crop_is_the_mean_of_ten_softmaxes(model, served):
    expected = by_keras(model, lambda image: augmentation.ten_crop(image, SETTINGS, CONSTANTS))
    evaluated = served("evaluate", [example(image) for image in IMAGES])["ten_crop"]
    np.testing.assert_allclose(evaluated, expected, atol=1e-5)


@pytest.mark.parametrize("signature", ["top_k", "classify"])
def test_best_five_with_their_names(served, center, signature):
    batch = IMAGES if signature == "top_k" else [example(image) for image in IMAGES]
    answer = served(signature, batch)
    order = np.argsort(-center, axis=1)[:, :5]
    np.testing.assert_array_equal(answer["classes"].astype(str), np.array(LABELS)[order])
    np.testing.assert_allclose(answer["scores"], np.take_along_axis(center, order, 1), atol=1e-5)


def test_serving_tensor_takes_the_pixels_of_the_crop(served, center):
    crops = np.stack([augmentation.center_pixels(image, SETTINGS) for image in IMAGES])
    np.testing.assert_allclose(served("serving_tensor", crops)["probabilities"], center, atol=1e-5)


def test_empty_batches_are_answered(served):
    for name in ("serving_default", "evaluate", "top_k", "classify"):
        for value in served(name, np.array([], object)).values():
            assert value.shape[0] == 0
    assert served("serving_tensor", np.zeros([0, 24, 24, 3]))["probabilities"].shape == (0, 7)


def test_bytes_that_are_no_image_are_an_error_of_the_request(served):
    with pytest.raises(tf.errors.InvalidArgumentError):
        served("serving_default", [IMAGES[0], b"no image"])
    assert served("serving_default", IMAGES[:1])["probabilities"].shape == (1, 7)


def test_warm_up_records_run_on_every_serving_signature(exported, served):
    path = os.path.join(exported, "assets.extra", "tf_serving_warmup_requests")
    names = []
    for record in tf.data.TFRecordDataset(path).as_numpy_iterator():
        request = prediction_log_pb2.PredictionLog.FromString(record).predict_log.request
        names.append(request.model_spec.signature_name)
        ((key, tensor),) = request.inputs.items()
        assert key in served.signatures[names[-1]].inputs
        for value in served(names[-1], tf.make_ndarray(tensor)).values():
            assert value.shape[0] == 1
    assert names == ["serving_default", "top_k", "classify", "serving_tensor"]


def test_labels_and_weights_lie_beside_the_model(model, exported):
    assert Path(exported, "assets", "labels.txt").read_text().splitlines() == list(LABELS)
    kept = keras.models.load_model(os.path.join(exported, "assets.extra", "model.keras"))
    for ours, theirs in zip(model.get_weights(), kept.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_every_weight_is_stored_once(model, exported):
    reader = tf.train.load_checkpoint(os.path.join(exported, "variables", "variables"))
    shapes = [
        shape for name, shape in reader.get_variable_to_shape_map().items() if "OBJECT_GRAPH" not in name
    ]
    assert sum(int(np.prod(shape)) for shape in shapes) == model.count_params()


def test_few_classes_and_mixed_precision(tmp_path):
    few = CONSTANTS.__class__(**{**CONSTANTS.__dict__, "labels": LABELS[:3], "class_counts": (1, 1, 1)})
    path = str(tmp_path / "2")
    export.export(network(3, "mixed_bfloat16"), path, SETTINGS, few, ["center"])
    served = Session(path)
    answer = served("top_k", IMAGES[:2])
    assert answer["classes"].shape == (2, 3) and answer["scores"].dtype == np.float32
    np.testing.assert_allclose(answer["scores"].sum(1), 1, atol=1e-6)


def test_a_new_export_replaces_the_old_one_whole(model, tmp_path):
    path = tmp_path / "3"
    (path / "variables").mkdir(parents=True)
    (path / "leftover").write_text("")
    export.export(model, str(path), SETTINGS, CONSTANTS, ["center"])
    assert not (path / "leftover").exists() and (path / "saved_model.pb").exists()
    assert os.listdir(tmp_path) == ["3"]


def test_a_failed_export_leaves_nothing(model, tmp_path, monkeypatch):
    def fail(path):
        raise OSError("disk full")

    monkeypatch.setattr(model, "save", fail)
    with pytest.raises(OSError, match="disk full"):
        export.export(model, str(tmp_path / "4"), SETTINGS, CONSTANTS, ["center"])
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("classes", "names", "message"),
    [
        (3, ["center"], "3 outputs but the data has 7"),
        (7, ["ten"], "no test protocol ten"),
        (7, [], "at least one"),
    ],
)
def test_models_that_do_not_fit_are_refused(tmp_path, classes, names, message):
    with pytest.raises(ValueError, match=message):
        export.export(network(classes), str(tmp_path / "5"), SETTINGS, CONSTANTS, names)
    assert os.listdir(tmp_path) == []


def test_memory_of_a_thousand_rows_is_bounded(tmp_path):
    """1,000 rows of ten 96x96 crops are 1.1 GB of float32 if they are all made at once."""
    settings = Transform(size=96, test_shorter_side=110, mean="channel")
    path = str(tmp_path / "6")
    export.export(network(), path, settings, CONSTANTS, ["ten_crop"])
    served = Session(path)
    examples = [example(data.jpeg(0, 40, 40))] * 1000
    served("evaluate", examples[:50])
    assert peak_rise(lambda: served("evaluate", examples)) < 150
