"""Networks against the paper's tables, and against keras.applications with the same weights."""

import keras
import numpy as np
import pytest

from models import resnet
from models.settings import Model

# Trainable parameters, and those with BN's moving statistics, counted from the paper's Table 1 and 6.
IMAGENET_PARAMETERS = {
    (18, "B"): (11_689_512, 11_699_112),
    (18, "A"): (11_515_688, 11_523_496),
    (34, "B"): (21_797_672, 21_814_696),
    (34, "A"): (21_623_848, 21_639_080),
    (34, "C"): (22_716_840, 22_739_624),
    (50, "B"): (25_557_032, 25_610_152),
    (101, "B"): (44_549_160, 44_654_504),
    (152, "B"): (60_192_808, 60_344_232),
}
CIFAR_PARAMETERS = {
    20: (269_722, 271_098),
    32: (464_154, 466_426),
    44: (658_586, 661_754),
    56: (853_018, 857_082),
    110: (1_727_962, 1_736_058),
    1202: (19_421_274, 19_510_906),
}
# Multiply-adds of convolutions and the dense layer at 224x224.
MACS = {
    (18, "v1"): 1_814_073_344,
    (34, "v1"): 3_663_761_408,
    (50, "v1"): 3_857_973_248,
    (101, "v1"): 7_570_194_432,
    (152, "v1"): 11_282_415_616,
    (50, "v1.5"): 4_089_184_256,
    (101, "v1.5"): 7_801_405_440,
    (152, "v1.5"): 11_513_626_624,
}
PAPER_FLOPS = {18: 1.8e9, 34: 3.6e9, 50: 3.8e9, 101: 7.6e9, 152: 11.3e9}


def counts(model):
    trainable = sum(int(np.prod(weight.shape)) for weight in model.trainable_weights)
    return trainable, model.count_params()


@pytest.fixture(autouse=True)
def free_memory():
    yield
    keras.backend.clear_session()


@pytest.mark.parametrize(("depth", "shortcut"), IMAGENET_PARAMETERS)
def test_parameters_of_imagenet_nets(depth, shortcut):
    assert counts(resnet.resnet(depth, shortcut=shortcut)) == IMAGENET_PARAMETERS[depth, shortcut]


@pytest.mark.parametrize("depth", [18, 34])
def test_a_plain_net_has_the_parameters_of_option_a(depth):
    assert counts(resnet.resnet(depth, residual=False)) == IMAGENET_PARAMETERS[depth, "A"]


@pytest.mark.parametrize("depth", CIFAR_PARAMETERS)
def test_parameters_of_cifar_nets(depth):
    model = resnet.cifar_resnet(depth)
    assert counts(model) == CIFAR_PARAMETERS[depth]
    weighted = [x for x in model.layers if isinstance(x, keras.layers.Conv2D | keras.layers.Dense)]
    assert len(weighted) == depth


def test_a_plain_cifar_net_has_as_many_parameters():
    assert counts(resnet.cifar_resnet(20, residual=False)) == CIFAR_PARAMETERS[20]


@pytest.mark.parametrize(("depth", "variant"), MACS)
def test_multiply_adds(depth, variant):
    count = resnet.macs(resnet.resnet(depth, variant=variant), 224)
    assert count == MACS[depth, variant]
    if variant == "v1":
        # The paper rounds, here and there down.
        assert abs(count - PAPER_FLOPS[depth]) < 0.07e9


@pytest.mark.parametrize(("size", "sides"), [(224, (112, 56, 28, 14, 7)), (64, (32, 16, 8, 4, 2))])
@pytest.mark.parametrize("depth", [18, 50])
def test_sizes_of_the_feature_maps(depth, size, sides):
    model = resnet.resnet(depth, input_shape=(size, size, 3))
    last = {18: (2, 2, 2, 2), 50: (3, 4, 6, 3)}[depth]
    names = ["conv1_relu", *(f"conv{stage}_block{n}_out" for stage, n in enumerate(last, start=2))]
    assert tuple(model.get_layer(name).output.shape[1] for name in names) == sides
    channels = model.get_layer(names[-1]).output.shape[-1]
    assert channels == (512 if depth == 18 else 2048)


