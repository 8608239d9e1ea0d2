"""Which runs a study is made of."""

import json
import math
import os

import pytest

from pipeline.config.settings import ConfigError, to_dict
from pipeline.study import member, runner
from pipeline.study.__main__ import main
from pipeline.study.definitions import STUDIES

# Published errors in percent (arXiv:1512.03385), typed in a second time.
TABLE_2 = {"plain-18": 27.94, "plain-34": 28.54, "ResNet-18 A": 27.88, "ResNet-34 A": 25.03}
TABLE_3 = {
    "plain-34": (28.54, 10.02),
    "ResNet-34 A": (25.03, 7.76),
    "ResNet-34 B": (24.52, 7.46),
    "ResNet-34 C": (24.19, 7.40),
    "ResNet-50": (22.85, 6.71),
    "ResNet-101": (21.75, 6.05),
    "ResNet-152": (21.43, 5.71),
}
TABLE_4 = {
    "ResNet-34 B": (21.84, 5.71),
    "ResNet-34 C": (21.53, 5.60),
    "ResNet-50": (20.74, 5.25),
    "ResNet-101": (19.87, 4.60),
    "ResNet-152": (19.38, 4.49),
}
TABLE_6 = {
    "ResNet-20": 8.75,
    "ResNet-32": 7.51,
    "ResNet-44": 7.17,
    "ResNet-56": 6.97,
    "ResNet-110": 6.61,  # the mean of five; the best is 6.43
    "ResNet-1202": 7.93,
}


def published(study, key):
    return {one.label: one.paper[key] for one in STUDIES[study].members if key in (one.paper or {})}


def test_published_errors_are_the_papers():
    assert published("degradation_imagenet", "top1") == TABLE_2
    for study, table in (("shortcuts", TABLE_3), ("multi_scale", TABLE_4)):
        assert published(study, "top1") == {label: top1 for label, (top1, _) in table.items()}
        assert published(study, "top5") == {label: top5 for label, (_, top5) in table.items()}
    assert published("depth", "top1") == TABLE_6


@pytest.mark.parametrize("study", STUDIES.values(), ids=lambda study: study.name)
def test_labels_say_what_the_runs_train(study, tmp_path):
    settings = [f"root={tmp_path}", "data.source=somewhere"]
    for job in runner.jobs(study, settings, [3], []):
        net = job.config.model
        kind, depth = job.member.label.split(" ")[0].split("-")
        assert net.depth == int(depth)
        assert net.residual == (kind == "ResNet")
        if job.member.label[-1] in "ABC":
            assert net.shortcut == job.member.label[-1]
        if study.preset == "cifar10":
            assert net.family == "cifar" and net.shortcut == "A"
            assert job.config.train.warmup_error == (0.8 if depth == "110" else 0)
        assert job.config.train.seed == 3
        assert study.protocol in job.config.evaluate.protocols
        assert job.result is None


def test_studies_share_the_runs_they_have_in_common(tmp_path):
    settings = [f"root={tmp_path}"]
    folders = {
        name: {job.folder for job in runner.jobs(STUDIES[name], settings, [0], [])}
        for name in ("degradation", "depth", "responses", "gradients")
    }
    assert len(folders["degradation"] & folders["depth"]) == 5
    assert folders["gradients"] < folders["responses"] < folders["degradation"]


def test_another_setting_or_seed_is_another_run_and_another_place_is_not(tmp_path):
    def folder(*settings, seed=0):
        [job] = runner.jobs(STUDIES["depth"], settings, [seed], ["ResNet-20"])
        return os.path.basename(job.folder)

    first = folder(f"root={tmp_path}/a")
    assert folder(f"root={tmp_path}/b", "cache=false", "beam.workers=2") == first
    assert (
        folder(f"root={tmp_path}/b", "train.checkpoint_seconds=60", "train.strategy=mirrored")
        == first
    )
    assert folder(f"root={tmp_path}/a", "train.epochs=3") != first
    assert folder(f"root={tmp_path}/a", seed=1) != first


