"""What the weights of a training are before its first step.

In this order:
  1. Those of this training's own checkpoint, when it was interrupted (models.training.checkpoint).
  2. Those that `train.init_from` names, layer by layer by name. The head goes along when its
     classes are the data's (the same labels; where the source does not know its labels, as many
     outputs), and is drawn at random when they are not.
  3. Random numbers.

A network keeps the mean that it was trained with: the mean image, when that was what it saw and the
size of the images is the same (`transform.mean` must say so), else the mean colour. Covariance,
labels and counts are always the data's.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import keras
import numpy as np

from models.network import architecture
from models.pixels.augmentation import Constants
from models.settings import Model, Train, Transform
from models.weights import pretrained
from models.weights.named import catalogue

HEAD = "logits"


@dataclasses.dataclass(frozen=True, eq=False)
class Start:
    """What a training starts from: weights by layer, their digest, whether the head is taken."""

    source: str
    weights: Mapping[str, list[np.ndarray]]
    head: bool
    digest: str

    def __str__(self) -> str:
        new_head = "with a new head, because its classes are not the data's"
        return f"starting from {self.source}, {'with its head' if self.head else new_head}"


def load(
    train: Train, model: Model, transform: Transform, constants: Constants
) -> tuple[Start, Constants]:
    """The network that `train.init_from` names, and the data's constants with the mean that it was
    trained with.

    Raises:
      ValueError: there is no such file, it cannot start the training of `model`, or nothing is to
        be trained and the head does not fit.
    """
    found = pretrained.load(train.init_from)
    check(train.init_from, found, model, transform)
    head = _same_classes(found, constants)
    if not train.epochs and not head:
        raise ValueError(
            f"train.epochs=0: the classes of train.init_from={train.init_from} are not those of the"
            " data, so its head has to be trained; set train.epochs to 1 or more."
        )
    weights = {layer.name: layer.get_weights() for layer in found.model.layers if layer.weights}
    start = Start(train.init_from, weights, head, found.digest)
    return start, _with_mean(constants, found, transform)


def copy(start: Start, model: keras.Model) -> None:
    """Gives the layers of `model` the weights of `start`.

    Raises:
      ValueError: a layer that only one of them has, or that has other shapes; the first one is
        named.
    """
    layers = {layer.name: layer for layer in model.layers if layer.weights}
    wanted = {name: [weight.shape for weight in layer.weights] for name, layer in layers.items()}
    present = {name: [value.shape for value in values] for name, values in start.weights.items()}
    for name in wanted | present:
        if name == HEAD and not start.head:
            continue
        if wanted.get(name) != present.get(name):
            raise ValueError(
                f"train.init_from={start.source} does not fit the network of the configuration: its"
                f" layer {name} has weights of {present.get(name)}, and {wanted.get(name)} are"
                " needed; set model.depth, model.residual and model.shortcut to those of the"
                " weights."
            )
        layers[name].set_weights(start.weights[name])


def freeze(model: keras.Model, stages: int) -> None:
    """Keeps weights and statistics of batch normalisation of the first stages as they are."""
    for layer in architecture.stage_layers(model, stages):
        layer.trainable = False


def _same_classes(found: pretrained.Pretrained, constants: Constants) -> bool:
    if found.constants is not None and found.constants.labels:
        return found.constants.labels == constants.labels
    return found.model.output_shape[-1] == len(constants.labels)


def check(source: str, found: pretrained.Pretrained, model: Model, transform: Transform) -> None:
    """Raises ValueError when the network from `source` cannot start the training of `model`."""
    catalogue.check_network(source, found.settings, model)
    view = found.transform
    means = (view.mean, transform.mean) if view and view.size == transform.size else ()
    if means == ("pixel", "channel"):
        raise ValueError(
            f"train.init_from={source} was trained with the mean image subtracted; set"
            " transform.mean=pixel."
        )


def _with_mean(
    constants: Constants, found: pretrained.Pretrained, transform: Transform
) -> Constants:
    if found.constants is None:
        return constants
    pixel, channel = found.constants.pixel_mean, found.constants.channel_mean
    shape = (transform.size, transform.size, 3)
    by_pixel = found.transform is not None and found.transform.mean == "pixel"
    if not by_pixel or pixel.shape != shape:
        pixel = np.broadcast_to(channel, shape).copy()
    return dataclasses.replace(constants, pixel_mean=pixel, channel_mean=channel)
