"""The learning rate as a pure function of the settings, the step and the validation errors so far.

Nothing is remembered between calls, so a resumed run has the rates of an uninterrupted one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from models.settings import Train

# `Train.learning_rate` is meant for this batch (paper, section 3.4).
REFERENCE_BATCH = 256
# The part of the peak that `warmup_error` begins with: 0.01 of 0.1 (paper, section 4.2).
_WARMUP = 0.1
# From 0.1 the paper's rate ends at 1e-4; further drops only stop the learning.
_DROPS = 3
# Falls of the validation error below this are noise of float arithmetic, not progress.
_TOLERANCE = 1e-9


def peak(train: Train) -> float:
    """The highest rate: `learning_rate`, scaled linearly with the batch when `scale_lr`."""
    factor = train.batch_size / REFERENCE_BATCH if train.scale_lr else 1.0
    return train.learning_rate * factor


def learning_rate(
    train: Train, step: int, steps_per_epoch: int, errors: Sequence[float] = (), warm: bool = False
) -> float:
    """The rate of one training step.

    Args:
      train: schedule, peak and warm-up, as `models.settings.check` lets them pass.
      step: optimisation steps done before this one, over all epochs.
      steps_per_epoch: 1 or more.
      errors: validation error after each epoch done, oldest first; only "plateau" reads it.
      warm: whether the training error has been below `warmup_error`; read only where that is set.

    Returns:
      The rate. Until the network is warm it is a tenth of the peak. During a warm-up of
      `warmup_epochs` it rises linearly to the peak. The schedules count epochs from the start of
      training, warm-up included. "plateau" divides the peak by 1,000 at most.
    """
    if train.warmup_error and not warm:
        return peak(train) * _WARMUP
    epoch = step / steps_per_epoch
    if epoch < train.warmup_epochs:
        # The first step already moves, the last one of the warm-up reaches the peak.
        return peak(train) * min(1.0, (step + 1) / (train.warmup_epochs * steps_per_epoch))
    return peak(train) * FACTORS[train.schedule](train, epoch, errors)


def plateaus(errors: Sequence[float], patience: int) -> int:
    """How often the error has not fallen below its best for `patience` epochs in a row."""
    best, waited, count = math.inf, 0, 0
    for error in errors:
        if error < best - _TOLERANCE:
            best, waited = error, 0
            continue
        waited += 1
        if waited == patience:
            waited, count = 0, count + 1
    return count


def _step(train: Train, epoch: float, errors: Sequence[float]) -> float:
    del errors
    # Boundaries such as 0.1 * steps are not exact in binary.
    return 0.1 ** sum(epoch >= boundary - _TOLERANCE for boundary in train.boundaries)


def _plateau(train: Train, epoch: float, errors: Sequence[float]) -> float:
    del epoch
    return 0.1 ** min(plateaus(errors, train.patience), _DROPS)


def _cosine(train: Train, epoch: float, errors: Sequence[float]) -> float:
    """From 1 after the warm-up to 0 at the end of training (arXiv:1608.03983, one cycle)."""
    del errors
    done = (epoch - train.warmup_epochs) / (train.epochs - train.warmup_epochs)
    return 0.5 * (1 + math.cos(math.pi * min(done, 1.0)))


FACTORS: dict[str, Callable[[Train, float, Sequence[float]], float]] = {
    "step": _step,
    "plateau": _plateau,
    "cosine": _cosine,
}
