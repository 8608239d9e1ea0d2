"""TFX's Evaluator after a Baseline, which judges every image that ingestion wrote and whole models
only.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import tensorflow as tf
from tfx.components.evaluator import component, executor
from tfx.dsl.components.base import executor_spec
from tfx.types import artifact_utils, standard_component_specs
from tfx.utils import json_utils, path_utils

from components import code_digest, pushed
from components.evaluator import baseline, evaluation, loading, predictions
from components.example_gen.ingest_summary import read_summary
from models.export import export
from models.pixels import augmentation

# Custom property of the blessing: the files of the model that was judged.
JUDGED = "judged"


class Executor(executor.Executor):
    """Takes a baseline artifact without a model for no baseline, and loads models by `loading`.

    The blessing has the checksums of the model that was judged, so that no other one is pushed.
    """

    def Do(self, input_dict: Any, output_dict: Any, exec_properties: dict[str, Any]) -> None:
        """See the base class.

        Raises:
          ValueError: a model is damaged, or fewer or more images were judged than ingestion wrote.
        """
        key = standard_component_specs.BASELINE_MODEL_KEY
        kept = {
            k: v for k, v in input_dict.items() if k != key or not any(map(baseline.is_empty, v))
        }
        candidate = _model(kept[standard_component_specs.MODEL_KEY])
        judged = pushed.checksums(candidate)
        # Here and not in the graph: how a model is called changes no result, so that caches stay
        # valid.
        module = {standard_component_specs.MODULE_PATH_KEY: loading.__name__}
        folder = artifact_utils.get_single_uri(output_dict[standard_component_specs.EVALUATION_KEY])
        try:
            with predictions.written_to(folder):
                super().Do(kept, output_dict, {**exec_properties, **module})
        except Exception as error:
            # What Beam and TFMA say of a damaged model names neither its place nor a way out.
            _check_readable(candidate, "Trainer", error)
            if key in kept:
                _check_readable(_model(kept[key]), "Baseline", error)
            raise
        splits = json_utils.loads(exec_properties[standard_component_specs.EXAMPLE_SPLITS_KEY])
        examples = input_dict[standard_component_specs.EXAMPLES_KEY]
        written = artifact_utils.get_single_uri(examples)
        check_count("judged", evaluation.example_count(folder), written, splits)
        constants = os.path.join(candidate, export.EXTRA, augmentation.CONSTANTS_FILE)
        if tf.io.gfile.exists(constants):  # an ensemble has none
            trained = sum(augmentation.read_constants(constants)[0].class_counts)
            check_count("trained on", trained, written, ["train"])
        blessing = artifact_utils.get_single_instance(
            output_dict[standard_component_specs.BLESSING_KEY]
        )
        blessing.set_string_custom_property(JUDGED, judged)


def _model(artifacts: Any) -> str:
    return path_utils.serving_model_path(artifact_utils.get_single_uri(artifacts))


def _check_readable(model: str, node: str, error: Exception) -> None:
    if why := pushed.unreadable(model):
        raise ValueError(
            f"{model} is damaged ({why}): --no-cache {node} writes it anew."
        ) from error


def check_count(what: str, images: int, examples: str, splits: Sequence[str]) -> None:
    """Compares the number of images that were seen with that of ingestion.

    Args:
      what: was done with them.
      images: that were seen.
      examples: folder of ImageExampleGen's artifact.
      splits: whose images they are.

    Raises:
      ValueError: they differ.
    """
    written = sum(read_summary(examples)["splits"][split]["examples"] for split in splits)
    if images != written:
        raise ValueError(
            f"{images:,} images were {what} and ingestion wrote {written:,} into {examples}: files"
            f" of its split {', '.join(splits)} are cut off, missing or not its own; --no-cache"
            " ExampleGen writes them anew."
        )


class Evaluator(component.Evaluator):
    """TFX's Evaluator with the executor above; its arguments are those of TFX's."""

    EXECUTOR_SPEC = executor_spec.BeamExecutorSpec(Executor)

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.exec_properties["code"] = code_digest.digest(__name__)  # for the cache
