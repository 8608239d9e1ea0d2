"""Warm-up: the recorded requests a version answers before it takes traffic."""

from __future__ import annotations

import math

import tensorflow as tf
from tensorflow_serving.apis.input_pb2 import Input
from tensorflow_serving.apis.prediction_log_pb2 import PredictionLog

from serving.server.rpc_errors import Code, ServingError, invalid
from serving.server.running import inference
from serving.server.running.servable import DEFAULT_SIGNATURE, Loaded, from_tensorflow

WARMUP_FILE = "assets.extra/tf_serving_warmup_requests"
_MAX_RECORDS = 1000


def warm_up(servable: Loaded, times: int = 1) -> int:
    """Replays each record of the version's warm-up file, if it has one, so many times.

    Returns:
      The number of records.

    Raises:
      ServingError: a request failed, or the file is damaged or too long: the
        version must not take traffic.
    """
    path = servable.path / WARMUP_FILE
    if not path.is_file():
        return 0
    count = 0
    try:
        for record in tf.data.TFRecordDataset(str(path)).as_numpy_iterator():
            count += 1
            if count > _MAX_RECORDS:
                raise invalid(
                    f"Number of warmup records exceeds the maximum ({_MAX_RECORDS}) at {path}"
                )
            for _ in range(times):
                _replay(servable, PredictionLog.FromString(record))
    except tf.errors.OpError as error:
        raise from_tensorflow(error) from error
    return count


def _replay(servable: Loaded, log: PredictionLog) -> None:
    kind = log.WhichOneof("log_type")
    if kind not in ("predict_log", "classify_log", "regress_log"):
        raise ServingError(Code.UNIMPLEMENTED, f"Unsupported log_type for warmup: {kind}")
    request = getattr(log, kind).request
    name = request.model_spec.signature_name
    if kind == "predict_log":
        inputs = {name: tf.make_ndarray(tensor) for name, tensor in request.inputs.items()}
        servable.run(name or DEFAULT_SIGNATURE, inputs, request.output_filter)
    elif kind == "classify_log":
        inference.classify(servable, name, serialized_examples(request.input))
    else:
        inference.regress(servable, name, serialized_examples(request.input))


def serialized_examples(request: Input, most: float = math.inf) -> list[bytes]:
    """The tf.Examples of a classify or regress request, each with the shared context in front.

    Serialized messages merge when they are concatenated, features of the example winning.

    Args:
      most: bytes that they may have together.

    Raises:
      ServingError: they have more: each has the whole context.
    """
    if request.WhichOneof("kind") == "example_list_with_context":
        listed = request.example_list_with_context
        context = listed.context.SerializeToString()
        size = len(context) * len(listed.examples) + listed.ByteSize()
        if size > most:
            raise invalid(
                f"{len(listed.examples)} examples of {size} bytes with the context in each are"
                f" larger than {most}"
            )
        return [context + example.SerializeToString() for example in listed.examples]
    return [example.SerializeToString() for example in request.example_list.examples]
