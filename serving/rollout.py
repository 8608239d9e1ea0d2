"""Which versions of a model serve, and which one is called stable or canary; changes are pure
functions.

Clients that ask for /labels/stable are never answered by a canary. Requests without a label or
version get the newest version that serves, as in TensorFlow Serving: a canary while there is one.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection

from serving.server.server_config import ModelSettings

STABLE, CANARY = "stable", "canary"


class RolloutError(ValueError):
    """A change that cannot be; the message says why, and what can."""


def stable(model: ModelSettings, versions: Collection[int]) -> int:
    """The version that serves: the one labelled stable, else the newest of those that are asked
    for.

    Args:
      versions: numbers that are there.

    Raises:
      RolloutError: none is there.
    """
    if STABLE in model.labels:
        return model.labels[STABLE]
    found = [v for v in versions if not model.versions or v in model.versions]
    if not found:
        raise RolloutError(f"{model.name} has no version in {model.base_path}: push one first.")
    return max(found)


def pinned(model: ModelSettings, version: int, versions: Collection[int]) -> ModelSettings:
    """Exactly this version, as stable; newer ones do not take over."""
    _must_exist(model, version, versions)
    return dataclasses.replace(
        model, versions=(version,), all_versions=False, labels={STABLE: version}
    )


def following(model: ModelSettings) -> ModelSettings:
    """The newest version again, whatever comes; labels go."""
    return dataclasses.replace(model, versions=(), all_versions=False, num_versions=1, labels={})


def rolled_back(model: ModelSettings, versions: Collection[int]) -> ModelSettings:
    """Without the canary, where there is one; else the version before the one that serves.

    Raises:
      RolloutError: there is no earlier version.
    """
    now = stable(model, versions)
    if CANARY in model.labels:
        return pinned(model, now, versions)
    earlier = [version for version in versions if version < now]
    if not earlier:
        raise RolloutError(f"{model.name} has no version before {now} in {model.base_path}.")
    return pinned(model, max(earlier), versions)


def labelled(
    model: ModelSettings, label: str, version: int, versions: Collection[int]
) -> ModelSettings:
    """With a label on a version, which serves beside the others."""
    _must_exist(model, version, versions)
    labels = {**model.labels, label: version}
    if model.all_versions:
        return dataclasses.replace(model, labels=labels)
    served = {*(model.versions or (stable(model, versions),)), version}
    return dataclasses.replace(model, versions=tuple(sorted(served)), labels=labels)


def on_trial(model: ModelSettings, version: int, seconds: float, now: float) -> ModelSettings:
    """With a version that was just pushed as canary beside the stable one.

    A canary that is there already becomes stable when its time is over, and goes when it is not.
    The first version of all is stable.

    Args:
      version: that was pushed.
      seconds: that a canary is on trial.
      now: Unix time.
    """
    if STABLE not in model.labels:
        return dataclasses.replace(model, versions=(version,), labels={STABLE: version})
    if version in model.labels.values():
        return model
    kept = model.labels[STABLE]
    old = model.labels.get(CANARY)
    if old is not None and remaining(old, seconds, now) <= 0:
        kept = old
    labels = {STABLE: kept, CANARY: version}
    return dataclasses.replace(model, versions=tuple(sorted({kept, version})), labels=labels)


def promoted(model: ModelSettings, seconds: float, now: float) -> ModelSettings:
    """With the canary as stable.

    Raises:
      RolloutError: there is no canary, or its time is not over.
    """
    version = model.labels.get(CANARY)
    if version is None:
        raise RolloutError(f"{model.name} has no canary: nothing is on trial.")
    left = remaining(version, seconds, now)
    if left > 0:
        raise RolloutError(
            f"Canary {version} of {model.name} is on trial for another {left / 3600:.1f} hours;"
            " wait, or say --after-hours=0."
        )
    return dataclasses.replace(model, versions=(version,), labels={STABLE: version})


def remaining(version: int, seconds: float, now: float) -> float:
    """Seconds until a trial is over: our versions are the Unix times of their pushes."""
    return version + seconds - now


def _must_exist(model: ModelSettings, version: int, versions: Collection[int]) -> None:
    if version not in versions:
        listed = ", ".join(map(str, sorted(versions, reverse=True)[:5])) or "none"
        raise RolloutError(
            f"{model.name} has no version {version}; {model.base_path} has {listed}."
        )
