"""Versions that come, go and fail while requests are served."""

import errno
import gc
import logging
import os
import shutil
import subprocess
import threading
import time
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from serving.server import version_folders
from serving.server.rpc_errors import Code, ServingError
from serving.server.running.servable import Servable
from serving.server.server_config import ModelSettings, ServerSettings
from serving.server.versions.manager import Manager, State, load_servable
from tests.helpers import serving_models as models
from tests.helpers.serving_models import publish

X = {"x": np.array([[1, 2]], np.float32)}
ONCE = [9.0, 12.0, 15.0]  # [1, 2] @ KERNEL
TWICE = [18.0, 24.0, 30.0]


@pytest.fixture
def manage(tmp_path):
    """Starts managers of tmp_path/m and stops them."""
    started = []

    def start(num_versions=1, load=None, **options):
        (tmp_path / "m").mkdir(exist_ok=True)
        options = {
            "file_system_poll_wait_seconds": 0.02,
            "load_retry_interval_micros": 10**9,
            **options,
        }
        settings = ServerSettings((ModelSettings("m", tmp_path / "m", num_versions),), **options)
        manager = Manager(settings, load(settings) if load else None)
        started.append(manager)
        manager.start()
        manager.wait_first_look()
        return manager

    yield start
    for manager in started:
        manager.stop()


def states(manager):
    try:
        return {v.number: v.state for v in manager.status("m")}
    except ServingError:
        return {}


def wait_for(condition, seconds=30):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "nothing happened"
        time.sleep(0.01)


def ask(manager, version=None):
    with manager.use("m", version) as servable:
        return servable.run("serving_default", X)["y"][0].tolist()


def test_a_new_version_takes_over_without_a_lost_request(exports, tmp_path, manage):
    publish(exports / "dense", tmp_path / "m", 1)
    manager = manage()
    answers, failures, done = [], [], threading.Event()

    def keep_asking():
        while not done.is_set():
            try:
                answers.append(ask(manager))
            except Exception as error:
                failures.append(error)

    threads = [threading.Thread(target=keep_asking) for _ in range(2)]
    for thread in threads:
        thread.start()
    publish(exports / "dense_double", tmp_path / "m", 2)
    wait_for(lambda: states(manager) == {2: State.AVAILABLE, 1: State.END})
    asked = len(answers)
    wait_for(lambda: len(answers) > asked + 10)
    done.set()
    for thread in threads:
        thread.join()
    assert failures == []
    switch = answers.index(TWICE)
    assert answers[0] == ONCE and answers[-1] == TWICE
    # Two threads finish in any order, so the old answer may come once more.
    assert all(answer == ONCE for answer in answers[:switch])
    assert all(answer == TWICE for answer in answers[switch + 2 :])


def test_a_request_under_way_keeps_its_version(exports, tmp_path, manage):
    publish(exports / "dense", tmp_path / "m", 1)
    manager = manage()
    with manager.use("m") as old:
        publish(exports / "dense_double", tmp_path / "m", 2)
        wait_for(lambda: states(manager).get(2) is State.AVAILABLE)
        wait_for(lambda: states(manager)[1] is State.UNLOADING)
        time.sleep(0.1)
        assert old.run("serving_default", X)["y"][0].tolist() == ONCE
        assert ask(manager) == TWICE
        with pytest.raises(ServingError, match=r"Specific\(m, 1\)"):
            ask(manager, 1)
    wait_for(lambda: states(manager)[1] is State.END)


def test_a_version_that_comes_back_while_requests_use_it_serves_again(exports, tmp_path, manage):
    publish(exports / "dense", tmp_path / "m", 1)
    manager = manage()
    with manager.use("m") as old:
        publish(exports / "dense_double", tmp_path / "m", 2)
        wait_for(lambda: states(manager) == {2: State.AVAILABLE, 1: State.UNLOADING})
        shutil.rmtree(tmp_path / "m" / "2")
        wait_for(lambda: states(manager) == {2: State.END, 1: State.AVAILABLE})
        with manager.use("m") as again:
            assert again is old
    assert ask(manager) == ONCE


