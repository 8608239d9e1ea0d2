"""JSON values to arrays and back."""

import json
import math
import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tensorflow.core.framework import types_pb2 as types

from serving.server.rest_api import codec, requests, responses
from serving.server.rpc_errors import Code, ServingError

FLOAT, DOUBLE, INT32, UINT8, UINT32, INT64, UINT64, BOOL, STRING, HALF = (
    types.DT_FLOAT,
    types.DT_DOUBLE,
    types.DT_INT32,
    types.DT_UINT8,
    types.DT_UINT32,
    types.DT_INT64,
    types.DT_UINT64,
    types.DT_BOOL,
    types.DT_STRING,
    types.DT_HALF,
)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.1, "0.1"),
        (1 / 3, "0.333333343"),  # the nearest float32, 9 digits
        (3.0, "3.0"),
        (-0.0, "-0.0"),
        (1e-5, "1e-05"),
        (9e6, "9e+06"),
        (16777216.0, "16777216.0"),
        (123456.0, "123456.0"),
        (3.4028235e38, "3.40282347e+38"),
        (1e-45, "1.4013e-45"),
        (math.nan, "NaN"),
        (math.inf, "Infinity"),
        (-math.inf, "-Infinity"),
    ],
)
def test_float32_prints_six_digits_or_the_nine_that_round_trip(value, text):
    assert codec.decimals(np.array([value], np.float32)) == [text]


def test_float64_prints_seventeen_digits_where_six_do_not_round_trip():
    assert codec.decimals(np.array([0.1, 1 / 3])) == ["0.1", "0.33333333333333331"]


@given(st.floats(width=32))
def test_every_float32_reads_back_as_itself(value):
    text = codec.decimals(np.array([value], np.float32))[0]
    np.testing.assert_array_equal(np.float32(json.loads(text)), np.float32(value))


@given(
    st.lists(
        st.lists(st.integers(-(2**63), 2**63 - 1), min_size=2, max_size=2), min_size=1, max_size=4
    )
)
def test_arrays_survive_a_round_trip(values):
    array = codec.decode_tensor(values, INT64)
    assert json.loads(codec.encode_tensor(array, INT64)) == values == array.tolist()


@given(st.binary(max_size=60))
def test_bytes_survive_base64(value):
    text = codec.encode_tensor(np.array(value, object), STRING, as_base64=True)
    assert codec.decode_tensor(json.loads(text), STRING).item() == value


def test_empty_axes_keep_their_shape():
    for shape, text in (
        ((0,), "[]"),
        ((2, 0), "[[], []]"),
        ((0, 3), "[]"),
        ((2, 0, 3), "[[], []]"),
    ):
        assert codec.encode_tensor(np.zeros(shape, np.float32), FLOAT) == text
    assert codec.decode_tensor([[], []], FLOAT).shape == (2, 0)


def test_no_rows_are_an_empty_list():
    outputs = {"y": np.zeros((0, 3), np.float32)}
    assert json.loads(responses.predict_body(outputs, {"y": FLOAT}, rows=True)) == {
        "predictions": []
    }
    outputs["s"] = np.zeros(0, object)
    dtypes = {"y": FLOAT, "s": STRING}
    assert json.loads(responses.predict_body(outputs, dtypes, rows=True)) == {"predictions": []}
    for sizes in ((0, 2), (2, 0), (1, 2)):
        outputs = {name: np.zeros(size, np.float32) for name, size in zip("ab", sizes, strict=True)}
        with pytest.raises(ServingError) as caught:
            responses.predict_body(outputs, {"a": FLOAT, "b": FLOAT}, rows=True)
        text = f"Tensor name: b has inconsistent batch size: {sizes[1]} expecting: {sizes[0]}"
        assert caught.value.message == text


def test_strings_need_not_be_utf8():
    body = b'{"inputs": "\xff\\u00e9"}'
    assert (
        codec.decode_tensor(requests.parse_json(body)["inputs"], STRING).item() == b"\xff\xc3\xa9"
    )
    reply = responses.predict_body({"s": np.array([b"\xff"], object)}, {"s": STRING}, rows=False)
    assert reply == b'{"outputs": ["\xff"]}'


