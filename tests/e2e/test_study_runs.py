"""A study of two small nets, run for real: two runs side by side, then nothing left to do."""

import dataclasses
import os
import sys

import pytest

from pipeline.study import report, runner
from pipeline.study.definitions import Member, Study
from tests.helpers import warm

pytestmark = pytest.mark.e2e

STUDY = Study(
    name="small",
    title="Eight layers",
    source="no figure",
    preset="digits",
    members=(
        Member("plain-8", ("model.residual=false",)),
        Member("ResNet-8", (), {"top1": 1.0}),
    ),
    kind="curves",
    protocol="center",
    caption="Both learn digits.",
    settings=("train.epochs=1", "train.warmup_epochs=0", "evaluate.protocols=center"),
)


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """Jobs after a run on two devices, with what was said."""
    root = tmp_path_factory.mktemp("study")
    jobs = runner.jobs(STUDY, [f"root={root}"], [0], [])
    said = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "executable", warm.executable(root))
        assert runner.run(jobs, ["0", "1"], said.append) == []
    return jobs, said


def test_every_member_has_a_result(done):
    jobs, said = done
    assert sum("starts on device" in line for line in said) == 2
    for job in jobs:
        result = job.result
        assert result.member == job.member.label
        assert len(result.history) == 1 and result.steps_per_epoch == 1437 // 64
        assert 0 <= result.errors["center"]["top1"] < 0.9
        assert os.path.exists(os.path.join(result.model, "saved_model.pb"))
        assert os.path.isdir(os.path.join(result.transform_graph, "transform_fn"))
        assert os.path.dirname(result.train_files).endswith("Split-train")
    plain, residual = (job.result for job in jobs)
    assert plain.parameters == residual.parameters
    assert plain.errors != residual.errors


def test_finished_runs_are_not_run_again(done):
    jobs, _ = done
    before = [os.stat(job.result.model).st_ino for job in jobs]
    said = []
    assert runner.run(jobs, ["0", "1"], said.append) == []
    assert said == ["2 of 2 runs were finished before"]
    assert [os.stat(job.result.model).st_ino for job in jobs] == before


def test_the_report_has_the_runs_errors(done, tmp_path):
    jobs, _ = done
    page = report.write(STUDY, [job.result for job in jobs], str(tmp_path), "the command")
    with open(page) as file:
        text = file.read()
    for job in jobs:
        assert f"{100 * job.result.errors['center']['top1']:.2f}" in text
    assert "the command" in text


@pytest.mark.parametrize("kind", ["responses", "gradients"])
def test_trained_nets_are_analysed(done, tmp_path, kind):
    jobs, _ = done
    study = dataclasses.replace(STUDY, kind=kind)
    page = report.write(study, [job.result for job in jobs], str(tmp_path), "the command")
    assert os.path.getsize(page) > 10_000
    written = {"report.html", "figure.svg", "results.csv", "results.md", "layers.csv"}
    assert written <= set(os.listdir(tmp_path))


def test_a_run_that_fails_is_named_and_the_others_go_on(done, tmp_path):
    jobs, _ = done
    broken = dataclasses.replace(
        jobs[0],
        config=dataclasses.replace(jobs[0].config, root="/proc/none"),
        folder=str(tmp_path / "broken"),
    )
    said = []
    assert runner.run([broken, jobs[1]], ["0"], said.append) == [broken]
    assert any("plain-8, seed 0: failed" in line and "run.log" in line for line in said)
