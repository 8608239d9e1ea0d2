"""Random gRPC requests: whatever a client sends, the answer is no INTERNAL and no UNKNOWN error."""

import os

import grpc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tensorflow.core.framework import types_pb2
from tensorflow_serving.apis import (
    classification_pb2,
    get_model_metadata_pb2,
    get_model_status_pb2,
    inference_pb2,
    predict_pb2,
    regression_pb2,
)

from serving.server.server_config import ModelSettings
from tests.helpers.backends import EMBEDDED, remote
from tests.helpers.serving_models import publish

# 10,000 of each take minutes: RESNET_TFX_FUZZ=10000.
FUZZ = settings(max_examples=int(os.environ.get("RESNET_TFX_FUZZ", "300")))
NAMES = ["", "m", "x", "y", "a", "b", "serving_default", "signature_def"]
TEXTS = st.sampled_from(NAMES) | st.text(max_size=3)
TYPES = ("int32", "uint8", "int64", "uint64", "bool", "float64", "float16", "string")
SIGNATURES = st.sampled_from(
    ["", "serving_default", "two", "scalar", "ragged_batch", "regress", "__saved_model_init_op"]
    + [f"echo_{name}" for name in TYPES]
)
DTYPES = st.sampled_from(sorted(types_pb2.DataType.values())) | st.sampled_from([1, 7])
SIZES = st.sampled_from([-1, 0, 1, 2, 3, 2**31, 2**62, -(2**63)])


@st.composite
def specs(draw):
    spec = {"name": draw(st.just("m") | TEXTS), "signature_name": draw(SIGNATURES | TEXTS)}
    choice = draw(st.sampled_from(["none", "version", "label"]))
    if choice == "version":
        spec["version"] = {"value": draw(st.just(7) | st.integers(-(2**63), 2**63 - 1))}
    if choice == "label":
        spec["version_label"] = draw(TEXTS)
    return spec


@st.composite
def tensors(draw):
    tensor = {
        "dtype": draw(DTYPES),
        "tensor_shape": {"dim": [{"size": size} for size in draw(st.lists(SIZES, max_size=3))]},
    }
    if draw(st.booleans()):
        tensor["tensor_content"] = draw(st.binary(max_size=24))
    values = {
        "float_val": st.floats(width=32),
        "string_val": st.binary(max_size=4),
        "int_val": st.integers(-(2**31), 2**31 - 1),
    }
    name = draw(st.sampled_from(sorted(values)))
    tensor[name] = draw(st.lists(values[name], max_size=3))
    return tensor


@st.composite
def predictions(draw):
    inputs = draw(st.dictionaries(st.sampled_from(["x", "a", "b"]) | TEXTS, tensors(), max_size=2))
    outputs = draw(st.lists(TEXTS, max_size=2))
    request = predict_pb2.PredictRequest(model_spec=draw(specs()), output_filter=outputs)
    for name, tensor in inputs.items():
        request.inputs[name].MergeFrom(type(request.inputs[name])(**tensor))
    return request


FEATURES = st.dictionaries(
    st.sampled_from(["v", "w"]),
    st.one_of(
        st.lists(st.floats(width=32), max_size=2).map(lambda v: {"float_list": {"value": v}}),
        st.lists(st.binary(max_size=3), max_size=2).map(lambda v: {"bytes_list": {"value": v}}),
        st.just({}),
    ),
    max_size=2,
)
EXAMPLES = st.lists(FEATURES, max_size=3).map(
    lambda rows: {"example_list": {"examples": [{"features": {"feature": row}} for row in rows]}}
)
METHODS = st.sampled_from(["tensorflow/serving/classify", "tensorflow/serving/regress", ""])
TASKS = st.lists(
    st.builds(lambda s, m: {"model_spec": s, "method_name": m}, specs(), METHODS), max_size=2
)


@pytest.fixture(scope="module")
def stubs(exports, tmp_path_factory):
    base = tmp_path_factory.mktemp("fuzz")
    publish(exports / "dense", base, 7)
    with remote(EMBEDDED, [ModelSettings("m", base)]) as found:
        yield found


def check(call, request):
    try:
        call(request, timeout=60)
    except grpc.RpcError as error:
        bad = (grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN, grpc.StatusCode.UNAVAILABLE)
        assert error.code() not in bad, error.details()


@FUZZ
@given(request=predictions())
def test_random_predictions(stubs, request):
    check(stubs.prediction.Predict, request)


@FUZZ
@given(spec=specs(), given_=EXAMPLES, tasks=TASKS)
def test_random_examples(stubs, spec, given_, tasks):
    check(
        stubs.prediction.Classify,
        classification_pb2.ClassificationRequest(model_spec=spec, input=given_),
    )
    check(stubs.prediction.Regress, regression_pb2.RegressionRequest(model_spec=spec, input=given_))
    check(
        stubs.prediction.MultiInference,
        inference_pb2.MultiInferenceRequest(tasks=tasks, input=given_),
    )


@FUZZ
@given(spec=specs(), fields=st.lists(TEXTS, max_size=2))
def test_random_questions_about_models(stubs, spec, fields):
    request = get_model_metadata_pb2.GetModelMetadataRequest(model_spec=spec, metadata_field=fields)
    check(stubs.prediction.GetModelMetadata, request)
    check(stubs.model.GetModelStatus, get_model_status_pb2.GetModelStatusRequest(model_spec=spec))
