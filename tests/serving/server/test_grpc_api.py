"""TensorFlow Serving's gRPC contract, through its official stubs."""

import grpc
import numpy as np
import pytest
import tensorflow as tf
from grpc_health.v1 import health_pb2, health_pb2_grpc
from tensorflow.core.framework import tensor_pb2, types_pb2
from tensorflow_serving.apis import (
    classification_pb2,
    get_model_metadata_pb2,
    get_model_status_pb2,
    inference_pb2,
    model_management_pb2,
    predict_pb2,
    regression_pb2,
)

from serving.server import textproto
from serving.server.server_config import ModelSettings
from tests.helpers.backends import BACKENDS, EMBEDDED, remote
from tests.helpers.serving_models import KERNEL, png, publish

RED, GREEN = png((255, 0, 0)), png((0, 255, 0))
X = np.array([[1, 2], [0.5, -1]], np.float32)
Code = grpc.StatusCode


@pytest.fixture(scope="module", params=BACKENDS)
def dense(request, exports, tmp_path_factory):
    base = tmp_path_factory.mktemp("dense")
    publish(exports / "dense", base, 7)
    options = {"rest_api_timeout_in_ms": 300, "enable_grpc_healthcheck_service": True}
    with remote(request.param, [ModelSettings("dense", base)], **options) as stubs:
        yield stubs


@pytest.fixture(scope="module", params=BACKENDS)
def image(request, exports, tmp_path_factory):
    base = tmp_path_factory.mktemp("image")
    publish(exports / "image", base, 1)
    with remote(request.param, [ModelSettings("image", base)]) as stubs:
        yield stubs


def predict(inputs, name="dense", signature="", outputs=(), **spec):
    request = predict_pb2.PredictRequest(output_filter=outputs)
    _spec(request.model_spec, name, signature, **spec)
    for key, value in inputs.items():
        request.inputs[key].CopyFrom(tf.make_tensor_proto(value))
    return request


def _spec(spec, name, signature="", version=None, label=None):
    spec.name, spec.signature_name = name, signature
    if version is not None:
        spec.version.value = version
    if label is not None:
        spec.version_label = label


def examples(request, name, signature, *features):
    _spec(request.model_spec, name, signature)
    for feature in features:
        example = request.input.example_list.examples.add()
        for key, value in feature.items():
            field = example.features.feature[key]
            if isinstance(value, bytes):
                field.bytes_list.value.append(value)
            else:
                field.float_list.value.append(value)
    return request


def expect(code, text, call, request):
    with pytest.raises(grpc.RpcError) as error:
        call(request, timeout=30)
    assert (error.value.code(), text in error.value.details()) == (
        code,
        True,
    ), error.value.details()


def test_predict_answers_with_values_in_the_field_of_their_type(dense):
    reply = dense.prediction.Predict(predict({"x": X}), timeout=30)
    spec = reply.model_spec
    assert (spec.name, spec.version.value, spec.signature_name) == ("dense", 7, "serving_default")
    assert list(reply.outputs) == ["y"]
    tensor = reply.outputs["y"]
    np.testing.assert_array_equal(tf.make_ndarray(tensor), X @ KERNEL)
    assert list(tensor.float_val) == (X @ KERNEL).ravel().tolist() and not tensor.tensor_content


@pytest.mark.parametrize(
    ("dtype", "field", "values"),
    [
        ("int32", "int_val", [-(2**31), 2**31 - 1]),
        ("uint8", "int_val", [0, 255]),
        ("int64", "int64_val", [-(2**63), 2**63 - 1]),
        ("uint64", "uint64_val", [0, 2**64 - 1]),
        ("bool", "bool_val", [True, False]),
        ("float64", "double_val", [0.1, float("inf")]),
        ("string", "string_val", [b"\x00\xff", b""]),
        ("float16", "half_val", [0.5, -2.0]),
    ],
)
def test_every_type_goes_through_the_model(dense, dtype, field, values):
    sent = np.array(values, tf.dtypes.as_dtype(dtype).as_numpy_dtype)
    for array in (sent, sent[:1].reshape(1, 1), sent[0] if dtype != "string" else values[0]):
        reply = dense.prediction.Predict(
            predict({"x": array}, signature=f"echo_{dtype}"), timeout=30
        )
        tensor = reply.outputs["x"]
        np.testing.assert_array_equal(tf.make_ndarray(tensor), array)
        assert len(getattr(tensor, field)) or tensor.tensor_content


