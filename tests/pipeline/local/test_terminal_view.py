"""The progress view: what reaches the terminal, what goes to the log, how errors read."""

import os
import pty
import subprocess
import sys

import apache_beam as beam
import pytest
import tensorflow as tf

from components.data_validation.component import DataError
from pipeline.local.terminal_view import reason


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (DataError("no example of class n02."), "no example of class n02."),
        (
            RuntimeError("too many bad images. [while running 'Read/Map(f)']"),
            "too many bad images.",
        ),
        (
            RuntimeError(
                "Error received from SDK harness: Traceback (most recent call last):\n  File ...\n"
                "components.example_gen.errors.TooManyBadError: 12 of 100 images are bad.\n"
            ),
            "12 of 100 images are bad.",
        ),
        (KeyError("x"), "KeyError: 'x'"),
        (
            ValueError("in user code:\n\n    File x\n\n    ValueError: shapes differ\n"),
            "ValueError: shapes differ",
        ),
        (
            MemoryError(
                "Graph execution error:\n\nFile x\n\nOOM when allocating\n\t [[{{node Add}}]]"
                " [Op:f]\n"
            ),
            "MemoryError: OOM when allocating",
        ),
        (
            OSError("{{function_node f}} /a: No space left [Op:SaveV2] name: "),
            "OSError: /a: No space left",
        ),
        (
            UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte"),
            (
                "A text that it reads is no UTF-8, so a file is damaged or not of this project:"
                " 'utf-8' codec can't decode byte 0xff in position 0: invalid start byte."
            ),
        ),
        (OSError("[[a name"), "OSError: [[a name"),
        (OSError(), "OSError: OSError"),
        (AssertionError(" [while running 'Read/Map(f)']"), "AssertionError: AssertionError"),
    ],
)
def test_reason_is_one_sentence(error, sentence):
    assert reason(error) == sentence


def test_a_damaged_record_is_not_written_out(tmp_path):
    path = str(tmp_path / "data_tfrecord-00000-of-00001")
    with tf.io.TFRecordWriter(path) as writer:
        writer.write(b"x" * 100_000)
    with open(path, "r+b") as file:
        file.seek(50_000)
        file.write(b"y")
    failed = pytest.raises(ValueError, match="Not a valid TFRecord")
    with failed as raised, beam.Pipeline(runner="FnApiRunner") as p:
        _ = p | beam.io.ReadFromTFRecord(path)
    said = reason(raised.value)
    assert (
        said
        == "A record of its examples is damaged or cut off: --no-cache ExampleGen writes them anew."
    )


SCRIPT = """
import os, subprocess, sys, logging
from pipeline.local.terminal_view import View
view = View(sys.argv[1])
with view.redirected():
    print("library chatter")
    os.write(2, b"from C++")
    subprocess.run(["echo", "from a child"])
    with view.component("Transform") as outcome:
        outcome.figure = "10 classes [x]"
    try:
        with view.component("Trainer", talks=True) as outcome:
            os.write(int(os.environ["RESNET_TFX_PROGRESS_FD"]), b"epoch 1\\n")
            raise RuntimeError
    except RuntimeError:
        pass
print("after")
"""


OUTLIVING = """
import signal, sys
from pipeline.local.terminal_view import View
signal.signal(signal.SIGHUP, signal.SIG_IGN)
view = View(sys.argv[1])
with view.redirected():
    for name in ("Transform", "Trainer"):
        with view.component(name, talks=name == "Trainer"):
            print(name, flush=True)
            sys.stdin.read(1)
    print("ended", flush=True)
view.line("the summary")
"""


def test_a_run_may_outlive_its_terminal(tmp_path):
    log, (terminal, end) = tmp_path / "run.log", pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", OUTLIVING, str(log)], stdin=subprocess.PIPE, stdout=end, stderr=end,
        cwd=os.path.dirname(os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))),
    )  # fmt: skip
    os.close(end)
    seen = b""
    while b"Transform" not in seen:
        seen += os.read(terminal, 1000)
    os.close(terminal)
    process.communicate(b"..", timeout=60)
    assert process.returncode == 0
    assert log.read_text().split() == ["Transform", "Trainer", "ended"]


def test_only_the_view_reaches_the_terminal(tmp_path):
    log = tmp_path / "logs" / "run.log"
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(log)], capture_output=True, text=True, timeout=60,
        cwd=os.path.dirname(os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))),
    )  # fmt: skip
    assert done.returncode == 0 and done.stderr == ""
    lines = done.stdout.splitlines()
    assert lines[0].startswith("  ✓ Transform") and lines[0].endswith("10 classes [x]")
    assert lines[1] == "epoch 1"
    assert lines[2].startswith("  ✗ Trainer") and lines[2].endswith("failed")
    assert lines[3] == "after"
    assert {"library chatter", "from C++from a child"} == set(log.read_text().split("\n")) - {""}


def test_a_terminal_without_the_marks_stops_no_run(tmp_path):
    ascii_only = {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(tmp_path / "run.log")], capture_output=True, text=True, timeout=60,
        env=os.environ | ascii_only,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "  ? Transform" in done.stdout


def test_brackets_in_a_path_are_no_markup(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "pipeline.local_runner", "--preset=folder", f"--set=root={tmp_path}",
         "--set=data.source=[/none]", "--set=preset=[/mine]"],
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 2, done.stderr
    assert "preset [/mine]" in done.stdout
    assert "[/none]" in done.stdout + done.stderr
