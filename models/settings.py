"""Settings of the learning part, as plain frozen dataclasses.

No TensorFlow import: the command line, schedulers and `--help` read these.
They travel to Transform, Tuner and Trainer as JSON (`dataclasses.asdict`).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Collection
from typing import NamedTuple

CROPS = ("scale", "inception", "pad", "none")
MEANS = ("pixel", "channel")


class Blocks(NamedTuple):
    """The blocks of an ImageNet network: their kind, and how many conv2_x .. conv5_x have."""

    bottleneck: bool
    numbers: tuple[int, int, int, int]


# Depth of an ImageNet network -> its blocks (paper, Table 1). A new depth is a line here.
BLOCKS = {
    18: Blocks(False, (2, 2, 2, 2)),
    34: Blocks(False, (3, 4, 6, 3)),
    50: Blocks(True, (3, 4, 6, 3)),
    101: Blocks(True, (3, 4, 23, 3)),
    152: Blocks(True, (3, 8, 36, 3)),
}
FAMILIES = ("imagenet", "cifar")
SHORTCUTS = ("A", "B", "C")
VARIANTS = ("v1", "v1.5")
SCHEDULES = ("step", "plateau", "cosine")
PRECISIONS = ("float32", "mixed_bfloat16", "mixed_float16")
STRATEGIES = ("auto", "mirrored", "one_device", "tpu")
POOLS = ("symmetric", "caffe")
# Keras seeds NumPy with one more, which takes 32 bits.
MAX_SEED = 2**32 - 2
# Most of what counts something, unless a tighter bound is named: a larger one is a slip of the pen,
# which would ask for memory that no machine has, or for a time without end.
MAX_NUMBER = 10**9
# Keras' networks of models.network.architecture; the paper's deepest has 1202 layers.
MAX_DEPTH = 10_000
# Shorter sides of the paper's multi-scale test, for images of 224 pixels (section 3.4).
PAPER_SCALES = (224, 256, 384, 480, 640)


@dataclasses.dataclass(frozen=True)
class Transform:
    """Scale stage and augmentation (paper, sections 3.4 and 4.2)."""

    # Side of the square that the network sees, in pixels.
    size: int = 224
    # Training crop: "scale" draws the shorter side from [scale_min, scale_max]
    # (the paper); "inception" draws 8-100 % of the area; "pad" pads the
    # size x size image by `pad` pixels and crops (CIFAR); "none" is the test crop.
    crop: str = "scale"
    scale_min: int = 256
    scale_max: int = 480
    pad: int = 4
    # Smallest part of the area that "inception" draws.
    area_min: float = 0.08
    flip: bool = True
    # Standard deviation of the noise along the RGB principal components; 0 is off.
    colour: float = 0.1
    # "pixel" subtracts the mean image, "channel" the mean colour.
    mean: str = "pixel"
    # Shorter side of the image before test crops are taken.
    test_shorter_side: int = 256
    # Shorter sides of the multi-scale test; empty is the paper's 224, 256, 384, 480 and 640,
    # in proportion to `size`.
    test_scales: tuple[int, ...] = ()
    # Turn JPEGs upright by their EXIF; off, images are used as they are stored, as ImageNet's are.
    upright: bool = False
    # Shrink larger photographs to this shorter side before anything else, in training, evaluation
    # and serving alike; Transform does it once and stores them without loss. 0 is off.
    shorter_side: int = 0
    # Part of the training split that mean and covariance are computed from,
    # chosen by a hash of the file name.
    analyze_fraction: float = 1.0

    @property
    def scales(self) -> tuple[int, ...]:
        """Shorter sides of the multi-scale test, in pixels."""
        return self.test_scales or tuple(
            round(side * self.size / PAPER_SCALES[0]) for side in PAPER_SCALES
        )


class Protocol(NamedTuple):
    """A test: the views of an image whose probabilities are averaged (models.export.protocols).

    Attributes:
      views: "center", "ten_crop" (corners, centre and their mirrors) or "whole" (the image and its
        mirror, at all `transform.test_scales`).
      size: side of the crops, in pixels; 0 is `transform.size`.
      shorter_side: of the image that they are taken from, in pixels; 0 is
        `transform.test_shorter_side`.
    """

    views: str
    size: int = 0
    shorter_side: int = 0

    def transform(self, transform: Transform) -> Transform:
        """What its crops are, given those of the test in training."""
        if not self.size and not self.shorter_side:
            return transform
        return dataclasses.replace(
            transform,
            crop="none",
            size=self.size or transform.size,
            test_shorter_side=self.shorter_side or transform.test_shorter_side,
            test_scales=(),
            # A mean image fits one size alone.
            mean="channel" if self.size else transform.mean,
        )


# Test protocols by the names of `evaluate.protocols` (paper, section 3.4). A new one is a line
# here, such as "center_288": Protocol("center", size=288, shorter_side=320).
PROTOCOLS = {
    "center": Protocol("center"),
    "ten_crop": Protocol("ten_crop"),
    "multi_scale": Protocol("whole"),
}


@dataclasses.dataclass(frozen=True)
class Model:
    """Network (paper, Table 1 and section 4.2)."""

    # "imagenet" (18, 34, 50, 101, 152) or "cifar" (6n+2).
    family: str = "imagenet"
    depth: int = 50
    residual: bool = True
    shortcut: str = "B"
    variant: str = "v1"
    # Padding of the first max pooling: "symmetric" (torchvision, keras.applications) or "caffe"
    # (bottom and right only, as the authors' model).
    pool: str = "symmetric"
    # Folders of pushed models. When there are some, nothing is trained: the model is their ensemble
    # (probabilities averaged), and the other fields are not used.
    ensemble: tuple[str, ...] = ()

    @property
    def network(self) -> dict[str, object]:
        """The fields that make this network another than others, with their values."""
        names = ["family", "depth", "residual", *(["shortcut"] if self.residual else [])]
        if self.family == "imagenet":
            # Without bottlenecks there is no stride that the variant could place.
            names += ["pool", *(["variant"] if BLOCKS[self.depth].bottleneck else [])]
        return {name: getattr(self, name) for name in names}


@dataclasses.dataclass(frozen=True)
class Train:
    """Optimisation (paper, sections 3.4 and 4.2)."""

    batch_size: int = 256  # over all replicas
    epochs: int = 90  # 0 only exports and evaluates `init_from`
    # For `batch_size` 256: scaled linearly with the batch when `scale_lr`.
    learning_rate: float = 0.1
    scale_lr: bool = False
    # "step": divided by 10 at `boundaries`; "plateau": divided by 10, three
    # times at most, when the validation error has not fallen for `patience` epochs; "cosine".
    schedule: str = "step"
    boundaries: tuple[float, ...] = (30.0, 60.0, 80.0)  # in epochs
    patience: int = 5
    warmup_epochs: float = 0.0
    # Instead: a tenth of the rate until the training error of 50 steps is below this (paper,
    # section 4.2, 110 layers: 0.8); 0 is off.
    warmup_error: float = 0.0
    momentum: float = 0.9
    # Coupled, as in the paper: the gradient of (w/2)*|k|^2 of every convolution
    # and dense kernel joins the momentum.
    weight_decay: float = 1e-4
    label_smoothing: float = 0.0
    # Decay of the moving average of the weights, per step, such as 0.9999; 0 is off. The average is
    # what is validated and exported. The statistics of batch normalisation belong to the weights;
    # set `bn_examples` to measure those of the average.
    ema: float = 0.0
    # Training examples (in whole batches) that the mean and variance of batch normalisation are
    # computed from once more after training, as the authors do; 0 keeps the moving averages.
    bn_examples: int = 0
    # Weights to start from: a pushed model (its folder or one version), a .keras file, or published
    # weights (.pth, .safetensors, .npz, .h5; models.import_weights). "" starts from scratch.
    init_from: str = ""
    # Start from the newest pushed model of the same network; `init_from` (or random numbers) only
    # while there is none. Training on the same data starts from the same model again.
    warm_start: bool = False
    # Stages that stay as they are in `init_from`: 1 is conv1, 2 is conv1 and conv2_x, and so on.
    frozen_stages: int = 0
    # "float32", "mixed_bfloat16" or "mixed_float16".
    precision: str = "float32"
    # "auto", "mirrored", "one_device" or "tpu".
    strategy: str = "auto"
    # Logical CPU devices to split the CPU into; 0 leaves it whole (for tests).
    cpu_devices: int = 0
    tpu: str = ""  # "local" on a TPU VM, for strategy "tpu"
    seed: int = 0
    shuffle_buffer: int = 10_000  # records, still encoded, or their places
    # Seconds between checkpoints inside an epoch.
    checkpoint_seconds: float = 600.0
    # Folder of the checkpoints; "" is <pipeline root>/checkpoints.
    checkpoint_dir: str = ""


@dataclasses.dataclass(frozen=True)
class Tune:
    """Search over learning rate, weight decay and augmentation strength."""

    enabled: bool = False
    trials: int = 8
    epochs: int = 3
    # The stated proxy: this many training examples, at most.
    examples: int = 20_000
    seed: int = 0


def check(transform: Transform, model: Model, train: Train, tune: Tune) -> None:
    """Raises ValueError for the first setting out of its range, and says what would be right."""
    check_transform(transform)
    _check_model(model)
    _check_train(train)
    _check_tune(tune)
    if model.family == "cifar" and train.frozen_stages > 4:
        raise ValueError(
            f"train.frozen_stages={train.frozen_stages}: must be from 0 to 4, as a cifar network"
            " ends with conv4_x."
        )
    if tune.enabled and not train.epochs:
        raise ValueError(
            "train.epochs=0: nothing is trained, so there is nothing to tune; set"
            " tune.enabled=false."
        )


def check_transform(transform: Transform) -> None:
    """Raises ValueError when no crop can be taken with these settings."""
    t = transform
    _choice("transform.crop", t.crop, CROPS)
    _choice("transform.mean", t.mean, MEANS)
    _at_least("transform.size", t.size, 1)
    _at_least("transform.pad", t.pad, 0)
    _at_least("transform.colour", t.colour, 0)
    for name in ("area_min", "analyze_fraction"):
        value = getattr(t, name)
        _need(0 < value <= 1, f"transform.{name}", value, "must be above 0 and at most 1")
    rule = f"must be at least transform.size={t.size}, or no crop fits"
    _need(min(t.scales) >= t.size, "transform.test_scales", list(t.scales), rule)
    _need(t.test_shorter_side >= t.size, "transform.test_shorter_side", t.test_shorter_side, rule)
    smallest = t.test_shorter_side
    if t.crop == "scale":
        _need(t.scale_min >= t.size, "transform.scale_min", t.scale_min, rule)
        rule = f"must be at least transform.scale_min={t.scale_min}"
        _need(t.scale_max >= t.scale_min, "transform.scale_max", t.scale_max, rule)
        smallest = max(smallest, t.scale_min)
    rule = (
        f"must be 0 (off) or at least {smallest}, the larger of transform.test_shorter_side and, "
        "for the scale crop, transform.scale_min"
    )
    _need(
        t.shorter_side == 0 or t.shorter_side >= smallest,
        "transform.shorter_side",
        t.shorter_side,
        rule,
    )


def _check_model(model: Model) -> None:
    _choice("model.family", model.family, FAMILIES)
    if model.family == "imagenet":
        _choice("model.depth", model.depth, tuple(BLOCKS))
    else:
        fits = model.depth >= 8 and (model.depth - 2) % 6 == 0
        rule = "must be 6n+2 in the cifar family, such as 8, 20, 32, 44, 56 or 110"
        _need(fits, "model.depth", model.depth, rule)
        _between("model.depth", model.depth, 8, MAX_DEPTH)
    _choice("model.shortcut", model.shortcut, SHORTCUTS)
    _choice("model.variant", model.variant, VARIANTS)
    _choice("model.pool", model.pool, POOLS)


def _check_train(train: Train) -> None:
    _choice("train.schedule", train.schedule, SCHEDULES)
    _choice("train.precision", train.precision, PRECISIONS)
    _choice("train.strategy", train.strategy, STRATEGIES)
    for name, most in (("batch_size", 10**6), ("patience", 10**6), ("shuffle_buffer", MAX_NUMBER)):
        _between(f"train.{name}", getattr(train, name), 1, most)
    _need(train.epochs <= 10**6, "train.epochs", train.epochs, f"must be at most {10**6}")
    for name, most in (("cpu_devices", 1024), ("bn_examples", MAX_NUMBER)):
        _between(f"train.{name}", getattr(train, name), 0, most)
    rule = "must be 1 or more, or 0 to evaluate what train.init_from names"
    _need(train.epochs >= (0 if train.init_from else 1), "train.epochs", train.epochs, rule)
    for name in ("weight_decay", "warmup_epochs"):
        _at_least(f"train.{name}", getattr(train, name), 0)
    _seed("train.seed", train.seed)
    for name in ("learning_rate", "checkpoint_seconds"):
        value = getattr(train, name)
        _need(0 < value < math.inf, f"train.{name}", value, "must be a number above 0")
    for name in ("momentum", "label_smoothing", "warmup_error", "ema"):
        value = getattr(train, name)
        _need(0 <= value < 1, f"train.{name}", value, "must be at least 0 and below 1")
    rising = list(train.boundaries) == sorted(set(train.boundaries))
    epochs = all(0 <= boundary < math.inf for boundary in train.boundaries)
    rule = "must be epochs of 0 or more that rise, as [30,60,80] does"
    _need(rising and epochs, "train.boundaries", list(train.boundaries), rule)
    _need(
        0 <= train.frozen_stages <= 5,
        "train.frozen_stages",
        train.frozen_stages,
        "must be from 0 to 5",
    )
    if train.frozen_stages and not train.init_from:
        raise ValueError(
            f"train.frozen_stages={train.frozen_stages}: stages can be frozen only when"
            " train.init_from names the weights that they have."
        )
    if train.warmup_error and train.warmup_epochs:
        raise ValueError(
            f"train.warmup_error={train.warmup_error} and"
            f" train.warmup_epochs={train.warmup_epochs}: choose one warm-up and set the other"
            " to 0."
        )
    if train.epochs and train.warmup_epochs >= train.epochs:
        raise ValueError(
            f"train.warmup_epochs={train.warmup_epochs} does not fit into"
            f" train.epochs={train.epochs}: lower it with --set train.warmup_epochs=0."
        )


def _check_tune(tune: Tune) -> None:
    for name, most in (("trials", 10**6), ("epochs", 10**6), ("examples", MAX_NUMBER)):
        _between(f"tune.{name}", getattr(tune, name), 1, most)
    _seed("tune.seed", tune.seed)


def _choice(name: str, value: object, valid: Collection[object]) -> None:
    _need(value in valid, name, value, f"must be one of {', '.join(map(str, valid))}")


def _at_least(name: str, value: float, low: int) -> None:
    # Neither infinity nor NaN passes.
    _need(low <= value < math.inf, name, value, f"must be {low} or more")


def _between(name: str, value: int, low: int, high: int) -> None:
    _at_least(name, value, low)
    _need(value <= high, name, value, f"must be at most {high}")


def _seed(name: str, value: int) -> None:
    _need(0 <= value <= MAX_SEED, name, value, f"must be from 0 to {MAX_SEED}")


def _need(holds: bool, name: str, value: object, rule: str) -> None:
    if not holds:
        raise ValueError(f"{name}={value}: {rule}.")
