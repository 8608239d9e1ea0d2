"""Finds the model that a candidate is compared with."""

from __future__ import annotations

from typing import Any

from tfx import v1 as tfx
from tfx.components.evaluator import constants


class LatestOtherBlessedModel(tfx.dsl.experimental.ResolverStrategy):
    """The latest blessed model that is not the candidate itself.

    Upstream's LatestBlessedModelStrategy takes the candidate as its own
    baseline when an unchanged pipeline runs again: the inputs of Evaluator and
    Pusher differ, both run a second time, and the same model is pushed twice.

    Inputs: `model` (all models), `model_blessing` (all blessings), `candidate`.
    """

    def resolve_artifacts(self, store: Any, input_dict: dict[str, list[Any]]) -> dict[str, list[Any]]:
        """Keeps one model and its blessing, or none, under `model` and `model_blessing`."""
        candidates = {artifact.id for artifact in input_dict["candidate"]}
        blessings = {
            b.get_int_custom_property(constants.ARTIFACT_PROPERTY_CURRENT_MODEL_ID_KEY): b
            for b in input_dict["model_blessing"]
            if b.get_int_custom_property(constants.ARTIFACT_PROPERTY_BLESSED_KEY) == constants.BLESSED_VALUE
        }
        blessed = [m for m in input_dict["model"] if m.id in blessings and m.id not in candidates]
        latest = max(blessed, key=lambda m: m.id, default=None)
        return {
            "model": [latest] if latest else [],
            "model_blessing": [blessings[latest.id]] if latest else [],
            "candidate": input_dict["candidate"],
        }
