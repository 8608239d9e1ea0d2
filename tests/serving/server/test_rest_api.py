"""The REST contract of TensorFlow Serving, without a socket."""

import base64
import gzip
import json
import os
import threading

import numpy as np
import pytest

from tests.helpers.backends import BACKENDS, EMBEDDED, Api, rest
from tests.helpers.serving_models import KERNEL, png, publish

RED, GREEN = png((255, 0, 0)), png((0, 255, 0))


def b64(content):
    return {"b64": base64.b64encode(content).decode()}


@pytest.fixture(scope="module", params=BACKENDS)
def dense(request, exports, tmp_path_factory):
    base = tmp_path_factory.mktemp("dense")
    publish(exports / "dense", base, 7)
    options = {
        "rest_api_timeout_in_ms": 300,
        "rest_api_max_body_bytes": 10_000,
        "enable_page": False,
    }
    with rest(request.param, base, "dense", **options) as client:
        yield client


@pytest.fixture(scope="module", params=BACKENDS)
def image(request, exports, tmp_path_factory):
    base = tmp_path_factory.mktemp("image")
    publish(exports / "image", base, 1)
    with rest(request.param, base, "image") as client:
        yield client


def only_ours(client):
    """Skips what TensorFlow Serving does not have."""
    if not isinstance(client, Api):
        pytest.skip("TensorFlow Serving has nothing like it")


def post(client, body, url="/v1/models/dense:predict", **options):
    content = body if isinstance(body, (bytes, str)) else json.dumps(body)
    return client.request("POST", url, content, **options)


def expect(response, status, text):
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/json"
    assert text in response.json()["error"]


@pytest.mark.parametrize(
    "url",
    [
        "/v1/models/dense:predict",
        "/v1/models/dense/versions/7:predict",
        "/v1/models/dense/versions/007:predict",
        "/V1/Models/dense/Versions/7:predict",
        "/v1/models/%64ense:predict",
    ],
)
def test_predict_addresses(dense, url):
    response = post(dense, {"instances": [[1, 2]]}, url)
    assert response.status_code == 200
    assert response.json() == {"predictions": [[9.0, 12.0, 15.0]]}  # [1, 2] @ KERNEL


@pytest.mark.parametrize(
    ("method", "url", "status", "text"),
    [
        (
            "POST",
            "/v1/models/dense:predict?x=1",
            400,
            "Malformed request: POST /v1/models/dense:predict?x=1",
        ),
        ("POST", "/v1/models/dense:predict/", 400, "Malformed request"),
        ("POST", "/v1/models/dense:PREDICT", 400, "Malformed request"),
        ("POST", "/v1/models/dense", 400, "Malformed request: POST /v1/models/dense"),
        ("POST", "/v1/models/dense/versions/1/labels/a:predict", 400, "Malformed request"),
        ("POST", f"/v1/models/dense/versions/{2**63}:predict", 400, "Failed to convert version"),
        (
            "POST",
            f"/v1/models/dense/versions/{'9' * 5000}:predict",
            400,
            "Failed to convert version",
        ),
        (
            "POST",
            "/v1/models/dense/labels/stable:predict",
            400,
            "Unrecognized servable version label: stable",
        ),
        ("POST", "/v1/models/nope:predict", 404, "Servable not found for request: Latest(nope)"),
        (
            "POST",
            "/v1/models/dense/versions/9:predict",
            404,
            "Servable not found for request: Specific(dense, 9)",
        ),
        ("POST", "/v1/models/nope:classify", 400, "'examples' is expected"),
        ("GET", "/v1/models", 400, "Missing model name in request."),
        ("GET", "/v1/models/dense/", 400, "Malformed request: GET /v1/models/dense/"),
        ("GET", "/v1/models/dense:predict", 400, "Malformed request"),
        ("GET", "/v1/models/nope", 404, "Could not find any versions of model nope"),
        (
            "GET",
            f"/v1/models/dense/versions/{'0' * 5000}9",
            404,
            "Could not find version 9 of model dense",
        ),
        ("GET", "/v1/models/dense/versions/9", 404, "Could not find version 9 of model dense"),
        ("GET", "/v1/models/nope/metadata", 404, "Servable not found for request: Latest(nope)"),
        (
            "GET",
            "/v1/models/dense/labels/a/metadata",
            400,
            "Unrecognized servable version label: a",
        ),
        ("GET", "/v1/nothing", 400, "Malformed request"),
        ("PUT", "/v1/models/dense", 400, "Malformed request: PUT /v1/models/dense"),
        ("DELETE", "/v1/models/dense", 400, "Malformed request"),
    ],
)
def test_addresses_that_are_refused(dense, method, url, status, text):
    expect(dense.request(method, url, content='{"instances": [[1, 2]]}'), status, text)