def test_a_version_that_is_written_anew_while_requests_use_it_is_loaded_anew(
    exports, tmp_path, manage
):
    publish(exports / "dense", tmp_path / "m", 1)
    publish(exports / "dense_double", tmp_path / "m", 2)
    manager = manage()
    with manager.use("m", 2):
        shutil.rmtree(tmp_path / "m/2")
        wait_for(lambda: states(manager) == {2: State.UNLOADING, 1: State.AVAILABLE})
        publish(exports / "dense", tmp_path / "m", 2)
        time.sleep(0.2)
        assert states(manager) == {2: State.UNLOADING, 1: State.AVAILABLE}
    wait_for(lambda: states(manager) == {2: State.AVAILABLE, 1: State.END})
    assert ask(manager, 2) == ONCE


def test_a_version_that_stays_in_part_is_reported_with_its_reason(exports, tmp_path, manage):
    publish(exports / "dense", tmp_path / "m", 1)
    (tmp_path / "m/2/variables").mkdir(parents=True)
    manager = manage(partial_version_seconds=0.3)
    assert states(manager) == {1: State.AVAILABLE}
    wait_for(lambda: 2 in states(manager))
    [version] = manager.status("m", 2)
    assert version.state is State.END and version.error.code is Code.FAILED_PRECONDITION
    assert (
        version.error.message
        == f"{tmp_path / 'm/2'} is not whole: variables/variables.index is missing, "
        "and nothing has come for 0.3 s"
    )
    assert ask(manager) == ONCE
    shutil.copytree(exports / "dense_double", tmp_path / "m/2", dirs_exist_ok=True)
    wait_for(lambda: states(manager) == {2: State.AVAILABLE, 1: State.END})


def test_a_version_that_keeps_growing_is_not_reported(exports, tmp_path, manage):
    (tmp_path / "m/1").mkdir(parents=True)
    manager = manage(partial_version_seconds=0.5)
    for part in range(12):
        (tmp_path / f"m/1/{part}").write_text("part")
        time.sleep(0.1)
    assert states(manager) == {}


def test_a_model_of_constants_needs_no_variables(tmp_path, manage):
    module = tf.Module()
    module.add = tf.function(
        lambda x: {"y": x + 1}, input_signature=[tf.TensorSpec([None, 2], name="x")]
    )
    tf.saved_model.save(
        module, str(tmp_path / "export"), signatures={"serving_default": module.add}
    )
    shutil.rmtree(tmp_path / "export/variables")
    publish(tmp_path / "export", tmp_path / "m", 1)
    assert ask(manage()) == [2.0, 3.0]


def test_a_broken_version_takes_no_traffic_and_the_old_one_stays(exports, tmp_path, manage):
    publish(exports / "dense", tmp_path / "m", 1)
    manager = manage()
    shutil.copytree(exports / "dense_double", tmp_path / "cut")
    (tmp_path / "cut/variables/variables.data-00000-of-00001").unlink()
    publish(tmp_path / "cut", tmp_path / "m", 2)
    wait_for(lambda: states(manager).get(2) is State.END)
    assert manager.status("m", 2)[0].error is not None
    assert states(manager)[1] is State.AVAILABLE
    assert ask(manager) == ONCE
    publish(exports / "dense_double", tmp_path / "m", 3)
    wait_for(lambda: states(manager) == {3: State.AVAILABLE, 2: State.END, 1: State.END})
    assert ask(manager) == TWICE


def test_an_export_that_fails_only_in_a_session_is_caught_by_its_warm_up(exports, tmp_path, manage):
    # Python runs it, TensorFlow Serving does not.
    loaded = tf.saved_model.load(str(exports / "broken"))
    assert loaded.signatures["serving_default"](x=tf.constant(X["x"]))["y"].shape == (1, 3)
    with pytest.raises(ServingError, match="Could not find variable") as caught:
        Servable(exports / "broken", 1).run("serving_default", X)
    assert caught.value.code == Code.FAILED_PRECONDITION

    publish(exports / "dense", tmp_path / "m", 1)
    warm = tmp_path / "warm"
    shutil.copytree(exports / "broken", warm)
    models.write_warmup(warm, [("serving_default", "x", [1.0, 2.0])])
    manager = manage()
    publish(warm, tmp_path / "m", 2)
    wait_for(lambda: states(manager).get(2) is State.END)
    assert "Could not find variable" in manager.status("m", 2)[0].error.message
    assert ask(manager) == ONCE


