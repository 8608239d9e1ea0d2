"""Checkpoints of a training: whole or not at all, and only for the training that wrote them.

TensorFlow writes a checkpoint's files first and then moves the small file `checkpoint`, which names
it, into place. What was killed in between is never named, and is written over by the next attempt.
"""

from __future__ import annotations

import json
import os
from typing import Any

import keras
import tensorflow as tf

_NAME = "checkpoint"


class Checkpoints:
    """The newest checkpoint of a model, its optimizer and a JSON position.

    Args:
      directory: folder, local or remote, that trainings share: each has a sub-folder, named after
        its fingerprint. "" keeps no checkpoints.
      fingerprint: hexadecimal digest of what the training depends on (settings, data).
      model: built and compiled, its optimizer built.

    Attributes:
      refused: a sentence about the checkpoint of another training that `restore` left alone, or "".

    Raises:
      RuntimeError: the file that names the newest checkpoint is damaged.
    """

    def __init__(self, directory: str, fingerprint: str, model: keras.Model) -> None:
        self._parent = directory
        self._directory = os.path.join(directory, fingerprint[:12])
        self._meta = _Meta()
        self._manager = None
        self.refused = ""
        if directory:
            state = tf.train.Checkpoint(model=model, optimizer=model.optimizer, meta=self._meta)
            try:
                self._manager = tf.train.CheckpointManager(state, self._directory, max_to_keep=1)
            except ValueError as error:
                raise self._damaged(error) from error

    @property
    def latest(self) -> str | None:
        """Path prefix of the newest whole checkpoint, None when there is none."""
        return self._manager.latest_checkpoint if self._manager else None

    def save(self, position: dict[str, Any]) -> None:
        """Writes a checkpoint; the one before is removed afterwards."""
        if self._manager:
            self._meta.value = position
            self._manager.save()

    def restore(self) -> dict[str, Any] | None:
        """Restores the newest checkpoint of this training.

        Returns:
          The position it was saved with, or None when there is nothing to continue.

        Raises:
          RuntimeError: the checkpoint is damaged, or none could be written.
        """
        if not self._manager:
            return None
        try:
            tf.io.gfile.makedirs(self._directory)
        except tf.errors.OpError as error:
            raise RuntimeError(
                f"Checkpoints cannot be written to {self._parent} ({error.message}); set "
                "train.checkpoint_dir to a folder that can be written."
            ) from error
        if not self.latest:
            if tf.io.gfile.exists(_name(self._directory)):
                # TensorFlow only logs that it cannot read it.
                raise self._damaged(f"its file {_NAME} names none")
            if others := self._others():
                self.refused = (
                    f"a checkpoint of other settings or data is kept in {others[0]}; not used"
                )
            return None
        try:
            self._manager.checkpoint.restore(self.latest).assert_consumed()
        # A shortened file ends in an IndexError.
        except (tf.errors.OpError, ValueError, AssertionError, IndexError) as error:
            raise self._damaged(error) from error
        return self._meta.value

    def remove(self) -> None:
        """Removes this training's checkpoint; the folder that trainings share stays."""
        if not self._manager or not tf.io.gfile.exists(self._directory):
            return
        # First of all: what a kill leaves of the rest is no checkpoint then.
        if tf.io.gfile.exists(_name(self._directory)):
            tf.io.gfile.remove(_name(self._directory))
        tf.io.gfile.rmtree(self._directory)

    def _damaged(self, reason: object) -> RuntimeError:
        return RuntimeError(
            f"The checkpoint in {self._directory} cannot be read ({reason}); delete this folder to"
            " train from the beginning."
        )

    def _others(self) -> list[str]:
        """Folders of checkpoints of other trainings."""
        if not tf.io.gfile.exists(self._parent):
            return []
        # Remote folders are listed with a slash at their end.
        names = sorted(name.rstrip("/") for name in tf.io.gfile.listdir(self._parent))
        folders = [os.path.join(self._parent, name) for name in names]
        return [folder for folder in folders if tf.io.gfile.exists(_name(folder))]


def _name(folder: str) -> str:
    """The file of a folder that names its newest checkpoint."""
    return os.path.join(folder, _NAME)


class _Meta(tf.train.experimental.PythonState):
    """A JSON value inside a checkpoint."""

    def __init__(self) -> None:
        super().__init__()
        self.value: dict[str, Any] = {}

    def serialize(self) -> str:
        return json.dumps(self.value)

    def deserialize(self, string_value: str | bytes) -> None:
        self.value = json.loads(string_value)
