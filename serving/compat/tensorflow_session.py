"""TensorFlow's session as the C++ server uses it: a graph that is looked at before it is imported,
and a callable that takes whatever the ops take.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import tensorflow.compat.v1 as tf1
from tensorflow.core.protobuf import config_pb2, meta_graph_pb2
from tensorflow.python.saved_model import loader_impl


def load(
    session: tf1.Session,
    tags: Sequence[str],
    path: str,
    prepare: Callable[[meta_graph_pb2.MetaGraphDef], None],
) -> meta_graph_pb2.MetaGraphDef:
    """`tf1.saved_model.loader.load`, with a step before the import.

    Args:
      prepare: changes the graph in place.

    Raises:
      RuntimeError, ValueError, OSError, KeyError or OpError: it cannot be loaded.
    """
    loader = loader_impl.SavedModelLoader(path)
    prepare(loader.get_meta_graph_def_from_tags(tags))
    with session.graph.as_default():
        return loader.load(session, tags)


def make_callable(
    session: tf1.Session, options: config_pb2.CallableOptions
) -> Callable[..., list[Any]]:
    """Takes arrays in the order of `options.feed`, gives those of `options.fetch`.

    `Session.run` and `Session.make_callable` check declared shapes, or drop the run options.

    Raises:
      OpError: a name is not in the graph.
    """
    return session._make_callable_from_options(options)