def test_an_output_filter_and_several_inputs(dense):
    both = {"a": np.float32([1, 3]), "b": np.float32([2, 4])}
    reply = dense.prediction.Predict(predict(both, signature="two", outputs=["sum"]), timeout=30)
    assert {name: list(tensor.float_val) for name, tensor in reply.outputs.items()} == {
        "sum": [3.0, 7.0]
    }
    request = predict(both, signature="two", outputs=["difference"])
    expect(
        Code.INVALID_ARGUMENT, "output tensor alias not found", dense.prediction.Predict, request
    )


@pytest.mark.parametrize(
    ("request_", "code", "text"),
    [
        (predict({"x": X}, name=""), Code.INVALID_ARGUMENT, "Missing ModelSpec"),
        (
            predict({"x": X}, name="nope"),
            Code.NOT_FOUND,
            "Servable not found for request: Latest(nope)",
        ),
        (
            predict({"x": X}, version=9),
            Code.NOT_FOUND,
            "Servable not found for request: Specific(dense, 9)",
        ),
        (
            predict({"x": X}, label="a"),
            Code.INVALID_ARGUMENT,
            "Unrecognized servable version label: a",
        ),
        (
            predict({"x": X}, signature="s"),
            Code.FAILED_PRECONDITION,
            'Serving signature key "s" not found.',
        ),
        (predict({"z": X}), Code.INVALID_ARGUMENT, "Sent extra: {z}. Missing but required: {x}."),
        (predict({"x": np.int32([[1, 2]])}), Code.INVALID_ARGUMENT, "Type mismatch"),
    ],
)
def test_predict_requests_that_are_refused(dense, request_, code, text):
    expect(code, text, dense.prediction.Predict, request_)


@pytest.mark.parametrize(
    ("values", "shape"), [([1.0, 2.0, 3.0], "[3]"), ([[1.0, 2.0, 3.0]], "[1,3]"), (1.0, "[]")]
)
def test_a_shape_that_the_model_does_not_take_is_one_sentence(dense, values, shape):
    request = predict_pb2.PredictRequest()
    request.model_spec.name = "dense"
    request.inputs["x"].CopyFrom(tf.make_tensor_proto(values, tf.float32))
    with pytest.raises(grpc.RpcError) as caught:
        dense.prediction.Predict(request)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    if dense.manager:
        text = f"Input x has the shape {shape}, where the signature takes [?,2]"
        assert caught.value.details() in (text, f"{text} (MatMul)")


def test_bytes_without_a_list_are_one_sentence(image):
    request = predict_pb2.PredictRequest()
    request.model_spec.name = "image"
    request.inputs["image_bytes"].CopyFrom(tf.make_tensor_proto(png((255, 0, 0))))
    with pytest.raises(grpc.RpcError) as caught:
        image.prediction.Predict(request)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    if image.manager:
        assert (
            "Input image_bytes has the shape [], where the signature takes [?]"
            in caught.value.details()
        )
        assert "\n" not in caught.value.details()


def test_damaged_tensors_are_refused(dense):
    request = predict({"x": X})
    request.inputs["x"].tensor_content = b"\x00" * 3
    expect(Code.INVALID_ARGUMENT, "tensor parsing error: x", dense.prediction.Predict, request)


@pytest.mark.parametrize("side", [-1, -(2**63)])
def test_negative_sides_are_refused(dense, side):
    request = predict({"x": X})
    request.inputs["x"].Clear()
    request.inputs["x"].dtype = tf.string.as_datatype_enum
    request.inputs["x"].tensor_shape.dim.add(size=side)
    request.inputs["x"].string_val.append(b"")
    expect(
        Code.INVALID_ARGUMENT, "a side of its shape is negative", dense.prediction.Predict, request
    )


