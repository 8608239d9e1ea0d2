"""Requests that come together share one run of the model.

The first request of a batch leads it: its thread waits for others, runs the model for all and hands
out the rows. A batch that fails is run again request by request, so that one bad image fails alone;
in TensorFlow Serving it takes its neighbours along.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

import numpy as np
from tensorflow.core.protobuf import meta_graph_pb2

from serving.server.rpc_errors import Code, ServingError, invalid
from serving.server.running.servable import Loaded, Tensors
from serving.server.server_config import Batching

# What can be in one batch: signature, outputs, and type and shape of a row of every input.
_Kind: TypeAlias = tuple


class _Task:
    """A request in a queue."""

    def __init__(self, inputs: Mapping[str, np.ndarray], rows: int) -> None:
        self.inputs, self.rows = inputs, rows
        # Set when there is an answer, or when this task is to lead the next batch.
        self.turn = threading.Event()
        self.answer: Tensors | ServingError | None = None


class BatchingServable:
    """A servable whose runs are shared; as Servable otherwise."""

    def __init__(self, servable: Loaded, settings: Batching) -> None:
        self._servable, self._settings = servable, settings
        self.path: Path = servable.path
        self.version: int = servable.version
        self.signatures: dict[str, meta_graph_pb2.SignatureDef] = servable.signatures
        self._queues: dict[_Kind, list[_Task]] = {}
        self._changed = threading.Condition()
        self._runs = threading.Semaphore(settings.num_batch_threads)

    def run(
        self, signature_name: str, inputs: Mapping[str, np.ndarray], outputs: Sequence[str] = ()
    ) -> Tensors:
        """As Servable.run.

        Raises:
          ServingError: more rows than a batch has (INVALID_ARGUMENT), a full queue (UNAVAILABLE),
            and what Servable.run raises.
        """
        rows = {len(array) if array.ndim else 0 for array in inputs.values()}
        if len(rows) != 1 or 0 in rows:
            return self._servable.run(signature_name, inputs, outputs)
        task = _Task(inputs, rows.pop())
        if task.rows > self._settings.max_batch_size:
            raise invalid(
                f"Task size {task.rows} is larger than maximum input batch size "
                f"{self._settings.max_batch_size}"
            )
        kinds = [(name, a.dtype.str, a.shape[1:]) for name, a in sorted(inputs.items())]
        kind = (signature_name, tuple(outputs), *kinds)
        if not self._enter(kind, task):
            task.turn.wait()
        if task.answer is None:
            self._lead(kind)
        answer = task.answer
        if isinstance(answer, ServingError):
            # Each request has an error of its own: tracebacks must not be shared.
            raise ServingError(answer.code, answer.message)
        assert answer is not None
        return answer

    def close(self) -> None:
        """As Servable.close."""
        self._servable.close()

    def _enter(self, kind: _Kind, task: _Task) -> bool:
        """Puts a task into its queue; whether it leads."""
        with self._changed:
            queue = self._queues.setdefault(kind, [])
            most = self._settings.max_batch_size * self._settings.max_enqueued_batches
            if sum(one.rows for one in queue) + task.rows > most:
                raise ServingError(
                    Code.UNAVAILABLE,
                    "The batch scheduling queue to which this task was submitted is full; "
                    f"{self._settings.max_enqueued_batches} batches may wait",
                )
            queue.append(task)
            self._changed.notify_all()
            return len(queue) == 1

    def _lead(self, kind: _Kind) -> None:
        """Waits for others, then runs the first tasks of the queue and lets the next one lead."""
        end = time.monotonic() + self._settings.batch_timeout_micros / 1e6
        with self._changed:
            queue = self._queues[kind]
            while (left := end - time.monotonic()) > 0 and not self._full(queue):
                self._changed.wait(left)
        with self._runs:
            with self._changed:
                batch = self._take(queue)
                if queue:
                    queue[0].turn.set()
                else:
                    del self._queues[kind]
            self._run(kind[0], kind[1], batch)

    def _full(self, queue: Sequence[_Task]) -> bool:
        return sum(task.rows for task in queue) >= self._settings.max_batch_size

    def _take(self, queue: list[_Task]) -> list[_Task]:
        """Removes the first tasks that fit into a batch from the queue."""
        rows, count = 0, 0
        for task in queue:
            if rows + task.rows > self._settings.max_batch_size:
                break
            rows, count = rows + task.rows, count + 1
        batch = queue[:count]
        del queue[:count]
        return batch

    def _run(self, signature: str, outputs: Sequence[str], batch: Sequence[_Task]) -> None:
        try:
            if len(batch) > 1 and self._together(signature, outputs, batch):
                return
            for task in batch:
                try:
                    task.answer = self._servable.run(signature, task.inputs, outputs)
                except ServingError as error:
                    task.answer = error
        finally:
            for task in batch:
                if task.answer is None:
                    task.answer = ServingError(Code.INTERNAL, "The batch of this request was lost.")
                task.turn.set()

    def _together(self, signature: str, outputs: Sequence[str], batch: Sequence[_Task]) -> bool:
        """Runs all tasks at once; whether each has its rows."""
        rows = sum(task.rows for task in batch)
        padding = self._padding(rows)
        arrays = {}
        for name in batch[0].inputs:
            parts = [task.inputs[name] for task in batch]
            arrays[name] = np.concatenate([*parts, *[parts[0][:1]] * padding])
        try:
            found = self._servable.run(signature, arrays, outputs)
        except ServingError:
            return False
        if any(not array.ndim or len(array) != rows + padding for array in found.values()):
            return False  # an output that is not a row for each row
        start = 0
        for task in batch:
            task.answer = {name: array[start : start + task.rows] for name, array in found.items()}
            start += task.rows
        return True

    def _padding(self, rows: int) -> int:
        return (
            next((size for size in self._settings.allowed_batch_sizes if size >= rows), rows) - rows
        )
