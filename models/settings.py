"""Settings of the learning part, as plain frozen dataclasses.

No TensorFlow import: the command line, schedulers and `--help` read these.
They travel to Transform, Tuner and Trainer as JSON (`dataclasses.asdict`).
"""

from __future__ import annotations

import dataclasses


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
    # Rescale photographs once to this shorter side and store them; 0 is off.
    shorter_side: int = 0
    # JPEG quality of the images stored by the scale stage.
    quality: int = 95
    # Part of the training split that mean and covariance are computed from,
    # chosen by a hash of the file name.
    analyze_fraction: float = 1.0


@dataclasses.dataclass(frozen=True)
class Model:
    """Network (paper, Table 1 and section 4.2)."""

    # "imagenet" (18, 34, 50, 101, 152) or "cifar" (6n+2).
    family: str = "imagenet"
    depth: int = 50
    residual: bool = True
    shortcut: str = "B"
    variant: str = "v1"


@dataclasses.dataclass(frozen=True)
class Train:
    """Optimisation (paper, sections 3.4 and 4.2)."""

    batch_size: int = 256  # over all replicas
    epochs: int = 90
    # For `batch_size` 256: scaled linearly with the batch when `scale_lr`.
    learning_rate: float = 0.1
    scale_lr: bool = False
    # "step": divided by 10 at `boundaries`; "plateau": divided by 10 when the
    # validation error has not fallen for `patience` epochs; "cosine".
    schedule: str = "step"
    boundaries: tuple[float, ...] = (30.0, 60.0, 80.0)  # in epochs
    patience: int = 5
    warmup_epochs: float = 0.0
    momentum: float = 0.9
    # Coupled, as in the paper: the gradient of (w/2)*|k|^2 of every convolution
    # and dense kernel joins the momentum.
    weight_decay: float = 1e-4
    label_smoothing: float = 0.0
    # "float32", "mixed_bfloat16" or "mixed_float16".
    precision: str = "float32"
    # "auto", "mirrored", "one_device" or "tpu".
    strategy: str = "auto"
    # Logical CPU devices to split the CPU into; 0 leaves it whole (for tests).
    cpu_devices: int = 0
    tpu: str = ""  # TPU name or address, for strategy "tpu"
    seed: int = 0
    shuffle_buffer: int = 10_000  # records, still encoded
    # Seconds between checkpoints inside an epoch.
    checkpoint_seconds: float = 600.0


@dataclasses.dataclass(frozen=True)
class Tune:
    """Search over learning rate, weight decay and augmentation strength."""

    enabled: bool = False
    trials: int = 8
    epochs: int = 3
    # The stated proxy: this many training examples, at most.
    examples: int = 20_000
    seed: int = 0
