"""User stories on whole runs: the digits, a small net, one machine.

The runs share one pipeline root, in the order of a user's life: first model,
the same again, a worse one, a better one.
"""

import glob
import json
import os
import re
import shutil
import signal
import subprocess
import time

import numpy as np
import pytest
import tensorflow as tf

from pipeline import runs
from tests.helpers.runs import artifact, command, run, serving, state, versions

QUICK = ["train.epochs=3", "evaluate.max_top1_error=0.5", "evaluate.max_top5_error=0.3"]
UNSERVED = "serve.validator=none"
NODES = ["ExampleGen", "SchemaGen", "StatisticsGen", "ExampleValidator", "Transform", "Trainer",
         "Baseline", "Evaluator", "ServingValidator", "Pusher", "Report"]  # fmt: skip
pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return str(tmp_path_factory.mktemp("home"))


@pytest.fixture(scope="module")
def first(home):
    status, output = run(home, *QUICK, fresh=True)
    assert status == 0, output
    return output


def test_first_run_pushes_and_says_so(home, first):
    assert [state(first, node) for node in NODES] == ["✓"] * len(NODES)
    assert "Blessed" in first
    assert "1,437 train, 360 eval, 0 quarantined" in first
    assert re.search(r"center +\d+\.\d\d%", first)
    assert re.search(r"ten_crop +\d+\.\d\d%", first)
    assert re.search(r"ServingValidator .* 16 images served bit for bit as evaluated", first)
    [version] = versions(home)
    assert f"resnet/{version}" in first
    with open(os.path.join(serving(home), version, "assets.extra", "evaluation.json")) as file:
        evaluated = json.load(file)
    assert (evaluated["examples"], sorted(evaluated["protocols"])) == (360, ["center", "ten_crop"])
    shown = f"{evaluated['protocols']['center']['top1_error']:.2%}"
    assert re.search(rf"^ center +{shown}", first, re.M)
    with open(os.path.join(serving(home), version, "assets.extra", "lineage.json")) as file:
        lineage = json.load(file)
    assert lineage["settings"]["train"]["epochs"] == 3 and lineage["parents"] == {}
    assert lineage["data"]["images"] == "1,437 train, 360 eval"
    assert set(lineage["nodes"]) >= {"ExampleGen", "Transform", "Trainer", "Evaluator"}
    assert "python -m serving.server" in first
    for name in re.findall(r"_file=(\S+)", first):
        assert os.path.isfile(os.path.join(home, name))
    assert os.path.isfile(
        os.path.join(home, re.search(r"Deploy +(\S+)", first)[1], "kubernetes/kserve.yaml")
    )
    for noise in ("WARNING", "Traceback", "absl", "I0000", "E0000", "DeprecationWarning"):
        assert noise not in first
    log = re.search(r"Full log: (\S+)", first)[1]
    assert os.path.getsize(os.path.join(home, log)) > 1000
    with open(os.path.join(home, log.replace(".log", ".config.json"))) as file:
        assert json.load(file)["train"]["epochs"] == 3


def test_evaluator_agrees_with_predictions_counted_by_hand(home, first):
    from components.evaluator import evaluation

    errors = evaluation.errors(artifact(home, "Evaluator", "evaluation"))
    folder = os.path.join(artifact(home, "ExampleGen", "examples"), "Split-eval")
    examples = [
        r.numpy() for f in tf.io.gfile.glob(folder + "/*") for r in tf.data.TFRecordDataset(f)
    ]
    labels = [
        tf.train.Example.FromString(e).features.feature["image/class/label"].int64_list.value[0]
        for e in examples
    ]
    assert (
        len(examples) == 360 == evaluation.example_count(artifact(home, "Evaluator", "evaluation"))
    )
    model = tf.saved_model.load(os.path.join(artifact(home, "Trainer", "model"), "Format-Serving"))
    outputs = model.signatures["evaluate"](tf.constant(examples))
    for protocol in ("center", "ten_crop"):
        order = np.argsort(-outputs[protocol].numpy(), axis=1)
        hits = order == np.array(labels)[:, None]
        assert errors[protocol]["top1"] == pytest.approx(1 - hits[:, :1].any(1).mean(), abs=1e-6)
        assert errors[protocol]["top5"] == pytest.approx(1 - hits[:, :5].any(1).mean(), abs=1e-6)
    per_class = evaluation.per_class(artifact(home, "Evaluator", "evaluation"), "center")
    assert sorted(per_class) == list(range(10))
    counts = np.bincount(labels)
    assert sum(e * counts[k] for k, e in per_class.items()) / 360 == pytest.approx(
        errors["center"]["top1"]
    )


