"""Published weights against what their own networks answer: NumPy for PyTorch's, keras.applications
itself.

tests/peers has PyTorch's.
"""

import collections
import os

import h5py
import keras
import numpy as np
import pytest
import tensorflow as tf
from keras.src.legacy.saving import legacy_h5_format
from PIL import Image

from models import import_weights
from models.pixels import augmentation
from models.settings import Model, Train, Transform
from models.weights import conversion, finetune, pretrained, published
from models.weights.named import catalogue, download
from tests.helpers import torch_reference, torch_writer, weight_server

MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)
SMALL = torch_reference.state((1, 1, 1), shortcut="A", head="linear")


@pytest.fixture(autouse=True)
def free_memory():
    yield
    keras.backend.clear_session()


def images(size, count=2):
    return np.random.default_rng(1).integers(0, 256, [count, size, size, 3]).astype(np.float32)


def ours(found, pixels):
    return keras.ops.convert_to_numpy(found.model(pixels - found.channel_mean, training=False))


def saved(folder, state, name="net.pth", **options):
    path = os.path.join(folder, name)
    torch_writer.save(path, state, **options)
    return path


@pytest.mark.parametrize("python", [2, 3])
def test_the_published_cifar_networks_have_the_logits_of_their_tensors(tmp_path, python):
    """As akamaster saved them: PyTorch 0.3, DataParallel on a GPU, accuracy and state dict,
    shortcut A.
    """
    state = torch_reference.state((3, 3, 3), shortcut="A", classes=10, head="linear")
    named = collections.OrderedDict((f"module.{name}", value) for name, value in state.items())
    whole = {"best_prec1": 91.78000183105469, "state_dict": named}
    path = saved(tmp_path, whole, "resnet20.th", version="0.3", location="cuda:0", python=python)
    found = conversion.load(path)
    assert found.settings == Model("cifar", 20, shortcut="A") and found.head
    np.savez(tmp_path / "net.npz", **state)
    same = conversion.load(str(tmp_path / "net.npz"))
    pairs = zip(found.model.get_weights(), same.model.get_weights(), strict=True)
    assert all((a == b).all() for a, b in pairs)
    wanted = torch_reference.logits(state, images(32))
    np.testing.assert_allclose(ours(found, images(32)), wanted, atol=1e-4 * np.abs(wanted).max())
    np.testing.assert_array_equal(ours(found, images(32)), ours(same, images(32)))


# The order of the channels: shortcut A in PyTorch pads both sides.
@pytest.mark.parametrize("blocks", [1, 2])
@pytest.mark.parametrize(
    ("shortcut", "names"),
    [
        ("A", {"head": "linear"}),
        ("B", {"branch": "shortcut", "head": "linear"}),
        ("B", {}),
        ("C", {}),
    ],
)
def test_cifar_networks_of_pytorch_have_their_logits(tmp_path, blocks, shortcut, names):
    state = torch_reference.state((blocks,) * 3, shortcut=shortcut, **names)
    found = conversion.load(saved(tmp_path, state), mean=MEAN, std=STD)
    assert found.settings == Model("cifar", 6 * blocks + 2, shortcut=shortcut) and found.head
    wanted = torch_reference.logits(state, images(12), MEAN, STD)
    np.testing.assert_allclose(ours(found, images(12)), wanted, atol=1e-4 * np.abs(wanted).max())


@pytest.mark.parametrize(("depth", "blocks"), [(18, (2, 2, 2, 2)), (50, (3, 4, 6, 3))])
def test_imagenet_networks_of_torchvision_have_their_logits(tmp_path, depth, blocks):
    state = torch_reference.state(blocks, depth == 50)
    found = conversion.load(saved(tmp_path, state))
    assert found.settings == Model("imagenet", depth, variant="v1.5" if depth == 50 else "v1")
    np.testing.assert_allclose(found.channel_mean, [123.675, 116.28, 103.53], rtol=1e-6)
    pixels = images(33, 1)
    wanted = torch_reference.logits(state, pixels)
    np.testing.assert_allclose(ours(found, pixels), wanted, atol=1e-4 * np.abs(wanted).max())


