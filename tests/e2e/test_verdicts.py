"""What a run says of a candidate, and what it does beside damaged versions and data that are cut
off.
"""

import os
import signal
import subprocess
import time

import pytest

from models.data import records
from tests.helpers.runs import artifact, command, run, serving, state, versions

pytestmark = pytest.mark.e2e

SHORT = (
    "train.epochs=1",
    "train.warmup_epochs=0",
    "evaluate.max_top5_error=1",
    "serve.validator=none",
)
ANY = "evaluate.max_top1_error=1"
WORSE = "train.learning_rate=1e-6"


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A model of one epoch, which was refused first and then pushed."""
    folder = tmp_path_factory.mktemp("home")
    status, output = run(folder, *SHORT)
    assert status == 3
    assert "Not blessed, nothing pushed: center top-1 error is" in output
    assert "Candidate runs/resnet-digits/artifacts/Trainer/model/" in output
    assert "Next      train longer or otherwise (train.epochs" in output
    status, output = run(folder, *SHORT, ANY)
    assert status == 0, output
    assert state(output, "Trainer") == "·", "A new bound needs no new training."
    assert len(versions(folder)) == 1
    return folder


def test_other_protocols_let_no_worse_model_pass(home):
    other = "evaluate.protocols=center,multi_scale"
    status, output = run(home, *SHORT, ANY, WORSE, other)
    assert status == 3
    assert f"compared with pushed version {versions(home)[0]}" in output
    assert "may be exceeded by 0.00 points (evaluate.max_top1_increase)" in output
    assert len(versions(home)) == 1


def test_ctrl_c_in_the_evaluator_is_like_everywhere(home):
    process = subprocess.Popen(
        command(*SHORT, ANY, "evaluate.max_top1_error=0.99", "no_cache=Evaluator"), cwd=home,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    with process:
        seen = ""
        for line in process.stdout:
            seen += line
            if " Baseline " in line:
                break
        folder = os.path.join(home, "runs", "resnet-digits", "artifacts", "Evaluator", "evaluation")
        before = set(os.listdir(folder))
        while set(os.listdir(folder)) == before:
            assert process.poll() is None
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        seen += process.stdout.read()
    assert process.returncode == 130, seen
    assert "Interrupted. Run the same command again to continue." in seen


def test_a_damaged_version_is_no_bar(home):
    """It stands in the way of nothing, though it is the only one."""
    [version] = versions(home)
    data = os.path.join(serving(home), version, "variables", "variables.data-00000-of-00001")
    with open(data, "r+b") as file:
        file.seek(1000)
        file.write(b"\xff" * 8)
    status, output = run(home, *SHORT, ANY, WORSE)
    assert status == 0
    assert f"passed over version {version} (it is damaged: variables/variables.data" in output
    assert len(versions(home)) == 2


def test_fewer_images_than_ingestion_wrote_are_no_verdict(home):
    folder = os.path.join(artifact(home, "ExampleGen", "examples"), "Split-eval")
    shard = os.path.join(folder, os.listdir(folder)[0])
    content = open(shard, "rb").read()  # noqa: SIM115
    length = int.from_bytes(content[:8], "little") + 16
    assert records.checksum(content[:8]) == content[8:12]
    with open(shard, "wb") as file:
        file.write(content[length:])
    try:
        status, output = run(home, *SHORT, ANY, "no_cache=Evaluator")
    finally:
        with open(shard, "wb") as file:
            file.write(content)
    assert status == 1
    assert "Evaluator failed: 359 images were judged and ingestion wrote 360 into" in output
    assert "--no-cache ExampleGen writes them anew" in output
