"""The SavedModel in a Session, as TensorFlow Serving loads it, against the Keras model it came
from.
"""

import base64
import dataclasses
import json
import os
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from tensorflow_serving.apis import prediction_log_pb2

from models.export import export, protocols
from models.network import architecture
from models.pixels import augmentation
from models.settings import Transform
from tests.helpers import data, tiny_net
from tests.helpers.memory import peak_rise

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
PROTOCOLS = ("center", "ten_crop", "multi_scale")
STRING, PIXELS = ("string", [-1]), ("float32", [-1, 24, 24, 3])


def network(classes=7):
    """A small net with random weights and moving averages that are not the initial ones."""
    model = architecture.cifar_resnet(8, classes=classes)
    rng = np.random.default_rng(3)
    for variable in model.variables:
        value = rng.normal(0, 0.1, variable.shape) + (variable.name in ("gamma", "moving_variance"))
        variable.assign(np.abs(value) if variable.name == "moving_variance" else value)
    model.get_layer("conv1_bn").moving_variance.assign(np.full([16], 4000.0))
    return protocols.network(
        model, SETTINGS, dataclasses.replace(CONSTANTS, labels=LABELS[:classes])
    )


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

    def described(self):
        """Signature -> types and shapes of inputs and of outputs."""
        return {
            name: [
                {
                    key: (
                        tf.dtypes.as_dtype(value.dtype).name,
                        [d.size for d in value.tensor_shape.dim],
                    )
                    for key, value in side.items()
                }
                for side in (signature.inputs, signature.outputs)
            ]
            for name, signature in self.signatures.items()
            if not name.startswith("__")
        }


@pytest.fixture(scope="module")
def alone():
    return network()


@pytest.fixture(scope="module")
def model(alone):
    return alone.model


@pytest.fixture(scope="module")
def exported(alone, tmp_path_factory):
    path = str(tmp_path_factory.mktemp("export") / "1")
    export.export(alone, path, None, PROTOCOLS, sub_batch=4)
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


def predict(network):
    """Protocol -> probabilities of the images."""
    return tf.function(lambda: protocols.predict(network, tf.constant(IMAGES), PROTOCOLS))()


@pytest.fixture(scope="module")
def center(model):
    return by_keras(model, lambda image: augmentation.center(image, SETTINGS, CONSTANTS))


def test_signatures_names_types_and_shapes(served):
    scores, top = ("float32", [-1, 7]), [-1, 5]
    ranked = {"classes": ("string", top), "scores": ("float32", top)}
    maps = {
        f"c{stage}": ("float32", [-1, -1, -1, width])
        for stage, width in ((2, 16), (3, 32), (4, 64))
    }
    assert served.described() == {
        "serving_default": [{"image_bytes": STRING}, {"probabilities": scores}],
        "top_k": [{"image_bytes": STRING}, ranked],
        "classify": [{"inputs": STRING}, ranked],
        "serving_tensor": [{"images": PIXELS}, {"probabilities": scores}],
        "features": [{"images": ("float32", [-1, -1, -1, 3])}, maps],
        "evaluate": [{"examples": STRING}, dict.fromkeys(PROTOCOLS, scores)],
    }


def test_serving_default_is_the_keras_model_on_the_central_crop(served, center):
    assert np.ptp(center, axis=0).max() > 0.05  # the images differ for this net
    np.testing.assert_allclose(
        served("serving_default", IMAGES)["probabilities"], center, atol=1e-5
    )


@pytest.mark.parametrize("batch", [IMAGES[:1], IMAGES[-1:], IMAGES])
def test_served_equals_evaluated_bit_for_bit(served, batch):
    evaluated = served("evaluate", [example(image) for image in batch])["center"]
    np.testing.assert_array_equal(served("serving_default", batch)["probabilities"], evaluated)


def test_ten_crop_is_the_mean_of_ten_softmaxes(model, served):
    expected = by_keras(model, lambda image: augmentation.ten_crop(image, SETTINGS, CONSTANTS))
    evaluated = served("evaluate", [example(image) for image in IMAGES])["ten_crop"]
    np.testing.assert_allclose(evaluated, expected, atol=1e-5)


def test_multi_scale_is_the_protocol(alone, served):
    evaluated = served("evaluate", [example(image) for image in IMAGES])["multi_scale"]
    np.testing.assert_allclose(evaluated, predict(alone)["multi_scale"], atol=1e-5)


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


