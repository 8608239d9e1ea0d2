"""A training in a process of its own for benchmarks.training_step: one network of ours or of a
peer.

    python -m benchmarks.step_nets WAY DEPTH PRECISION BATCH SIZE

The process warms up, then does as many steps as it is asked to on one batch in memory and gives
images/s. Everybody has SGD with momentum 0.9 and weight decay 1e-4, as many threads as cores, and
the data format, optimizer and loss of its own documentation.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from benchmarks.rounds import answer

CLASSES = 1000
RATE, MOMENTUM, DECAY = 0.01, 0.9, 1e-4
WARM_UP = 2  # steps, the one that compiles among them
_BLOCKS = {18: [2, 2, 2, 2], 50: [3, 4, 6, 3]}


class Job(NamedTuple):
    """What is trained.

    Attributes:
      depth: 18 or 50.
      precision: float32 or mixed_bfloat16.
      batch: images a step.
      size: side of an image in pixels.
    """

    depth: int
    precision: str
    batch: int
    size: int

    def data(self) -> tuple[np.ndarray, np.ndarray]:
        """float32 [batch, size, size, 3], as after subtraction of the mean, and int32 labels
        [batch].
        """
        rng = np.random.default_rng(0)
        images = rng.normal(0, 50, (self.batch, self.size, self.size, 3)).astype(np.float32)
        return images, rng.integers(0, CLASSES, self.batch).astype(np.int32)


class Net(NamedTuple):
    """A network that is ready.

    Attributes:
      steps: trains for so many steps and waits for the last.
      name: with its version.
      parameters: trainable ones.
      macs: multiply-adds of convolutions and dense layers for one image.
    """

    steps: Callable[[int], object]
    name: str
    parameters: int
    macs: float


def ours(job: Job, variant: str, xla: bool = False) -> Net:
    """The Trainer's model and `fit`, with the callbacks that act at each step."""
    import tensorflow as tf

    from models import train
    from models.pixels.augmentation import Constants
    from models.settings import Model, Train, Transform
    from models.training.arguments import Task
    from models.training.callbacks import Follow, Guard, Run
    from models.training.checkpoint import Checkpoints
    from models.training.progress import Progress

    settings = Train(
        batch_size=job.batch,
        epochs=sys.maxsize,
        learning_rate=RATE,
        momentum=MOMENTUM,
        weight_decay=DECAY,
        boundaries=(),
        precision=job.precision,
    )
    zeros = np.zeros([job.size, job.size, 3], np.float32)
    labels = tuple(f"{number:04}" for number in range(CLASSES))
    constants = Constants(zeros, zeros[0, 0], np.eye(3, dtype=np.float32), labels, (1,) * CLASSES)
    network = Model(depth=job.depth, variant=variant)
    task = Task(Transform(size=job.size), network, settings, 1.0, constants, (), ())
    model = train.compiled_model(task, tf.distribute.get_strategy())
    if xla:
        model.jit_compile = True
    run = Run(settings, steps_per_epoch=1)
    callbacks = [Follow(run), Guard(run, Checkpoints("", "", model)), Progress(run)]
    stream = _repeated(job)

    def steps(number: int) -> None:
        run.steps_per_epoch = number
        train.steps(model, stream, run, callbacks, last=run.epoch + 1)

    return _keras_net(model, steps, "this project" + (" with jit_compile=True" if xla else ""), job)


def applications(job: Job) -> Net:
    """keras.applications.ResNet50: v1, and its convolutions have biases."""
    import keras

    keras.config.set_dtype_policy(job.precision)
    shape = (job.size, job.size, 3)
    model = keras.applications.ResNet50(weights=None, classifier_activation=None, input_shape=shape)
    return _keras_peer(model, f"keras.applications {keras.__version__}", job)


def hub(job: Job) -> Net:
    """Keras Hub's ResNet v1.5."""
    import keras
    import keras_hub

    keras.config.set_dtype_policy(job.precision)
    backbone = keras_hub.models.ResNetBackbone(
        [64],
        [7],
        [64, 128, 256, 512],
        _BLOCKS[job.depth],
        [1, 2, 2, 2],
        "basic_block" if job.depth == 18 else "bottleneck_block",
        image_shape=(job.size, job.size, 3),
    )
    model = keras_hub.models.ResNetImageClassifier(backbone, CLASSES, preprocessor=None)
    return _keras_peer(model, f"keras-hub {keras_hub.__version__}", job)


