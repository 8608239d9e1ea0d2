"""Whether two SavedModels are one network: a training that is repeated writes other files each
time.
"""

from __future__ import annotations

import hashlib
import os

import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2

from components import code_digest, files
from models.export import export
from models.pixels import augmentation

# Of the variables of a SavedModel, those that are no weights.
_NO_WEIGHTS = ("_CHECKPOINTABLE_OBJECT_GRAPH", "save_counter/.ATTRIBUTES/VARIABLE_VALUE")


def of(model: str) -> str:
    """sha256 of what makes a network answer as it does, hexadecimal.

    These are weights, classes, means, signatures and the code that makes the graph. TensorFlow
    draws names and orders at random, and Keras writes the time: equal networks have other files.

    Args:
      model: folder of a SavedModel.
    """
    found = hashlib.sha256(code_digest.digest("models.export.export").encode())
    for part in (*_weights(model), *_signatures(model)):
        found.update(f"{part}\n".encode())
    for path in (f"assets/{export.LABELS_FILE}", f"{export.EXTRA}/{augmentation.CONSTANTS_FILE}"):
        if files.is_file(os.path.join(model, path)):
            found.update(path.encode() + files.read(os.path.join(model, path)))
    return found.hexdigest()


def _weights(model: str) -> list[str]:
    """Shape and digest of every variable; their names are numbers that change."""
    reader = tf.train.load_checkpoint(os.path.join(model, "variables", "variables"))
    names = [name for name in reader.get_variable_to_shape_map() if name not in _NO_WEIGHTS]
    values = (reader.get_tensor(name) for name in names)
    return sorted(
        f"{value.shape} {hashlib.sha256(value.tobytes()).hexdigest()}" for value in values
    )


def _signatures(model: str) -> list[str]:
    content = files.read(os.path.join(model, "saved_model.pb"))
    graph = saved_model_pb2.SavedModel.FromString(content).meta_graphs[0]
    return [
        f"{name} {sorted(one.inputs)} {sorted(one.outputs)}"
        for name, one in sorted(graph.signature_def.items())
    ]