@pytest.fixture(scope="module")
def applications(tmp_path_factory):
    """keras.applications.ResNet50 with random numbers everywhere, and its files."""
    folder = tmp_path_factory.mktemp("applications")
    model = keras.applications.ResNet50(
        weights=None, input_shape=(64, 64, 3), classes=10, classifier_activation=None
    )
    rng = np.random.default_rng(0)
    for weight in model.weights:
        if "variance" in weight.path:
            weight.assign(rng.uniform(0.5, 1.5, weight.shape))
        elif len(weight.shape) == 1:
            weight.assign(rng.normal(0.6 if "gamma" in weight.path else 0, 0.3, weight.shape))
    model.save_weights(folder / "new.weights.h5")
    headless = keras.Model(model.input, model.layers[-2].output)
    with h5py.File(folder / "notop.h5", "w") as file:
        legacy_h5_format.save_weights_to_hdf5_group(file, headless)
    with h5py.File(
        folder / "legacy.h5", "w"
    ) as file:  # the head is called so in the published files
        legacy_h5_format.save_weights_to_hdf5_group(file.create_group("model_weights"), model)
        root = file["model_weights"]
        root.move("predictions", "probs")
        names = [
            name if isinstance(name, bytes) else name.encode() for name in root.attrs["layer_names"]
        ]
        root.attrs["layer_names"] = [b"probs" if name == b"predictions" else name for name in names]
    pixels = images(64)
    theirs = model.predict(keras.applications.resnet.preprocess_input(pixels.copy()), verbose=0)
    yield folder, pixels, theirs
    del model


@pytest.mark.parametrize("name", ["new.weights.h5", "legacy.h5"])
def test_keras_applications_have_their_logits(applications, name):
    folder, pixels, theirs = applications
    found = conversion.load(str(folder / name))
    assert found.settings == Model("imagenet", 50, shortcut="B", variant="v1") and found.head
    np.testing.assert_allclose(ours(found, pixels), theirs, atol=1e-4 * np.abs(theirs).max())


def test_weights_without_a_head_have_one_that_no_data_fit(applications, tmp_path, capsys):
    path = str(applications[0] / "notop.h5")
    found = conversion.load(path)
    assert not found.head and found.model.output_shape == (None, 1)
    assert not ours(found, images(32)).any()
    whole = conversion.load(str(applications[0] / "legacy.h5"))
    pairs = zip(found.model.get_weights()[:-2], whole.model.get_weights()[:-2], strict=True)
    assert all((a == b).all() for a, b in pairs)
    assert import_weights.main([path, str(tmp_path / "out")]) == 1
    said = capsys.readouterr().err
    assert "no last layer" in said and said.count("\n") == 1 and not (tmp_path / "out").exists()


KINDS = {
    "18": (2, 2, 2, 2),
    "34": (3, 4, 6, 3),
    "50": (3, 4, 6, 3),
    "101": (3, 4, 23, 3),
    "152": (3, 8, 36, 3),
}


@pytest.mark.parametrize("depth", KINDS)
def test_the_depth_comes_from_the_names(depth):
    names = [
        f"layer{stage}.{block}.conv{number}.weight"
        for stage, blocks in enumerate(KINDS[depth], start=1)
        for block in range(blocks)
        for number in range(1, 4 if int(depth) > 34 else 3)
    ]
    found = published.recognise(dict.fromkeys(names, np.zeros(1))).settings
    assert (found.depth, found.shortcut) == (int(depth), "B")
    everywhere = [*names, "layer1.0.downsample.0.weight", "layer1.1.downsample.0.weight"]
    assert published.recognise(dict.fromkeys(everywhere, np.zeros(1))).settings.shortcut == "C"
    names = [
        f"conv{stage}_block{block}_1_conv/kernel"
        for stage, blocks in enumerate(KINDS[depth], start=2)
        for block in range(1, blocks + 1)
    ]
    if int(depth) > 34:
        assert published.recognise(dict.fromkeys(names, np.zeros(1))).settings.depth == int(depth)


def test_a_number_of_a_block_is_no_number_of_blocks(tmp_path):
    """A network of 6e9 layers would be built of one name."""
    state = {f"layer{stage}.999999999.conv1.weight": np.zeros([1, 1, 3, 3]) for stage in (1, 2, 3)}
    with pytest.raises(
        ValueError, match=r"layer1\.999999999\.conv1\.weight .* is no part of cifar_resnet14"
    ):
        conversion.load(saved(tmp_path, {**SMALL, **state}))