def test_the_report_has_the_numbers_of_the_run(home, first):
    """Against what the Evaluator, ingestion, the training and the terminal say."""
    from components.evaluator import evaluation

    page = re.search(r"^Report +(\S+report\.html)$", first, re.M)[1]
    folder = os.path.dirname(os.path.join(home, page))
    assert sorted(os.listdir(folder)) == ["report.html", "results.json"]
    with open(os.path.join(folder, "results.json")) as file:
        found = json.load(file)
    assert found["problems"] == []
    [version] = versions(home)
    assert found["verdict"]["blessed"] and found["verdict"]["pushed_version"] == version
    errors = evaluation.errors(artifact(home, "Evaluator", "evaluation"))
    shown = {(row["protocol"], row["metric"]): row["value"] for row in found["errors"]}
    assert shown == {(p, key): value for p, both in errors.items() for key, value in both.items()}
    assert sum(row["images"] for row in found["classes"]) == 360
    per_class = evaluation.per_class(artifact(home, "Evaluator", "evaluation"), "center")
    by_label = {row["label"]: row["error"] for row in found["classes"]}
    assert by_label == pytest.approx(per_class)
    assert [found["data"]["splits"][split]["images"] for split in ("train", "eval")] == [1437, 360]
    with open(os.path.join(artifact(home, "Trainer", "model_run"), "summary.json")) as file:
        assert found["training"]["summary"] == json.load(file)
    took = {one["node"]: one for one in found["components"]}
    assert list(took) == NODES[:-1] and {one["state"] for one in took.values()} == {"done"}
    for node in NODES[:-1]:
        told = float(re.search(rf"✓ {node} +([\d.]+) s", first)[1])
        assert took[node]["seconds"] == pytest.approx(told, abs=2.0), node
    changed = {one["setting"]: one["value"] for one in found["changed"]}
    assert changed["train.epochs"] == 3 and changed["evaluate.max_top1_error"] == 0.5
    assert len(found["fingerprint"]) == 64
    with open(os.path.join(home, page), encoding="utf-8") as file:
        text = file.read()
    # Twelve of each gallery, of which some are in both.
    assert text.count("data:image/png;base64,") == 24 and "no picture</span>" not in text
    assert f"version {version}" in text and f"{errors['center']['top1']:.2%}" in text


def test_pushed_model_predicts_in_a_session(home, first):
    """TensorFlow Serving loads models as Sessions, which tf.saved_model.load does not."""
    [version] = versions(home)
    path = os.path.join(serving(home), version)
    jpeg = tf.io.encode_jpeg(tf.fill([40, 50, 3], tf.constant(200, tf.uint8))).numpy()
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        meta = tf.compat.v1.saved_model.loader.load(session, ["serve"], path)
        signature = meta.signature_def["serving_default"]
        probabilities = session.run(
            signature.outputs["probabilities"].name,
            {signature.inputs["image_bytes"].name: [jpeg, jpeg]},
        )
    assert probabilities.shape == (2, 10)
    np.testing.assert_allclose(probabilities.sum(1), 1, rtol=1e-5)
    assert os.path.getsize(os.path.join(path, "assets.extra", "tf_serving_warmup_requests")) > 0
    with open(os.path.join(path, "assets", "labels.txt")) as file:
        assert len(file.read().split()) == 10


def test_second_run_is_served_from_cache(home, first):
    status, output = run(home, *QUICK, fresh=True)
    assert status == 0
    assert [state(output, node) for node in NODES] == ["·"] * len(NODES)
    assert len(versions(home)) == 1


def test_a_node_that_is_named_runs_again_without_a_second_push(home, first):
    status, output = run(home, *QUICK, "no_cache=Pusher,Baseline")
    assert status == 0
    again = dict.fromkeys(NODES[-5:], "✓")
    assert [state(output, node) for node in NODES] == [again.get(node, "·") for node in NODES]
    assert len(versions(home)) == 1


def test_a_model_that_the_server_serves_too_slowly_is_not_pushed(home, first):
    status, output = run(home, *QUICK, "serve.max_latency_ms=0.001")
    assert status == 3
    assert "above serve.max_latency_ms=0.001" in output and "Not served, nothing pushed" in output
    assert len(versions(home)) == 1


def test_a_pushed_version_that_was_removed_is_pushed_again(home, first):
    shutil.rmtree(serving(home))
    status, output = run(home, *QUICK)
    assert status == 0
    assert state(output, "Trainer") == "·"
    assert state(output, "Pusher") == "✓"
    assert len(versions(home)) == 1


