"""Keeps bytes that are no protobuf from TensorFlow's parsers of tf.Examples, which crash on them.

The check stands in the graph, before each such op, so that it holds for every signature and
protocol, for library functions, and for bytes that the model unpacks itself.
"""

from __future__ import annotations

from typing import Any

import tensorflow as tf
from tensorflow.core.framework import function_pb2, types_pb2
from tensorflow.core.protobuf import meta_graph_pb2

# Message that an op parses, which is its first input, and a field of that message.
_PARSERS = {
    "ParseExample": ("tensorflow.Example", "features"),
    "ParseExampleV2": ("tensorflow.Example", "features"),
    "ParseSingleExample": ("tensorflow.Example", "features"),
    "ParseSequenceExample": ("tensorflow.SequenceExample", "context"),
    "ParseSequenceExampleV2": ("tensorflow.SequenceExample", "context"),
    "ParseSingleSequenceExample": ("tensorflow.SequenceExample", "context"),
}
# Ops that parse what a tf.data pipeline hands them, where no check can stand before them.
_DATASETS = {"ParseExampleDataset", "ParseExampleDatasetV2"}
# What the check says of bytes that are no message.
_REFUSAL = "Unable to parse binary protobuf"
_PREFIX = "checked_"


def guard(graph: meta_graph_pb2.MetaGraphDef) -> None:
    """Puts a check before every op of `graph` and its functions that parses tf.Examples.

    Raises:
      ValueError: one of them parses within a dataset.
    """
    library = graph.graph_def.library.function
    bodies = [graph.graph_def.node, *(function.node_def for function in library)]
    used = set()
    for nodes in bodies:
        # Functions name the outputs of their nodes.
        used.update(_guard_nodes(nodes, "" if nodes is bodies[0] else ":output:0"))
    library.extend(_check(*message) for message in sorted(used))


def _guard_nodes(nodes: Any, suffix: str) -> list[tuple[str, str]]:
    """Changes `nodes`, a repeated field; returns the messages that they parse."""
    used = []
    for node in list(nodes):
        if node.op in _DATASETS:
            raise ValueError(
                f"{node.name} ({node.op}) parses tf.Examples in a dataset, where damaged ones end"
                " the process: use tf.io.parse_example"
            )
        message = _PARSERS.get(node.op)
        if message:
            check = nodes.add(
                name=f"{node.name}/{_PREFIX}input", op="PartitionedCall", input=[node.input[0]]
            )
            check.attr["Tin"].list.type.append(types_pb2.DT_STRING)
            check.attr["Tout"].list.type.append(types_pb2.DT_STRING)
            check.attr["f"].func.name = _name(message[0])
            node.input[0] = check.name + suffix
            used.append(message)
    return used


def _name(message: str) -> str:
    return _PREFIX + message.replace(".", "_")


def _check(message: str, field: str) -> function_pb2.FunctionDef:
    """A function of strings: the same, or DATA_LOSS where one is no serialized `message`."""

    @tf.function(input_signature=[tf.TensorSpec(None, tf.string)])
    def checked(serialized: tf.Tensor) -> tf.Tensor:
        # The op wants a message at least; an empty one has no field.
        texts = tf.concat([tf.reshape(serialized, [-1]), [b""]], 0)
        sizes, _ = tf.io.decode_proto(texts, message, [field], [tf.string], sanitize=True)
        # No size is less than 0. They are looked at, for what nobody looks at is not run.
        return tf.where(tf.reduce_min(sizes) < 0, b"", serialized)

    function = function_pb2.FunctionDef()
    function.CopyFrom(checked.get_concrete_function().function_def)
    function.signature.name = _name(message)
    return function


def refusal(error: tf.errors.OpError) -> str | None:
    """What to answer when the check has refused the inputs; None for other errors."""
    if not isinstance(error, tf.errors.DataLossError) or _REFUSAL not in error.message:
        return None
    return "Could not parse example input, value: bytes that are no serialized tf.Example"
