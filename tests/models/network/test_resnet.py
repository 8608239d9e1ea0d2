"""The networks' parts, and a whole one against keras.applications with the same weights.

What they cost and how large they are is in test_networks.py.
"""

import subprocess
import sys

import keras
import numpy as np
import pytest

from models import settings
from models.network import architecture
from models.settings import Model


@pytest.fixture(autouse=True)
def free_memory():
    yield
    keras.backend.clear_session()


def without_weights(build, *args, **options):
    """The network without memory for its variables: five times faster."""
    with keras.StatelessScope(initialize_variables=False):
        return build(*args, **options)


@pytest.mark.parametrize(("size", "sides"), [(224, (112, 56, 28, 14, 7)), (64, (32, 16, 8, 4, 2))])
@pytest.mark.parametrize("depth", [18, 50])
def test_sizes_of_the_feature_maps(depth, size, sides):
    model = without_weights(architecture.resnet, depth)
    last = {18: (2, 2, 2, 2), 50: (3, 4, 6, 3)}[depth]
    names = ["conv1_relu", *(f"conv{stage}_block{n}_out" for stage, n in enumerate(last, start=2))]
    maps = keras.Model(model.input, [model.get_layer(name).output for name in names])
    shapes = maps.compute_output_shape((1, size, size, 3))
    assert tuple(shape[1] for shape in shapes) == sides
    assert shapes[-1][-1] == (512 if depth == 18 else 2048)


@pytest.mark.parametrize(
    "builder",
    [lambda: architecture.resnet(18, classes=7), lambda: architecture.cifar_resnet(8, classes=7)],
)
def test_any_size_of_image_gives_logits(builder):
    model = builder()
    for height, width in ((32, 32), (33, 47), (64, 40), (97, 65)):
        images = np.random.default_rng(0).normal(size=(2, height, width, 3)).astype(np.float32)
        logits = keras.ops.convert_to_numpy(model(images))
        assert logits.shape == (2, 7) and np.isfinite(logits).all()


def test_resnet50_equals_keras_applications_with_the_same_weights():
    ours = architecture.resnet(50)
    theirs = keras.applications.ResNet50(weights=None, classifier_activation=None)
    rng = np.random.default_rng(0)
    pairs = {"conv1_conv": "conv1_conv", "conv1_bn": "conv1_bn", "logits": "predictions"}
    for layer in ours.layers:
        if layer.weights and layer.name not in pairs:
            pairs[layer.name] = layer.name
    assert len(pairs) == len([layer for layer in theirs.layers if layer.weights])
    for name, other in pairs.items():
        layer, peer = ours.get_layer(name), theirs.get_layer(other)
        values = [
            # Variances stay positive.
            (
                np.abs(rng.normal(1, 0.2, weight.shape))
                if weight.path.endswith("variance")
                else (
                    rng.normal(1 if weight.path.endswith("gamma") else 0, 0.1, weight.shape)
                    if weight.ndim == 1
                    else keras.ops.convert_to_numpy(weight)
                )
            )
            for weight in layer.weights
        ]
        layer.set_weights(values)
        if isinstance(layer, keras.layers.Conv2D):
            values = [*values, np.zeros(layer.filters)]
        peer.set_weights(values)
        if isinstance(peer, keras.layers.BatchNormalization):
            # Theirs is 1.001e-5.
            peer.epsilon = layer.epsilon
    images = rng.normal(0, 60, (2, 224, 224, 3)).astype(np.float32)
    mine, peers = (keras.ops.convert_to_numpy(model(images)) for model in (ours, theirs))
    difference, scale = np.abs(mine - peers).max(), np.abs(peers).max()
    print(f"ResNet-50: largest difference {difference:.2e} of logits up to {scale:.2f}")
    assert difference < 1e-4 * scale