@pytest.mark.parametrize(
    ("value", "dtype", "expected"),
    [
        (1, FLOAT, 1.0),
        (1e39, FLOAT, math.inf),
        (10**30, DOUBLE, 1e30),
        (math.nan, FLOAT, math.nan),
        (300, UINT8, 44),  # 300 - 256
        (2**32 - 1, UINT32, 2**32 - 1),
        (2**64 - 1, UINT64, 2**64 - 1),
        (True, BOOL, True),
        ("é", STRING, "é".encode()),
        ({"b64": "aGk"}, STRING, b"hi"),
        ({"b64": " aG\nk= "}, STRING, b"hi"),
    ],
)
def test_accepted_values(value, dtype, expected):
    np.testing.assert_equal(codec.decode_tensor(value, dtype).item(), expected)


@pytest.mark.parametrize(
    ("value", "dtype", "text"),
    [
        ("x", FLOAT, 'JSON Value: "x" Type: String is not of expected type: float'),
        (True, FLOAT, "JSON Value: true Type: True is not of expected type: float"),
        (None, FLOAT, "JSON Value: null Type: Null is not of expected type: float"),
        ({"b64": "aGk="}, FLOAT, "Type: Object is not of expected type: float"),
        (1.0, INT32, "JSON Value: 1.0 Type: Number is not of expected type: int32"),
        (2**31, INT32, "Type: Number is not of expected type: int32"),
        (2**63, INT64, "Type: Number is not of expected type: int64"),
        (2**32, UINT32, "JSON Value: 4294967296 Type: Number is not of expected type: uint32"),
        (-1, UINT32, "Type: Number is not of expected type: uint32"),
        (2**64, UINT64, "Type: Number is not of expected type: uint64"),
        (-1, UINT64, "Type: Number is not of expected type: uint64"),
        (1, BOOL, "Type: Number is not of expected type: bool"),
        (1.5, STRING, "JSON Value: 1.5 Type: Number is not of expected type: string"),
        ({"b64": "data:image/png;base64,aGk="}, STRING, "Unable to base64 decode"),
        ({"b64": "aGk=="}, STRING, "Unable to base64 decode"),
        ({"b64": "a"}, STRING, "Unable to base64 decode"),
        ({"b64": "_-8="}, STRING, "Unable to base64 decode"),
        ({"b64": 1}, STRING, "not formatted correctly for base64 data"),
        (
            [[1, 2], [3]],
            FLOAT,
            "Encountered list at unexpected size: 1 at level: 1 expected size: 2",
        ),
        ([1, [2]], FLOAT, "Encountered list at unexpected level: 1 expected < 1"),
        (
            [[1], 2],
            FLOAT,
            "JSON Value: 2 found at incorrect level: 2 in the JSON DOM. Expected at level: 2",
        ),
        (10**400, FLOAT, "Number too big"),
        ("\ud800", STRING, "The surrogate pair in string is invalid"),
        # The first mistake in the text is told, whatever its kind.
        ([[1, 2], ["x", 4], [5]], FLOAT, 'JSON Value: "x" Type: String'),
        ([[1, 2], [3], ["x", 4]], FLOAT, "Encountered list at unexpected size: 1 at level: 1"),
        ([[[1], [[2]]], [[3]]], FLOAT, "Encountered list at unexpected level: 3 expected < 3"),
        (
            [[[1], 2], 3],
            FLOAT,
            "JSON Value: 2 found at incorrect level: 3 in the JSON DOM. Expected at level: 3",
        ),
    ],
)
def test_refused_values(value, dtype, text):
    with pytest.raises(ServingError) as caught:
        codec.decode_tensor(value, dtype)
    assert caught.value.code == Code.INVALID_ARGUMENT
    assert text in caught.value.message


@pytest.mark.parametrize("text", ["aG=", "aGk==", "aGk=aGk=", "=aGk", "aGkA****", "a", "_-8="])
def test_what_is_no_base64_is_refused(text):
    with pytest.raises(ServingError) as caught:
        codec.decode_tensor({"b64": text}, STRING)
    assert caught.value.message == "Unable to base64 decode"
    assert caught.value.code == Code.INVALID_ARGUMENT


