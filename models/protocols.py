"""Test protocols: how one image becomes one vector of class probabilities.

A protocol is an entry of `PROTOCOLS`; Evaluator, the exported signatures and the report know it by name.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence

import tensorflow as tf

from models import augmentation, views
from models.augmentation import Constants
from models.settings import Transform

Forward = Callable[[tf.Tensor], tf.Tensor]


@dataclasses.dataclass(frozen=True)
class Protocol:
    """One way to test.

    Attributes:
      scores: (forward, encoded string [n], settings, constants) -> probabilities float32 [n, classes].
      passes: images that go through the network for one example.
    """

    scores: Callable[..., tf.Tensor]
    passes: int


def predict(
    forward: Forward,
    encoded: tf.Tensor,
    names: Sequence[str],
    settings: Transform,
    constants: Constants,
    sub_batch: int = 32,
) -> dict[str, tf.Tensor]:
    """Class probabilities of every image under every named protocol.

    Whatever the size of the batch, at most `sub_batch` images are decoded and in the network at a time
    (an image's crops count as images; at least one whole example goes).

    Args:
      forward: images float32 [n, size, size, 3], mean subtracted -> logits [n, classes] of any float type.
      encoded: string [batch], JPEG or PNG; no rows are fine.
      names: keys of PROTOCOLS.
      settings: what the crops are.
      constants: means and labels.
      sub_batch: limit of images in the network.

    Returns:
      A dict of name -> float32 [batch, classes], rows in the order of `encoded`.

    Raises:
      ValueError: unknown protocol. tf.errors.InvalidArgumentError: bytes that are no image, or an image that
        `models.views.limited` refuses.
    """
    results = {}
    for name in names:
        protocol = find(name)
        score = functools.partial(protocol.scores, forward, settings=settings, constants=constants)
        rows = max(1, sub_batch // protocol.passes)
        results[name] = in_parts(score, encoded, rows, len(constants.labels))
    return results


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


def _center(forward: Forward, encoded: tf.Tensor, settings: Transform, constants: Constants) -> tf.Tensor:
    """Softmax of the central crop."""
    crops = _map(lambda image: augmentation.center(image, settings, constants), encoded, [settings.size])
    return probabilities(forward(crops))


def _ten_crop(forward: Forward, encoded: tf.Tensor, settings: Transform, constants: Constants) -> tf.Tensor:
    """Softmax averaged over corners, centre and mirrors (paper, section 3.4)."""
    size = settings.size
    crops = _map(lambda image: augmentation.ten_crop(image, settings, constants), encoded, [10, size])
    scores = probabilities(forward(tf.reshape(crops, [-1, size, size, 3])))
    return tf.reduce_mean(tf.reshape(scores, [-1, 10, len(constants.labels)]), axis=1)


def _map(view: Callable[[tf.Tensor], tf.Tensor], encoded: tf.Tensor, leading: list[int]) -> tf.Tensor:
    shape = [*leading, leading[-1], 3]
    return tf.map_fn(
        lambda image: view(views.limited(image)),
        encoded,
        fn_output_signature=tf.TensorSpec(shape, tf.float32),
        parallel_iterations=2,  # whole images in memory
    )


PROTOCOLS: dict[str, Protocol] = {
    "center": Protocol(_center, passes=1),
    "ten_crop": Protocol(_ten_crop, passes=10),
}