def test_one_value_that_stands_for_a_terabyte_is_refused(dense):
    request = predict({"x": np.float32(1)})
    for _ in range(2):
        request.inputs["x"].tensor_shape.dim.add(size=10**6)
    call = dense.prediction.Predict
    expect(Code.INVALID_ARGUMENT, "Tensor x of 4000000000000 bytes", call, request)
    request.inputs["x"].dtype = tf.string.as_datatype_enum
    expect(Code.INVALID_ARGUMENT, "Tensor x of 8000000000000 bytes", call, request)


def test_a_long_text_that_stands_for_many_is_refused(dense):
    """TensorFlow copies it for every element: 1 MB sent would take 10 GB."""
    request = predict({"x": [b"\x00" * 10**6]}, signature="echo_string")
    request.inputs["x"].tensor_shape.dim[0].size = 10**4
    expect(Code.INVALID_ARGUMENT, "Tensor x of 9999080000 bytes", dense.prediction.Predict, request)


def test_many_tensors_are_refused_together(dense):
    """Each is as large as a request may be; all together are 1.2 GB in 300 bytes."""
    request = predict({f"x{i}": np.float32(1) for i in range(12)})
    for tensor in request.inputs.values():
        tensor.tensor_shape.dim.add(size=25 * 10**6)
    expect(
        Code.INVALID_ARGUMENT, "of 1200000000 bytes is larger", dense.prediction.Predict, request
    )


def test_a_shape_beyond_all_numbers_is_refused(dense):
    request = predict({"x": [b""]}, signature="echo_string")
    for _ in range(20):
        request.inputs["x"].tensor_shape.dim.add(size=2**62)
    expect(Code.INVALID_ARGUMENT, "Tensor x of nan bytes", dense.prediction.Predict, request)


def test_strings_are_read_as_tensorflow_reads_them(dense):
    """Packed ones, one that stands for the rest, and none for empty ones."""
    packed = {"tensor_content": bytes([2, 3]) + b"abcde"}
    for fields, values in [
        (packed, [b"ab", b"cde"]),
        ({"string_val": [b"ab"]}, [b"ab", b"ab"]),
        ({}, [b"", b""]),
    ]:
        tensor = tensor_pb2.TensorProto(dtype=types_pb2.DT_STRING, **fields)
        tensor.tensor_shape.dim.add(size=2)
        assert tf.io.parse_tensor(tensor.SerializeToString(), tf.string).numpy().tolist() == values
        request = predict({"x": [b""]}, signature="echo_string")
        request.inputs["x"].CopyFrom(tensor)
        assert list(dense.prediction.Predict(request, timeout=30).outputs["x"].string_val) == values
    request.inputs["x"].tensor_content = bytes([2, 30]) + b"abcde"
    expect(Code.INVALID_ARGUMENT, "tensor parsing error: x", dense.prediction.Predict, request)


def test_a_run_over_the_deadline(dense):
    slow = predict({"steps": np.int64(10**12)}, signature="slow")
    expect(Code.DEADLINE_EXCEEDED, "", dense.prediction.Predict, slow)
    reply = dense.prediction.Predict(predict({"steps": np.int64(3)}, signature="slow"), timeout=30)
    assert list(reply.outputs["count"].int64_val) == [3]


def test_long_texts_are_cut(image):
    request = predict({"image_bytes": [b"bad"], "x" * 2000: [b"bad"]}, name="image")
    with pytest.raises(grpc.RpcError) as error:
        image.prediction.Predict(request, timeout=30)
    assert len(error.value.details()) == 1024 + len("...TRUNCATED")
    assert error.value.details().endswith("...TRUNCATED")


def test_classify_and_regress(dense, image):
    request = examples(
        classification_pb2.ClassificationRequest(),
        "image",
        "classify",
        {"image/encoded": RED},
        {"image/encoded": GREEN},
    )
    reply = image.prediction.Classify(request, timeout=30)
    rows = [[(c.label, c.score) for c in row.classes] for row in reply.result.classifications]
    assert [row[0] for row in rows] == [("red", 1.0), ("green", 1.0)]
    assert reply.model_spec.version.value == 1
    request = examples(
        regression_pb2.RegressionRequest(), "dense", "regress", {"v": 1.5}, {"v": 0.25}
    )
    reply = dense.prediction.Regress(request, timeout=30)
    assert [r.value for r in reply.result.regressions] == [1.5, 0.25]
    empty = examples(regression_pb2.RegressionRequest(), "dense", "regress")
    expect(Code.INVALID_ARGUMENT, "Input is empty", dense.prediction.Regress, empty)
    wrong = examples(classification_pb2.ClassificationRequest(), "dense", "", {"v": 1.0})
    expect(Code.FAILED_PRECONDITION, "No classification inputs", dense.prediction.Classify, wrong)


