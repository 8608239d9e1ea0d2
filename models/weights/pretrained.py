"""Networks that are trained already: pushed models, .keras files, published weights, their names.

`resolve` needs no TensorFlow: the pipeline looks for the newest version before anything runs.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
import re
import sys
import types
import zipfile
from typing import TYPE_CHECKING, Any

from models.settings import Model, Transform
from models.weights.named import download

if TYPE_CHECKING:
    import keras

    from models.pixels.augmentation import Constants

_SAVED_MODEL = "saved_model.pb"
_OUR_NAME = re.compile(r"(cifar_)?(resnet|plain)(\d+)")


@dataclasses.dataclass(frozen=True, eq=False)
class Pretrained:
    """A trained network and what it was trained with.

    Attributes:
      model: mean-subtracted images [B, H, W, 3], RGB of 0..255 -> logits.
      constants: None where nothing is known (a .keras file). Of published weights only the means
        are known; the mean image is one colour, [1, 1, 3], unless it lies beside them.
      transform: settings of the training, None where they are not known; of published weights with
        a mean image, its size.
      settings: what `model` is.
      digest: sha256 of the weights, hexadecimal.
    """

    model: keras.Model
    constants: Constants | None
    transform: Transform | None
    settings: Model
    digest: str


def resolve(path: str) -> str:
    """The one model that is meant: the file, or the folder of the (newest) version.

    Args:
      path: a folder of pushed versions, one version, a .keras file, a file of weights or a name of
        models.weights.named.catalogue, whose file is downloaded where it is not there yet.

    Raises:
      ValueError: there is none, or it cannot be downloaded.
    """
    path = download.local(path)
    files = _files(path)
    if files.exists(path) and not files.isdir(path):
        return path
    if not files.isdir(path):
        raise ValueError(
            f"{path} does not exist; give a pushed model's folder, a .keras file or weights, or a"
            " name such as torchvision:resnet50."
        )
    if files.exists(os.path.join(path, _SAVED_MODEL)):
        return path
    found = versions(path)
    if not found:
        raise ValueError(
            f"{path} holds no pushed model; give the folder of one, whose versions (such as"
            f" {path}/1) have a {_SAVED_MODEL}."
        )
    return found[0]


def versions(path: str) -> list[str]:
    """Folders of the whole versions in a folder of pushed models, newest first."""
    files = _files(path)
    if not files.isdir(path):
        return []
    names = [name.strip("/") for name in files.listdir(path)]
    whole = [
        n for n in names if n.isdecimal() and files.exists(os.path.join(path, n, _SAVED_MODEL))
    ]
    return [os.path.join(path, name) for name in sorted(whole, key=int, reverse=True)]


def load(path: str) -> Pretrained:
    """The network at a place that `resolve` knows.

    Raises:
      ValueError: there is none, it is an ensemble, or it is no network of this project.
    """
    path = resolve(path)
    if _files(path).isdir(path):
        return _pushed(path)
    if path.endswith(".keras"):
        return _described(_network(path), None, None)

    from models.weights import conversion

    found = conversion.load(path)
    view = None
    if found.pixel_mean is not None:
        view = conversion.crops(found, size=found.pixel_mean.shape[0])
    return _described(found.model, found.constants, view)


def _pushed(path: str) -> Pretrained:
    from models.export import export
    from models.pixels import augmentation

    files, extra = _files(path), os.path.join(path, export.EXTRA)
    model = os.path.join(extra, export.KERAS_FILE)
    constants = os.path.join(extra, augmentation.CONSTANTS_FILE)
    if files.exists(os.path.join(extra, export.ENSEMBLE_FILE)):
        raise ValueError(
            f"{path} is an ensemble, and one network is needed; give one of its members."
        )
    if not files.exists(model):
        raise ValueError(
            f"{model} does not exist; give the folder of a model that this project pushed."
        )
    if not files.exists(constants):  # pushed by version 0.1
        return _described(_network(model), None, None)
    try:
        measured = augmentation.read_constants(constants)
    except (zipfile.BadZipFile, LookupError, EOFError) as error:
        raise ValueError(f"{constants} is damaged; push the model again.") from error
    return _described(_network(model), *measured)


def _network(path: str) -> keras.Model:
    import keras

    from models.network import layers  # noqa: F401  registers them

    # A frame an operation, as in models.network.architecture: 1202 layers have 4,200.
    sys.setrecursionlimit(max(sys.getrecursionlimit(), 15_000))
    try:
        return keras.saving.load_model(path, compile=False)
    except Exception as error:  # Keras lets through whatever damaged contents lead to
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(f"{path} cannot be loaded as a .keras file: {reason}") from error


def _described(
    model: keras.Model, constants: Constants | None, transform: Transform | None
) -> Pretrained:
    weights = b"".join(value.tobytes() for value in model.get_weights())
    digest = hashlib.sha256(weights).hexdigest()
    return Pretrained(model, constants, transform, describe(model), digest)


def describe(model: keras.Model) -> Model:
    """The settings that models.network.architecture built `model` from.

    Raises:
      ValueError: `model` is not from there.
    """
    match = _OUR_NAME.fullmatch(model.name)
    layers = {layer.name: layer for layer in model.layers}
    if match is None or not {"conv1_conv", "conv3_block1_1_conv", "logits"} <= layers.keys():
        raise ValueError(
            f"The network {model.name} is none of models.network.architecture; give one that is."
        )
    residual, depth = match[2] == "resnet", int(match[3])
    options: dict[str, Any] = {}
    if residual:
        blocks = sum(name.endswith("_out") for name in layers)
        projections = sum(name.endswith("_0_conv") for name in layers)
        options["shortcut"] = "A" if not projections else "C" if projections == blocks else "B"
    if "pool1_pad" in layers:
        symmetric = layers["pool1_pad"].padding == ((1, 1), (1, 1))
        options["pool"] = "symmetric" if symmetric else "caffe"
        if "conv3_block1_3_conv" in layers and layers["conv3_block1_2_conv"].strides == (2, 2):
            options["variant"] = "v1.5"
    return Model("cifar" if match[1] else "imagenet", depth, residual, **options)


def _files(path: str) -> Any:
    """exists, isdir and listdir for the file system of `path`; TensorFlow knows the remote ones."""
    if "://" not in path:
        return types.SimpleNamespace(exists=os.path.exists, isdir=os.path.isdir, listdir=os.listdir)
    import tensorflow as tf

    return tf.io.gfile
