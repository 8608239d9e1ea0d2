"""Where the training runs, a `tf.distribute` strategy from the settings, and in which precision."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator

import keras
import tensorflow as tf

from models.settings import Train

_LOG = logging.getLogger(__name__)


def make_strategy(train: Train) -> tf.distribute.Strategy:
    """The strategy that `train.strategy` names.

    auto: "mirrored" where there are several devices, else "one_device".
    mirrored: over all GPUs, or over all logical CPU devices where there is no GPU.
    one_device: the first GPU, else the CPU. This is TensorFlow's default strategy: under another
      one Keras reads a batch more at the start of every `fit`.
    tpu: over the TPU `train.tpu`. Not tested on hardware.

    Raises:
      ValueError: a batch that the replicas cannot share equally.
      RuntimeError: `cpu_devices` asked for after TensorFlow has started, or no such TPU.
    """
    if train.cpu_devices > 0:
        split_cpu(train.cpu_devices)
    strategy = _choose(train)
    replicas = strategy.num_replicas_in_sync
    if train.batch_size % replicas:
        raise ValueError(
            f"train.batch_size={train.batch_size}: is over all replicas and must be a multiple of"
            f" their number, {replicas}."
        )
    _LOG.info("Training on %d replica(s).", replicas)
    return strategy


@contextlib.contextmanager
def precision(policy: str) -> Iterator[None]:
    """Sets Keras' dtype policy until the block is left."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)


def _choose(train: Train) -> tf.distribute.Strategy:
    if train.strategy == "tpu":
        return _tpu(train.tpu)
    gpus = tf.config.list_logical_devices("GPU")
    devices = gpus or tf.config.list_logical_devices("CPU")
    # One GPU needs no strategy, and a whole CPU is one logical device.
    many = len(devices) > 1
    if train.strategy == "mirrored" or (train.strategy == "auto" and many):
        return tf.distribute.MirroredStrategy([device.name for device in devices])
    return tf.distribute.get_strategy()


def split_cpu(count: int) -> None:
    """Makes so many logical devices of the CPU; raises RuntimeError when TensorFlow has started."""
    physical = tf.config.list_physical_devices("CPU")[0]
    present = tf.config.get_logical_device_configuration(physical)
    if present is not None and len(present) == count:
        return
    try:
        tf.config.set_logical_device_configuration(
            physical, [tf.config.LogicalDeviceConfiguration() for _ in range(count)]
        )
    except RuntimeError as error:
        raise RuntimeError(
            f"train.cpu_devices={count} came too late: TensorFlow has already started in this"
            " process; train in a fresh process or set train.cpu_devices=0."
        ) from error


def _tpu(name: str) -> tf.distribute.Strategy:
    # Of another machine, its host would run the input, which is Python of this process.
    if name not in ("", "local"):
        raise RuntimeError(
            f"train.tpu={name!r} is another machine; run the training on a TPU VM with"
            " train.tpu=local."
        )
    try:
        resolver = tf.distribute.cluster_resolver.TPUClusterResolver(tpu=name)
        tf.config.experimental_connect_to_cluster(resolver)
        tf.tpu.experimental.initialize_tpu_system(resolver)
    except (ValueError, tf.errors.OpError) as error:
        raise RuntimeError(
            f"train.tpu={name!r} cannot be reached ({error}); run on a TPU VM with train.tpu=local,"
            " or choose another train.strategy."
        ) from error
    return tf.distribute.TPUStrategy(resolver)