@pytest.fixture
def pushed(exports, tmp_path):
    """An export with the checksums of its files, as the Pusher writes them."""
    folder = shutil.copytree(exports / "dense_double", tmp_path / "pushed")
    (folder / "assets.extra").mkdir(exist_ok=True)
    (folder / "assets.extra/labels.txt").write_text("cat\n")
    command = ["bash", "-c", "sha256sum $(find * -type f)"]
    sums = subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True).stdout
    (folder / "assets.extra/sha256sums").write_text(sums)
    return folder


@pytest.mark.parametrize("damage", ["has changed", "is missing"])
@pytest.mark.parametrize(
    "name", ["variables/variables.data-00000-of-00001", "assets.extra/labels.txt"]
)
def test_a_version_that_is_not_what_was_pushed_takes_no_traffic(
    exports, pushed, tmp_path, manage, name, damage
):
    if damage == "is missing":
        (pushed / name).unlink()
    else:
        content = bytearray((pushed / name).read_bytes())
        content[-1] ^= 1
        (pushed / name).write_bytes(content)
    publish(exports / "dense", tmp_path / "m", 1)
    publish(pushed, tmp_path / "m", 2)
    manager = manage()
    assert ask(manager) == ONCE
    assert f"{name} {damage}. Push the model again" in manager.status("m", 2)[0].error.message


def test_a_version_as_it_was_pushed_serves_with_files_beside_it(pushed, tmp_path, manage):
    (pushed / "notes.txt").write_text("mine")
    publish(pushed, tmp_path / "m", 2)
    assert ask(manage()) == TWICE


def test_a_restart_beside_a_broken_newest_version_serves_the_one_before(exports, tmp_path, manage):
    publish(exports / "dense", tmp_path / "m", 1)
    shutil.copytree(exports / "dense_double", tmp_path / "cut")
    (tmp_path / "cut/variables/variables.data-00000-of-00001").write_bytes(b"")
    publish(tmp_path / "cut", tmp_path / "m", 2)
    manager = manage()
    assert states(manager) == {2: State.END, 1: State.AVAILABLE}