def test_addresses_outside_the_api_are_html_404(dense):
    for url in ("/", "/page/page.js", "/v1", "/v2/models/dense", "/metrics"):
        response = dense.get(url)
        assert response.status_code == 404
        assert response.headers["content-type"].startswith("text/html")


def test_health_addresses(dense):
    only_ours(dense)
    assert dense.get("/healthz").json() == {"status": "ok"}
    assert dense.get("/readyz").status_code == 200


def test_options_need_an_origin(dense):
    url = "/v1/models/dense:predict"
    assert dense.request("OPTIONS", url, headers={"Origin": "https://a.b"}).status_code == 200
    assert dense.request("OPTIONS", url).status_code == 400
    assert dense.request("OPTIONS", url).content == b""


@pytest.mark.parametrize("backend", BACKENDS)
def test_answers_to_pages_of_other_origins(backend, exports, tmp_path):
    publish(exports / "dense", tmp_path / "m", 7)
    with rest(backend, tmp_path / "m", "dense", rest_api_enable_cors_support=True) as client:
        answer = client.request(
            "OPTIONS", "/v1/models/dense:predict", headers={"Origin": "http://a.b"}
        )
    expected = {
        "access-control-allow-origin": "*",
        "access-control-allow-methods": "POST, GET",
        "access-control-allow-headers": "Content-Type",
    }
    assert (answer.status_code, answer.content) == (200, b"")
    assert {name: value for name, value in answer.headers.items() if "access" in name} == expected


def test_row_and_columnar_form(dense):
    x = [[1, 2], [0.5, -1]]
    y = (np.array(x) @ KERNEL).tolist()
    assert post(dense, {"instances": x}).json() == {"predictions": y}
    assert post(dense, {"instances": [{"x": row} for row in x]}).json() == {"predictions": y}
    assert post(dense, {"inputs": x}).json() == {"outputs": y}
    assert post(dense, {"inputs": {"x": x}, "ignored": 1}).json() == {"outputs": y}


def test_several_inputs_and_outputs_are_named(dense):
    rows = {"signature_name": "two", "instances": [{"a": 1, "b": 2}, {"a": 3, "b": 4}]}
    assert [row["sum"] for row in post(dense, rows).json()["predictions"]] == [3.0, 7.0]
    columns = post(dense, {"signature_name": "two", "inputs": {"a": [1], "b": [2]}}).json()[
        "outputs"
    ]
    assert columns == {"sum": [3.0], "product_bytes": [b64(b"2.000000")]}


@pytest.mark.parametrize(
    ("dtype", "values"),
    [
        ("int32", [-(2**31), 2**31 - 1]),
        ("uint8", [0, 255]),
        ("int64", [-(2**63), 2**63 - 1]),
        ("uint64", [0, 2**64 - 1]),
        ("bool", [True, False]),
        ("float64", [0.1, 1e308]),
        ("string", ["é", ""]),
    ],
)
def test_every_type_goes_through_the_model(dense, dtype, values):
    for value in (values, [values], values[0]):
        body = {"signature_name": f"echo_{dtype}", "inputs": value}
        assert post(dense, body).json() == {"outputs": value}


