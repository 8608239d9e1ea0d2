"""Bytes that are no tf.Example, at every door of a server in a process of its own, which they may
end.
"""

import base64
import contextlib
import json
import os
import random
import subprocess
import urllib.error
import urllib.request
from pathlib import Path

import grpc
import pytest
import tensorflow as tf
import tensorflow.compat.v1 as tf1
from tensorflow_serving.apis import inference_pb2, predict_pb2

from tests.helpers import warm
from tests.helpers.backends import Stubs, free_port
from tests.helpers.serving_models import png, publish

ROOT = Path(__file__).parents[3]
# The length of a feature is 0xffffffff.
ENDS = base64.b64decode("ChsKGQoNaW1hZ2UvZW5jb2RlZBIICgYK/////w8=")
NUMBER = int(os.environ.get("RESNET_TFX_FUZZ", "300"))
SPEC = {"image/encoded": tf.io.FixedLenFeature([], tf.string, default_value="")}
BATCH = [tf.TensorSpec([None], tf.string)]


class Parsers(tf.Module):
    """The ways in which strings come to an op that parses them."""

    @tf.function(input_signature=BATCH)
    def direct(self, x):
        return {"y": tf.io.parse_example(x, SPEC)["image/encoded"]}

    @tf.function(input_signature=BATCH)
    def one_by_one(self, x):
        return {
            "y": tf.map_fn(lambda one: tf.io.parse_single_example(one, SPEC)["image/encoded"], x)
        }

    @tf.function(input_signature=BATCH)
    def unpacked(self, x):
        return {"y": tf.io.parse_example(tf.io.decode_base64(x), SPEC)["image/encoded"]}

    @tf.function(input_signature=BATCH)
    def sequence(self, x):
        return {"y": tf.io.parse_sequence_example(x, context_features=SPEC)[0]["image/encoded"]}

    @tf.function(input_signature=BATCH)
    def first_sequence(self, x):
        return {
            "y": tf.io.parse_single_sequence_example(x[0], context_features=SPEC)[0][
                "image/encoded"
            ][None]
        }

    @tf.function(input_signature=BATCH)
    def either(self, x):
        text = tf.strings.substr(x[0], 0, 1) == "t"
        return {
            "y": tf.cond(text, lambda: x, lambda: tf.io.parse_example(x, SPEC)["image/encoded"])
        }

    @tf.function(input_signature=BATCH)
    def length(self, x):
        return {"y": tf.strings.length(x)}


PARSING = ("direct", "one_by_one", "sequence", "first_sequence", "either")


def export_old(path):
    """The same in a graph without functions, as TensorFlow 1 wrote them."""
    with tf1.Graph().as_default(), tf1.Session() as session:
        x = tf1.placeholder(tf.string, [None])
        signature = tf1.saved_model.predict_signature_def(
            {"x": x}, {"y": tf1.io.parse_example(x, SPEC)["image/encoded"]}
        )
        builder = tf1.saved_model.Builder(str(path))
        builder.add_meta_graph_and_variables(session, ["serve"], {"direct": signature})
        builder.save()


