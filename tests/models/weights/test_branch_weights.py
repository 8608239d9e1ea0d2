"""The authors' Caffe networks and Keras' before 2019 against what they answer, in NumPy."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from models import import_weights
from models.settings import Model, Train, Transform
from models.weights import conversion, finetune, foreign_files, pretrained, published
from tests.helpers import branch_reference, torch_reference

MEAN = np.float32([103.939, 116.779, 123.68])  # BGR
LAYERS = branch_reference.layers(50)


@pytest.fixture(autouse=True)
def free_memory():
    yield
    keras.backend.clear_session()


def images(size, count=1):
    return np.random.default_rng(1).integers(0, 256, [count, size, size, 3]).astype(np.float32)


def ours(found, pixels, mean):
    return keras.ops.convert_to_numpy(found.model(pixels - mean, training=False))


def close(found, wanted):
    np.testing.assert_allclose(found, wanted, atol=1e-4 * np.abs(wanted).max())


@pytest.mark.parametrize(
    "options",
    [
        {"version": 1},
        {"version": 1, "order": "theano"},
        {"version": 2, "whole": True},
        {"version": 2, "order": "theano"},
        {"version": 1, "scaled": True},
    ],
    ids=str,
)
def test_keras_before_2019_has_its_logits(tmp_path, options):
    """With biases in every convolution, an epsilon of 1e-3, or of 1.1e-5 with layers for scale and
    shift.
    """
    layers = branch_reference.layers(50, biases="all")
    scaled = options.get("scaled", False)
    branch_reference.write_keras(tmp_path / "net.h5", layers, **options)
    found = conversion.load(str(tmp_path / "net.h5"))
    assert found.settings == Model("imagenet", 50, shortcut="B", variant="v1") and found.head
    np.testing.assert_allclose(found.channel_mean, MEAN[::-1])
    epsilon = 1.1e-5 if scaled else 1e-3
    bgr = images(33)[..., ::-1] - MEAN
    wanted = branch_reference.logits(layers, 50, bgr, epsilon, "symmetric", scaled=scaled)
    close(ours(found, images(33), found.channel_mean), wanted)


def test_keras_before_2019_without_its_last_layer(tmp_path):
    layers = {name: values for name, values in LAYERS.items() if name != "fc1000"}
    branch_reference.write_keras(tmp_path / "notop.h5", layers, 1)
    found = conversion.load(str(tmp_path / "notop.h5"))
    assert not found.head and found.model.output_shape == (None, 1)


@pytest.mark.parametrize(
    "options", [{}, {"old_shapes": True, "factor": 0.25, "epsilon": 1e-3}], ids=["authors", "other"]
)
def test_a_network_of_caffe_has_its_logits(tmp_path, options):
    branch_reference.write_caffe(tmp_path / "net.caffemodel", LAYERS, **options)
    found = conversion.load(str(tmp_path / "net.caffemodel"))
    assert (
        found.settings == Model("imagenet", 50, shortcut="B", variant="v1", pool="caffe")
        and found.head
    )
    assert found.pixel_mean is None
    np.testing.assert_allclose(found.channel_mean, [123.154, 115.904, 103.063])
    bgr = (images(36) - found.channel_mean)[..., ::-1]
    epsilon = options.get("epsilon", 1e-5)
    wanted = branch_reference.logits(LAYERS, 50, bgr, epsilon, "caffe", normalised=False)
    close(ours(found, images(36), found.channel_mean), wanted)


@pytest.fixture
def caffe(tmp_path):
    """A network with its mean image: file, labels and the mean image, BGR."""
    mean = np.random.default_rng(5).uniform(90, 130, [3, 224, 224]).astype(np.float32)
    folder = tmp_path / "caffe"
    folder.mkdir()
    branch_reference.write_caffe(folder / "ResNet-50-model.caffemodel", LAYERS)
    (folder / "ResNet_mean.binaryproto").write_bytes(branch_reference.blob(mean, old_shape=True))
    (tmp_path / "labels.txt").write_text("\n".join("abcde"))
    return (
        str(folder / "ResNet-50-model.caffemodel"),
        str(tmp_path / "labels.txt"),
        mean.transpose(1, 2, 0),
    )


def test_the_mean_image_beside_a_network_of_caffe_is_served(caffe, tmp_path, capsys):
    path, labels, mean = caffe
    assert import_weights.main([path, str(tmp_path / "out"), "--labels", labels]) == 0
    assert "resnet50, 5 classes, mean colour" in capsys.readouterr().out
    pixels = images(256, 2).astype(np.uint8)
    files = []
    for number, image in enumerate(pixels):
        Image.fromarray(image).save(tmp_path / f"{number}.png")
        files.append((tmp_path / f"{number}.png").read_bytes())
    bgr = pixels[:, 16:240, 16:240, ::-1].astype(np.float32) - mean
    scores = branch_reference.logits(LAYERS, 50, bgr, 1e-5, "caffe", normalised=False)
    wanted = np.exp(scores - scores.max(1, keepdims=True))
    wanted /= wanted.sum(1, keepdims=True)
    [version] = (tmp_path / "out").iterdir()
    served = tf.saved_model.load(str(version)).signatures["serving_default"](tf.constant(files))
    np.testing.assert_allclose(served["probabilities"], wanted, atol=1e-4)


def test_a_training_keeps_the_mean_image_of_caffe(caffe):
    path, _, mean = caffe
    found = pretrained.load(path)
    assert (found.transform.mean, found.transform.size) == ("pixel", 224)
    constants = conversion.constants(np.float32([1, 2, 3]), list("abcde"), 224)
    settings = (Train(init_from=path, epochs=0), found.settings, Transform(mean="pixel"), constants)
    start, kept = finetune.load(*settings)
    assert start.head
    np.testing.assert_allclose(kept.pixel_mean, mean[..., ::-1])
    np.testing.assert_allclose(kept.channel_mean, mean.mean((0, 1))[::-1], rtol=1e-5)
    with pytest.raises(ValueError, match=r"set transform\.mean=pixel"):
        finetune.load(*settings[:2], Transform(mean="channel"), constants)
    with pytest.raises(ValueError, match=r"model\.pool=caffe, and the configuration has symmetric"):
        finetune.load(settings[0], Model("imagenet", 50), *settings[2:])


def test_the_mean_file_can_be_named_and_has_to_be_one(caffe, tmp_path, capsys):
    path, labels, _ = caffe
    other = tmp_path / "other.binaryproto"
    other.write_bytes(branch_reference.blob(np.full([1, 3, 256, 256], 7, np.float32)))
    found = conversion.load(path, mean_file=str(other))
    assert found.pixel_mean.shape == (256, 256, 3) and (found.channel_mean == 7).all()
    assert conversion.crops(found).mean == "channel"  # another size than that of the crops
    bad = {
        "flat": (
            branch_reference.blob(np.ones([1, 1, 8, 8], np.float32)),
            r"of shape \[1, 1, 8, 8\]",
        ),
        "far": (branch_reference.blob(np.full([3, 8, 8], 300, np.float32)), "no colour of 0..255"),
        "short": (branch_reference.blob(np.ones([3, 8, 8], np.float32))[:-8], "no whole protobuf"),
    }
    for name, (contents, message) in bad.items():
        (tmp_path / f"{name}.binaryproto").write_bytes(contents)
        with pytest.raises(ValueError, match=rf"{name}\.binaryproto .*{message}"):
            foreign_files.read_mean(str(tmp_path / f"{name}.binaryproto"))
    (tmp_path / "caffe" / "second.binaryproto").write_bytes(other.read_bytes())
    assert import_weights.main([path, str(tmp_path / "out"), "--labels", labels]) == 1
    said = capsys.readouterr().err
    assert "name the right one with --mean_file" in said and said.count("\n") == 1
    np.savez(tmp_path / "net.npz", **torch_reference.state((1, 1, 1), shortcut="A"))
    with pytest.raises(ValueError, match=r"net\.npz is no network of Caffe; leave it out\.$"):
        conversion.load(str(tmp_path / "net.npz"), mean_file=str(other))
    with pytest.raises(ValueError, match=r"none\.binaryproto does not exist"):
        foreign_files.read_mean(str(tmp_path / "none.binaryproto"))


@pytest.mark.parametrize("depth", [50, 101, 152])
def test_the_depth_comes_from_the_names_of_the_blocks(depth):
    names = [f"res{name}_branch2b/kernel" for name, _, _ in branch_reference.blocks(depth)]
    found = published.recognise(dict.fromkeys(names, np.zeros([1, 1, 1, 1])))
    assert (found.kind, found.settings.depth, found.settings.pool) == ("caffe", depth, "caffe")
    theirs = [name for name, _, _ in branch_reference.blocks(depth) if name.startswith("4")]
    ours = [f"conv4_block{number}_2_bn" for number in range(1, len(theirs) + 1)]
    wanted = [f"scale{name}_branch2b/gamma" for name in theirs]
    assert [published.names(found, name)["gamma"] for name in ours] == wanted


def test_what_does_not_fit_is_named(tmp_path):
    layers = dict(LAYERS)
    layers["res3a_branch2b"] = [layers["res3a_branch2b"][0][:, :64]]
    branch_reference.write_caffe(tmp_path / "net.caffemodel", layers)
    with pytest.raises(ValueError, match=r"res3a_branch2b/kernel has shape \[128, 64, 3, 3\], and"):
        conversion.load(str(tmp_path / "net.caffemodel"))
    del layers["scale3a_branch2b"], layers["res3a_branch2b"]
    branch_reference.write_caffe(tmp_path / "net.caffemodel", layers)
    with pytest.raises(ValueError, match=r"lacks the tensor res3a_branch2b/kernel"):
        conversion.load(str(tmp_path / "net.caffemodel"))
    contents = (tmp_path / "net.caffemodel").read_bytes()
    (tmp_path / "net.caffemodel").write_bytes(contents[: len(contents) // 2])
    with pytest.raises(
        ValueError, match=r"net\.caffemodel is no whole protobuf of Caffe; get it again\.$"
    ):
        foreign_files.read(str(tmp_path / "net.caffemodel"))