def test_nan_and_infinity_in_and_out(dense):
    response = post(
        dense, '{"signature_name": "echo_float64", "inputs": [NaN, Infinity, -Infinity]}'
    )
    assert response.content == b'{"outputs": [NaN, Infinity, -Infinity]}'


@pytest.mark.parametrize(
    ("body", "text"),
    [
        ("", "JSON Parse error: The document is empty"),
        ("{", "JSON Parse error"),
        ("[]", "Is not object"),
        ({}, "Missing 'inputs' or 'instances' key"),
        ({"instances": [1], "inputs": [1]}, "Not formatted correctly"),
        ({"instances": []}, "No values in 'instances' array"),
        ({"instances": 1}, "Expecting 'instances' to be an list/array"),
        ({"signature_name": 1, "instances": [1]}, "'signature_name' key must be a string value"),
        (
            {"signature_name": "s", "instances": [1]},
            'Serving signature name: "s" not found in signature def',
        ),
        (
            {"signature_name": "__saved_model_init_op", "inputs": 1},
            "Failed to get input map for signature",
        ),
        (
            {"instances": [[1, 2], ["a", 2]]},
            (
                "Failed to process element: 1 of 'instances' list. Error: INVALID_ARGUMENT: "
                'JSON Value: "a" Type: String is not of expected type: float'
            ),
        ),
        ({"instances": [[1, 2], [3]]}, "Expecting tensor size: 2 but got: 1"),
        ({"instances": [[1, 2], [[1, 2]]]}, "Expecting shape [2] but got: [1,2]"),
        ({"instances": [[1, 2], {"x": [1, 2]}]}, "Expecting value/list but got object at item 1"),
        ({"instances": [{"x": [1, 2]}, [1, 2]]}, "Expecting object but got list at item 1"),
        ({"instances": [{"z": [1, 2]}]}, "JSON object: does not have named input: z"),
        ({"signature_name": "two", "instances": [{"a": 1}]}, "keys must be equal to: a,b"),
        (
            {"signature_name": "two", "instances": [1]},
            "instances is a plain list, but expecting list of objects",
        ),
        (
            {"signature_name": "two", "inputs": [1]},
            "inputs is a plain value/list, but expecting an object",
        ),
        ({"signature_name": "two", "inputs": {"b": [1]}}, "Missing named input: a"),
        ({"inputs": [[1, 2], [3]]}, "Encountered list at unexpected size"),
        # Bytes that are no text, in the op's own.
        (
            {"signature_name": "regress", "inputs": [b64(b"\xff\xfe")]},
            "Could not parse example input, value: ",
        ),
        ({"inputs": [1, 2, 3]}, "MatMul"),  # the op's own text: shapes are not checked before
        (
            {"signature_name": "scalar", "instances": [[1, 2]]},
            "Tensor name: total has no shape information",
        ),
        ({"signature_name": "ragged_batch", "instances": [[1, 2]]}, "has inconsistent batch size"),
        (
            {"signature_name": "echo_float16", "instances": [1]},
            "Error: UNIMPLEMENTED: Conversion of JSON Value: 1",
        ),
    ],
)
def test_predict_bodies_that_are_refused(dense, body, text):
    expect(post(dense, body), 400, text)


def test_bad_json_is_found_before_an_unknown_model(dense):
    expect(post(dense, "{", "/v1/models/nope:predict"), 400, "JSON Parse error")


def test_types_without_a_json_form_are_501_in_columnar_form(dense):
    expect(post(dense, {"signature_name": "echo_float16", "inputs": 1}), 501, "to type: half")


def test_outputs_without_rows(dense):
    body = {"signature_name": "no_rows", "instances": [[1, 2]]}
    assert post(dense, body).json() == {"predictions": []}


def test_batch_size_is_free(dense):
    assert post(dense, {"inputs": {"x": []}, "signature_name": "echo_int32"}).json() == {
        "outputs": []
    }
    assert len(post(dense, {"instances": [[0, 0]] * 100}).json()["predictions"]) == 100