def test_a_long_context_for_many_examples_is_refused(dense):
    """Each example gets all of it: 1 MB sent would take 100 GB."""
    request = regression_pb2.RegressionRequest()
    _spec(request.model_spec, "dense", "regress")
    listed = request.input.example_list_with_context
    listed.context.features.feature["c"].bytes_list.value.append(b"x" * 10**6)
    for _ in range(110):
        listed.examples.add()
    expect(
        Code.INVALID_ARGUMENT,
        "with the context in each are larger",
        dense.prediction.Regress,
        request,
    )


def multi(*tasks):
    request = inference_pb2.MultiInferenceRequest()
    examples(_Inputs(request), "", "", {"image/encoded": GREEN})
    for name, signature, method in tasks:
        task = request.tasks.add(method_name=f"tensorflow/serving/{method}")
        _spec(task.model_spec, name, signature)
    return request


class _Inputs:
    """A request that has no model_spec of its own, for `examples`."""

    def __init__(self, request):
        self.input, self.model_spec = request.input, predict_pb2.PredictRequest().model_spec


def test_multi_inference(image):
    reply = image.prediction.MultiInference(multi(("image", "classify", "classify")), timeout=30)
    [result] = reply.results
    assert result.model_spec.signature_name == "classify" and result.model_spec.version.value == 1
    assert result.classification_result.classifications[0].classes[0].label == "green"
    twice = multi(("image", "classify", "classify"), ("image", "classify", "classify"))
    call = image.prediction.MultiInference
    expect(Code.INVALID_ARGUMENT, "Duplicate evaluation of signature: classify", call, twice)
    two = multi(("image", "classify", "classify"), ("other", "classify", "classify"))
    expect(Code.INVALID_ARGUMENT, "must access the same model name", call, two)
    unknown = multi(("image", "classify", "cluster"))
    expect(Code.UNIMPLEMENTED, "Unsupported signature method_name", call, unknown)


def test_metadata(image):
    request = get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=["signature_def"])
    _spec(request.model_spec, "image")
    reply = image.prediction.GetModelMetadata(request, timeout=30)
    signatures = get_model_metadata_pb2.SignatureDefMap()
    assert reply.metadata["signature_def"].Unpack(signatures)
    assert {"serving_default", "top_k", "classify"} <= set(signatures.signature_def)
    assert (reply.model_spec.version.value, reply.model_spec.signature_name) == (1, "")
    call = image.prediction.GetModelMetadata
    request.metadata_field[:] = ["other"]
    expect(Code.INVALID_ARGUMENT, "Metadata field other is not supported", call, request)
    request.metadata_field[:] = []
    expect(Code.INVALID_ARGUMENT, "must specify at least one metadata_field", call, request)


def test_status(dense):
    request = get_model_status_pb2.GetModelStatusRequest()
    _spec(request.model_spec, "dense")
    [state] = dense.model.GetModelStatus(request, timeout=30).model_version_status
    assert (state.version, state.state, state.status.error_code) == (7, 30, 0)
    _spec(request.model_spec, "dense", version=8)
    expect(
        Code.NOT_FOUND,
        "Could not find version 8 of model dense",
        dense.model.GetModelStatus,
        request,
    )


def test_health(dense):
    stub = health_pb2_grpc.HealthStub(dense.channel)
    for service in ("ModelService", "PredictionService"):
        reply = stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=30)
        assert reply.status == health_pb2.HealthCheckResponse.SERVING