@pytest.fixture(scope="module")
def server(exports, tmp_path_factory):
    """Port of the REST API, stubs and the process."""
    root = tmp_path_factory.mktemp("parsers")
    parsers = Parsers()
    signatures = {name: getattr(parsers, name) for name in (*PARSING, "unpacked", "length")}
    tf.saved_model.save(parsers, str(root / "new/1"), signatures=signatures)
    export_old(root / "old/1")
    for name in ("image", "dense"):
        publish(exports / name, root / name, 1)
    listed = "".join(
        f'config {{ name: "{n}" base_path: "{root / n}" }}\n'
        for n in ("new", "old", "image", "dense")
    )
    (root / "models").write_text(f"model_config_list {{\n{listed}}}")
    port, remote = free_port(), free_port()
    command = [*warm.python(), "-m", "serving.server", f"--model_config_file={root / 'models'}"]
    process = subprocess.Popen(
        [*command, f"--rest_api_port={port}", f"--port={remote}"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert " is ready " in process.stdout.readline()
        stubs = Stubs(remote)
        yield port, stubs, process
        stubs.channel.close()
        assert process.poll() is None, "it has ended"
    finally:
        process.kill()
        process.communicate()


def ask(server, model, body, verb="predict"):
    """Status and answer."""
    url = f"http://127.0.0.1:{server[0]}/v1/models/{model}:{verb}"
    try:
        with urllib.request.urlopen(
            urllib.request.Request(url, json.dumps(body).encode()), timeout=30
        ) as reply:
            return reply.status, json.loads(reply.read().decode(errors="replace"))
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)["error"]


def predict(server, model, signature, *values, key="instances"):
    listed = [{"b64": base64.b64encode(value).decode()} for value in values]
    return ask(server, model, {"signature_name": signature, key: listed})


def remote_predict(server, model, signature, name, *values):
    request = predict_pb2.PredictRequest()
    request.model_spec.name, request.model_spec.signature_name = model, signature
    request.inputs[name].CopyFrom(tf.make_tensor_proto(list(values), tf.string))
    return server[1].prediction.Predict(request, timeout=30)


def example(value, **features):
    made = tf.train.Example()
    for name, content in {"image/encoded": value, **features}.items():
        made.features.feature[name].bytes_list.value.append(content)
    return made.SerializeToString()


GOOD = example(b"ok")


@pytest.mark.parametrize("signature", PARSING)
@pytest.mark.parametrize(
    "bad", [ENDS, b"text", png((1, 2, 3)), GOOD[:-1]], ids=["length", "text", "png", "cut"]
)
def test_what_is_no_example_is_refused(server, signature, bad):
    if (signature, bad) == ("either", b"text"):
        pytest.skip("that is the text it takes")
    for key in ("instances", "inputs"):
        status, error = predict(server, "new", signature, bad, key=key)
        assert status == 400
        assert (
            error == "Could not parse example input, value: bytes that are no serialized tf.Example"
        )
    with pytest.raises(grpc.RpcError) as caught:
        remote_predict(server, "new", signature, "x", bad)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert predict(server, "new", signature, GOOD) == (200, {"predictions": ["ok"]})


def test_one_bad_row_refuses_all(server):
    assert predict(server, "new", "direct", GOOD, GOOD, ENDS)[0] == 400


def test_graphs_without_functions(server):
    assert predict(server, "old", "direct", ENDS)[0] == 400
    assert predict(server, "old", "direct", GOOD) == (200, {"predictions": ["ok"]})


def test_what_the_model_unpacks_itself(server):
    assert predict(server, "new", "unpacked", base64.urlsafe_b64encode(ENDS))[0] == 400
    assert predict(server, "new", "unpacked", base64.urlsafe_b64encode(GOOD)) == (
        200,
        {"predictions": ["ok"]},
    )


def test_strings_that_are_not_parsed_may_be_anything(server):
    assert predict(server, "new", "length", ENDS, b"", b"\xff") == (
        200,
        {"predictions": [29, 0, 1]},
    )
    assert predict(server, "new", "either", b"text") == (200, {"predictions": ["text"]})


def test_the_signatures_for_examples(server):
    for model, signature in (("image", "classify"), ("dense", "regress")):
        assert predict(server, model, signature, ENDS)[0] == 400
        with pytest.raises(grpc.RpcError, match=r"no serialized tf\.Example"):
            remote_predict(server, model, signature, "inputs", ENDS)
    assert predict(server, "image", "classify", example(png((255, 0, 0))))[0] == 200


def test_unknown_fields_of_examples(server):
    """gRPC's classify, regress and multi-inference hand them on."""
    task = inference_pb2.InferenceTask(method_name="tensorflow/serving/classify")
    task.model_spec.name, task.model_spec.signature_name = "image", "classify"
    request = inference_pb2.MultiInferenceRequest(tasks=[task])
    inner = request.input.example_list.examples.add()
    inner.ParseFromString(example(png((255, 0, 0))) + b"\x1a\x06\x0a\xff\xff\xff\x7b\x0a")
    with contextlib.suppress(grpc.RpcError):
        server[1].prediction.MultiInference(request, timeout=30)
    assert server[2].poll() is None


def mutant(draw):
    value = bytearray(draw.choice([ENDS, GOOD, example(b"abc", w=b"\xff\xd8\xff")]))
    for _ in range(draw.randint(1, 4)):
        at = draw.randrange(len(value) + 1)
        kind = draw.randrange(4)
        if kind == 0:
            value[at : at + 1] = bytes(
                [draw.choice([0, 1, 9, 10, 18, 26, 127, 128, 255, draw.randrange(256)])]
            )
        elif kind == 1:
            value[at:at] = draw.choice(
                [b"\xff\xff\xff\xff\x0f", b"\x0a\0", b"\x0b\x0c", b"\x80\x80\0"]
            )
        elif kind == 2:
            del value[at : at + draw.randint(1, 4)]
        else:
            other = draw.randrange(len(value) + 1)
            value[at:at] = value[other : other + draw.randint(1, 12)]
    return bytes(value)


def test_random_damage(server):
    draw = random.Random(int.from_bytes(os.urandom(8)) if "RESNET_TFX_FUZZ" in os.environ else 0)
    seen = set()
    for _ in range(NUMBER):
        value = mutant(draw)
        status, answer = predict(server, "new", draw.choice(PARSING), value)
        assert status in (200, 400), (value, answer)
        seen.add(status)
    assert seen == {200, 400}
