"""How the clients wait between attempts, and how many images are asked for at once."""

import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.client import api, batch, output


@given(st.integers(0, 1000), st.floats(0, 1e6))
def test_pauses_double_up_to_a_bound_and_hear_the_server(number, after):
    seconds = api.pause(number, after)
    longest = min(0.2 * 2.0 ** min(number, 10), 10)
    assert max(longest / 2, min(after, 10)) <= seconds <= max(longest, min(after, 10))


def test_pauses_of_two_clients_differ():
    assert len({api.pause(3) for _ in range(10)}) > 1


def test_only_what_may_pass_by_itself_is_tried_again(monkeypatch):
    slept = []
    monkeypatch.setattr(api.time, "sleep", slept.append)
    failures = [
        api.Busy("busy", 503, after=7.0),
        api.Busy("busy", 429),
        api.ClientError("wrong", 400),
    ]

    def attempt():
        raise failures.pop(0)

    with pytest.raises(api.ClientError, match="wrong"):
        api.retried(attempt, 5)
    assert failures == []
    assert slept[0] == 7.0 and 0.2 <= slept[1] <= 0.4


@given(st.lists(st.integers(), max_size=50), st.integers(1, 7))
def test_results_come_in_the_order_of_the_items(items, jobs):
    assert list(batch.in_order(lambda item: item + 1, items, jobs)) == [item + 1 for item in items]


def test_items_are_taken_as_they_are_needed_and_threads_end():
    taken = []

    def items():
        for number in range(1000):
            taken.append(number)
            yield number

    before = threading.active_count()
    results = batch.in_order(lambda item: item, items(), 2)
    assert [next(results) for _ in range(3)] == [0, 1, 2]
    results.close()
    assert len(taken) <= 3 + 4 * 2
    for thread in threading.enumerate()[before:]:
        thread.join(10)
    assert threading.active_count() <= before


def test_a_failure_ends_the_work():
    done = []

    def work(item):
        if item == 3:
            raise api.ClientError("no server")
        done.append(item)
        return item

    with pytest.raises(api.ClientError, match="no server"):
        list(batch.in_order(work, range(1000), 1))
    assert len(done) < 20


def test_what_concerns_one_image_is_its_answer_and_the_rest_ends_the_run():
    def fails(error):
        def ask():
            raise error

        return ask

    assert batch.answer("a", fails(api.ImageError("a: none"))).error == "a: none"
    for status in (400, 413, 500, 504):
        assert batch.answer("a", fails(api.ClientError("bad\nnode", status))).error == "a: bad"
    for status in (None, 401, 404, 429, 503):
        with pytest.raises(api.ClientError):
            batch.answer("a", fails(api.ClientError("bad", status)))


def test_a_file_that_cannot_be_finished_is_not_there(tmp_path):
    def answers():
        yield batch.Answer("a", [api.Label("cat", 0.5)])
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        output.write(str(tmp_path / "a.csv"), answers())
    assert list(tmp_path.iterdir()) == []