@pytest.fixture
def several(exports, tmp_path):
    """Versions 1 (once), 2 (twice), 3 (no model) of m."""
    publish(exports / "dense", tmp_path / "m", 1)
    publish(exports / "dense_double", tmp_path / "m", 2)
    publish(exports / "dense", tmp_path / "m", 3)
    (tmp_path / "m/3/variables/variables.data-00000-of-00001").unlink()
    options = {"file_system_poll_wait_seconds": 0.05, "load_retry_interval_micros": 10**9}
    model = ModelSettings("m", tmp_path / "m", num_versions=2)
    with remote(EMBEDDED, [model], **options) as stubs:
        yield stubs, model


def reload(stubs, *models):
    request = model_management_pb2.ReloadConfigRequest(config=textproto.config(models))
    return stubs.model.HandleReloadConfigRequest(request, timeout=60)


def answer(stubs, name="m", **spec):
    reply = stubs.prediction.Predict(predict({"x": X[:1]}, name=name, **spec), timeout=30)
    return reply.model_spec.version.value, reply.outputs["y"].float_val[0]


def test_policies_and_labels_change_while_requests_are_served(several):
    stubs, model = several
    assert answer(stubs) == (2, 18.0)
    labels = {"stable": 1, "canary": 2}
    base = model.base_path
    assert reload(stubs, ModelSettings("m", base, 2, labels=labels)).status.error_code == 0
    assert answer(stubs, label="stable") == (1, 9.0)
    assert answer(stubs, label="canary") == (2, 18.0)
    # Back to the older version: the newer one goes.
    reload(stubs, ModelSettings("m", base, versions=(1,), labels={"stable": 1}))
    assert answer(stubs) == (1, 9.0)
    call = stubs.prediction.Predict
    expect(Code.NOT_FOUND, "Specific(m, 2)", call, predict({"x": X}, "m", version=2))
    expect(Code.INVALID_ARGUMENT, "label: canary", call, predict({"x": X}, "m", label="canary"))
    # Another name for the same folder.
    reload(stubs, ModelSettings("m", base), ModelSettings("n", base, versions=(1,)))
    assert (answer(stubs), answer(stubs, "n")) == ((2, 18.0), (1, 9.0))
    reload(stubs, ModelSettings("n", base, all_versions=True))
    expect(Code.NOT_FOUND, "Latest(m)", call, predict({"x": X}, "m"))
    assert answer(stubs, "n", version=1) == (1, 9.0)


@pytest.mark.parametrize(
    ("change", "code", "text"),
    [
        (
            {"versions": (3,)},
            Code.FAILED_PRECONDITION,
            "has not version 3 that can be served (version 3: ",
        ),
        ({"versions": (1, 9)}, Code.FAILED_PRECONDITION, "has not version 9"),
        (
            {"labels": {"canary": 3}},
            Code.FAILED_PRECONDITION,
            "label to version 3 of model m, which is not",
        ),
        ({"name": "a:b"}, Code.INVALID_ARGUMENT, "must not be empty and not contain"),
        ({"base_path": "/somewhere"}, Code.PERMISSION_DENIED, "--allow_reload_from_any_path=true"),
    ],
)
def test_a_change_that_cannot_be_served_changes_nothing(several, change, code, text):
    stubs, model = several
    fields = {"name": "m", "base_path": model.base_path, "num_versions": 2, "labels": {}} | change
    request = model_management_pb2.ReloadConfigRequest(
        config=textproto.config([ModelSettings(**fields)])
    )
    expect(code, text, stubs.model.HandleReloadConfigRequest, request)
    assert answer(stubs) == (2, 18.0)
    assert answer(stubs, version=1) == (1, 9.0)
    assert stubs.manager.models() == {"m": model}


def test_a_request_without_a_list_of_models_is_refused(several):
    stubs, _ = several
    request = model_management_pb2.ReloadConfigRequest()
    expect(
        Code.INVALID_ARGUMENT,
        "has no model_config_list",
        stubs.model.HandleReloadConfigRequest,
        request,
    )


def test_requests_are_counted(exports, tmp_path):
    publish(exports / "dense", tmp_path, 1)
    with remote(EMBEDDED, [ModelSettings("dense", tmp_path)]) as stubs:
        stubs.prediction.Predict(predict({"x": X}), timeout=30)
        assert b'entrypoint="GRPC",model_name="dense"} 1.0' in stubs.metrics.text()