def ceil_mode_max_pooling(x):
    """Caffe's 3x3 of stride 2 without padding, slowly; x is float [n, H, W, channels].

    Its number of windows is ceil((side - 3) / 2) + 1, and the last one is cut off at the border.
    """
    rows, columns = (-(-(side - 3) // 2) + 1 for side in x.shape[1:3])
    return np.stack(
        [
            np.stack(
                [x[:, 2 * i : 2 * i + 3, 2 * j : 2 * j + 3].max((1, 2)) for j in range(columns)], 1
            )
            for i in range(rows)
        ],
        1,
    )


@pytest.mark.parametrize("pool", ["symmetric", "caffe"])
@pytest.mark.parametrize(("height", "width"), [(16, 16), (14, 20), (18, 24), (15, 21), (13, 16)])
def test_the_first_pooling(pool, height, width):
    model = without_weights(architecture.resnet, 18, classes=2, pool=pool)
    start, end = model.get_layer("conv1_relu").output, model.get_layer("pool1_pool").output
    maps = np.random.default_rng(0).random((2, height, width, 64), np.float32)
    pooled = keras.ops.convert_to_numpy(keras.Model(start, end)(maps))
    expected = maps
    if pool == "symmetric":
        # torchvision's: one on every side, never the largest, and cut off windows are dropped.
        expected = np.pad(maps, ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=-np.inf)
        rows, columns = (height + 1) // 2, (width + 1) // 2
        expected = ceil_mode_max_pooling(expected)[:, :rows, :columns]
    else:
        expected = ceil_mode_max_pooling(maps)
    np.testing.assert_array_equal(pooled, expected)


def test_option_a_subsamples_and_appends_zeros():
    layer = architecture.ZeroPadShortcut(5, 2)
    x = np.arange(2 * 5 * 4 * 3, dtype=np.float32).reshape(2, 5, 4, 3)
    y = keras.ops.convert_to_numpy(layer(x))
    expected = np.zeros((2, 3, 2, 5), np.float32)
    expected[..., :3] = x[:, ::2, ::2]
    np.testing.assert_array_equal(y, expected)
    assert layer.compute_output_shape((None, None, 5, 3)) == (None, None, 3, 5)


@pytest.mark.parametrize(
    "model",
    [
        lambda: architecture.cifar_resnet(8, weight_decay=1e-4),
        lambda: architecture.resnet(18, shortcut="C", classes=3),
        lambda: architecture.resnet(50, variant="v1.5", classes=3),
    ],
)
def test_configuration_survives_a_round_trip(model):
    model = model()
    copy = keras.Model.from_config(model.get_config())
    copy.set_weights(model.get_weights())
    assert [layer.name for layer in copy.layers] == [layer.name for layer in model.layers]
    images = np.random.default_rng(0).normal(size=(2, 32, 32, 3)).astype(np.float32)
    np.testing.assert_array_equal(model(images), copy(images))


def test_weight_decay_is_the_papers_on_kernels_alone():
    decay = 1e-4
    model = architecture.cifar_resnet(8, weight_decay=decay)
    kernels = [w for w in model.trainable_weights if w.path.endswith("kernel")]
    expected = sum(0.5 * decay * np.square(keras.ops.convert_to_numpy(k)).sum() for k in kernels)
    assert len(model.losses) == len(kernels) == 8
    np.testing.assert_allclose(float(sum(model.losses)), expected, rtol=1e-5)


def test_initialisation_is_he_normal():
    model = architecture.resnet(18)
    for name, fan_in in (("conv1_conv", 3 * 49), ("conv5_block2_2_conv", 512 * 9), ("logits", 512)):
        kernel = keras.ops.convert_to_numpy(model.get_layer(name).kernel)
        assert np.std(kernel) == pytest.approx(np.sqrt(2 / fan_in), rel=0.03)


def test_every_normalisation_is_the_papers():
    model = without_weights(architecture.resnet, 18)
    norms = [x for x in model.layers if isinstance(x, keras.layers.BatchNormalization)]
    assert len(norms) == 20
    assert {(norm.momentum, norm.epsilon) for norm in norms} == {(0.9, 1e-5)}


def test_names_say_stage_block_and_role():
    names = {layer.name for layer in without_weights(architecture.resnet, 50).layers}
    assert {
        "conv1_conv",
        "conv3_block2_1_conv",
        "conv2_block1_0_conv",
        "conv5_block3_3_bn",
        "logits",
    } <= names


def test_logits_are_float32_under_mixed_precision():
    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        model = architecture.cifar_resnet(8)
    finally:
        keras.config.set_dtype_policy(policy)
    assert model.get_layer("conv2_block1_1_conv").compute_dtype == "bfloat16"
    assert model.output.dtype == "float32"


def test_settings_choose_the_network():
    plain, projected = Model(depth=18, residual=False), Model("cifar", 14, shortcut="B")
    imagenet = without_weights(architecture.build, plain, classes=5)
    cifar = without_weights(architecture.build, projected, classes=5)
    assert (imagenet.name, cifar.name) == ("plain18", "cifar_resnet14")
    assert imagenet.output.shape == cifar.output.shape == (None, 5)


def random_images(side):
    return np.random.default_rng(0).normal(0, 60, (2, side, side, 3)).astype(np.float32)


def test_settings_choose_the_pooling():
    for pool, padding in (("symmetric", ((1, 1), (1, 1))), ("caffe", ((0, 1), (0, 1)))):
        model = without_weights(architecture.build, Model(depth=18, pool=pool), 2)
        assert model.get_layer("pool1_pad").padding == padding


@pytest.mark.parametrize(
    "builder",
    [
        lambda: architecture.resnet(18, classes=4),
        lambda: architecture.resnet(50, classes=4, residual=False),
        lambda: architecture.cifar_resnet(14, classes=4),
    ],
)
def test_parts_put_together_are_the_network(builder):
    model = builder()
    images = random_images(48)
    trunk, dense = architecture.head_parts(model)
    maps, last = architecture.feature_maps(model)(images), trunk(images)
    assert list(maps) == (["c2", "c3", "c4"] if "cifar" in model.name else ["c2", "c3", "c4", "c5"])
    np.testing.assert_array_equal(maps[max(maps)], last)
    assert all(keras.ops.min(x) == 0 < keras.ops.max(x) for x in maps.values())  # after ReLU
    np.testing.assert_allclose(
        dense(keras.ops.mean(last, (1, 2))), model(images), rtol=1e-4, atol=1e-4
    )
    # Shared, not copied.
    dense.bias.assign(dense.bias + 1000.0)
    trunk.get_layer("conv1_conv").kernel.assign(trunk.get_layer("conv1_conv").kernel * 0.0)
    assert keras.ops.min(model(images)) > 900
    np.testing.assert_array_equal(
        architecture.feature_maps(model)(images)["c2"], keras.ops.zeros_like(maps["c2"])
    )


def test_feature_maps_are_those_of_the_last_block_of_each_stage():
    # 101 layers: block 23 comes after block 9, not before it as their names do.
    model = without_weights(architecture.resnet, 101)
    maps = without_weights(architecture.feature_maps, model)
    assert maps.output["c4"] is model.get_layer("conv4_block23_out").output
    assert maps.output["c2"] is model.get_layer("conv2_block3_out").output


@pytest.mark.parametrize(
    ("builder", "stages"),
    [(lambda: architecture.resnet(18), 5), (lambda: architecture.cifar_resnet(8), 4)],
)
def test_stage_layers_are_those_of_the_first_stages(builder, stages):
    model = without_weights(builder)
    assert architecture.stage_layers(model, 0) == []
    assert {layer.name for layer in architecture.stage_layers(model, 1)} >= {
        "conv1_conv",
        "conv1_bn",
    }
    before: list[keras.layers.Layer] = []
    for number in range(1, stages + 1):
        layers = architecture.stage_layers(model, number)
        assert layers[: len(before)] == before
        assert {layer.name.split("_")[0] for layer in layers[len(before) :]} == {f"conv{number}"}
        before = layers
    weights = [layer for layer in model.layers if layer.weights]
    assert [layer for layer in before if layer.weights] == weights[:-1]  # all but the dense layer


GUARD = """
import builtins, keras
plain = builtins.__import__
def guarded(name, globals=None, *rest):
    caller = (globals or {}).get("__name__", "")
    if name.split(".")[0] == "tensorflow" and caller.split(".")[0] == "models":
        raise ImportError(f"{caller} imports {name}")
    return plain(name, globals, *rest)
builtins.__import__ = guarded
import models.network.architecture, models.settings, benchmarks.network_table
model = models.network.architecture.cifar_resnet(8)
print(model(keras.ops.zeros((2, 32, 32, 3))).shape)
"""


def test_networks_do_not_import_tensorflow():
    # Keras may, as its backend; where JAX is that, TensorFlow need not be installed.
    done = subprocess.run([sys.executable, "-c", GUARD], capture_output=True, text=True)
    assert done.returncode == 0 and "(2, 10)" in done.stdout, done.stderr[-2000:]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: architecture.resnet(19), "depth=19: must be one of 18"),
        (lambda: architecture.resnet(18, shortcut="D"), "shortcut=D"),
        (lambda: architecture.resnet(50, variant="v2"), "variant=v2"),
        (lambda: architecture.resnet(18, pool="valid"), "pool=valid"),
        (lambda: architecture.resnet(18, classes=0), "units=0"),
        (lambda: architecture.resnet(18, weight_decay=-1e-4), "l2"),
        (lambda: architecture.cifar_resnet(21), r"depth=21: must be 6n\+2"),
        (lambda: architecture.cifar_resnet(2), "depth=2: .* at least 8"),
        (lambda: architecture.build(Model(family="vgg"), 10), "vgg"),
    ],
)
def test_impossible_networks_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_a_new_depth_is_a_line_of_the_table(monkeypatch):
    blocks = settings.Blocks(True, (2, 2, 2, 2))
    monkeypatch.setitem(settings.BLOCKS, 26, blocks)
    network = settings.Model("imagenet", 26)
    settings.check(settings.Transform(), network, settings.Train(), settings.Tune())
    model = without_weights(architecture.build, network, 1000)
    convolutions = [x for x in model.layers if isinstance(x, keras.layers.Conv2D)]
    # Of 26 layers: conv1, three in a block, and the dense layer. Four are projections.
    assert len(convolutions) == 1 + 3 * 8 + 4
    # ResNet-50 has 25,557,032, and 1, 2, 4 and 1 blocks more: kernels of 17 w^2 and 12 w of BN.
    more = sum(
        n * (17 * w * w + 12 * w) for n, w in zip((1, 2, 4, 1), (64, 128, 256, 512), strict=True)
    )
    assert sum(int(np.prod(w.shape)) for w in model.trainable_weights) == 25_557_032 - more