@pytest.mark.parametrize(
    ("value", "dtype", "text"),
    [
        ("x", FLOAT, 'JSON Value: "x" Type: String is not of expected type: float'),
        (None, DOUBLE, "JSON Value: null Type: Null is not of expected type: double"),
        (True, INT32, "JSON Value: true Type: True is not of expected type: int32"),
        (False, INT32, "JSON Value: false Type: False is not of expected type: int32"),
        ({}, INT32, "JSON Value: {} Type: Object is not of expected type: int32"),
        (1.5, INT64, "JSON Value: 1.5 Type: Number is not of expected type: int64"),
        (1, BOOL, "JSON Value: 1 Type: Number is not of expected type: bool"),
        (1, STRING, "JSON Value: 1 Type: Number is not of expected type: string"),
        ({}, HALF, "JSON Value: {} Type: Object is not of expected type: half"),
        ([0.5, 1, 2, True, 3], FLOAT, "JSON Value: true Type: True is not of expected type: float"),
        (
            {"b64": 1},
            STRING,
            'JSON Value: {\n    "b64": 1\n} not formatted correctly for base64 data',
        ),
        (
            {"b64": "", "a": 1},
            STRING,
            'JSON Value: {\n    "b64": "",\n    "a": 1\n} not formatted correctly for base64 data',
        ),
        (
            {"a": ""},
            STRING,
            'JSON Value: {\n    "a": ""\n} not formatted correctly for base64 data',
        ),
        (10**400, FLOAT, "JSON Parse error: Number too big to be stored in double. at offset: 0"),
        (
            "\ud800",
            STRING,
            "JSON Parse error: The surrogate pair in string is invalid. at offset: 0",
        ),
        (
            [[1, 2], [3]],
            FLOAT,
            "Encountered list at unexpected size: 1 at level: 1 expected size: 2",
        ),
        ([1, [2]], FLOAT, "Encountered list at unexpected level: 1 expected < 1"),
        (
            [[1], "é"],
            FLOAT,
            'JSON Value: "é" found at incorrect level: 2 in the JSON DOM. Expected at level: 2',
        ),
        (
            [[]] * 2 + [[1]],
            FLOAT,
            "Encountered list at unexpected size: 1 at level: 1 expected size: 0",
        ),
    ],
)
def test_refusals_are_said_as_upstream_says_them(value, dtype, text):
    with pytest.raises(ServingError) as caught:
        codec.decode_tensor(value, dtype)
    assert (caught.value.message, caught.value.code) == (text, Code.INVALID_ARGUMENT)


WHOLE = {
    types.DT_INT8: np.int8,
    UINT8: np.uint8,
    types.DT_INT16: np.int16,
    INT32: np.int32,
    INT64: np.int64,
    UINT32: np.uint32,
    UINT64: np.uint64,
}


@pytest.mark.parametrize("dtype", WHOLE)
def test_whole_numbers_have_the_range_of_their_type(dtype):
    """Those of 8 and 16 bits have that of 32, and wrap around."""
    kind = WHOLE[dtype]
    limits = np.iinfo(kind if np.iinfo(kind).bits >= 32 else np.int32)
    array = codec.decode_tensor([[int(limits.min), int(limits.max), 7]], dtype)
    assert array.dtype == kind and array.shape == (1, 3)
    size = 2 ** np.iinfo(kind).bits
    assert [
        (int(a) - b) % size for a, b in zip(array[0], (limits.min, limits.max, 7), strict=True)
    ] == [0] * 3
    for value in (int(limits.min) - 1, int(limits.max) + 1):
        for values in ([value], [0, value], [value, 0]):
            with pytest.raises(ServingError, match=f"JSON Value: {value} Type: Number"):
                codec.decode_tensor(values, dtype)
    assert json.loads(codec.encode_tensor(array, dtype)) == array.tolist()


@pytest.mark.parametrize(
    ("dtype", "kind"), [(FLOAT, np.float32), (DOUBLE, np.float64), (BOOL, np.bool_)]
)
def test_other_values_have_the_type_of_their_tensor(dtype, kind):
    for values in ([True, False], []) if dtype == BOOL else ([1, 0.5], [2], []):
        array = codec.decode_tensor(values, dtype)
        assert array.dtype == kind and array.tolist() == values


def test_texts_of_strings_and_truths():
    strings = np.array([[b"hi", "é".encode()]], object)
    assert codec.encode_tensor(strings, STRING) == '[["hi", "é"]]'
    assert codec.encode_tensor(strings[0, 1:].reshape(()), STRING) == '"é"'
    assert codec.encode_rows(strings[0], STRING) == ['"hi"', '"é"']
    assert (
        codec.encode_tensor(strings, STRING, as_base64=True)
        == '[[{"b64": "aGk="}, {"b64": "w6k="}]]'
    )
    assert codec.encode_tensor(strings[0, :1].reshape(()), STRING, True) == '{"b64": "aGk="}'
    truths = np.array([[True, False], [False, False]])
    assert codec.encode_tensor(truths, BOOL) == "[[true, false], [false, false]]"
    assert codec.encode_tensor(truths[0, 0], BOOL) == "true"