def test_a_run_over_the_deadline_is_504_and_the_next_one_works(dense):
    slow = {"signature_name": "slow", "inputs": 10**12}
    expect(post(dense, slow), 504, "")
    assert post(dense, {**slow, "inputs": 3}).json() == {"outputs": 3}


def test_gzip_requests(dense):
    packed = gzip.compress(b'{"instances": [[1, 2]]}')
    headers = {"Content-Encoding": "gzip"}
    assert post(dense, packed, headers=headers).json()["predictions"] == [[9.0, 12.0, 15.0]]
    bomb = gzip.compress(b" " * 20_000)
    for bad in (b"not gzip", packed[:-9], bomb):
        expect(post(dense, bad, headers=headers), 400, "The document is empty")


def test_bodies_over_the_limit_are_413(dense):
    only_ours(dense)
    expect(post(dense, b" " * 10_001), 413, "larger than 10000 bytes")


def test_bodies_over_the_limit_are_413_without_a_length(dense):
    only_ours(dense)

    async def chunks():
        for _ in range(11):
            yield b" " * 1000

    expect(dense.request("POST", "/v1/models/dense:predict", chunks()), 413, "larger than")


def test_images_as_base64(image):
    for instances in (
        [b64(RED), b64(GREEN)],
        [{"image_bytes": b64(RED)}, {"image_bytes": b64(GREEN)}],
    ):
        reply = post(image, {"instances": instances}, "/v1/models/image:predict").json()
        assert reply == {"predictions": [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]}


def test_top_k_gives_label_names(image):
    body = {"signature_name": "top_k", "instances": [b64(png((10, 30, 0)))]}
    row = post(image, body, "/v1/models/image:predict").json()["predictions"][0]
    assert row["classes"] == ["green", "red"]
    np.testing.assert_allclose(row["scores"], [0.75, 0.25], rtol=1e-6)


@pytest.mark.parametrize(
    ("instances", "text"),
    [
        ([[0.1, 0.2]], "Type: Number is not of expected type: string"),
        (["not base64"], "Unknown image file format"),
        ([{"b64": "data:image/png;base64,aGk="}], "Unable to base64 decode"),
        ([b64(RED), b64(b"\xff\xd8\xff cut")], "Invalid JPEG data or crop window"),
        ([b64(b"")], ""),
    ],
)
def test_images_that_are_refused(image, instances, text):
    expect(post(image, {"instances": instances}, "/v1/models/image:predict"), 400, text)


def test_frequent_mistakes_get_a_hint(image):
    only_ours(image)
    error = post(image, {"instances": [[0.1]]}, "/v1/models/image:predict").json()["error"]
    assert error.endswith(
        '(hint: send encoded images as {"b64": "<base64 of the file>"}, not pixels)'
    )


def test_classify(image):
    body = {
        "signature_name": "classify",
        "examples": [{"image/encoded": b64(RED)}, {"image/encoded": b64(GREEN)}],
    }
    results = post(image, body, "/v1/models/image:classify").json()["results"]
    assert [row[0] for row in results] == [["red", 1.0], ["green", 1.0]]


def test_classify_context_is_shared_by_the_examples(image):
    body = {
        "signature_name": "classify",
        "context": {"image/encoded": b64(GREEN)},
        "examples": [{}, {"image/encoded": b64(RED)}],
    }
    results = post(image, body, "/v1/models/image:classify").json()["results"]
    assert [row[0][0] for row in results] == ["green", "red"]


def test_a_long_context_for_many_examples_is_refused(dense):
    """Each example gets all of it: 1 MB sent would take 100 GB."""
    only_ours(dense)
    body = {
        "signature_name": "regress",
        "context": {"c": "x" * 1000},
        "examples": [{"v": 1.5}] * 20,
    }
    expect(
        post(dense, body, "/v1/models/dense:regress"),
        400,
        "bytes with the context in each are larger than 10000",
    )
    body["examples"] = [{"v": 1.5}] * 5
    assert post(dense, body, "/v1/models/dense:regress").json() == {"results": [1.5] * 5}


