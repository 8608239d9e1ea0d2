"""`python -m serving.admin` on a real server: the file, the server, and nothing by halves."""

import shutil

import numpy as np
import pytest

from serving import admin
from serving.client import Client
from serving.server import textproto
from serving.server.server_config import ModelSettings
from tests.helpers.serving_models import publish
from tests.serving.server.test_server_process import Server, free_port


@pytest.fixture
def folder(exports, tmp_path):
    """Versions 1 (once), 2 (twice) and 3, which no server loads."""
    publish(exports / "dense", tmp_path / "m", 1)
    publish(exports / "dense_double", tmp_path / "m", 2)
    publish(exports / "dense", tmp_path / "m", 3)
    (tmp_path / "m/3/variables/variables.data-00000-of-00001").unlink()
    return tmp_path


def run(folder, *arguments):
    return admin.main([f"--model_config_file={folder}/models.config", *arguments])


def models(folder):
    return textproto.read_models(folder / "models.config")


def answer(url, **options):
    return Client(url, "m").predict([np.float32([1, 2]).tolist()], **options)[0][0]


def test_a_running_server_goes_back_and_forth(folder, capsys):
    (folder / "models.config").write_text(textproto.models_text([ModelSettings("m", folder / "m")]))
    port = free_port()
    server = Server(None, f"--model_config_file={folder}/models.config", f"--port={port}")
    told = f"--server=127.0.0.1:{port}"
    try:
        assert answer(server.url) == 18.0, "3 is broken, so 2 serves"
        assert run(folder, told, "pin", "2") == 0
        assert run(folder, told, "rollback") == 0
        assert answer(server.url) == 9.0
        assert models(folder)[0].versions == (1,)
        said = capsys.readouterr().out.splitlines()
        assert said[-1] == "m: 2 (stable) -> 1 (stable)"
        # A version that cannot be served: file and server stay.
        before = (folder / "models.config").read_text()
        assert run(folder, told, "pin", "3") == 1
        error = capsys.readouterr().err
        assert "refuses the change, nothing has changed" in error and "version 3" in error
        assert len(error.splitlines()) == 1
        assert (folder / "models.config").read_text() == before
        assert answer(server.url) == 9.0
        assert run(folder, told, "label", "canary", "2") == 0
        assert answer(server.url, version=2) == 18.0
        assert run(folder, told, "promote") == 0
        assert (answer(server.url), models(folder)[0].labels) == (18.0, {"stable": 2})
        assert run(folder, told, "unpin") == 0
        assert models(folder)[0] == ModelSettings("m", folder / "m")
    finally:
        status, _, errors = server.stop()
    assert status == 0 and "Traceback" not in errors


def test_without_a_server_the_file_alone_changes(folder, capsys):
    begin = [f"--model_base_path={folder}/m", "--model_name=m"]
    assert run(folder, "pin", "1") == 1
    assert "models.config does not exist" in capsys.readouterr().err
    assert run(folder, *begin, "pin", "1") == 0
    said = capsys.readouterr().out
    assert (
        "m: 3 -> 1 (stable)" in said and "follow it; --server HOST:PORT tells one at once" in said
    )
    assert run(folder, "status") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"m  {folder}/m" and [line.split() for line in lines[1:]] == [
        ["3"], ["2"], ["1", "serves", "stable"],
    ]  # fmt: skip
    assert run(folder, "rollback") == 1
    assert "m has no version before 1" in capsys.readouterr().err


def test_a_server_that_does_not_answer_changes_nothing(folder, capsys):
    begin = [f"--model_base_path={folder}/m", "--model_name=m"]
    assert run(folder, *begin, f"--server=127.0.0.1:{free_port()}", "pin", "1") == 1
    assert "refuses the change, nothing has changed" in capsys.readouterr().err
    assert not (folder / "models.config").exists()


def test_several_models_need_a_name(folder, capsys):
    shutil.copytree(folder / "m", folder / "n")
    both = [ModelSettings("m", folder / "m"), ModelSettings("n", folder / "n")]
    (folder / "models.config").write_text(textproto.models_text(both))
    assert run(folder, "pin", "1") == 1
    assert "must be one of m, n" in capsys.readouterr().err
    assert run(folder, "--model_name=n", "pin", "1") == 0
    assert [model.versions for model in models(folder)] == [(), (1,)]


def test_a_file_that_cannot_be_written_is_as_it_was_and_nothing_lies_beside_it(tmp_path):
    path = tmp_path / "models.config"
    path.write_text("old")
    with pytest.raises(UnicodeEncodeError):
        admin.write(path, "half of it \udcff")
    assert path.read_text() == "old"
    assert [one.name for one in tmp_path.iterdir()] == ["models.config"]
