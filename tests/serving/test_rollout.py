"""Changes of what serves, as a person asks for them: pure functions over random histories."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving import rollout
from serving.rollout import CANARY, STABLE, RolloutError
from serving.server.server_config import ModelSettings

FOLDER = Path("/models/m")
LATEST = ModelSettings("m", FOLDER)
DAY = 86_400


def state(model):
    return model.versions, dict(model.labels)


def test_back_to_the_version_before_and_forward_again():
    back = rollout.rolled_back(LATEST, [1, 2, 3])
    assert state(back) == ((2,), {STABLE: 2})
    assert state(rollout.rolled_back(back, [1, 2, 3])) == ((1,), {STABLE: 1})
    assert rollout.following(back) == LATEST
    with pytest.raises(RolloutError, match="m has no version before 1 in /models/m"):
        rollout.rolled_back(rollout.pinned(LATEST, 1, [1]), [1, 2])


def test_only_versions_that_are_there():
    for change in (rollout.pinned, lambda *a: rollout.labelled(a[0], "x", *a[1:])):
        with pytest.raises(RolloutError, match="m has no version 9; /models/m has 2, 1"):
            change(LATEST, 9, [1, 2])
    with pytest.raises(RolloutError, match="m has no version in /models/m: push one first"):
        rollout.rolled_back(LATEST, [])


def test_labels_keep_what_serves():
    model = rollout.labelled(LATEST, "old", 1, [1, 2, 3])
    assert state(model) == ((1, 3), {"old": 1})
    everything = ModelSettings("m", FOLDER, all_versions=True)
    assert rollout.labelled(everything, "old", 1, [1, 2]).all_versions


def test_a_trial():
    first = rollout.on_trial(LATEST, 1000, DAY, 1000)
    assert state(first) == ((1000,), {STABLE: 1000})
    second = rollout.on_trial(first, 2000, DAY, 2000)
    assert state(second) == ((1000, 2000), {STABLE: 1000, CANARY: 2000})
    assert rollout.on_trial(second, 2000, DAY, 2001) == second, "the same push again"
    with pytest.raises(RolloutError, match=r"Canary 2000 of m is on trial for another 23\.0 hours"):
        rollout.promoted(second, DAY, 2000 + 3600)
    assert state(rollout.promoted(second, DAY, 2000 + DAY)) == ((2000,), {STABLE: 2000})
    assert state(rollout.rolled_back(second, [1000, 2000])) == ((1000,), {STABLE: 1000})
    # The next push: a canary whose time is over has become stable, another one goes.
    assert state(rollout.on_trial(second, 3000, DAY, 3000))[1] == {STABLE: 1000, CANARY: 3000}
    late = 2000 + DAY
    assert state(rollout.on_trial(second, late, DAY, late))[1] == {STABLE: 2000, CANARY: late}
    with pytest.raises(RolloutError, match="m has no canary: nothing is on trial"):
        rollout.promoted(first, DAY, 10**9)


@given(
    st.lists(
        st.tuples(st.sampled_from(["push", "back", "promote", "pin"]), st.integers(0, 2 * DAY))
    )
)
def test_whatever_happens_what_is_labelled_serves_and_stable_is_never_on_trial(steps):
    model, now, there = LATEST, 10**9, []
    for step, pause in steps:
        now += 1 + pause
        before = dict(model.labels)
        try:
            if step == "push":
                there.append(now)
                model = rollout.on_trial(model, now, DAY, now)
            elif step == "back":
                model = rollout.rolled_back(model, there)
            elif step == "promote":
                model = rollout.promoted(model, DAY, now)
            else:
                model = rollout.pinned(model, there[0] if there else 1, there)
        except RolloutError:
            continue
        assert set(model.labels.values()) == set(model.versions) <= set(there)
        stable = model.labels[STABLE]
        if step in ("push", "promote") and before.get(STABLE, stable) != stable:
            assert stable == before[CANARY] and now - stable >= DAY
