"""The parts of a training step that have TensorFlow's own operations compute what Keras' do."""

import keras
import numpy as np
import tensorflow as tf

from models.network.layers import L2
from models.training import average


def operations(function, *shapes):
    graph = (
        tf.function(function)
        .get_concrete_function(*(tf.TensorSpec(shape) for shape in shapes))
        .graph
    )
    return {op.type for op in graph.get_operations()}


def test_weight_decay_has_keras_gradients_bit_by_bit():
    kernel = tf.random.stateless_normal([3, 3, 64, 64], seed=(1, 2))
    found = []
    for regularizer in (L2(5e-5), keras.regularizers.L2(5e-5)):
        with tf.GradientTape() as tape:
            tape.watch(kernel)
            loss = regularizer(kernel)
        found.append((loss, tape.gradient(loss, kernel)))
    (ours, gradient), (theirs, expected) = found
    np.testing.assert_allclose(ours, theirs, rtol=1e-5)
    np.testing.assert_array_equal(gradient, expected)


def test_weight_decay_makes_no_squares():
    used = operations(L2(5e-5), [3, 3, 64, 64])
    assert "L2Loss" in used and not used & {"Square", "Sum"}


def trained(optimizer):
    """Weights and the optimizer's variables after steps whose rate changes."""
    variable = keras.Variable(np.linspace(-1, 1, 1000, dtype=np.float32))
    optimizer = optimizer(0.1, momentum=0.9, use_ema=True, ema_momentum=0.5)
    optimizer.build([variable])
    for step in range(10):
        optimizer.learning_rate = 0.1 / (1 + step)
        optimizer.apply([tf.random.stateless_normal([1000], seed=(step, 0))], [variable])
    return [keras.ops.convert_to_numpy(value) for value in (variable, *optimizer.variables)]


def test_the_update_is_keras_own():
    for value, expected in zip(trained(average.SGD), trained(keras.optimizers.SGD), strict=True):
        np.testing.assert_allclose(value, expected, rtol=1e-5, atol=1e-6)


def test_the_update_is_one_operation():
    variable = keras.Variable(np.zeros(8, np.float32))
    optimizer = average.SGD(0.1, momentum=0.9)
    optimizer.build([variable])
    assert "ResourceApplyKerasMomentum" in operations(
        lambda g: optimizer.apply([g], [variable]), [8]
    )


def test_nesterov_and_plain_descent_are_left_to_keras():
    for options in ({"momentum": 0.9, "nesterov": True}, {}):
        values = []
        for kind in (average.SGD, keras.optimizers.SGD):
            variable = keras.Variable(np.ones(8, np.float32))
            optimizer = kind(0.1, **options)
            for _ in range(3):
                optimizer.apply([tf.range(8.0)], [variable])
            values.append(keras.ops.convert_to_numpy(variable))
        np.testing.assert_array_equal(*values)
