"""Test protocols: how one image becomes one vector of class probabilities.

A protocol is a line of `models.settings.PROTOCOLS`; Evaluator, the exported signatures and the
report know it by that name. This module takes its views.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence

import keras
import tensorflow as tf

from models.network import architecture
from models.pixels import augmentation, decoding
from models.pixels.augmentation import Constants
from models.settings import PROTOCOLS, Protocol, Transform, check_transform

Forward = Callable[[tf.Tensor], tf.Tensor]
# Photographs that are decoded at a time for crops, whole ones in memory.
_IMAGES = 2


@dataclasses.dataclass(frozen=True, eq=False)
class Network:
    """A network and the pixels that it was trained for.

    Attributes:
      forward: images float32 [n, size, size, 3], mean subtracted -> logits [n, classes] of any
        float type.
      dense: the same for images [n, H, W, 3] of `size` or more: the network in fully convolutional
        form, its class scores averaged over all places. Images of `size` have the logits of
        `forward`.
      settings: what the crops are.
      constants: means, and class names in label order.
      model: what `forward` calls.
    """

    forward: Forward
    dense: Forward
    settings: Transform
    constants: Constants
    model: keras.Model


def network(model: keras.Model, settings: Transform, constants: Constants) -> Network:
    """The network of a model of models.network.architecture.

    In its fully convolutional form (paper, section 3.4) the global pooling is a sliding one of the
    window that it had in training (7x7 for 224 pixels), of stride 1, and the dense layer answers at
    each of its places. All this is linear: the answer is computed once, from the average of the
    poolings.
    """
    trunk, logits = architecture.head_parts(model)
    _, *window, _ = trunk.compute_output_shape((1, settings.size, settings.size, 3))

    def forward(images: tf.Tensor) -> tf.Tensor:
        return model(images, training=False)

    def dense(images: tf.Tensor) -> tf.Tensor:
        maps = tf.cast(trunk(images, training=False), logits.compute_dtype)
        rows, columns = (_coverage(tf.shape(maps)[axis], window[axis - 1]) for axis in (1, 2))
        return logits(tf.reduce_mean(maps * rows[:, None, None] * columns[:, None], axis=[1, 2]))

    return Network(forward, dense, settings, constants, model)


def _coverage(length: tf.Tensor, window: int) -> tf.Tensor:
    """Weights, float32 [length], with which a mean is that of the means of all sliding windows."""
    places = tf.range(1, length + 1)
    inside = tf.minimum(tf.minimum(places, places[::-1]), tf.minimum(window, length - window + 1))
    windows = window * (length - window + 1)
    return tf.cast(inside * length, tf.float32) / tf.cast(windows, tf.float32)


def predict(
    networks: Network | Sequence[Network],
    encoded: tf.Tensor,
    names: Sequence[str],
    sub_batch: int = 32,
) -> dict[str, tf.Tensor]:
    """Class probabilities of every image under every named protocol.

    Args:
      networks: one, or the members of an ensemble: their probabilities are averaged, each with its
        own crops and means.
      encoded: string [batch], JPEG or PNG; no rows are fine.
      names: keys of `models.settings.PROTOCOLS`.
      sub_batch: most images, or crops, that are decoded and in a network at a time, however large
        the batch is; at least all crops of one image.

    Returns:
      A dict of name -> float32 [batch, classes], rows in the order of `encoded`.

    Raises:
      ValueError: unknown protocol, or networks of other classes. tf.errors.InvalidArgumentError: an
        image that `models.pixels.decoding.decode` refuses.
    """
    networks = as_members(networks)

    def mean(protocol: Protocol, encoded: tf.Tensor) -> tf.Tensor:
        score, _ = _VIEWS[protocol.views]
        done: list[tf.Tensor] = []
        for network in networks:
            with tf.control_dependencies(done[-1:]):  # one of them computes at a time
                done.append(score(network, protocol, encoded))
        return tf.reduce_mean(done, axis=0)

    results = {}
    for name in names:
        protocol = find(name)
        rows = max(1, sub_batch // _VIEWS[protocol.views][1])
        score = functools.partial(mean, protocol)
        results[name] = in_parts(score, encoded, rows, len(networks[0].constants.labels))
    return results


def as_members(networks: Network | Sequence[Network]) -> tuple[Network, ...]:
    """The networks of one or several; raises ValueError unless they tell the same classes apart."""
    networks = (networks,) if isinstance(networks, Network) else tuple(networks)
    if len({network.constants.labels for network in networks}) != 1:
        raise ValueError(
            f"{len(networks)} networks cannot be averaged; give one or more, all with the same"
            " classes in the same order."
        )
    return networks


def find(name: str) -> Protocol:
    """The protocol of that name; raises ValueError when there is none."""
    if name not in PROTOCOLS:
        raise ValueError(f"There is no test protocol {name}; use one of {', '.join(PROTOCOLS)}.")
    return PROTOCOLS[name]


def in_parts(
    scores: Callable[[tf.Tensor], tf.Tensor], batch: tf.Tensor, rows: int, classes: int
) -> tf.Tensor:
    """`scores` of a batch, `rows` rows at a time: float32 [batch, classes].

    An empty batch never reaches `scores`: some of TensorFlow's fused kernels fail on it.
    """

    def step(start: tf.Tensor, done: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        part = scores(batch[start : start + rows])
        return start + rows, tf.concat([done, tf.ensure_shape(part, [None, classes])], axis=0)

    _, result = tf.while_loop(
        lambda start, _: start < tf.shape(batch)[0],
        step,
        (tf.constant(0), tf.zeros([0, classes])),
        shape_invariants=(tf.TensorShape([]), tf.TensorShape([None, classes])),
        parallel_iterations=1,
    )
    return result


def probabilities(logits: tf.Tensor) -> tf.Tensor:
    """Softmax in float32, whatever the network computes in: float16 loses small probabilities."""
    return tf.nn.softmax(tf.cast(logits, tf.float32))


def _cropped(
    cut: Callable[[tf.Tensor, Transform, Constants], tf.Tensor],
    number: int,
    network: Network,
    protocol: Protocol,
    encoded: tf.Tensor,
) -> tf.Tensor:
    """Softmax averaged over the `number` crops that `cut` takes of an image.

    Crops of another size than the training's go through the fully convolutional network.
    """
    settings = protocol.transform(network.settings)
    forward = network.dense if protocol.size else network.forward
    shape = [settings.size, settings.size, 3]

    def crops(image: tf.Tensor) -> tf.Tensor:
        return tf.reshape(cut(image, settings, network.constants), [number, *shape])

    images = tf.reshape(_map(crops, encoded, [number, *shape], at_a_time=_IMAGES), [-1, *shape])
    scores = tf.reshape(probabilities(forward(images)), [-1, number, len(network.constants.labels)])
    return tf.reduce_mean(scores, axis=1)


def _whole(network: Network, protocol: Protocol, encoded: tf.Tensor) -> tf.Tensor:
    """Softmax of the fully convolutional network, averaged over mirrors and `settings.scales`
    (paper, section 3.4).

    The class scores of all places are averaged before the softmax, the probabilities of image,
    mirror and scales after it. An image and its mirror are in the network at a time.
    """
    settings = protocol.transform(network.settings)
    check_transform(settings)
    classes = len(network.constants.labels)

    def image_scores(image: tf.Tensor) -> tf.Tensor:
        pixels = decoding.load(image, settings)

        def at(side: tf.Tensor) -> tf.Tensor:
            view = augmentation.whole(pixels, side, network.constants)
            both = tf.stack([view, tf.reverse(view, axis=[1])])
            return tf.reduce_mean(probabilities(network.dense(both)), axis=0)

        return tf.reduce_mean(_map(at, tf.constant(settings.scales), [classes]), axis=0)

    return _map(image_scores, encoded, [classes])


def _map(
    function: Callable[[tf.Tensor], tf.Tensor],
    items: tf.Tensor,
    shape: list[int],
    at_a_time: int = 1,
) -> tf.Tensor:
    """float32 [n, *shape] from n items."""
    spec = tf.TensorSpec(shape, tf.float32)
    return tf.map_fn(function, items, fn_output_signature=spec, parallel_iterations=at_a_time)


_Scores = Callable[[Network, Protocol, tf.Tensor], tf.Tensor]
# (network, protocol, encoded string [n]) -> float32 [n, classes], and how many views of one image
# are in the network at a time.
_VIEWS: dict[str, tuple[_Scores, int]] = {
    "center": (functools.partial(_cropped, augmentation.center, 1), 1),
    "ten_crop": (functools.partial(_cropped, augmentation.ten_crop, 10), 10),
    "whole": (_whole, 2),
}
