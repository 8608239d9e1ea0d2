"""One version of a model in memory, run with the semantics of TensorFlow Serving.

`tf.saved_model.load` would run exports that TensorFlow Serving cannot, so the
graph is loaded into a TF1-style Session, by the same loader and with the same
callable interface as the C++ server.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import re
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import tensorflow as tf
import tensorflow.compat.v1 as tf1
from tensorflow.core.protobuf import config_pb2, meta_graph_pb2

from serving.compat import tensorflow_session
from serving.server import version_folders
from serving.server.rpc_errors import Code, ServingError, invalid
from serving.server.running import examples
from serving.server.running.limits import Limits

DEFAULT_SIGNATURE = "serving_default"

# The last part of the name of the node that an error comes from.
_NODE = re.compile(r"\{\{node (?:[^}]*/)?([^}/]*)\}\}")

Tensors = dict[str, np.ndarray]


class Loaded(Protocol):
    """A version in memory: a Servable, or what stands before one."""

    path: Path
    version: int
    signatures: dict[str, meta_graph_pb2.SignatureDef]

    def run(
        self, signature_name: str, inputs: Mapping[str, np.ndarray], outputs: Sequence[str] = ()
    ) -> Tensors:
        """Runs one signature; see Servable.run."""

    def close(self) -> None:
        """Frees the memory of the model. No run may be under way."""


class Servable:
    """A loaded SavedModel. `run` may be called from many threads at once."""

    def __init__(
        self,
        path: Path,
        version: int,
        timeout_ms: int = 0,
        limits: Limits | None = None,
        parallel: int = 0,
        tags: Sequence[str] = (tf.saved_model.SERVING,),
        config: config_pb2.ConfigProto | None = None,
    ) -> None:
        """Loads the SavedModel at `path`.

        Args:
          timeout_ms: longest time of one run in milliseconds; 0 is no limit.
          limits: of string inputs; None is no limit.
          parallel: runs at the same time, others wait; 0 is no limit.
          tags: of the graph to load, where there are several.
          config: of the session.

        Raises:
          ServingError: the export cannot be loaded; the code and text are TensorFlow's.
        """
        self.path = path
        self.version = version
        self._timeout_ms = timeout_ms
        self._limits = limits
        self._runs = threading.Semaphore(parallel) if parallel else contextlib.nullcontext()
        self._lock = threading.Lock()
        self._callables: dict[tuple[str, tuple[str, ...]], Callable[..., list]] = {}
        self._session = tf1.Session(graph=tf.Graph(), config=config)
        try:
            graph = tensorflow_session.load(self._session, tags, str(path), self._prepare)
        except tf.errors.OpError as error:
            self.close()
            raise from_tensorflow(error) from error
        except (RuntimeError, ValueError, OSError, KeyError) as error:
            self.close()
            raise ServingError(Code.FAILED_PRECONDITION, str(error)) from error
        self.signatures: dict[str, meta_graph_pb2.SignatureDef] = dict(graph.signature_def)

    def _prepare(self, graph: meta_graph_pb2.MetaGraphDef) -> None:
        examples.guard(graph)
        if not version_folders.has_variables(self.path):
            graph.ClearField("saver_def")

    def run(
        self, signature_name: str, inputs: Mapping[str, np.ndarray], outputs: Sequence[str] = ()
    ) -> Tensors:
        """Runs one signature.

        Args:
          inputs: arrays by input name; string tensors are object arrays of bytes.
            Shapes are left to the graph's own ops, as in TensorFlow Serving.
          outputs: names of the wanted outputs; empty means all.

        Raises:
          ServingError: unknown signature, input or output; wrong dtype; a string
            over the limits; an op failed; the run took too long (DEADLINE_EXCEEDED).
        """
        signature = self.signatures.get(signature_name)
        if signature is None:
            raise ServingError(
                Code.FAILED_PRECONDITION, f'Serving signature key "{signature_name}" not found.'
            )
        _check_names(signature, inputs, outputs)
        if self._limits:
            self._limits.check(inputs)
        names = tuple(outputs) or tuple(sorted(signature.outputs))
        call = self._callable(signature_name, signature, names)
        try:
            with self._runs:
                results = call(*(inputs[name] for name in sorted(signature.inputs)))
        except tf.errors.OpError as error:
            reason = examples.refusal(error) or _misfit(error, signature, inputs)
            raise (invalid(reason) if reason else from_tensorflow(error)) from error
        except UnicodeDecodeError as error:
            # An op has quoted bytes of the request in its text; the code is lost with it.
            raise invalid(error.object.decode(errors="replace")) from error
        return {name: _array(result) for name, result in zip(names, results, strict=True)}

    def close(self) -> None:
        """Frees the memory of the model. No run may be under way."""
        self._callables.clear()
        self._session.close()
        del self._session
        # The graph lives in reference cycles, and malloc keeps what they free:
        # without these two every reload costs the size of the model.
        gc.collect()
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim:
            trim(0)

    def _callable(
        self, name: str, signature: meta_graph_pb2.SignatureDef, outputs: tuple[str, ...]
    ) -> Callable[..., list]:
        with self._lock:
            key = (name, outputs)
            if key not in self._callables:
                options = config_pb2.CallableOptions(
                    feed=[signature.inputs[i].name for i in sorted(signature.inputs)],
                    fetch=[signature.outputs[o].name for o in outputs],
                )
                options.run_options.timeout_in_ms = self._timeout_ms
                try:
                    call = tensorflow_session.make_callable(self._session, options)
                except tf.errors.OpError as error:
                    raise from_tensorflow(error) from error
                self._callables[key] = call
            return self._callables[key]


def _array(result: np.ndarray | bytes) -> np.ndarray:
    # A string scalar comes as bytes; NumPy's own string type would cut it at a trailing zero.
    return np.array(result, object) if isinstance(result, bytes) else np.asarray(result)


def from_tensorflow(error: tf.errors.OpError) -> ServingError:
    """The same error with the same code and text."""
    return ServingError(Code(error.error_code), error.message)


def _misfit(
    error: tf.errors.OpError,
    signature: meta_graph_pb2.SignatureDef,
    inputs: Mapping[str, np.ndarray],
) -> str | None:
    """Which input has another shape than its signature; None for other errors."""
    if not isinstance(error, tf.errors.InvalidArgumentError):
        return None
    for name, info in signature.inputs.items():
        declared = tf.TensorShape(info.tensor_shape)
        if not declared.is_compatible_with(inputs[name].shape):
            nodes = _NODE.findall(error.message)
            op = f" ({nodes[-1]})" if nodes else ""
            return (
                f"Input {name} has the shape {_shape(inputs[name].shape)}, where the signature"
                f" takes {_shape(declared)}{op}"
            )
    return None


def _shape(sides: Iterable[int | None]) -> str:
    return f"[{','.join('?' if side is None else str(side) for side in sides)}]"


def _check_names(
    signature: meta_graph_pb2.SignatureDef, inputs: Mapping[str, np.ndarray], outputs: Sequence[str]
) -> None:
    given, expected = sorted(inputs), sorted(signature.inputs)
    if given != expected:
        extra = ",".join(sorted(set(given) - set(expected)))
        missing = ",".join(sorted(set(expected) - set(given)))
        raise invalid(
            f"input size does not match signature: {len(given)}!={len(expected)} "
            f"len({{{','.join(given)}}}) != len({{{','.join(expected)}}}). "
            f"Sent extra: {{{extra}}}. Missing but required: {{{missing}}}."
        )
    for name in outputs:
        if name not in signature.outputs:
            raise invalid(
                f"output tensor alias not found in signature: {name} Outputs expected to be in the"
                f" set {{{','.join(sorted(signature.outputs))}}}."
            )