def test_a_bias_alone_makes_no_outputs(tmp_path):
    state = {**SMALL, "linear.bias": np.zeros(10**6, np.float32)}
    with pytest.raises(
        ValueError, match=r"linear\.weight has shape \[5, 64\], and linear\.bias has 1000000"
    ):
        conversion.load(saved(tmp_path, state))


def without(name):
    return {key: value for key, value in SMALL.items() if key != name}


WIDE = torch_reference.state((2, 2, 2, 2))
DEEP_STEM = {("conv1.0.weight" if k == "conv1.weight" else k): v for k, v in WIDE.items()}


@pytest.mark.parametrize(
    ("state", "message"),
    [
        (
            DEEP_STEM,
            r"its tensor conv1\.0\.weight \[64, 3, 7, 7\] is no part of resnet18 with shortcut B",
        ),
        (
            without("bn1.bias"),
            r"it lacks the tensor bn1\.bias \[16\] of cifar_resnet8 with shortcut A",
        ),
        (without("linear.bias"), r"it lacks the tensor linear\.bias"),
        (
            {**SMALL, "layer2.0.conv1.weight": np.zeros([32, 8, 3, 3], np.float32)},
            (
                r"its tensor layer2\.0\.conv1\.weight has shape \[32, 8, 3, 3\], and .* needs \[32,"
                r" 16, 3, 3\]"
            ),
        ),
        (
            {**SMALL, "layer1.0.se.fc1.weight": np.zeros([4, 16], np.float32)},
            r"layer1\.0\.se\.fc1\.weight",
        ),
        (
            torch_reference.state((1, 1, 1, 1)),
            r"\[1, 1, 1, 1\] basic blocks, and the known .*\(18 layers\)",
        ),
        (torch_reference.state((1, 2, 1)), r"stages have \[1, 2, 1\] blocks"),
        (
            {"features.0.weight": np.zeros([64, 3, 3, 3], np.float32)},
            r"its first tensor is features\.0\.weight",
        ),
        ({"epoch": 1}, "contains no tensors"),
    ],
)
def test_networks_that_are_not_ours_are_refused_by_name(tmp_path, state, message):
    with pytest.raises(ValueError, match=message) as error:
        conversion.load(saved(tmp_path, state))
    assert "net.pth" in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        (
            Model("imagenet", 50),
            "model.family=cifar, and the configuration has imagenet; set model.family=cifar",
        ),
        (Model("cifar", 20, shortcut="A"), "model.depth=8, and the configuration has 20"),
        (Model("cifar", 8, shortcut="B"), "model.shortcut=A, and the configuration has B"),
        (Model("cifar", 8, residual=False, shortcut="A"), "model.residual=true, and the .* false"),
    ],
)
def test_settings_that_contradict_the_file_are_refused(tmp_path, wanted, message):
    constants = conversion.constants(np.float32([1, 2, 3]), list("abcde"), 32)
    train = Train(init_from=saved(tmp_path, SMALL))
    with pytest.raises(ValueError, match=message):
        finetune.load(train, wanted, Transform(size=32), constants)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("layer1.0.conv1.weight", np.nan, "no finite numbers"),
        ("linear.bias", 1e39, "no finite numbers"),
        ("layer2.0.bn1.running_var", -1.0, "variances below 0"),
    ],
)
def test_weights_that_would_answer_nothing_are_refused(tmp_path, name, value, message):
    path = tmp_path / "net.npz"
    np.savez(path, **{**SMALL, name: np.full(np.shape(SMALL[name]), value, np.float64)})
    with pytest.raises(ValueError, match=f"net.npz: its tensor {name} has .*{message}"):
        conversion.load(str(path))


def test_a_training_starts_from_published_weights(tmp_path):
    path = saved(tmp_path, SMALL)
    constants = conversion.constants(np.float32([1, 2, 3]), list("abcde"), 12)
    settings = Model("cifar", 8, shortcut="A")
    start, kept = finetune.load(
        Train(init_from=path, epochs=0), settings, Transform(size=12), constants
    )
    assert start.head and kept.labels == tuple("abcde")
    mean = 255 * np.array([0.485, 0.456, 0.406])
    assert kept.pixel_mean.shape == (12, 12, 3)
    np.testing.assert_allclose(kept.channel_mean, mean, rtol=1e-6)
    np.testing.assert_allclose(kept.pixel_mean, np.broadcast_to(mean, [12, 12, 3]), rtol=1e-6)


