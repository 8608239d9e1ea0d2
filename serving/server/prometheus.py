"""What is counted, under TensorFlow Serving's names, for Prometheus."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator

import prometheus_client
from prometheus_client import CollectorRegistry, Counter, Histogram

from serving.server.rpc_errors import ServingError

_PREFIX = ":tensorflow:serving:"
# Microseconds, as there.
_BUCKETS = [10 * 1.8**k for k in range(33)]


class Metrics:
    """Counters of one server."""

    def __init__(self) -> None:
        prometheus_client.disable_created_metrics()
        self._registry = CollectorRegistry()
        self._requests = Counter(
            f"{_PREFIX}request_count",
            "The total number of requests.",
            ["model_name", "status"],
            registry=self._registry,
        )
        self._latency = self._histogram("request_latency", ["model_name", "API", "entrypoint"])
        self._runtime = self._histogram("runtime_latency", ["model_name", "API", "runtime"])
        self._warm_up = self._histogram("model_warmup_latency", ["model_path", "status"])

    def _histogram(self, name: str, labels: list[str]) -> Histogram:
        text = f"Distribution of {name.replace('_', ' ')} in microseconds."
        return Histogram(
            f"{_PREFIX}{name}", text, labels, buckets=_BUCKETS, registry=self._registry
        )

    def request(
        self, model: str, api: str, entrypoint: str
    ) -> contextlib.AbstractContextManager[None]:
        """Counts and times what is done inside; an error is counted by its code.

        Args:
          model: name of a model that is known: others would let clients fill the memory with names.
          api: such as Predict.
          entrypoint: REST or GRPC.
        """

        def count(status: str, micros: float) -> None:
            self._requests.labels(model, status).inc()
            self._latency.labels(model, api, entrypoint).observe(micros)

        return _timed(count)

    def run(self, model: str, api: str) -> contextlib.AbstractContextManager[None]:
        """Times a run of the model that succeeds."""

        def observe(status: str, micros: float) -> None:
            if status == "OK":
                self._runtime.labels(model, api, "TF1").observe(micros)

        return _timed(observe)

    def warm_up(self, path: str) -> contextlib.AbstractContextManager[None]:
        """Times the warm-up of a version."""
        return _timed(lambda status, micros: self._warm_up.labels(path, status).observe(micros))

    def text(self) -> bytes:
        """All of it in Prometheus' text format."""
        # Its client ends the names of counters with _total; TensorFlow Serving does not.
        return prometheus_client.generate_latest(self._registry).replace(b"_count_total", b"_count")


@contextlib.contextmanager
def _timed(report: Callable[[str, float], object]) -> Iterator[None]:
    """Reports how what is inside ended, and its microseconds."""
    start, status = time.perf_counter(), "OK"
    try:
        yield
    except ServingError as error:
        status = error.code.name
        raise
    except Exception:
        status = "INTERNAL"
        raise
    finally:
        report(status, (time.perf_counter() - start) * 1e6)