@pytest.mark.parametrize(
    "builder", [lambda: resnet.resnet(18, classes=7), lambda: resnet.cifar_resnet(8, classes=7)]
)
def test_any_size_of_image_gives_logits(builder):
    model = builder()
    for height, width in ((32, 32), (33, 47), (64, 40), (97, 65)):
        images = np.random.default_rng(0).normal(size=(2, height, width, 3)).astype(np.float32)
        logits = keras.ops.convert_to_numpy(model(images))
        assert logits.shape == (2, 7) and np.isfinite(logits).all()


def test_resnet50_equals_keras_applications_with_the_same_weights():
    ours = resnet.resnet(50)
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
            np.abs(rng.normal(1, 0.2, weight.shape))
            if weight.path.endswith("variance")
            else rng.normal(1 if weight.path.endswith("gamma") else 0, 0.1, weight.shape)
            if weight.ndim == 1
            else keras.ops.convert_to_numpy(weight)
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


def test_option_a_subsamples_and_appends_zeros():
    layer = resnet.ZeroPadShortcut(5, 2)
    x = np.arange(2 * 5 * 4 * 3, dtype=np.float32).reshape(2, 5, 4, 3)
    y = keras.ops.convert_to_numpy(layer(x))
    expected = np.zeros((2, 3, 2, 5), np.float32)
    expected[..., :3] = x[:, ::2, ::2]
    np.testing.assert_array_equal(y, expected)
    assert layer.compute_output_shape((None, None, 5, 3)) == (None, None, 3, 5)


@pytest.mark.parametrize(
    "model",
    [
        lambda: resnet.cifar_resnet(8, weight_decay=1e-4),
        lambda: resnet.resnet(18, shortcut="C", classes=3),
        lambda: resnet.resnet(50, variant="v1.5", classes=3),
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
    model = resnet.cifar_resnet(8, weight_decay=decay)
    kernels = [w for w in model.trainable_weights if w.path.endswith("kernel")]
    expected = sum(0.5 * decay * np.square(keras.ops.convert_to_numpy(k)).sum() for k in kernels)
    assert len(model.losses) == len(kernels) == 8
    np.testing.assert_allclose(float(sum(model.losses)), expected, rtol=1e-5)


def test_initialisation_is_he_normal():
    model = resnet.resnet(18)
    for name, fan_in in (("conv1_conv", 3 * 49), ("conv5_block2_2_conv", 512 * 9), ("logits", 512)):
        kernel = keras.ops.convert_to_numpy(model.get_layer(name).kernel)
        assert np.std(kernel) == pytest.approx(np.sqrt(2 / fan_in), rel=0.03)


def test_every_normalisation_is_the_papers():
    norms = [x for x in resnet.resnet(18).layers if isinstance(x, keras.layers.BatchNormalization)]
    assert len(norms) == 20
    assert {(norm.momentum, norm.epsilon) for norm in norms} == {(0.9, 1e-5)}


def test_names_say_stage_block_and_role():
    names = {layer.name for layer in resnet.resnet(50).layers}
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
        model = resnet.cifar_resnet(8)
    finally:
        keras.config.set_dtype_policy(policy)
    assert model.get_layer("conv2_block1_1_conv").compute_dtype == "bfloat16"
    assert model.output.dtype == "float32"


def test_settings_choose_the_network():
    imagenet = resnet.build(Model(family="imagenet", depth=18, residual=False), classes=5)
    cifar = resnet.build(Model(family="cifar", depth=14, shortcut="B"), classes=5)
    assert (imagenet.name, cifar.name) == ("plain18", "cifar_resnet14")
    assert imagenet.output.shape == cifar.output.shape == (None, 5)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: resnet.resnet(19), r"18, 34, 50, 101, 152.*19"),
        (lambda: resnet.resnet(18, shortcut="D"), "shortcut.*'D'"),
        (lambda: resnet.resnet(50, variant="v2"), "variant.*'v2'"),
        (lambda: resnet.resnet(18, classes=0), "classes.*0"),
        (lambda: resnet.resnet(18, weight_decay=-1e-4), "weight_decay"),
        (lambda: resnet.cifar_resnet(21), r"6n\+2.*21"),
        (lambda: resnet.cifar_resnet(2), r"6n\+2.*2"),
        (lambda: resnet.build(Model(family="vgg"), 10), "vgg"),
    ],
)
def test_impossible_networks_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