def test_the_command_writes_a_model_that_serves_the_published_network(tmp_path, capsys):
    path = saved(tmp_path, SMALL)
    labels, folder = list("abcde"), tmp_path / "serving"
    (tmp_path / "labels.txt").write_text("\n".join(labels) + "\n")
    numbers = [str(value) for value in (*MEAN, *STD)]
    flags = [
        "--mean",
        *numbers[:3],
        "--std",
        *numbers[3:],
        "--labels",
        str(tmp_path / "labels.txt"),
    ]
    assert import_weights.main([path, str(folder), *flags]) == 0
    [version] = os.listdir(folder)
    assert f"{folder / version}: cifar_resnet8, 5 classes" in capsys.readouterr().out
    pixels = images(32, 3).astype(np.uint8)
    files = []
    for number, image in enumerate(pixels):
        Image.fromarray(image).save(tmp_path / f"{number}.png")
        files.append((tmp_path / f"{number}.png").read_bytes())
    scores = torch_reference.logits(SMALL, pixels, MEAN, STD)
    wanted = np.exp(scores - scores.max(1, keepdims=True))
    wanted /= wanted.sum(1, keepdims=True)
    model = tf.saved_model.load(str(folder / version))
    served = model.signatures["serving_default"](tf.constant(files))["probabilities"]
    np.testing.assert_allclose(served, wanted, atol=1e-4)
    found = pretrained.load(str(folder))
    assert found.settings == Model("cifar", 8, shortcut="A") and found.constants.labels == tuple(
        labels
    )
    assert found.transform.mean == "channel" and found.transform.size == 32
    shifted = augmentation.subtract_mean(tf.constant(images(32)), found.transform, found.constants)
    np.testing.assert_allclose(
        found.model(shifted), torch_reference.logits(SMALL, images(32), MEAN, STD), atol=1e-3
    )


def test_the_command_takes_a_name_and_its_test_crop(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv(download.FOLDER, str(tmp_path / "cache"))
    with open(saved(tmp_path, SMALL), "rb") as file:
        content = file.read()
    with weight_server.serving() as server:
        server.files["/net.pth"] = content
        known = weight_server.entry(f"{server.address}/net.pth", content)
        monkeypatch.setitem(catalogue.ENTRIES, known.name, known)
        assert import_weights.main([known.name, str(tmp_path / "serving")]) == 0
    assert "cifar_resnet8, 5 classes" in capsys.readouterr().out
    found = pretrained.load(str(tmp_path / "serving"))
    assert found.transform.test_shorter_side == known.test_shorter_side == 40
    assert import_weights.main(["timm:resnet9", str(tmp_path / "out")]) == 1
    assert "timm:resnet9 is no known name" in capsys.readouterr().err


def test_the_command_says_what_is_wrong_in_a_sentence(tmp_path, capsys):
    path = saved(tmp_path, SMALL)
    for name, text in (("labels", b"one\n"), ("empty", b"\n"), ("latin", b"caf\xe9\n")):
        (tmp_path / f"{name}.txt").write_bytes(text)
    for flags, message in (
        (["--labels", str(tmp_path / "labels.txt")], "1 labels for 5 outputs"),
        (["--labels", str(tmp_path / "none.txt")], "none.txt"),
        (["--labels", str(tmp_path / "empty.txt")], "empty.txt is empty"),
        (["--labels", str(tmp_path / "latin.txt")], "latin.txt is no text in UTF-8"),
        (["--size", "-5"], "transform.size=-5: must be a whole number, at least 1"),
        (["--mean", "nan", "0", "0"], "--mean nan 0.0 0.0: all three must be from 0 to 1"),
        (["--mean", "123.7", "116.3", "103.5"], "must be from 0 to 1"),
        (["--std", "0.2", "0.2", "nan"], "must be above 0 and at most 1"),
        (["--std", "0.2", "0", "0.2"], "must be above 0 and at most 1"),
    ):
        assert import_weights.main([path, str(tmp_path / "out"), *flags]) == 1
        said = capsys.readouterr().err
        # Both sides of the crop follow from --size.
        lines = 2 if "--size" in flags else 1
        assert message in said and said.count("\n") == lines, said
    assert not (tmp_path / "out").exists()
    assert sorted(os.listdir(tmp_path)) == ["empty.txt", "labels.txt", "latin.txt", "net.pth"]
