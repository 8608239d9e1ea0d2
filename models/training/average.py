"""The moving average of the weights (train.ema): average <- d * average + (1 - d) * weights after
each
step.

Keras' optimizer gathers it, from the weights after the first step on.
`keras.callbacks.SwapEMAWeights` is not
used: it exchanges weights and average by adding and subtracting, which rounds both, and loses the
weights when `fit` ends.
"""

from __future__ import annotations

import keras
import numpy as np
import tensorflow as tf


class SGD(keras.optimizers.SGD):
    """Keras' own, whose weights stay what they are when `fit` ends: the training may go on in
    another one.
    """

    def update_step(self, gradient, variable, learning_rate):
        """Keras' update with TensorFlow's own operation, which reads the memory fewer times."""
        if not self.momentum or self.nesterov or isinstance(gradient, tf.IndexedSlices):
            super().update_step(gradient, variable, learning_rate)
            return
        velocity = self.momentums[self._get_variable_index(variable)].value
        # A replica's part of a variable is TensorFlow's already.
        weights = variable.value if isinstance(variable, keras.Variable) else variable
        tf.raw_ops.ResourceApplyKerasMomentum(
            var=weights.handle,
            accum=velocity.handle,
            lr=tf.cast(learning_rate, weights.dtype),
            grad=tf.cast(gradient, weights.dtype),
            momentum=tf.cast(self.momentum, weights.dtype),
        )

    def finalize_variable_values(self, var_list):
        """Nothing to do; Keras puts the average into the weights here."""


class Average(keras.callbacks.Callback):
    """Validates the average; the training goes on with the weights."""

    def __init__(self) -> None:
        super().__init__()
        self._weights: list[np.ndarray] = []

    def on_test_begin(self, logs: dict | None = None) -> None:
        self._weights = _values(self.model.trainable_variables)
        take(self.model)

    def on_test_end(self, logs: dict | None = None) -> None:
        _assign(self.model, self._weights)
        self._weights = []


def take(model: keras.Model) -> None:
    """Gives the trainable weights the values of their averages, which stay.

    Args:
      model: trained for a step or more, its optimizer an `SGD` with `use_ema`.
    """
    optimizer = model.optimizer
    # Under mixed_float16 Keras wraps the optimizer. There is no public name for the averages.
    inner = getattr(optimizer, "inner_optimizer", optimizer)
    # float16 may have left out every step; the averages are zeros then.
    if not keras.ops.convert_to_numpy(inner.iterations):
        return
    _assign(model, _values(inner._model_variables_moving_average))


def _values(variables: list[keras.Variable]) -> list[np.ndarray]:
    return [keras.ops.convert_to_numpy(variable) for variable in variables]


def _assign(model: keras.Model, values: list[np.ndarray]) -> None:
    for variable, value in zip(model.trainable_variables, values, strict=True):
        variable.assign(value)
