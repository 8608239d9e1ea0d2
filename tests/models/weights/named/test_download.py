"""Weights by name, from a real server on this machine; nothing here goes further."""

import hashlib
import io
import os
import subprocess
import sys
import time

import h5py
import numpy as np
import pytest
import safetensors.numpy
from rich.console import Console

from models.settings import Model
from models.weights import conversion, foreign_files, pretrained
from models.weights.named import catalogue, download
from tests.helpers import torch_reference, torch_writer, weight_server

NET = {
    name: value.astype(np.float32)
    for name, value in torch_reference.state((1, 1, 1), shortcut="A", head="linear").items()
}
NAME = weight_server.NAME


@pytest.fixture(autouse=True)
def machine(tmp_path, monkeypatch):
    """A folder of our own, and no proxies."""
    monkeypatch.setenv(download.FOLDER, str(tmp_path / "cache"))
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture
def server():
    with weight_server.serving() as found:
        yield found


def saved(folder, kind):
    path = os.path.join(folder, f"tiny.{kind}")
    if kind == "pth":
        torch_writer.save(path, NET)
    elif kind == "safetensors":
        safetensors.numpy.save_file(NET, path)
    else:
        with h5py.File(path, "w") as file:
            file.attrs["layer_names"] = [name.encode() for name in NET]
            for name, value in NET.items():
                file[f"{name}/{name}/kernel:0"] = value
    with open(path, "rb") as file:
        return file.read()


def offer(server, monkeypatch, content, kind="pth", **options):
    """Puts the file into the server and the catalogue; returns where it will be."""
    path = f"/models/tiny.{kind}"
    server.files[path] = content
    known = weight_server.entry(server.address + path, content, **options)
    monkeypatch.setitem(catalogue.ENTRIES, known.name, known)
    return download.place(known)


@pytest.fixture
def tiny(server, monkeypatch, tmp_path):
    """The path of a .pth file that the server has, and its bytes."""
    content = saved(tmp_path, "pth")
    return offer(server, monkeypatch, content), content


def fetch(name=NAME):
    """What it returns, and what a person sees of it who has no terminal."""
    text = io.StringIO()
    console = Console(file=text, soft_wrap=True)
    return download.fetch(name, console), text.getvalue().splitlines()


def refused(message):
    with pytest.raises(ValueError, match=message) as error:
        fetch()
    assert "\n" not in str(error.value)
    return str(error.value)


def left(path):
    """The files of the cache, without locks."""
    folder = os.path.dirname(path)
    return sorted(name for name in os.listdir(folder) if not name.endswith(".lock"))


@pytest.mark.parametrize("kind", ["pth", "h5", "safetensors"])
@pytest.mark.parametrize("algorithm, digits", [("sha256", 64), ("sha256", 8), ("md5", 32)])
def test_a_name_is_downloaded_once_and_used_offline_after(
    server, monkeypatch, tmp_path, kind, algorithm, digits
):
    content = saved(tmp_path, kind)
    path = offer(server, monkeypatch, content, kind, algorithm=algorithm, digits=digits)
    found, said = fetch()
    assert found == (path, hashlib.sha256(content).hexdigest())
    assert left(path) == [os.path.basename(path)]
    assert server.address in said[0] and said[-1].startswith(
        f"{NAME}: {len(content) / 2**20:.1f} of"
    )
    tensors = foreign_files.read(path)
    for name, value in NET.items():
        name = f"{name}/kernel" if kind == "h5" else name
        assert sorted(tensors[name].shape) == sorted(value.shape)
    server.files.clear()
    again, said = fetch()
    assert again == found and not said
    assert len(server.asked) == 1


def test_a_name_answers_as_its_network(tiny):
    found = pretrained.load(NAME)
    pixels = np.random.default_rng(1).uniform(0, 255, [2, 32, 32, 3]).astype(np.float32)
    ours = found.model(pixels - found.constants.channel_mean, training=False)
    np.testing.assert_allclose(ours, torch_reference.logits(NET, pixels), atol=1e-3)
    assert found.settings == Model("cifar", 8, shortcut="A")


def test_a_break_goes_on_where_it_was(server, tiny):
    path, content = tiny
    server.breaks = [200_000, 100_000]
    fetch()
    with open(path, "rb") as file:
        assert file.read() == content
    first, second, third = (asked for _, asked in server.asked)
    # What was on its way when the connection broke is asked for again.
    assert first is None and 100_000 < int(second[6:-1]) <= 200_000
    assert int(second[6:-1]) < int(third[6:-1]) <= int(second[6:-1]) + 100_000


def test_a_later_run_goes_on_where_a_killed_one_was(server, tiny):
    path, content = tiny
    os.makedirs(os.path.dirname(path))
    with open(f"{path}.part", "wb") as file:
        file.write(content[:150_000])
    fetch()
    assert server.asked == [("/models/tiny.pth", "bytes=150000-")]
    assert left(path) == ["tiny.pth"]


def test_a_killed_run_leaves_nothing_that_loads(tiny):
    path, content = tiny
    os.makedirs(os.path.dirname(path))
    with open(f"{path}.part", "wb") as file:
        file.write(content[:150_000])
    with pytest.raises(ValueError, match="files of weights end in"):
        conversion.load(f"{path}.part")


