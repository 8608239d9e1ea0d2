"""ML Metadata on real servers: two machines share what has run.

Needs Debian's `mariadb-server`; a server of its own is started in a temporary folder.
"""

import dataclasses
import glob
import json
import os
import pwd
import shutil
import socket
import subprocess
import tempfile
import time

import pytest
from ml_metadata.proto import metadata_store_pb2
from tfx.orchestration import metadata

from pipeline import node
from pipeline.config.metadata import connection
from pipeline.config.options import assign
from pipeline.config.settings import Config, Data, Metadata, to_dict
from tests.helpers import data

# No notation of a file changes this part of it.
TOKEN = "open-sesame-7391"
PASSWORD = f"it's a \\ secret: ä {TOKEN}"


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv(Metadata().password_env, PASSWORD)
    # Not pytest's folder: the server's own user could not reach it.
    folder = tempfile.mkdtemp(prefix="mysql")
    os.chmod(folder, 0o755)
    port = _free_port()
    try:
        process = _mariadb(folder, port)
        yield Metadata(kind="mysql", port=port)
        process.terminate()
        process.wait(30)
    finally:
        shutil.rmtree(folder)


def _free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _as(user, *command):
    """The command as a user of its own where we are root."""
    return ["runuser", "-u", user, "--", *command] if os.geteuid() == 0 else list(command)


def _owned_by(user, folder):
    if os.geteuid() == 0:
        os.chown(folder, pwd.getpwnam(user).pw_uid, -1)


def _mariadb(folder, port):
    server = shutil.which("mariadbd")
    if not server:
        pytest.skip("no MariaDB server here (Debian: apt-get install mariadb-server)")
    _owned_by("mysql", folder)
    where = [f"--datadir={folder}/data", "--no-defaults"][::-1]
    subprocess.run(
        _as("mysql", "mariadb-install-db", *where, "--auth-root-authentication-method=normal"),
        check=True, capture_output=True, cwd=folder,
    )  # fmt: skip
    socket_file = f"{folder}/socket"
    process = subprocess.Popen(
        _as("mysql", server, *where, f"--port={port}", "--bind-address=127.0.0.1", f"--socket={socket_file}"),
        cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    quoted = PASSWORD.replace("\\", "\\\\").replace("'", "''")
    statements = (
        "create database resnet_tfx;"
        f"create user resnet_tfx@127.0.0.1 identified by '{quoted}';"
        "grant all on resnet_tfx.* to resnet_tfx@127.0.0.1;"
    )
    admin = [
        "mariadb",
        "--no-defaults",
        "--default-character-set=utf8mb4",
        f"--socket={socket_file}",
        "-u",
        "root",
        "-e",
    ]
    _eventually(process, lambda: subprocess.run([*admin, statements], capture_output=True))
    return process


def _eventually(process, attempt, limit=60):
    deadline = time.monotonic() + limit
    while (done := attempt()).returncode:
        assert process.poll() is None, "the server ended"
        assert time.monotonic() < deadline, done.stderr.decode()
        time.sleep(0.2)


def test_two_machines_share_what_has_run(server, tmp_path, capfd):
    source = data.small_ilsvrc(str(tmp_path / "photos"))
    shared = Config(
        name="shared", preset="folder", data=Data(kind="ilsvrc", source=source), metadata=server,
        artifacts=str(tmp_path / "bucket"),
    )  # fmt: skip

    def first_node(machine):
        config = dataclasses.replace(shared, root=str(tmp_path / machine))
        file, ir = str(tmp_path / f"{machine}.json"), str(tmp_path / f"{machine}.pb")
        with open(file, "w") as stream:
            json.dump(to_dict(config), stream)
        assert node.main(["compile", "--config", file, "--ir", ir, "--run-id", machine]) == 0
        assert node.main(["run", "--ir", ir, "--node", "ExampleGen"]) == 0
        return (
            capfd.readouterr().out,
            open(ir, "rb").read() + open(f"{ir}.config.json", "rb").read(),
        )

    output, written = first_node("one")
    assert "✓ ExampleGen" in output
    assert TOKEN.encode() not in written
    output, _ = first_node("two")
    assert "· ExampleGen" in output
    assert not os.path.exists(tmp_path / "one" / "shared" / "metadata.sqlite")
    assert len(glob.glob(f"{tmp_path}/bucket/ExampleGen/examples/*")) == 1


def test_a_server_that_does_not_answer_is_said_in_a_sentence(tmp_path, monkeypatch, capfd):
    monkeypatch.setenv(Metadata().password_env, "")
    config = assign(
        Config(root=str(tmp_path)), ["metadata.kind=mysql", f"metadata.port={_free_port()}"]
    )
    file, ir = str(tmp_path / "c.json"), str(tmp_path / "run.pb")
    with open(file, "w") as stream:
        json.dump(to_dict(config), stream)
    assert node.main(["compile", "--config", file, "--ir", ir, "--run-id", "1"]) == 2
    [sentence] = capfd.readouterr().err.strip().splitlines()[-1:]
    assert "metadata.kind=mysql" in sentence
    assert f"127.0.0.1:{config.metadata.port}" in sentence
    assert not os.path.exists(ir)


def test_any_text_comes_back_as_it_was(server):
    """TFX stores JSON inside JSON: quotes, backslashes and line breaks in properties of all levels."""
    config = dataclasses.replace(Config(), metadata=server)
    texts = [
        "plain",
        "it's",
        "back\\slash",
        '{"a": "{\\"b\\": 1}"}',
        "\\",
        "line\nbreak \\' ä $1 \u4f60",
    ]
    with metadata.Metadata(connection(config)) as handle:
        kind = metadata_store_pb2.ExecutionType(
            name="Kind", properties={"own": metadata_store_pb2.STRING}
        )
        number = handle.store.put_execution_type(kind)
        for text in texts:
            sent = metadata_store_pb2.Execution(type_id=number)
            sent.properties["own"].string_value = text
            sent.custom_properties["other"].string_value = text
            sent.custom_properties["deep"].struct_value["list"] = [text, {"key": text}]
            [identity] = handle.store.put_executions([sent])
            [got] = handle.store.get_executions_by_id([identity])
            assert got.properties["own"].string_value == text
            assert got.custom_properties["other"].string_value == text
            assert got.custom_properties["deep"].struct_value["list"][0] == text
        assert sent.custom_properties["other"].string_value == texts[-1], (
            "what was sent is left alone"
        )
