"""Settings of the learning part, as plain frozen dataclasses.

No TensorFlow import: the command line, schedulers and `--help` read these.
They travel to Transform, Tuner and Trainer as JSON (`dataclasses.asdict`).
"""

from __future__ import annotations

import dataclasses
from typing import Annotated, Literal, NamedTuple

from pydantic import Field

from models import fields
from models.fields import (
    CONFIG,
    Amount,
    Count,
    Items,
    PartBelowOne,
    Positive,
    PositiveAmount,
    PositivePart,
    Seed,
    Text,
)

# Names of models.pixels.crops.CROPS and models.training.schedules.FACTORS.
Crop = Literal["scale", "inception", "pad", "none"]
Schedule = Literal["step", "plateau", "cosine"]
Shortcut = Literal["A", "B", "C"]
Variant = Literal["v1", "v1.5"]
Pool = Literal["symmetric", "caffe"]


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
# Keras' networks of models.network.architecture; the paper's deepest has 1202 layers.
MAX_DEPTH = 10_000
# Shorter sides of the paper's multi-scale test, for images of 224 pixels (section 3.4).
PAPER_SCALES = (224, 256, 384, 480, 640)


@dataclasses.dataclass(frozen=True)
class Transform:
    """Scale stage and augmentation (paper, sections 3.4 and 4.2)."""

    __pydantic_config__ = CONFIG

    size: Positive = 224
    """Side of the square that the network sees, in pixels."""
    crop: Crop = "scale"
    """Training crop. "scale" draws the shorter side from [scale_min, scale_max] (the paper),
    "inception" draws 8-100 % of the area, "pad" pads the size x size image by `pad` pixels and
    crops (CIFAR), "none" is the test crop.
    """
    scale_min: Count = 256
    """Smallest shorter side that the scale crop draws, in pixels."""
    scale_max: Count = 480
    """Largest one."""
    pad: Count = 4
    """Pixels of padding on every side, for the pad crop."""
    area_min: PositivePart = 0.08
    """Smallest part of the area that "inception" draws."""
    flip: bool = True
    """Mirror half of the training images left to right."""
    colour: Amount = 0.1
    """Standard deviation of the noise along the RGB principal components; 0 is off."""
    mean: Literal["pixel", "channel"] = "pixel"
    """What is subtracted: "pixel" is the mean image, "channel" the mean colour."""
    test_shorter_side: Positive = 256
    """Shorter side of the image before test crops are taken."""
    test_scales: Items[Positive] = ()
    """Shorter sides of the multi-scale test; empty is the paper's 224, 256, 384, 480 and 640, in
    proportion to `size`.
    """
    upright: bool = False
    """Turn JPEGs upright by their EXIF; without it images are used as they are stored, as
    ImageNet's are.
    """
    shorter_side: Count = 0
    """Shrink larger photographs to this shorter side before anything else, in training, evaluation
    and serving alike; Transform does it once and stores them without loss. 0 is off.
    """
    analyze_fraction: PositivePart = 1.0
    """Part of the training split that mean and covariance are computed from, chosen by a hash of
    the file name.
    """

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

    views: Literal["center", "ten_crop", "whole"]
    size: int = 0
    shorter_side: int = 0

    def transform(self, transform: Transform) -> Transform:
        """What its crops are, given those of the test in training.

        Raises:
          ValueError: they are smaller than what the network was trained on, or it has none.
        """
        if not self.size and not self.shorter_side:
            return transform
        if self.views == "whole":
            raise ValueError("whole images have the sides of transform.test_scales, no other size.")
        if 0 < self.size < transform.size:
            raise ValueError(
                f"its crops of {self.size} pixels are smaller than transform.size={transform.size}."
            )
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

    __pydantic_config__ = CONFIG

    family: Literal["imagenet", "cifar"] = "imagenet"
    """The networks of ImageNet (the depths of BLOCKS) or those of CIFAR (6n+2 layers)."""
    depth: Annotated[int, Field(ge=8, le=MAX_DEPTH)] = 50
    """Number of layers."""
    residual: bool = True
    """Without it the network is plain: no shortcuts."""
    shortcut: Shortcut = "B"
    """Where shapes change: A pads with zeros, B projects; C projects everywhere."""
    variant: Variant = "v1"
    """Where a bottleneck of stride 2 has its stride: in the 1x1 convolution (v1, the paper) or in
    the 3x3 one (v1.5).
    """
    pool: Pool = "symmetric"
    """Padding of the first max pooling: "symmetric" (torchvision, keras.applications) or "caffe"
    (bottom and right only, as the authors' model).
    """
    ensemble: Items[Text] = ()
    """Folders of pushed models. When there are some, nothing is trained: the model is their
    ensemble (probabilities averaged), and the other fields are not used.
    """

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

    __pydantic_config__ = CONFIG

    batch_size: Annotated[int, Field(ge=1, le=10**6)] = 256
    """Images a step, over all replicas."""
    epochs: Annotated[int, Field(ge=0, le=10**6)] = 90
    """Passes over the training split; 0 only exports and evaluates `init_from`."""
    learning_rate: PositiveAmount = 0.1
    """The highest rate."""
    scale_lr: bool = False
    """Scale the rate linearly with the batch; it is meant for 256 images then."""
    schedule: Schedule = "step"
    """How the rate falls: "step" divides it by 10 at `boundaries`; "plateau" divides it by 10,
    three times at most, when the validation error has not fallen for `patience` epochs; "cosine"
    lets it fall to 0.
    """
    boundaries: Items[Amount] = (30.0, 60.0, 80.0)
    """Epochs of the step schedule."""
    patience: Annotated[int, Field(ge=1, le=10**6)] = 5
    """Epochs of the plateau schedule."""
    warmup_epochs: Amount = 0.0
    """Epochs in which the rate rises linearly from 0."""
    warmup_error: PartBelowOne = 0.0
    """Instead: a tenth of the rate until the training error of 50 steps is below this (paper,
    section 4.2, 110 layers: 0.8); 0 is off.
    """
    momentum: PartBelowOne = 0.9
    """Of Nesterov-free SGD."""
    weight_decay: Amount = 1e-4
    """Coupled, as in the paper: the gradient of (w/2)*|k|^2 of every convolution and dense kernel
    joins the momentum.
    """
    label_smoothing: PartBelowOne = 0.0
    """Part of the target that is spread over all classes."""
    ema: PartBelowOne = 0.0
    """Decay of the moving average of the weights, per step, such as 0.9999; 0 is off. The average
    is what is validated and exported. The statistics of batch normalisation belong to the weights;
    set `bn_examples` to measure those of the average.
    """
    bn_examples: Count = 0
    """Training examples (in whole batches) that the mean and variance of batch normalisation are
    computed from once more after training, as the authors do; 0 keeps the moving averages.
    """
    init_from: Text = ""
    """Weights to start from: a pushed model (its folder or one version), a .keras file, published
    weights (.pth, .safetensors, .npz, .h5; models.import_weights), or their name, such as
    torchvision:resnet50 (docs/weights.md). "" starts from scratch.
    """
    warm_start: bool = False
    """Start from the newest pushed model of the same network; `init_from` (or random numbers) only
    while there is none. Training on the same data starts from the same model again.
    """
    frozen_stages: Annotated[int, Field(ge=0, le=5)] = 0
    """Stages that stay as they are in `init_from`: 1 is conv1, 2 is conv1 and conv2_x, and so on.
    """
    precision: Literal["float32", "mixed_bfloat16", "mixed_float16"] = "float32"
    """What the network computes in; its weights are float32."""
    strategy: Literal["auto", "mirrored", "one_device", "tpu"] = "auto"
    """Tf.distribute: "mirrored" uses all GPUs of this machine, "auto" as many as there are."""
    cpu_devices: Annotated[int, Field(ge=0, le=1024)] = 0
    """Logical CPU devices to split the CPU into; 0 leaves it whole (for tests)."""
    tpu: Text = ""
    """Name of the TPU for the strategy "tpu"; "local" on a TPU VM."""
    seed: Seed = 0
    """Of the weights, the order and the crops."""
    shuffle_buffer: Positive = 10_000
    """Records, still encoded, or their places."""
    checkpoint_seconds: PositiveAmount = 600.0
    """Seconds between checkpoints inside an epoch."""
    checkpoint_dir: Text = ""
    """Folder of the checkpoints; "" is <pipeline root>/checkpoints."""


