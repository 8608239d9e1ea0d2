"""Random requests: whatever a client sends, the answer is no server error."""

import asyncio
import json
import os

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from serving.server.rest_api.routes import RestApi
from serving.server.server_config import ModelSettings, ServerSettings
from serving.server.versions.manager import Manager
from tests.helpers.serving_models import publish

# 10,000 of each take minutes: RESNET_TFX_FUZZ=10000.
NUMBER = int(os.environ.get("RESNET_TFX_FUZZ", "500"))
FUZZ = settings(max_examples=NUMBER)

NAMES = st.sampled_from(["x", "a", "b", "v", "b64", "\ud800", "\udcff"]) | st.text(
    st.characters(min_codepoint=0, exclude_categories=()), max_size=3
)
HUGE = st.sampled_from([2**63, -(2**63) - 1, 2**64, 10**39, 10**400, -(10**400), 1e300])
LEAVES = (
    st.none()
    | st.booleans()
    | st.integers()
    | HUGE
    | st.floats()
    | NAMES
    | st.just({"b64": "aGk="})
)
VALUES = st.recursive(
    LEAVES,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(NAMES, inner, max_size=3)
        | st.builds(lambda value, times: [value] * times, inner, st.integers(1, 4))
    ),
    max_leaves=12,
)
NUMBERS = st.integers(1, 2).flatmap(
    lambda size: st.lists(
        st.lists(st.floats(width=32), min_size=size, max_size=size), min_size=1, max_size=3
    )
)
# Not "slow" and "echo_float16": their 504 and 501 are right.
SIGNATURES = st.sampled_from(
    ["", "serving_default", "two", "scalar", "ragged_batch", "regress", "__saved_model_init_op"]
    + [
        f"echo_{name}"
        for name in ("int32", "uint8", "int64", "uint64", "bool", "float64", "string")
    ]
)
EXAMPLES = st.dictionaries(NAMES, LEAVES | st.lists(LEAVES, max_size=2) | VALUES, max_size=2)
PARTS_OF_DOCUMENTS = {
    "signature_name": SIGNATURES | NAMES,
    "instances": VALUES | NUMBERS,
    "inputs": VALUES | NUMBERS,
    "examples": VALUES | st.lists(EXAMPLES, max_size=3),
    "context": VALUES | EXAMPLES,
}
DOCUMENTS = st.fixed_dictionaries({}, optional=PARTS_OF_DOCUMENTS) | st.sampled_from(
    ["instances", "inputs", "examples"]
).flatmap(
    lambda key: st.fixed_dictionaries({"signature_name": SIGNATURES, key: PARTS_OF_DOCUMENTS[key]})
)
BODIES = DOCUMENTS.map(lambda document: json.dumps(document).encode()) | st.binary(max_size=40)
METHODS = st.sampled_from(["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"])
PARTS = st.sampled_from(
    [b"/v1/", b"/", b"m", b":predict", b":classify", b"/versions/", b"/labels/", b"7", b"\xff"]
)
ENDS = st.sampled_from([b"", b":predict", b":classify", b":regress", b"/metadata"])
PATHS = st.builds(
    lambda parts, end: b"/v1/models" + b"".join(parts) + end,
    st.lists(PARTS | st.binary(max_size=3), max_size=4),
    ENDS,
)
VERBS = st.sampled_from([b"predict", b"classify", b"regress"])


@pytest.fixture(scope="module")
def app(exports, tmp_path_factory):
    base = tmp_path_factory.mktemp("fuzz")
    publish(exports / "dense", base, 7)
    options = ServerSettings((ModelSettings("m", base),))
    manager = Manager(options)
    manager.start()
    assert manager.wait_first_look()
    yield RestApi(manager, options)
    manager.stop()


def ask(app, method, path, body):
    """Status and body of one request, with its path as raw bytes, as servers hand it over."""
    raw, _, query = path.partition(b"?")
    scope = {
        "type": "http",
        "method": method,
        "path": raw.decode(errors="replace"),
        "raw_path": raw,
        "query_string": query,
        "headers": [],
    }
    sent = []

    async def receive():
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message):
        sent.append(message)

    asyncio.run(app(scope, receive, send))
    return sent[0], b"".join(message.get("body", b"") for message in sent)


def check(app, method, path, body):
    head, content = ask(app, method, path, body)
    kind = dict(head["headers"]).get(b"content-type", b"")
    assert head["status"] < 500, content
    if head["status"] != 200 and kind == b"application/json":
        assert list(json.loads(content)) == ["error"] and isinstance(
            json.loads(content)["error"], str
        )
    else:
        # Paths with line breaks are none of the API.
        assert head["status"] in (200, 404)


@FUZZ
@given(VERBS, BODIES)
@example(b"regress", b'{"examples": [{"v": 1%s}]}' % (b"0" * 400))
@example(b"predict", b'{"inputs": [[1%s]]}' % (b"0" * 400))
@example(b"classify", b'{"examples": [{"\\ud800": 1}]}')
@example(b"predict", b'{"inputs": %s%s}' % (b"[" * 100, b"]" * 100))
def test_random_bodies(app, verb, body):
    check(app, "POST", b"/v1/models/m:" + verb, body)


@FUZZ
@given(METHODS, PATHS, BODIES)
@example("GET", b"/v1/models/\xff", b"")
@example("POST", b"/v1/models/m/labels/\xff:predict", b"{}")
def test_random_addresses(app, method, path, body):
    check(app, method, path, body)