def test_a_version_is_taken_only_when_it_is_whole(exports, tmp_path, manage):
    publish(exports / "dense", tmp_path / "m", 1)
    manager = manage()
    arriving = tmp_path / "m/2"
    whole = exports / "dense_double"
    (arriving / "variables").mkdir(parents=True)
    content = (whole / "saved_model.pb").read_bytes()
    for name, part, reason in [
        ("nothing", b"", "variables/variables.index is missing"),
        ("variables/variables.index", None, "saved_model.pb is missing"),
        ("saved_model.pb", b"", "saved_model.pb is empty"),
        ("saved_model.pb", content[: len(content) // 2], "saved_model.pb is cut off or damaged"),
    ]:
        if name != "nothing":
            (arriving / name).write_bytes((whole / name).read_bytes() if part is None else part)
        assert version_folders.missing_part(arriving) == reason
        time.sleep(0.1)
        assert states(manager) == {1: State.AVAILABLE}
    shutil.copy(whole / "variables/variables.data-00000-of-00001", arriving / "variables")
    shutil.copytree(whole / "assets", arriving / "assets", dirs_exist_ok=True)
    (arriving / "saved_model.pb").write_bytes(content)
    wait_for(lambda: states(manager) == {2: State.AVAILABLE, 1: State.END})


@pytest.mark.parametrize("number", [errno.EACCES, errno.EIO, errno.ESTALE])
@pytest.mark.parametrize("part", ["", "variables/variables.index", "saved_model.pb"])
def test_a_version_that_cannot_be_read_does_not_hide_the_others(
    exports, tmp_path, manage, monkeypatch, caplog, number, part
):
    publish(exports / "dense", tmp_path / "m", 1)
    publish(exports / "dense_double", tmp_path / "m", 2)
    unreadable = tmp_path / "m/2" / part
    stat = Path.stat

    def failing(path, **options):
        if path == unreadable or unreadable in path.parents:
            raise OSError(number, os.strerror(number), str(path))
        return stat(path, **options)

    with monkeypatch.context() as patch, caplog.at_level(logging.WARNING):
        patch.setattr(Path, "stat", failing)
        manager = manage()
        assert states(manager) == {1: State.AVAILABLE}
        time.sleep(0.1)
        lines = [record.message for record in caplog.records if record.name.startswith("serving.")]
        assert lines == [
            f"Version 2 in {tmp_path / 'm/2'} cannot be read ({os.strerror(number)}): waiting."
        ]
    wait_for(lambda: states(manager) == {2: State.AVAILABLE, 1: State.END})


def test_an_available_version_outlives_a_storage_hiccup(exports, tmp_path, manage, monkeypatch):
    publish(exports / "dense", tmp_path / "m", 1)
    publish(exports / "dense_double", tmp_path / "m", 2)
    manager = manage()

    def failing(path, **_):
        raise OSError(errno.ESTALE, os.strerror(errno.ESTALE), str(path))

    with monkeypatch.context() as patch:
        patch.setattr(Path, "stat", failing)
        time.sleep(0.1)
    assert states(manager) == {2: State.AVAILABLE}


def test_folders_that_are_no_versions_are_ignored(tmp_path):
    for name in ("1", "007", "v3", "-1", "1.5", str(2**63), str(2**63 - 1), "٣", ".tmp"):
        (tmp_path / name).mkdir()
    (tmp_path / "9").write_text("a file")
    assert set(version_folders.list_versions(tmp_path)) == {1, 7, 2**63 - 1}


def test_removing_the_newest_version_rolls_back(exports, tmp_path, manage):
    publish(exports / "dense", tmp_path / "m", 1)
    publish(exports / "dense_double", tmp_path / "m", 2)
    manager = manage()
    assert states(manager) == {2: State.AVAILABLE}
    (tmp_path / "m/2").rename(tmp_path / "gone")
    wait_for(lambda: states(manager) == {2: State.END, 1: State.AVAILABLE})
    assert ask(manager) == ONCE
    (tmp_path / "gone").rename(tmp_path / "m/2")
    wait_for(lambda: states(manager) == {2: State.AVAILABLE, 1: State.END})


def test_removing_every_version_unloads_and_a_lost_folder_does_not(exports, tmp_path, manage):
    publish(exports / "dense", tmp_path / "m", 1)
    manager = manage()
    (tmp_path / "m").rename(tmp_path / "unmounted")
    time.sleep(0.2)
    assert ask(manager) == ONCE
    (tmp_path / "unmounted").rename(tmp_path / "m")
    (tmp_path / "m/1").rename(tmp_path / "gone")
    wait_for(lambda: states(manager) == {1: State.END})
    with pytest.raises(ServingError, match=r"Latest\(m\)"):
        ask(manager)


def test_several_versions_serve_together(exports, tmp_path, manage):
    for number, export in enumerate(["dense", "dense_double", "dense"], start=1):
        publish(exports / export, tmp_path / "m", number)
    manager = manage(num_versions=2)
    assert states(manager) == {3: State.AVAILABLE, 2: State.AVAILABLE}
    assert (ask(manager), ask(manager, 2)) == (ONCE, TWICE)


def test_a_failed_load_is_tried_again(exports, tmp_path, manage):
    attempts = []

    def flaky(settings):
        load = load_servable(settings)

        def attempt(path, number):
            attempts.append(number)
            if len(attempts) < 3:
                raise ServingError(Code.UNAVAILABLE, "storage hiccup")
            return load(path, number)

        return attempt

    publish(exports / "dense", tmp_path / "m", 1)
    manager = manage(load=flaky, load_retry_interval_micros=50_000)
    assert manager.status("m")[0].error.code == Code.UNAVAILABLE
    wait_for(lambda: states(manager) == {1: State.AVAILABLE})
    assert attempts == [1, 1, 1]
    assert manager.status("m")[0].error is None


def test_a_change_waits_for_new_models(exports, tmp_path, manage):
    def slow(settings):
        usual = load_servable(settings)

        def load(path, number):
            time.sleep(0.3 if path.parent.name == "n" else 0)
            return usual(path, number)

        return load

    publish(exports / "dense", tmp_path / "m", 1)
    publish(exports / "dense_double", tmp_path / "n", 1)
    manager = manage(load=slow)
    manager.reload((ModelSettings("m", tmp_path / "m"), ModelSettings("n", tmp_path / "n")))
    with manager.use("n") as servable:
        assert servable.run("serving_default", X)["y"][0].tolist() == TWICE
    manager.reload((ModelSettings("other", tmp_path / "n"),))
    with manager.use("other") as servable:
        assert servable.run("serving_default", X)["y"][0].tolist() == TWICE


def test_a_label_that_moves_names_a_version_that_serves_at_every_moment(exports, tmp_path, manage):
    """The old version goes only when no label names it any more."""
    found = []

    class Watched(Servable):
        def close(self):
            try:
                with manager.use("m", label="stable") as servable:
                    found.append(servable.version)
            except ServingError as error:
                found.append(error.message)
            super().close()

    for number in (1, 2):
        publish(exports / "dense", tmp_path / "m", number)
    manager = manage(load=lambda _: Watched)
    for number in (1, 2, 1):
        model = ModelSettings("m", tmp_path / "m", versions=(number,), labels={"stable": number})
        manager.reload((model,))
        wait_for(lambda number=number: manager.status("m", 3 - number)[0].state is State.END)
    assert found[1:] == [2, 1]  # at first there was no label


def test_retries_end_and_new_files_start_them_again(exports, tmp_path, manage):
    attempts = []

    def failing(_):
        def attempt(path, number):
            attempts.append(number)
            raise ServingError(Code.DATA_LOSS, "damaged")

        return attempt

    publish(exports / "dense", tmp_path / "m", 1)
    manager = manage(load=failing, load_retry_interval_micros=-1, max_num_load_retries=2)
    assert not manager.wait_first_look()
    wait_for(lambda: len(attempts) == 3)
    time.sleep(0.2)
    assert len(attempts) == 3
    os.utime(tmp_path / "m/1/saved_model.pb")
    wait_for(lambda: len(attempts) == 6)


def test_a_version_that_failed_for_good_is_not_parsed_again(exports, tmp_path, manage, monkeypatch):
    parsed, looked = [], []
    missing_part, list_versions = version_folders.missing_part, version_folders.list_versions
    monkeypatch.setattr(
        version_folders, "missing_part", lambda path: parsed.append(path) or missing_part(path)
    )
    monkeypatch.setattr(
        version_folders, "list_versions", lambda path: looked.append(path) or list_versions(path)
    )

    def failing(_):
        def attempt(path, number):
            raise ServingError(Code.DATA_LOSS, "damaged")

        return attempt

    publish(exports / "dense", tmp_path / "m", 1)
    manage(load=failing, max_num_load_retries=0)
    wait_for(lambda: len(looked) > 5)
    assert len(parsed) == 1


def test_polling_can_be_off(exports, tmp_path, manage):
    publish(exports / "dense", tmp_path / "m", 1)
    manager = manage(file_system_poll_wait_seconds=0)
    publish(exports / "dense_double", tmp_path / "m", 2)
    time.sleep(0.2)
    assert states(manager) == {1: State.AVAILABLE}


def test_stop_waits_for_requests_and_unloads(exports, tmp_path, manage):
    publish(exports / "dense", tmp_path / "m", 1)
    manager = manage()
    with manager.use("m") as servable:
        stopper = threading.Thread(target=manager.stop)
        stopper.start()
        wait_for(lambda: not manager.ready())
        assert servable.run("serving_default", X)["y"][0].tolist() == ONCE
        assert stopper.is_alive()
    stopper.join()
    assert states(manager) == {1: State.END}


def test_swaps_do_not_pile_up_memory(tmp_path):
    model = keras.Sequential([keras.layers.Input((1000,)), keras.layers.Dense(5000)])  # 20 MB
    archive = keras.export.ExportArchive()
    archive.track(model)
    archive.add_endpoint(
        "serving_default", model, [tf.TensorSpec([None, 1000], tf.float32, name="x")]
    )
    archive.write_out(str(tmp_path / "big"), verbose=False)
    x = {"x": np.zeros((1, 1000), np.float32)}

    def swap(times):
        for number in range(times):
            servable = Servable(tmp_path / "big", number)
            assert next(iter(servable.run("serving_default", x).values())).shape == (1, 5000)
            servable.close()
        return resident_mib()

    gc.collect()
    before = swap(3)
    # Kept, eight models would be 160 MB.
    assert swap(8) - before < 40


def resident_mib():
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def test_runs_beyond_the_parallel_ones_wait_for_their_turn(exports):
    order = []

    def ask(servable, name, inputs):
        servable.run(name, inputs)
        order.append(name)

    for parallel, expected in ((1, ["slow", "serving_default"]), (2, ["serving_default", "slow"])):
        servable = Servable(exports / "dense", 1, parallel=parallel)
        servable.run("serving_default", X)
        slow = threading.Thread(target=ask, args=(servable, "slow", {"steps": np.int64(400_000)}))
        slow.start()
        time.sleep(0.2)
        ask(servable, "serving_default", X)
        slow.join()
        servable.close()
        assert order == expected
        order.clear()