@pytest.mark.parametrize(
    ("value", "kind"),
    [([], "Array"), ({}, "Object"), ("", "String"), (0, "Number"), (0.5, "Number"), (None, "Null")],
)
def test_kinds_of_json_values_have_upstreams_names(value, kind):
    assert codec.json_type(value) == kind


def test_a_quote_is_cut_behind_512_characters():
    for length in (510, 511):
        whole = json.dumps("é" * length, ensure_ascii=False)
        assert codec.quote("é" * length) == (whole if length == 510 else whole[:512] + "...")


def nested(levels):
    value = 1.0
    for _ in range(levels):
        value = [value]
    return value


def test_lists_nest_as_deep_as_an_array_can():
    assert (
        requests.decode_predict({"instances": [nested(63)]}, {"x": FLOAT})[0]["x"].shape
        == (1,) * 64
    )
    for levels in (64, 500):
        with pytest.raises(ServingError, match="has more than 63 levels of lists"):
            requests.decode_predict({"instances": [nested(levels)]}, {"x": FLOAT})
        with pytest.raises(ServingError) as caught:
            codec.decode_tensor(nested(levels), FLOAT)
        whole = json.dumps(nested(levels), indent=4)[:512]
        assert caught.value.message == f"JSON Value: {whole}... has more than 63 levels of lists"


def test_many_rows_are_read_like_few():
    rows = [[float(i), 0.5] for i in range(2500)]
    for instances in (rows, [{"x": row} for row in rows]):
        inputs, _ = requests.decode_predict({"instances": instances}, {"x": FLOAT})
        np.testing.assert_array_equal(inputs["x"], np.array(rows, np.float32))
    texts = ["a", "bc"] * 1250
    inputs, _ = requests.decode_predict({"instances": texts}, {"x": STRING})
    assert inputs["x"].tolist() == [text.encode() for text in texts]


@pytest.mark.parametrize(
    ("row", "text"),
    [
        (
            [1.0],
            (
                "Failed to process element: 2400 of 'instances' list. Error: INVALID_ARGUMENT:"
                " Expecting tensor"
            ),
        ),
        (
            [[1.0], [2.0]],
            "Failed to process element: 2400 of 'instances' list. .*Expecting shape .2. but got",
        ),
        (["a", "b"], "Failed to process element: 2400 of 'instances' list. .*Type: String"),
        ({"x": 1}, "Expecting value/list but got object at item 2400 of input list"),
    ],
)
def test_the_first_bad_one_of_many_rows_is_named(row, text):
    rows = [[1.0, 2.0]] * 2400 + [row] * 100
    with pytest.raises(ServingError, match=text):
        requests.decode_predict({"instances": rows}, {"x": FLOAT})


def test_many_rows_of_another_shape_than_the_first_are_refused():
    text = (
        "Failed to process element: 1024 of 'instances' list. .*Expecting tensor size: 1 but got: 2"
    )
    with pytest.raises(ServingError, match=text):
        requests.decode_predict({"instances": [[1]] * 1024 + [[1, 2]] * 1024}, {"x": FLOAT})


def test_a_row_costs_no_array_of_its_own():
    """It was 220 bytes and 10 microseconds for each number: 2 GB and 50 s for 10 MB of "1,"."""
    rows = [1] * 100_000
    tracemalloc.start()
    try:
        requests.decode_predict({"instances": rows}, {"x": FLOAT})
        assert tracemalloc.get_traced_memory()[1] < 30 * len(rows)
    finally:
        tracemalloc.stop()