def test_worse_model_is_not_pushed_and_a_better_one_is(home, first):
    before = versions(home)
    worse = ["train.epochs=1", "train.warmup_epochs=0", "train.learning_rate=0.0001"]
    loose = ["evaluate.max_top1_error=0.99", "evaluate.max_top5_error=0.99"]
    status, output = run(home, *worse, *loose, UNSERVED)
    assert status == 3
    assert "Not blessed" in output
    assert "evaluate.max_top1_increase" in output
    assert "nothing pushed" in output
    assert versions(home) == before
    assert state(output, "Report") == "✓"
    page = os.path.join(artifact(home, "Report", "report"), "report.html")
    with open(page, encoding="utf-8") as file:
        text = file.read()
    assert "Not blessed, nothing pushed." in text and "evaluate.max_top1_increase" in text
    assert f"pushed version {before[-1]}" in text
    status, output = run(home, *QUICK, UNSERVED, "train.epochs=6")
    assert status == 0
    assert "blessed before" in output
    assert len(versions(home)) == 2
    assert versions(home)[0] == before[0]
    assert [state(output, node) for node in NODES[:5]] == ["·"] * 5


def test_warm_start_begins_where_the_serving_model_is(home, first):
    warm = [
        *QUICK,
        UNSERVED,
        "train.epochs=1",
        "train.warmup_epochs=0",
        "train.learning_rate=0.001",
        "train.warm_start=true",
    ]
    newest = versions(home)[-1]
    status, output = run(home, *warm)
    assert status == 0
    assert re.search(rf"✓ WarmStart .*from pushed version {newest}", output)
    assert re.search(r"starting from .*WarmStart.* with its head", output)
    with open(os.path.join(artifact(home, "Trainer", "model_run"), "summary.json")) as file:
        started = json.load(file)
    assert started["val_top1_error"] < 0.3, "one epoch from scratch is far from this"
    status, output = run(home, *warm)
    assert status == 0
    assert [state(output, node) for node in ("WarmStart", "Trainer", "Pusher")] == ["·"] * 3


def test_runs_are_listed_shown_and_compared(home, first, capsys):
    def said(*arguments, status=0):
        assert runs.main(["--set", f"root={home}/runs", *arguments]) == status
        output = capsys.readouterr()
        return output.out if status == 0 else output.err

    log = re.search(r"logs/(\S+)\.log", first)[1]
    listed = said("list").splitlines()[1:]
    began, newest = listed[-1].split(), listed[0].split()
    assert began[0] == log
    old, new = versions(home)[0], versions(home)[-1]
    assert newest[newest.index("version") + 1] == new
    assert any("nothing pushed" in line for line in listed)
    shown = said("show", log)
    error = re.search(r"^ center +(\S+%)", first, re.M)[1]
    assert re.search(rf"center +top-1 error +{error} \(\d", shown)
    assert "train.epochs=3" in shown
    page = re.search(r"^Report +(\S+/report\.html)$", shown, re.M)[1]
    assert os.path.isfile(page)
    better = next(line.split()[0] for line in listed if f"version {versions(home)[1]}" in line)
    compared = said("diff", log, better)
    assert re.search(r"train.epochs +3 +6", compared)
    assert re.search(
        r"Of 360 images that both have seen \(center\), \d+ are right with A", compared
    )
    [line] = [line for line in said("lineage", new).splitlines() if line.startswith("Data")]
    assert line.startswith("Data      1,437 train, 360 eval, fingerprint ")
    assert f"Parent    started from version {versions(home)[1]}" in said("lineage", new)
    assert "Parent" not in said("lineage", versions(home)[0])
    assert "there is no such run" in said("show", "nobody", status=2)
    assert "is not known to this metadata" in said("lineage", "17", status=2)
    assert old != new