@pytest.mark.parametrize(
    ("body", "text"),
    [
        ({"signature_name": "s", "examples": [{}]}, "No signature was found with the name: s"),
        ({"examples": [{}]}, "No classification inputs found in SignatureDef"),
        ({"signature_name": "classify"}, "key 'examples' is expected and was not found"),
        ({"signature_name": "classify", "examples": []}, "value is an empty array"),
        ({"signature_name": "classify", "examples": [{}]}, "image/encoded"),  # the op's own text
    ],
)
def test_classify_bodies_that_are_refused(image, body, text):
    expect(post(image, body, "/v1/models/image:classify"), 400, text)


def test_regress(dense):
    body = {"signature_name": "regress", "examples": [{"v": 1.5}, {"v": 0.1}]}
    assert post(dense, body, "/v1/models/dense:regress").content == b'{"results": [1.5, 0.1]}'
    expect(
        post(dense, {"examples": [{"v": 1.5}]}, "/v1/models/dense:regress"),
        400,
        "No regression inputs",
    )


def test_status(dense):
    available = {
        "version": "7",
        "state": "AVAILABLE",
        "status": {"error_code": "OK", "error_message": ""},
    }
    for url in ("", "/versions/7", "/labels/any"):
        assert dense.get(f"/v1/models/dense{url}").json() == {"model_version_status": [available]}


def test_metadata_lists_every_signature_with_strings_for_int64(image):
    reply = image.get("/v1/models/image/metadata").json()
    assert reply["model_spec"] == {"name": "image", "signature_name": "", "version": "1"}
    signatures = reply["metadata"]["signature_def"]["signature_def"]
    assert {"serving_default", "top_k", "classify", "__saved_model_init_op"} <= set(signatures)
    info = signatures["serving_default"]["inputs"]["image_bytes"]
    assert info["dtype"] == "DT_STRING"
    assert info["tensor_shape"] == {"dim": [{"size": "-1", "name": ""}], "unknown_rank": False}
    assert image.get("/v1/models/image/versions/1/metadata").json() == reply


