"""Requests that share a run: the same answers, bounds, and no innocent that fails with another."""

import threading
import time

import numpy as np
import pytest

from serving.server.rpc_errors import Code, ServingError, invalid
from serving.server.running.batching import BatchingServable
from serving.server.server_config import Batching, SettingsError

PATIENT = Batching(max_batch_size=8, batch_timeout_micros=200_000, num_batch_threads=1)


class Doubling:
    """A servable whose run is seen; a row that is negative fails the whole run, as a bad image
    does.
    """

    path, version, signatures = None, 1, {}

    def __init__(self):
        self.sizes, self.blocked = [], threading.Event()
        self.blocked.set()

    def run(self, signature_name, inputs, outputs=()):
        self.blocked.wait(10)
        x = inputs["x"]
        self.sizes.append(len(x))
        if (x < 0).any():
            raise invalid("a bad row")
        if signature_name == "total":
            return {"y": x.sum()}
        return {"y": 2 * x, "rows": np.full(len(x), len(x))}

    def close(self):
        self.sizes.append("closed")


def ask(batching, arrays, signature="serving_default"):
    """Every array in a thread of its own; what came back, in their order."""
    answers = [None] * len(arrays)

    def run(i):
        try:
            answers[i] = batching.run(signature, {"x": np.asarray(arrays[i], np.float32)})
        except ServingError as error:
            answers[i] = error

    threads = [threading.Thread(target=run, args=(i,)) for i in range(len(arrays))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return answers


def test_requests_share_runs_and_each_gets_its_rows():
    model = Doubling()
    arrays = [np.full((1 + i % 3, 2), i) for i in range(12)]
    answers = ask(BatchingServable(model, PATIENT), arrays)
    for array, answer in zip(arrays, answers, strict=True):
        np.testing.assert_array_equal(answer["y"], 2 * array)
    assert sum(model.sizes) == sum(map(len, arrays))
    assert max(model.sizes) <= 8 and len(model.sizes) < 8


def test_a_full_batch_does_not_wait():
    model = Doubling()
    settings = Batching(max_batch_size=4, batch_timeout_micros=60_000_000)
    start = time.monotonic()
    ask(BatchingServable(model, settings), [[[i]] for i in range(4)])
    assert time.monotonic() - start < 30 and model.sizes == [4]


def test_one_bad_request_fails_alone():
    model = Doubling()
    answers = ask(BatchingServable(model, PATIENT), [[[1]], [[-1]], [[2]], [[3]]])
    assert [a["y"].tolist() for a in answers if not isinstance(a, ServingError)] == [
        [[2]],
        [[4]],
        [[6]],
    ]
    assert (answers[1].code, answers[1].message) == (Code.INVALID_ARGUMENT, "a bad row")


def test_rows_of_different_shapes_are_not_put_together():
    model = Doubling()
    answers = ask(BatchingServable(model, PATIENT), [[[1]], [[1, 2]], [[3]], [[3, 4]]])
    assert [a["y"].shape for a in answers] == [(1, 1), (1, 2)] * 2
    assert sorted(model.sizes) == [2, 2]


def test_an_output_without_rows_is_run_for_each():
    model = Doubling()
    answers = ask(BatchingServable(model, PATIENT), [[[1]], [[2]]], "total")
    assert [float(a["y"]) for a in answers] == [1, 2]


def test_padding_to_allowed_sizes_is_cut_off_again():
    model = Doubling()
    settings = Batching(max_batch_size=8, batch_timeout_micros=200_000, allowed_batch_sizes=(4, 8))
    answers = ask(BatchingServable(model, settings), [[[1]], [[2]], [[3]]])
    assert model.sizes == [4]
    assert [a["y"].tolist() for a in answers] == [[[2]], [[4]], [[6]]]


def test_more_rows_than_a_batch_has_are_refused():
    with pytest.raises(ServingError, match="Task size 9 is larger than maximum input batch size 8"):
        BatchingServable(Doubling(), PATIENT).run("s", {"x": np.zeros((9, 1))})


def test_a_full_queue_refuses_and_serves_on():
    model = Doubling()
    model.blocked.clear()
    settings = Batching(max_batch_size=2, max_enqueued_batches=2, num_batch_threads=1)
    batching = BatchingServable(model, settings)
    answers = []
    threading.Timer(1, model.blocked.set).start()
    answers = ask(batching, [[[i]] for i in range(20)])
    refused = [a for a in answers if isinstance(a, ServingError)]
    assert {a.code for a in refused} == {Code.UNAVAILABLE}
    assert (
        "The batch scheduling queue to which this task was submitted is full" in refused[0].message
    )
    # One or two run, four wait.
    assert 14 <= len(refused) <= 15
    assert batching.run("s", {"x": np.ones((1, 1))})["y"].tolist() == [[2]]


def test_inputs_without_rows_go_straight_through():
    batching = BatchingServable(Doubling(), PATIENT)
    assert batching.run("total", {"x": np.float32(3)[None][:0]})["y"] == 0


def test_closing_closes_the_model():
    model = Doubling()
    BatchingServable(model, PATIENT).close()
    assert model.sizes == ["closed"]


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"max_batch_size": 0}, "max_batch_size 0: must be at least 1"),
        ({"batch_timeout_micros": -1}, "batch_timeout_micros -1: must be 0 to 2592000000000"),
        # The system cannot wait for so long: the first request would fail and the next ones hang.
        (
            {"batch_timeout_micros": 9 * 10**18},
            "batch_timeout_micros 9000000000000000000: must be 0 to",
        ),
        (
            {"max_batch_size": 8, "allowed_batch_sizes": (1, 4)},
            "must increase and end with max_batch_size, 8",
        ),
        ({"max_batch_size": 4, "allowed_batch_sizes": (2, 2, 4)}, "must increase"),
    ],
)
def test_settings_that_cannot_be(fields, text):
    with pytest.raises(SettingsError, match=text):
        Batching(**fields).validate()
