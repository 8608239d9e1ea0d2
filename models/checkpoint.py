"""Checkpoints of a training: whole or not at all, and only for the training that wrote them.

TensorFlow writes a checkpoint's files first and then moves the small file `checkpoint`, which names it,
into place. What was killed in between is never named, and is written over by the next attempt.
"""

from __future__ import annotations

import json
from typing import Any

import keras
import tensorflow as tf


class Checkpoints:
    """The newest checkpoint of a model, its optimizer and a JSON position, in one folder.

    Args:
      directory: folder of its own, local or remote; "" keeps no checkpoints.
      fingerprint: what the training depends on (settings, data). Checkpoints with another one are not
        restored.
      model: built and compiled, its optimizer built.

    Attributes:
      refused: a sentence that says why `restore` left a checkpoint alone, or "".
    """

    def __init__(self, directory: str, fingerprint: str, model: keras.Model) -> None:
        self._directory = directory
        self._fingerprint = fingerprint
        self._meta = _Meta()
        self._manager = None
        self.refused = ""
        if directory:
            state = tf.train.Checkpoint(model=model, optimizer=model.optimizer, meta=self._meta)
            self._manager = tf.train.CheckpointManager(state, directory, max_to_keep=1)

    @property
    def latest(self) -> str | None:
        """Path prefix of the newest whole checkpoint, None when there is none."""
        return self._manager.latest_checkpoint if self._manager else None

    def save(self, position: dict[str, Any]) -> None:
        """Writes a checkpoint; the one before is removed afterwards."""
        if self._manager:
            self._meta.value = {"fingerprint": self._fingerprint, "position": position}
            self._manager.save()

    def restore(self) -> dict[str, Any] | None:
        """Restores the newest checkpoint of this training.

        Returns:
          The position it was saved with, or None when there is nothing to continue.

        Raises:
          RuntimeError: the checkpoint is damaged.
        """
        if not self._manager or not self.latest:
            return None
        try:
            found = _Meta()
            tf.train.Checkpoint(meta=found).read(self.latest).expect_partial()
            if found.value.get("fingerprint") != self._fingerprint:
                self.refused = f"The checkpoint {self.latest} is of other settings or other data: not used."
                return None
            self._manager.checkpoint.restore(self.latest).assert_consumed()
        except (tf.errors.OpError, ValueError, AssertionError) as error:
            raise RuntimeError(
                f"The checkpoint {self.latest} cannot be read ({error}); delete {self._directory} to train "
                "from the beginning."
            ) from error
        return found.value["position"]

    def remove(self) -> None:
        """Removes the folder: the training has ended well."""
        if self._manager and tf.io.gfile.exists(self._directory):
            tf.io.gfile.rmtree(self._directory)


class _Meta(tf.train.experimental.PythonState):
    """A JSON value inside a checkpoint."""

    def __init__(self) -> None:
        super().__init__()
        self.value: dict[str, Any] = {}

    def serialize(self) -> str:
        return json.dumps(self.value)

    def deserialize(self, string_value: str | bytes) -> None:
        self.value = json.loads(string_value)