@dataclasses.dataclass(frozen=True)
class Tune:
    """Search over learning rate, weight decay and augmentation strength."""

    __pydantic_config__ = CONFIG

    enabled: bool = False
    """Search before training."""
    trials: Annotated[int, Field(ge=1, le=10**6)] = 8
    """Trainings of the search."""
    epochs: Annotated[int, Field(ge=1, le=10**6)] = 3
    """Epochs of each."""
    examples: Positive = 20_000
    """Training examples of each, at most: the stated proxy."""
    seed: Seed = 0
    """Of the search."""


def check(transform: Transform, model: Model, train: Train, tune: Tune) -> None:
    """Raises ValueError for settings out of their range, and says what would be right."""
    check_transform(transform)
    check_model(model)
    fields.check(train, "train.")
    fields.check(tune, "tune.")
    _check_train(train)
    stages = train.frozen_stages
    rule = "must be from 0 to 4, as a cifar network ends with conv4_x"
    _need(model.family == "imagenet" or stages <= 4, "train.frozen_stages", stages, rule)
    rule = "nothing is trained, so there is nothing to tune; set tune.enabled=false"
    _need(train.epochs > 0 or not tune.enabled, "train.epochs", train.epochs, rule)


def check_transform(transform: Transform) -> None:
    """Raises ValueError when no crop can be taken with these settings."""
    t = transform
    fields.check(t, "transform.")
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
    fits = t.shorter_side == 0 or t.shorter_side >= smallest
    _need(fits, "transform.shorter_side", t.shorter_side, rule)


def check_model(model: Model) -> None:
    """Raises ValueError when there is no such network."""
    fields.check(model, "model.")
    depth = model.depth
    if model.family == "imagenet":
        rule = f"must be one of {', '.join(map(str, BLOCKS))} in the imagenet family"
        _need(depth in BLOCKS, "model.depth", depth, rule)
    else:
        rule = "must be 6n+2 in the cifar family, such as 8, 20, 32, 44, 56 or 110"
        _need((depth - 2) % 6 == 0, "model.depth", depth, rule)


def _check_train(train: Train) -> None:
    rule = "must be 1 or more, or 0 to evaluate what train.init_from names"
    _need(train.epochs >= (0 if train.init_from else 1), "train.epochs", train.epochs, rule)
    rising = list(train.boundaries) == sorted(set(train.boundaries))
    rule = "must be epochs that rise, as [30,60,80] does"
    _need(rising, "train.boundaries", list(train.boundaries), rule)
    stages = train.frozen_stages
    rule = "stages can be frozen only when train.init_from names the weights that they have"
    _need(not stages or bool(train.init_from), "train.frozen_stages", stages, rule)
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


def _need(holds: bool, name: str, value: object, rule: str) -> None:
    if not holds:
        raise ValueError(f"{name}={value}: {rule}.")
