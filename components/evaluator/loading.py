"""The hooks of TFX's Evaluator: `custom_eval_shared_model`, the model as TFMA is to load it, and
`custom_extractors`, which writes the predictions.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import tensorflow as tf
import tensorflow_model_analysis as tfma
from tensorflow_model_analysis.api import types

from components.evaluator import evaluation
from components.evaluator.predictions import custom_extractors

__all__ = ["custom_eval_shared_model", "custom_extractors"]


def custom_eval_shared_model(
    eval_saved_model_path: str, model_name: str, eval_config: tfma.EvalConfig, **settings: Any
) -> types.EvalSharedModel:
    """TFMA's default, but for how its signatures are called; TFX's executor calls this.

    Args:
      eval_saved_model_path: folder of a SavedModel whose signature `evaluate` takes serialized
        tf.Examples, `examples`, and gives one [n, classes] a protocol.
      model_name: of the model in `eval_config`.
      eval_config: of components.evaluator.evaluation.
      settings: further arguments of tfma.default_eval_shared_model.
    """
    protocols = evaluation.measured_protocols(eval_config)
    load = functools.partial(_Loaded, eval_saved_model_path, protocols)
    return tfma.default_eval_shared_model(
        eval_saved_model_path,
        model_name=model_name,
        eval_config=eval_config,
        custom_model_loader=types.ModelLoader(load),
        **settings,
    )


class _Loaded:
    """A SavedModel and its signature `evaluate`, which is given its one input by name, and gives
    the outputs that are measured, no others.

    TFMA gives it by position. TensorFlow then tries the signature's own form first, and for the
    message of an error that nobody sees it writes out all bytes of all images: most of TFMA's time
    for each image.

    The model that a candidate is compared with may have been exported with other protocols. TFMA
    knows a single output by no name and one of several by its own, so both models must have the
    same ones: what is measured and not there has no scores, [n, 0].
    """

    # Without one, TFMA hands over the serialized examples and does not look for features.
    structured_input_signature = None

    def __init__(self, path: str, protocols: Sequence[str]) -> None:
        # Holds the variables.
        self._model = tf.saved_model.load(path, tags=[tf.saved_model.SERVING])
        self._function = self._model.signatures[evaluation.SIGNATURE]
        self._protocols = protocols
        self.signatures = {evaluation.SIGNATURE: self}

    def __call__(self, examples: tf.Tensor) -> dict[str, tf.Tensor]:
        found = self._function(examples=examples)
        none = tf.zeros([tf.size(examples), 0])
        return {name: found.get(name, none) for name in self._protocols}
