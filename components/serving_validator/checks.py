"""What a server of the candidate is asked, and what it must answer."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator, Sequence

import grpc
import numpy as np
import tensorflow as tf
from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

from components.example_gen.writing.shards import ORIGINAL
from components.serving_validator.model_server import NAME, Server
from serving.client import Client, ClientError

# The signature of the Evaluator, and the protocol whose crop is that of `serving_default`.
_EVALUATE, _CENTER = "evaluate", "center"
_TIMEOUT = 120.0


@dataclasses.dataclass(frozen=True)
class Limits:
    """What a candidate may take; 0 asks nothing."""

    max_latency_ms: float = 0.0
    max_memory_mb: int = 0


@dataclasses.dataclass(frozen=True)
class Report:
    """What came out: `reasons` says why the candidate is not to be pushed; () when it may be.

    `converted`: of the images, those whose original file is of a format that the model refuses.
    """

    reasons: tuple[str, ...]
    images: int = 0
    median_ms: float = 0.0
    p99_ms: float = 0.0
    memory_mb: float = 0.0
    converted: int = 0


def expected(model: str, examples: Sequence[bytes]) -> list[np.ndarray]:
    """The evaluator's probabilities of each tf.Example, float32 [classes]: a run for each image.

    Without the test protocol `center` they are those of `serving_default` without a server.
    """
    signatures = tf.saved_model.load(model).signatures
    evaluate = signatures[_EVALUATE]
    if _CENTER in evaluate.structured_outputs:
        return [evaluate(examples=tf.constant([e]))[_CENTER].numpy()[0] for e in examples]
    served = signatures["serving_default"]
    return [
        served(image_bytes=tf.constant([jpeg]))["probabilities"].numpy()[0]
        for jpeg in images(examples)
    ]


def images(examples: Sequence[bytes], key: str = "image/encoded") -> list[bytes]:
    """The file under the key, of each tf.Example that has one."""
    parsed = [tf.train.Example.FromString(example).features.feature for example in examples]
    return [feature[key].bytes_list.value[0] for feature in parsed if feature[key].bytes_list.value]


def check(
    server: Server, examples: Sequence[bytes], wanted: Sequence[np.ndarray], limits: Limits
) -> Report:
    """Asks the server for every image, over both protocols, and for what it has to refuse.

    Files are sent as they came. Of an image that ingestion has converted, the server must answer
    the result as evaluated, and refuse the original or answer it alike.

    Args:
      server: that serves the candidate as NAME.
      examples: serialized tf.Examples with `image/encoded`.
      wanted: of `expected`.
      limits: for one image at a time.
    """
    client, encoded = Client(server.url, NAME, timeout=_TIMEOUT), images(examples)
    reasons = []
    for protocol, ask in (("REST", _rest(client)), ("gRPC", _remote(server.grpc))):
        reasons += _compare(protocol, ask, encoded, wanted)
    converted = [
        (file, right)
        for example, right in zip(examples, wanted, strict=True)
        for file in images([example], ORIGINAL)
    ]
    for file, right in converted:
        reasons += _original(client, file, right)
    reasons += _labels(client, encoded[0], wanted[0])
    for mistake, send in _mistakes(client, encoded[0]):
        reasons += _refused(mistake, send)
    if reasons:
        return Report(tuple(reasons), len(encoded), converted=len(converted))
    # After all that, it still serves.
    times = [_timed(client, jpeg) for jpeg in encoded]
    median, p99 = (float(np.percentile(times, q)) for q in (50, 99))
    memory = server.peak_memory() / 2**20
    if limits.max_latency_ms and p99 > limits.max_latency_ms:
        most = f"serve.max_latency_ms={limits.max_latency_ms:g}"
        reasons.append(f"an image takes {p99:.1f} ms (99th percentile), above {most}")
    if limits.max_memory_mb and memory > limits.max_memory_mb:
        reasons.append(
            f"the server takes {memory:.0f} MB, above serve.max_memory_mb={limits.max_memory_mb}"
        )
    return Report(tuple(reasons), len(encoded), median, p99, memory, len(converted))


def _rest(client: Client) -> Callable[[bytes], np.ndarray]:
    return lambda jpeg: np.array(client.predict([jpeg])[0], np.float32)


def _remote(address: str) -> Callable[[bytes], np.ndarray]:
    stub = prediction_service_pb2_grpc.PredictionServiceStub(grpc.insecure_channel(address))

    def ask(jpeg: bytes) -> np.ndarray:
        request = predict_pb2.PredictRequest()
        request.model_spec.name = NAME
        request.inputs["image_bytes"].CopyFrom(tf.make_tensor_proto([jpeg]))
        return tf.make_ndarray(stub.Predict(request, timeout=_TIMEOUT).outputs["probabilities"])[0]

    return ask


def _compare(
    protocol: str,
    ask: Callable[[bytes], np.ndarray],
    encoded: Sequence[bytes],
    wanted: Sequence[np.ndarray],
) -> list[str]:
    """Bit for bit: the same graph on the same machine."""
    different, largest = 0, 0.0
    try:
        for jpeg, right in zip(encoded, wanted, strict=True):
            served = ask(jpeg)
            if served.shape != right.shape:
                return [f"{protocol} answers {served.shape} where the evaluator has {right.shape}"]
            if served.tobytes() != right.astype(np.float32).tobytes():
                different += 1
                largest = max(largest, float(np.abs(served - right).max()))
    except (ClientError, grpc.RpcError) as error:
        said = error.details() if isinstance(error, grpc.RpcError) else error
        return [f"{protocol} refuses an image of the evaluation split: {said}"]
    if different:
        share = f"{different} of {len(encoded)} images"
        return [
            f"{protocol} answers other probabilities than the evaluator for {share}, by up to"
            f" {largest:.2g}"
        ]
    return []


def _original(client: Client, file: bytes, right: np.ndarray) -> list[str]:
    """A file that ingestion has converted must be answered as the Evaluator saw it, or refused."""
    try:
        served = np.array(client.predict([file])[0], np.float32)
    except ClientError as error:
        refused = error.status == 400
        return [] if refused else [f"an original that was converted is answered with {error}"]
    if served.tobytes() != right.astype(np.float32).tobytes():
        return [
            "an original that ingestion has converted is answered otherwise than the evaluator does"
        ]
    return []


def _labels(client: Client, jpeg: bytes, wanted: np.ndarray) -> list[str]:
    try:
        [best, *_] = client.top_k([jpeg])[0]
    except ClientError as error:
        return [f"top_k is refused: {error}"]
    if np.float32(best.probability) != wanted.max():
        return [
            f"top_k answers {best.probability:.6g} for the best class, the evaluator"
            f" {wanted.max():.6g}"
        ]
    return []


def _mistakes(client: Client, jpeg: bytes) -> Iterator[tuple[str, Callable[[], object]]]:
    """Requests that a server has to refuse, and go on."""
    yield "an empty image", lambda: client.predict([b""])
    yield "a text", lambda: client.predict([b"no image at all"])
    yield "a JPEG that is cut off", lambda: client.predict([jpeg[: len(jpeg) // 2]])
    yield "pixels in place of a JPEG", lambda: client.predict([[[0.5, 0.5]]])
    yield "an unknown signature", lambda: client.predict([jpeg], signature_name="no such signature")


def _refused(mistake: str, send: Callable[[], object]) -> list[str]:
    try:
        send()
    except ClientError as error:
        said = f"{mistake} is answered with {error.status or 'nothing'}: {error}"
        return [] if error.status == 400 else [said]
    return [f"{mistake} is not refused"]


def _timed(client: Client, jpeg: bytes) -> float:
    """Milliseconds of a request for one image."""
    start = time.perf_counter()
    client.predict([jpeg])
    return 1000 * (time.perf_counter() - start)