def test_a_server_that_has_no_parts_sends_all_again(server, tiny):
    path, content = tiny
    server.ranges, server.breaks = False, [200_000]
    fetch()
    with open(path, "rb") as file:
        assert file.read() == content


def test_a_file_that_arrived_whole_before_the_end_is_taken(server, tiny):
    path, content = tiny
    os.makedirs(os.path.dirname(path))
    with open(f"{path}.part", "wb") as file:
        file.write(content)
    assert fetch()[0].sha256 == hashlib.sha256(content).hexdigest()


@pytest.mark.parametrize("breaks, asked", [([100_000] * 20, 2), ([100_000, 150_000] * 10, 11)])
def test_a_connection_that_always_breaks_is_given_up(server, tiny, breaks, asked):
    """At once where nothing comes that was not there, else after ten breaks."""
    path, _ = tiny
    server.ranges, server.breaks = False, breaks
    said = refused("Connection broken: IncompleteRead")
    assert path in said and server.address in said
    assert left(path) == ["tiny.pth.part"] and len(server.asked) == asked


def test_what_passes_by_itself_is_tried_again(server, tiny):
    server.statuses = [503, 500]
    fetch()
    assert len(server.asked) == 3


@pytest.mark.parametrize(
    "change", [lambda c: c[::-1], lambda c: c + b"\0", lambda c: b"<html>login"]
)
def test_another_file_is_not_kept(server, tiny, change):
    path, content = tiny
    server.files["/models/tiny.pth"] = change(content)
    said = refused(r"tiny\.pth\.part is not the file of torchvision:tiny")
    assert hashlib.sha256(content).hexdigest() in said
    assert hashlib.sha256(change(content)).hexdigest() in said
    assert left(path) == []
    server.files["/models/tiny.pth"] = content
    assert fetch()[0].path == path


def test_a_file_that_was_put_there_is_checked(tiny, server):
    path, content = tiny
    os.makedirs(os.path.dirname(path))
    with open(path, "wb") as file:
        file.write(content[:-1])
    refused(r"tiny\.pth is not the file of .*; remove it, and it is downloaded again")
    with open(path, "wb") as file:
        file.write(content)
    fetch()
    assert server.asked == []


def test_without_the_file_it_says_what_to_put_where(server, tiny):
    path, content = tiny
    server.files.clear()
    said = refused("404 Not Found")
    digest = hashlib.sha256(content).hexdigest()
    assert f"put that file there as {path}: its SHA-256 is {digest}." in said
    assert f"{server.address}/models/tiny.pth" in said
    assert left(path) == []


def test_without_a_server_it_says_what_to_put_where(monkeypatch):
    with weight_server.serving() as gone:
        path = offer(gone, monkeypatch, b"weights", digits=8)
    said = refused("Connection refused")
    digest = hashlib.sha256(b"weights").hexdigest()
    assert f"put that file there as {path}: its SHA-256 begins with {digest[:8]}." in said


def test_a_proxy_of_the_environment_is_taken(server, monkeypatch, tmp_path):
    content = saved(tmp_path, "pth")
    # Only the proxy knows this place.
    address = "http://weights.invalid/tiny.pth"
    server.files[address] = content
    monkeypatch.setitem(catalogue.ENTRIES, NAME, weight_server.entry(address, content))
    monkeypatch.setenv("http_proxy", server.address)
    assert fetch()[0].sha256 == hashlib.sha256(content).hexdigest()


def test_a_cache_that_cannot_be_written_is_named(tiny, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv(download.FOLDER, str(tmp_path / "file"))
    refused(f"cannot be kept .*{download.FOLDER}")


def test_the_cache_is_in_the_home_folder_by_default(monkeypatch, tmp_path):
    monkeypatch.delenv(download.FOLDER)
    monkeypatch.setenv("HOME", str(tmp_path))
    known = catalogue.ENTRIES["torchvision:resnet50"]
    wanted = tmp_path / ".cache" / "resnet-tfx" / "torchvision" / "resnet50-0676ba61.pth"
    assert download.place(known) == str(wanted)


_FETCH = """
import sys
from models.settings import Model
from models.weights.named import catalogue, download
name, address, checksum = sys.argv[1:]
catalogue.ENTRIES[name] = catalogue.Entry(
    name, address, 1, "sha256", checksum, "", "", None, Model("cifar", 8), 32)
print(*download.fetch(name))
"""


def test_two_processes_download_it_once(server, tiny):
    path, _ = tiny
    known = catalogue.ENTRIES[NAME]
    command = [sys.executable, "-c", _FETCH, NAME, known.address, known.checksum]
    server.hold.clear()
    first = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    until = time.monotonic() + 60
    while not server.asked and time.monotonic() < until:
        time.sleep(0.05)
    second = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert "waiting for another process" in second.stderr.readline()
    server.hold.set()
    outputs = [process.communicate(timeout=60)[0] for process in (first, second)]
    assert outputs == [f"{path} {known.checksum}\n"] * 2
    assert len(server.asked) == 1


def test_on_a_terminal_there_is_a_bar(tiny):
    text = io.StringIO()
    download.fetch(NAME, Console(file=text, force_terminal=True, width=120))
    assert "\r" in text.getvalue() and "100%" not in text.getvalue()
    assert "MiB" in text.getvalue() or "KiB" in text.getvalue()
