"""The moving average of the weights (train.ema).

Keras' optimizer gathers it, from the weights after the first step on.
`keras.callbacks.SwapEMAWeights` is not used: it exchanges weights and average by adding and
subtracting, which rounds both, and loses the weights when `fit` ends.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf


class SGD(keras.optimizers.SGD):
    """Keras' own, whose weights stay what they are when `fit` ends: another one may go on."""

    def build(self, variables):
        """Keras' variables, and which momentum belongs to a weight, or to its part on a device."""
        super().build(variables)
        parts = tf.distribute.get_strategy().experimental_local_results
        # Only its method: Keras would store a dictionary among the optimizer's variables.
        self._momentum: Callable[[int], Any] = {
            id(part): momentum.value
            for variable, momentum in zip(variables, self.momentums, strict=False)
            for part in parts(variable.value)
        }.get

    def update_step(self, gradient, variable, learning_rate):
        """Keras' update with TensorFlow's own operation, which reads the memory fewer times."""
        velocity = self._momentum(id(variable))
        # A TPU's part of a weight is not known before.
        if velocity is None or self.nesterov or isinstance(gradient, tf.IndexedSlices):
            super().update_step(gradient, variable, learning_rate)
            return
        tf.raw_ops.ResourceApplyKerasMomentum(
            var=variable.handle,
            accum=velocity.handle,
            lr=tf.cast(learning_rate, variable.dtype),
            grad=tf.cast(gradient, variable.dtype),
            momentum=tf.cast(self.momentum, variable.dtype),
        )

    def finalize_variable_values(self, var_list):
        """Nothing to do; Keras puts the average into the weights here."""

    def put_average(self, weights: Sequence[keras.Variable]) -> None:
        """Gives the weights the values of their averages, as Keras does at the end."""
        super().finalize_variable_values(weights)


class Average(keras.callbacks.Callback):
    """Validates the average; the training goes on with the weights."""

    def __init__(self) -> None:
        super().__init__()
        self._weights: list[np.ndarray] = []

    def on_test_begin(self, logs: dict | None = None) -> None:
        variables = self.model.trainable_variables
        self._weights = [keras.ops.convert_to_numpy(variable) for variable in variables]
        take(self.model)

    def on_test_end(self, logs: dict | None = None) -> None:
        for variable, value in zip(self.model.trainable_variables, self._weights, strict=True):
            variable.assign(value)
        self._weights = []


def take(model: keras.Model) -> None:
    """Gives the weights the values of their averages; the optimizer is an `SGD` with `use_ema`."""
    # Under mixed_float16 Keras wraps the optimizer.
    inner = getattr(model.optimizer, "inner_optimizer", model.optimizer)
    # float16 may have left out every step; the averages are zeros then.
    if keras.ops.convert_to_numpy(inner.iterations):
        inner.put_average(model.trainable_variables)