def test_pruning_takes_nothing_that_serves_or_is_new(home, first, capsys):
    asked = ["--set", f"root={home}/runs", "prune", "--keep=1"]
    kept = set(glob.glob(f"{home}/runs/resnet-digits/serving/**", recursive=True))
    folders = set(glob.glob(f"{home}/runs/resnet-digits/artifacts/*/*/*"))
    assert runs.main(asked) == 0
    named = set(re.findall(r"MB  (/\S+)", capsys.readouterr().out))
    assert named < folders == set(glob.glob(f"{home}/runs/resnet-digits/artifacts/*/*/*"))
    assert runs.main([*asked, "--yes"]) == 0
    assert set(re.findall(r"MB  (/\S+)", capsys.readouterr().out)) == named
    left = set(glob.glob(f"{home}/runs/resnet-digits/artifacts/*/*/*"))
    assert not left & named
    assert set(glob.glob(f"{home}/runs/resnet-digits/serving/**", recursive=True)) == kept
    newest = versions(home)[-1]
    with open(os.path.join(serving(home), newest, "assets.extra", "lineage.json")) as file:
        assert json.load(file)["data"]["images"] == "1,437 train, 360 eval"
    assert runs.main([*asked[:2], "lineage", newest]) == 0
    assert runs.main(asked) == 0
    assert "0.0 MB can go" in capsys.readouterr().out


def _kill_when(folder, settings, ready, limit=300):
    """Starts a run in its own process group and kills the group with SIGKILL once `ready()`."""
    process = subprocess.Popen(
        command(*settings),
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    deadline = time.monotonic() + limit
    while not ready():
        assert process.poll() is None, process.stdout.read().decode()
        assert time.monotonic() < deadline, "the moment to kill never came"
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def test_training_killed_in_the_middle_continues(home, first):
    # No more than 4 epochs: worse than the pushed model, which is no matter here.
    settings = [
        *QUICK,
        UNSERVED,
        "train.epochs=4",
        "train.seed=3",
        "evaluate.max_top1_increase=0.99",
    ]
    checkpoints = os.path.join(home, "runs", "resnet-digits", "checkpoints")
    _kill_when(
        home, settings, lambda: any("checkpoint" in files for *_, files in os.walk(checkpoints))
    )
    status, output = run(home, *settings)
    assert status == 0
    assert [state(output, node) for node in NODES[:6]] == ["·"] * 5 + ["✓"], "as after pruning"
    with open(os.path.join(artifact(home, "Trainer", "model_run"), "summary.json")) as file:
        assert json.load(file)["resumed_from"]
    assert not any(files for *_, files in os.walk(checkpoints))


def test_ingestion_killed_in_the_middle_continues(home, first):
    settings = [
        "name=killed", "data.train_shards=400", "train.epochs=1", "train.warmup_epochs=0",
        "evaluate.protocols=center", "evaluate.max_top1_error=1", "evaluate.max_top5_error=1",
        "serve.validator=none",
    ]  # fmt: skip
    staging = os.path.join(home, "runs", "killed", "artifacts", "ExampleGen", "staging", "*")
    _kill_when(home, settings, lambda: len(glob.glob(staging + "/done/*.json")) > 3)
    done = [
        os.path.basename(path).removesuffix(".json")
        for path in glob.glob(staging + "/done/train-*.json")
    ]
    inodes = {os.stat(path).st_ino for name in done for path in glob.glob(f"{staging}/data/{name}")}
    assert 3 <= len(inodes) == len(done) < 400
    status, output = run(home, *settings)
    assert status == 0
    assert "1,437 train, 360 eval" in output
    folder = os.path.join(artifact(home, "ExampleGen", "examples", "killed"), "Split-train")
    files = glob.glob(folder + "/*")
    assert len(files) == 400
    assert inodes <= {os.stat(path).st_ino for path in files}, "finished shards are kept"
    assert sum(1 for f in files for _ in tf.data.TFRecordDataset(f)) == 1437


def test_data_that_does_not_fit_the_schema_stops_the_run(home, first):
    [curated] = glob.glob(os.path.join(home, "runs", "resnet-digits", "schema", "*.pbtxt"))
    with open(curated) as file:
        text = file.read()
    with open(os.path.join(home, "narrow.pbtxt"), "w") as file:
        file.write(re.sub(r"(is_categorical: true\s+)?max: 9\b", "max: 8", text))
    status, output = run(home, *QUICK, f"data.schema={home}/narrow.pbtxt")
    assert status == 1
    assert state(output, "ExampleValidator") == "✗"
    assert re.search(r"ExampleValidator failed: .*split 'train': image/class/label: .*9", output)
    assert "Traceback" not in output
    assert state(output, "Trainer") is None


def test_another_number_of_classes_is_found_before_anything_runs(home):
    status, output = run(home, *QUICK, "name=misfit", "data.classes=12")
    assert status == 2
    assert "has 10 classes and data.classes says 12" in output


def test_two_runs_of_one_pipeline_do_not_mix(home, first):
    import fcntl

    with open(os.path.join(home, "runs", "resnet-digits", "lock"), "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        status, output = run(home, *QUICK)
    assert status == 2
    assert "another run of this pipeline is active" in output