def test_wrong_arguments_are_answered_in_a_sentence(capsys):
    assert main(["depth", "--members", "ResNet-21"]) == 2
    assert "--members ResNet-21: depth has ResNet-20, ResNet-32" in capsys.readouterr().err
    assert main(["depth", "--set", "train.epoch=3"]) == 2
    assert "Did you mean epochs?" in capsys.readouterr().err
    with pytest.raises(ConfigError, match=r"shorter|size|scale"):
        runner.jobs(STUDIES["depth"], ["transform.size=64"], [0], [])


@pytest.mark.parametrize("setting", ["train.seed=4", "model.depth=8", "serve.directory=/x"])
def test_what_a_study_sets_itself_is_not_overruled(setting, capsys):
    assert main(["depth", "--set", setting]) == 2
    assert f"--set {setting.split('=')[0]}: the study sets this itself" in capsys.readouterr().err


def test_a_seed_or_device_named_twice(tmp_path, capsys):
    assert len(runner.jobs(STUDIES["depth"], [f"root={tmp_path}"], [0, 0], ["ResNet-20"])) == 1
    assert main(["depth", "--devices", "0", "0"]) == 2
    assert "--devices 0 0: name each device once." in capsys.readouterr().err


def test_a_root_that_cannot_be_written_is_said_so(capsys):
    assert main(["depth", "--members", "ResNet-20", "--set", "root=/proc/none"]) == 1
    assert "/proc/none" in capsys.readouterr().err


def test_nothing_to_report(tmp_path, capsys):
    assert main(["depth", "--report-only", "--set", f"root={tmp_path}"]) == 1
    assert "nothing to report" in capsys.readouterr().out


def test_a_result_is_read_as_it_was_written_wherever_the_folder_is_now(tmp_path):
    [job] = runner.jobs(STUDIES["depth"], [f"root={tmp_path}/root"], [0], ["ResNet-20"])
    folder = str(tmp_path / "moved" / "member")
    member.write_request(folder, job.member.label, job.config)
    assert member.read(folder) is None
    assert member.begun(folder) == "study-cifar10" and not member.begun(str(tmp_path))
    with open(os.path.join(folder, member.RESULT), "w") as file:
        json.dump(
            {
                "member": job.member.label,
                "seed": 0,
                "config": to_dict(job.config),
                "history": [{"epoch": 1.0, "top1_error": 0.5}],
                "steps_per_epoch": 390,
                "errors": {"center": {"top1": 0.25, "top5": math.nan}},
                "parameters": 271_098,
                "seconds": 12.5,
                "commit": "abc",
                "model": "model/1",
                "transform_graph": "../graph",
                "train_files": "../examples/Split-train/*",
            },
            file,
        )
    result = member.read(folder)
    assert result.config == job.config
    assert result.errors["center"]["top1"] == 0.25 and math.isnan(result.errors["center"]["top5"])
    assert result.model == os.path.join(folder, "model", "1")
    assert result.transform_graph == str(tmp_path / "moved" / "graph")


@pytest.mark.parametrize(
    "content", ["", "[]", '{"member": "x"}', '{"member": "x", "seed": 0, "config": {"x": 1}}']
)
@pytest.mark.parametrize("name", [member.RESULT, member.REQUEST])
def test_a_damaged_file_of_a_run_is_named(tmp_path, capfd, name, content):
    settings = [f"root={tmp_path}", "data.source=/none"]
    [job] = runner.jobs(STUDIES["depth"], settings, [0], ["ResNet-20"])
    path = os.path.join(job.folder, name)
    os.makedirs(job.folder)
    with open(path, "w") as file:
        file.write(content)
    assert main(["depth", "--members", "ResNet-20", *(f"--set={one}" for one in settings)]) == 1
    error = capfd.readouterr().err
    assert error.startswith(f"{path} is damaged or of another version (")
    assert len(error.splitlines()) == 1
