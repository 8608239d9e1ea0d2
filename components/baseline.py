"""Finds the model that a candidate is compared with."""

from __future__ import annotations

import os
from typing import Any

import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2
from tfx import v1 as tfx
from tfx.components.evaluator import constants
from tfx.utils import path_utils


class LatestComparableModel(tfx.dsl.experimental.ResolverStrategy):
    """The latest blessed model that the Evaluator can compare the candidate with.

    It is not the candidate itself: upstream's LatestBlessedModelStrategy takes it as its own baseline when
    an unchanged pipeline runs again, so that Evaluator and Pusher run a second time and the same model is
    pushed twice. It has the candidate's classes in the same order, and all its test protocols: otherwise
    the old model would be scored on other labels and always lose.

    Inputs: `model` (all models), `model_blessing` (all blessings), `candidate`.
    """

    def resolve_artifacts(self, store: Any, input_dict: dict[str, list[Any]]) -> dict[str, list[Any]]:
        """Keeps one model and its blessing, or none, under `model` and `model_blessing`."""
        [candidate] = input_dict["candidate"]
        models = {model.id: model for model in input_dict["model"] if model.id != candidate.id}
        blessings = sorted(input_dict["model_blessing"], key=lambda blessing: blessing.id, reverse=True)
        for blessing in blessings:
            model = models.get(
                blessing.get_int_custom_property(constants.ARTIFACT_PROPERTY_CURRENT_MODEL_ID_KEY)
            )
            blessed = blessing.get_int_custom_property(constants.ARTIFACT_PROPERTY_BLESSED_KEY)
            if model and blessed == constants.BLESSED_VALUE and comparable(model.uri, candidate.uri):
                return {**input_dict, "model": [model], "model_blessing": [blessing]}
        return {**input_dict, "model": [], "model_blessing": []}


def comparable(old: str, new: str) -> bool:
    """Whether the model in artifact folder `old` has the classes and test protocols of the one in `new`."""
    old, new = path_utils.serving_model_path(old), path_utils.serving_model_path(new)
    if not tf.io.gfile.exists(os.path.join(old, "saved_model.pb")):
        return False
    theirs, ours = _protocols(old), _protocols(new)
    # TFMA knows a single output by no name, and one of several by its own: not both in one evaluation.
    return _labels(old) == _labels(new) and theirs >= ours and (len(theirs) > 1) == (len(ours) > 1)


def _labels(path: str) -> str:
    with tf.io.gfile.GFile(os.path.join(path, "assets", "labels.txt")) as file:
        return file.read()


def _protocols(path: str) -> set[str]:
    """Outputs of the `evaluate` signature."""
    with tf.io.gfile.GFile(os.path.join(path, "saved_model.pb"), "rb") as file:
        model = saved_model_pb2.SavedModel.FromString(file.read())
    return set(model.meta_graphs[0].signature_def["evaluate"].outputs)