@pytest.mark.parametrize("shape", [(24, 24), (41, 30)])
def test_features_are_the_last_maps_of_the_stages(model, served, shape):
    images = np.random.default_rng(5).uniform(0, 255, [3, *shape, 3]).astype(np.float32)
    expected = architecture.feature_maps(model).predict(images - 120, verbose=0)
    found = served("features", images)
    assert sorted(found) == ["c2", "c3", "c4"]
    for number, (name, value) in enumerate(sorted(found.items())):
        sides = [-(-side // 2**number) for side in shape]
        assert value.shape == (3, *sides, 16 * 2**number) and np.ptp(value) > 0.1
        np.testing.assert_allclose(value, expected[name], atol=1e-4)


def test_features_of_too_many_pixels_are_refused(served):
    with pytest.raises(
        tf.errors.InvalidArgumentError, match="features takes at most 2,097,152 pixels"
    ):
        served("features", np.zeros([3, 1000, 700, 3]))


def test_empty_batches_are_answered(served):
    for name in ("serving_default", "evaluate", "top_k", "classify"):
        for value in served(name, np.array([], object)).values():
            assert value.shape[0] == 0
    assert served("serving_tensor", np.zeros([0, 24, 24, 3]))["probabilities"].shape == (0, 7)
    assert served("features", np.zeros([0, 32, 32, 3]))["c4"].shape == (0, 8, 8, 64)


def test_bytes_that_are_no_image_are_an_error_of_the_request(served):
    with pytest.raises(tf.errors.InvalidArgumentError):
        served("serving_default", [IMAGES[0], b"no image"])
    assert served("serving_default", IMAGES[:1])["probabilities"].shape == (1, 7)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("signature", ["serving_tensor", "features"])
def test_pixels_that_are_no_numbers_are_refused(served, signature, value):
    pixels = np.full([2, 24, 24, 3], 100, np.float32)
    pixels[1, 5, 6, 2] = value
    with pytest.raises(tf.errors.InvalidArgumentError, match="hold NaN or infinity"):
        served(signature, pixels)


@pytest.mark.parametrize("signature", ["classify", "evaluate"])
def test_examples_that_protobuf_refuses_never_reach_tensorflows_parser(served, signature):
    """It would end the process: the bytes have a list of 2**32 - 1."""
    damaged = base64.b64decode("ChsKGQoNaW1hZ2UvZW5jb2RlZBIICgYK/////w8=")
    with pytest.raises(tf.errors.DataLossError, match="Unable to parse"):
        served(signature, [example(IMAGES[0]), damaged])
    assert next(iter(served(signature, [example(IMAGES[0])]).values())).shape[0] == 1


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
    assert names == ["serving_default", "top_k", "classify", "serving_tensor", "features"]


def test_labels_weights_and_means_lie_beside_the_model(model, exported):
    assert Path(exported, "assets", "labels.txt").read_text().splitlines() == list(LABELS)
    constants, settings = augmentation.read_constants(
        os.path.join(exported, "assets.extra", "augmentation.npz")
    )
    assert (settings, constants.labels) == (SETTINGS, LABELS)
    np.testing.assert_array_equal(constants.pixel_mean, CONSTANTS.pixel_mean)
    kept = keras.models.load_model(os.path.join(exported, "assets.extra", "model.keras"))
    for ours, theirs in zip(model.get_weights(), kept.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_every_weight_is_stored_once_and_no_batch_normalisation(model, exported):
    """Those are in the kernels, and a bias for each channel."""
    reader = tf.train.load_checkpoint(os.path.join(exported, "variables", "variables"))
    shapes = [
        shape
        for name, shape in reader.get_variable_to_shape_map().items()
        if "OBJECT_GRAPH" not in name
    ]
    folded = [layer for layer in model.layers if isinstance(layer, keras.layers.BatchNormalization)]
    assert len(folded) == 7  # of ResNet-8: one behind conv1, two in each of three blocks
    expected = model.count_params() - sum(3 * layer.gamma.shape[0] for layer in folded)
    assert sum(int(np.prod(shape)) for shape in shapes) == expected


def test_few_classes_names_for_people_and_mixed_precision(tmp_path):
    path = str(tmp_path / "2")
    names = ["goldfish", "white\nshark", "hen"]
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        export.export(network(3), path, names, ["center"])
    finally:
        keras.config.set_dtype_policy("float32")
    served = Session(path)
    answer = served("top_k", IMAGES[:2])
    assert answer["classes"].shape == (2, 3) and answer["scores"].dtype == np.float32
    np.testing.assert_allclose(answer["scores"].sum(1), 1, atol=1e-6)
    assert sorted(answer["classes"][0].astype(str)) == sorted(names)
    lines = ["goldfish", "white shark", "hen"]
    assert Path(path, "assets", "labels.txt").read_text().splitlines() == lines
    kept, _ = augmentation.read_constants(os.path.join(path, "assets.extra", "augmentation.npz"))
    assert kept.labels == LABELS[:3]
    assert served("features", np.zeros([1, 24, 24, 3]))["c2"].dtype == np.float32


@pytest.mark.parametrize("size", [24, 20])
def test_an_ensemble_is_the_mean_of_its_members(tmp_path, size):
    """Of equal or of different sizes, each with its own crops and mean."""
    settings = Transform(size=size, test_shorter_side=25, test_scales=(25, 30), mean="channel")
    networks = [tiny_net.network(SETTINGS, 1, LABELS), tiny_net.network(settings, 2, LABELS)]
    path = str(tmp_path / "7")
    export.export(networks, path, None, PROTOCOLS, sub_batch=4, members=["/pushed/1", "/pushed/2"])
    together = Session(path)
    parts = [predict(network) for network in networks]
    found = together("evaluate", [example(image) for image in IMAGES])
    for name in PROTOCOLS:
        np.testing.assert_allclose(found[name], (parts[0][name] + parts[1][name]) / 2, atol=1e-5)
    served = together("serving_default", IMAGES)["probabilities"]
    np.testing.assert_array_equal(served, found["center"])
    expected = {"serving_default", "top_k", "classify", "evaluate"}
    assert set(together.described()) == expected | ({"serving_tensor"} if size == 24 else set())
    if size == 24:
        pixels = np.random.default_rng(0).uniform(0, 255, [2, 24, 24, 3]).astype(np.float32)
        inputs = [
            pixels - networks[0].constants.pixel_mean,
            pixels - networks[1].constants.channel_mean,
        ]
        each = [keras.ops.softmax(net.model(x)) for net, x in zip(networks, inputs, strict=True)]
        np.testing.assert_allclose(
            together("serving_tensor", pixels)["probabilities"], (each[0] + each[1]) / 2, atol=1e-5
        )
    extra = tmp_path / "7" / "assets.extra"
    assert sorted(os.listdir(extra)) == [
        "ensemble.json",
        "pixels.json",
        "tf_serving_warmup_requests",
    ]
    assert json.loads((extra / "ensemble.json").read_text()) == {
        "members": ["/pushed/1", "/pushed/2"]
    }


def test_a_new_export_replaces_the_old_one_whole(alone, tmp_path):
    path = tmp_path / "3"
    (path / "variables").mkdir(parents=True)
    (path / "leftover").write_text("")
    export.export(alone, str(path), None, ["center"])
    assert not (path / "leftover").exists() and (path / "saved_model.pb").exists()
    assert os.listdir(tmp_path) == ["3"]


def test_a_failed_export_leaves_nothing(alone, tmp_path, monkeypatch):
    def fail(path):
        raise OSError("disk full")

    monkeypatch.setattr(alone.model, "save", fail)
    with pytest.raises(OSError, match="disk full"):
        export.export(alone, str(tmp_path / "4"), None, ["center"])
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("change", "names", "tests", "message"),
    [
        ({"labels": LABELS[:3]}, None, ["center"], "7 outputs but the data has 3"),
        ({}, ["goldfish"], ["center"], "1 label names for 7 classes"),
        ({}, None, ["ten"], "no test protocol ten"),
        ({}, None, [], "at least one"),
    ],
)
def test_models_that_do_not_fit_are_refused(alone, tmp_path, change, names, tests, message):
    network = dataclasses.replace(alone, constants=dataclasses.replace(CONSTANTS, **change))
    with pytest.raises(ValueError, match=message):
        export.export(network, str(tmp_path / "5"), names, tests)
    assert os.listdir(tmp_path) == []


def test_memory_of_a_thousand_rows_is_bounded(tmp_path):
    """1,000 photographs are 560 MB decoded and ten 48x48 crops of each 280 MB, if all are made at
    once.
    """
    settings = Transform(size=48, test_shorter_side=55, mean="channel")
    path = str(tmp_path / "6")
    export.export(tiny_net.network(settings), path, None, ["ten_crop", "multi_scale"])
    served = Session(path)
    examples = [example(data.jpeg(0, 375, 500))] * 1000
    served("evaluate", examples[:50])
    assert peak_rise(lambda: served("evaluate", examples)) < 230
