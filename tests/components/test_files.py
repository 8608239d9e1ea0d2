"""Files that are whole or as they were before."""

import io
import os

import pytest
import tensorflow as tf

from components import files


def test_what_is_written_takes_the_place_of_what_was_there(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")
    files.write(str(path), "déjà\n")
    assert path.read_bytes() == "déjà\n".encode()
    files.write(str(path), b"\xff\0")
    assert path.read_bytes() == b"\xff\0"
    assert os.listdir(tmp_path) == ["file"]


class Full(io.FileIO):
    """A file on a disk that is full after two bytes."""

    def write(self, content):
        super().write(content[:2])
        raise OSError(28, "No space left on device")


@pytest.mark.parametrize("stroke", ["write", "replace"])
def test_a_write_that_fails_leaves_what_was_there_and_nothing_else(tmp_path, monkeypatch, stroke):
    path = tmp_path / "file"
    path.write_text("old")

    def full(*_):
        raise OSError(28, "No space left on device")

    if stroke == "write":
        monkeypatch.setattr(files, "open_write", lambda path: Full(path, "wb"))
    else:
        monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="No space left"):
        files.write(str(path), "new text")
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["file"]


def test_a_folder_in_the_place_of_the_file_is_an_error_that_leaves_nothing(tmp_path):
    (tmp_path / "file").mkdir()
    with pytest.raises(OSError):
        files.write(str(tmp_path / "file"), "text")
    assert os.listdir(tmp_path) == ["file"]


def test_a_remote_write_that_fails_leaves_nothing(monkeypatch):
    folder = "ram://test_files"
    tf.io.gfile.makedirs(folder)
    files.write(f"{folder}/file", "old")

    def denied(*_, **__):
        raise tf.errors.PermissionDeniedError(None, None, "denied")

    monkeypatch.setattr(tf.io.gfile, "rename", denied)
    with pytest.raises(tf.errors.PermissionDeniedError):
        files.write(f"{folder}/file", "new")
    assert files.read(f"{folder}/file") == b"old"
    assert tf.io.gfile.listdir(folder) == ["file"]