def test_half_precision_has_no_json_form():
    for value in (1.0, 1, 2):
        with pytest.raises(ServingError) as caught:
            codec.decode_tensor(value, HALF)
        assert caught.value.message == f"Conversion of JSON Value: {value} to type: half"
        assert caught.value.code == Code.UNIMPLEMENTED
    with pytest.raises(ServingError, match="Failed to write JSON value for tensor type: half"):
        codec.encode_tensor(np.zeros(1, np.float16), HALF)


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (b"", "JSON Parse error: The document is empty"),
        (b"  ", "JSON Parse error: Expecting value at offset: 2"),
        (b'{"a": }', "JSON Parse error: Expecting value at offset: 6"),
        ('{"é": }'.encode(), "at offset: 7"),  # bytes, not characters
        (b"[1]", "Is not object"),
        (b'{"a": ' + b"[" * 100_000, "JSON Parse error"),
        (b'{"a": ' + b"1" * 10_000 + b"}", "JSON Parse error"),
    ],
)
def test_bodies_that_are_not_an_object(body, text):
    with pytest.raises(ServingError) as caught:
        requests.parse_json(body)
    assert caught.value.code == Code.INVALID_ARGUMENT
    assert text in caught.value.message


def test_parser_stops_after_the_first_value():
    assert (
        requests.parse_json(b'\xef\xbb\xbf {"a": [NaN, -Infinity]} trailing')["a"][1] == -math.inf
    )


def test_long_values_are_cut_in_error_texts():
    with pytest.raises(ServingError) as caught:
        codec.decode_tensor("x" * 10_000, FLOAT)
    assert len(caught.value.message) < 700


class Counted(dict):
    """A JSON object that counts how often it is looked at."""

    looks = 0

    def items(self):
        Counted.looks += 1
        return super().items()


def test_quotes_read_no_more_than_they_show():
    assert codec.quote({"a": [1, None]}) == json.dumps({"a": [1, None]}, indent=4)
    text = codec.quote([Counted(a=1) for _ in range(10_000)])
    assert len(text) == 515 and text.endswith("...")
    assert Counted.looks < 50
    assert codec.quote(nested(100_000)).startswith("[\n    [\n")


@given(
    st.recursive(
        st.none() | st.booleans() | st.floats() | st.text(max_size=3), st.lists, max_leaves=8
    )
)
def test_any_json_value_is_decoded_or_refused(value):
    for dtype in (FLOAT, INT32, BOOL, STRING, HALF):
        try:
            codec.decode_tensor(value, dtype)
        except ServingError as error:
            assert error.message


def test_many_numbers_of_a_feature_are_read_like_few():
    document = {"examples": [{"i": [0, -(2**63)] * 500, "f": [0.5, 1e300] * 500}]}
    feature = requests.decode_examples(document).example_list.examples[0].features.feature
    assert list(feature["i"].int64_list.value) == [0, -(2**63)] * 500
    assert list(feature["f"].float_list.value) == [0.5, math.inf] * 500


def test_examples_take_the_kind_of_their_values():
    document = {"examples": [{"i": [1, True], "f": 0.5, "s": ["a", {"b64": "aGk="}], "e": []}]}
    feature = requests.decode_examples(document).example_list.examples[0].features.feature
    assert list(feature["i"].int64_list.value) == [1, 1]
    assert list(feature["f"].float_list.value) == [0.5]
    assert list(feature["s"].bytes_list.value) == [b"a", b"hi"]
    assert feature["e"].WhichOneof("kind") is None


@pytest.mark.parametrize(
    ("document", "text"),
    [
        ({}, "key 'examples' is expected and was not found"),
        ({"examples": 1}, "Expecting 'examples' value to be an list/array"),
        ({"examples": []}, "'examples' value is an empty array"),
        ({"examples": [1]}, "Example must be JSON object but got JSON Number"),
        ({"examples": [{"a": None}]}, "Feature: a has element with unexpected JSON type: Null"),
        (
            {"examples": [{"a": [1, 0.5]}]},
            "Unexpected element type in feature: a expecting type: int64",
        ),
        (
            {"examples": [{"a": 2**63}]},
            "Feature: a has uint64_t element. Only int64_t is supported.",
        ),
        ({"examples": [{"a": 10**400}]}, "Number too big to be stored in double"),
        ({"examples": [{"a": -(10**400)}]}, "Number too big to be stored in double"),
        ({"context": {"\ud800": 1}, "examples": [{}]}, "is not valid UTF-8"),
        ({"examples": [{"\udcff": 1}]}, "is not valid UTF-8"),
        ({"examples": [{"a": "\ud800"}]}, "The surrogate pair in string is invalid"),
    ],
)
def test_refused_examples(document, text):
    with pytest.raises(ServingError) as caught:
        requests.decode_examples(document)
    assert text in caught.value.message