def official(job: Job) -> Net:
    """The TensorFlow Model Garden's ResNet v1.5, whose weight decay is in the loss as ours is."""
    import importlib.metadata

    import tf_keras
    from official.vision.modeling import classification_model
    from official.vision.modeling.backbones import resnet

    tf_keras.mixed_precision.set_global_policy(job.precision)
    specs = tf_keras.layers.InputSpec(shape=[None, job.size, job.size, 3])
    decay = tf_keras.regularizers.L2(DECAY / 2)
    backbone = resnet.ResNet(
        job.depth, specs, norm_momentum=0.9, norm_epsilon=1e-5, kernel_regularizer=decay
    )
    model = classification_model.ClassificationModel(
        backbone, CLASSES, specs, kernel_regularizer=decay
    )
    model.compile(
        tf_keras.optimizers.SGD(RATE, momentum=MOMENTUM),
        tf_keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    name = f"tf-models-official {importlib.metadata.version('tf-models-official')}"
    return _keras_net(model, _fit(model, job), name, job)


def torchvision(job: Job, compiled: bool) -> Net:
    """torchvision's ResNet v1.5, channels last, eager or compiled; bfloat16 by autocast."""
    import torch
    import torchvision
    from torch.utils.flop_counter import FlopCounterMode

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    images, labels = job.data()
    x = torch.from_numpy(images).permute(0, 3, 1, 2).contiguous(memory_format=torch.channels_last)
    y = torch.from_numpy(labels).long()
    network = getattr(torchvision.models, f"resnet{job.depth}")()
    network = network.to(memory_format=torch.channels_last)
    with FlopCounterMode(display=False) as flops, torch.no_grad():
        network.eval()(x[:1])
    model = torch.compile(network.train()) if compiled else network.train()
    sgd = torch.optim.SGD(network.parameters(), RATE, momentum=MOMENTUM, weight_decay=DECAY)

    def steps(number: int) -> float:
        for _ in range(number):
            sgd.zero_grad()
            reduced = job.precision != "float32"
            cast = torch.autocast("cpu", torch.bfloat16) if reduced else contextlib.nullcontext()
            with cast:
                loss = torch.nn.functional.cross_entropy(model(x), y)
            loss.backward()
            sgd.step()
        return loss.item()

    name = f"torchvision {torchvision.__version__} on PyTorch {torch.__version__}"
    parameters = sum(parameter.numel() for parameter in network.parameters())
    how = ", torch.compile" if compiled else ", eager"
    return Net(steps, name + how, parameters, flops.get_total_flops() / 2)


WAYS: dict[str, Callable[[Job], Net]] = {
    "ours": lambda job: ours(job, "v1.5"),
    "ours-v1": lambda job: ours(job, "v1"),
    "ours-xla": lambda job: ours(job, "v1.5", xla=True),
    "applications": applications,
    "hub": hub,
    "official": official,
    "torch": lambda job: torchvision(job, compiled=False),
    "torch-compile": lambda job: torchvision(job, compiled=True),
}


def _keras_peer(model, name: str, job: Job) -> Net:
    """Compiles a Keras 3 model, which trains by `fit`."""
    import keras

    model.compile(
        keras.optimizers.SGD(RATE, momentum=MOMENTUM, weight_decay=DECAY),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    return _keras_net(model, _fit(model, job), name, job)


def _fit(model, job: Job) -> Callable[[int], object]:
    stream = _repeated(job)
    return lambda number: model.fit(stream, steps_per_epoch=number, verbose=0)


def _repeated(job: Job):
    import tensorflow as tf

    options = tf.data.Options()
    # As our own input, and for all: `fit` waits at its end until the tuner wakes, up to a minute.
    options.autotune.enabled = False
    return tf.data.Dataset.from_tensors(job.data()).repeat().with_options(options)


def _keras_net(model, steps: Callable[[int], object], name: str, job: Job) -> Net:
    """Counts what the forward graph multiplies and the model trains."""
    import tensorflow as tf

    forward = tf.function(lambda images: model(images, training=False))
    graph = forward.get_concrete_function(tf.TensorSpec([1, job.size, job.size, 3])).graph
    macs = 0
    for op in graph.get_operations():
        if op.type in ("Conv2D", "MatMul"):
            kernel, outputs = op.inputs[1].shape, op.outputs[0].shape
            macs += kernel.num_elements() * outputs.num_elements() // outputs[-1]
    parameters = sum(int(np.prod(weight.shape)) for weight in model.trainable_weights)
    return Net(steps, name, parameters, macs)


def main() -> None:
    way, depth, precision, batch, size = sys.argv[1:]
    job = Job(int(depth), precision, int(batch), int(size))
    net = WAYS[way](job)
    start = time.perf_counter()
    net.steps(WARM_UP)
    warm = time.perf_counter() - start

    def measure(steps: int) -> dict[str, object]:
        begin = time.perf_counter()
        net.steps(steps)
        rate = steps * job.batch / (time.perf_counter() - begin)
        counts = {"parameters": net.parameters, "macs": net.macs}
        return {"rate": rate, "name": net.name, "warm_up": warm, **counts}

    answer(measure)


if __name__ == "__main__":
    main()