def test_requests_run_side_by_side(dense):
    answers = []

    def ask(value):
        body = {"instances": [[value, 0]]}
        answers.append((value, post(dense, body).json()["predictions"][0][0]))

    threads = [threading.Thread(target=ask, args=(i,)) for i in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(answers) == [(i, float(i)) for i in range(16)]


def test_not_ready_before_the_first_version(exports, tmp_path):
    base = tmp_path / "versions"
    os.mkdir(base)
    with rest(EMBEDDED, base, "late") as client:
        assert client.get("/readyz").status_code == 503
        assert client.get("/healthz").status_code == 200
        expect(client.get("/v1/models/late"), 404, "Could not find any versions of model late")
        expect(post(client, {"instances": [1]}, "/v1/models/late:predict"), 404, "Latest(late)")


@pytest.mark.parametrize("backend", BACKENDS)
def test_an_export_that_only_python_runs_fails_as_in_tensorflow_serving(backend, exports, tmp_path):
    base = tmp_path / "versions"
    publish(exports / "broken", base, 1)
    with rest(backend, base, "broken") as client:
        states = client.get("/v1/models/broken").json()["model_version_status"]
        assert [state["state"] for state in states] == ["AVAILABLE"]
        body = {"instances": [[1, 2]]}
        expect(post(client, body, "/v1/models/broken:predict"), 400, "Could not find variable")


def test_images_over_the_limits_are_refused_before_they_are_decoded(exports, tmp_path):
    publish(exports / "image", tmp_path, 1)
    small, wide = png((255, 0, 0)), png((255, 0, 0), size=(30, 30))
    options = {"max_image_bytes": len(wide), "max_image_pixels": 100, "enable_model_warmup": False}
    with rest(EMBEDDED, tmp_path, "image", **options) as client:
        url = "/v1/models/image:predict"
        assert post(client, {"instances": [b64(small)]}, url).json() == {
            "predictions": [[1.0, 0.0, 0.0]]
        }
        expect(
            post(client, {"instances": [b64(small), b64(wide)]}, url),
            400,
            "row 1: an image of 900 pixels",
        )
        expect(post(client, {"instances": [b64(wide + b"more")]}, url), 400, "are more than")


def test_more_requests_than_may_wait_are_503(exports, tmp_path):
    publish(exports / "dense", tmp_path, 1)
    options = {"rest_api_num_threads": 1, "max_waiting_requests": 1, "rest_api_timeout_in_ms": 0}
    with rest(EMBEDDED, tmp_path, "m", **options) as client:
        slow = {"signature_name": "slow", "inputs": 600_000}
        answers = []
        asking = [
            threading.Thread(
                target=lambda: answers.append(post(client, slow, "/v1/models/m:predict"))
            )
            for _ in range(6)
        ]
        for thread in asking:
            thread.start()
        for thread in asking:
            thread.join()
        refused = [answer for answer in answers if answer.status_code != 200]
        assert 1 <= len(refused) <= 4
        for answer in refused:
            expect(answer, 503, "1 requests wait already (--max_waiting_requests)")
        assert post(client, {"instances": [[1, 2]]}, "/v1/models/m:predict").status_code == 200


def test_long_documents_are_read_one_at_a_time(exports, tmp_path):
    """As Python's objects they take 25 times their memory: 100 KB of gzip took 2.5 GB each."""
    publish(exports / "dense", tmp_path, 1)
    with rest(EMBEDDED, tmp_path, "dense") as client:
        long = b'{"instances": [[1, 2]]' + b" " * 2**20 + b"}"
        answers = []
        threads = [
            threading.Thread(
                target=lambda body=body: answers.append(post(client, body).status_code)
            )
            for body in (long, b'{"instances": [[1, 2]]}')
        ]
        with client.app._long:
            for thread in threads:
                thread.start()
            threads[1].join()
            threads[0].join(3)
            assert threads[0].is_alive() and answers == [200]
        threads[0].join()
        assert answers == [200, 200]


def test_metrics_have_tensorflow_servings_names(exports, tmp_path):
    publish(exports / "image", tmp_path, 1)
    with rest(EMBEDDED, tmp_path, "m", metrics_path="/monitoring/prometheus/metrics") as client:
        url = "/v1/models/m:predict"
        for instances in ([b64(RED)], [b64(RED)], [b64(b"bad")]):
            post(client, {"instances": instances}, url)
        post(client, {"instances": [b64(RED)]}, "/v1/models/other:predict")
        text = client.get("/monitoring/prometheus/metrics").text
        values = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
        name = ":tensorflow:serving:"
        assert values[name + 'request_count{model_name="m",status="OK"}'] == "2.0"
        assert values[name + 'request_count{model_name="m",status="INVALID_ARGUMENT"}'] == "1.0"
        labels = '{API="Predict",entrypoint="REST",model_name="m"}'
        assert values[f"{name}request_latency_count{labels}"] == "3.0"
        assert float(values[f"{name}request_latency_sum{labels}"]) > 0
        assert 'model_warmup_latency_count{model_path="' in text
        assert "other" not in text, "Names of clients' own making fill no memory."
    with rest(EMBEDDED, tmp_path, "m", enable_page=False) as client:
        assert client.get("/monitoring/prometheus/metrics").status_code == 404


def test_cors_is_an_option(exports, tmp_path):
    publish(exports / "dense", tmp_path, 1)
    for enabled in (False, True):
        with rest(EMBEDDED, tmp_path, "m", rest_api_enable_cors_support=enabled) as client:
            headers = client.get("/v1/models/m").headers
            assert headers.get("access-control-allow-origin") == ("*" if enabled else None)
