"""The cache sees the code that a component runs, and no other."""

import functools
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from components import code_digest
from tests.helpers import warm

ROOT = Path(__file__).parents[2]
COMPONENTS = {
    "ExampleGen": "components.example_gen.component components.example_gen.sources.ilsvrc",
    "ExampleValidator": "components.data_validation.component",
    "Transform": "models.preprocessing",
    "Tuner": "models.tune",
    "Trainer": "models.train",
    "ensemble": "models.ensemble",
    "Evaluator": "components.evaluator.component",
    "ServingValidator": "components.serving_validator.component",
    "server": "serving.server.__main__",
}


@pytest.mark.parametrize(
    "module", ["models.preprocessing", "models.train", "components.example_gen.component"]
)
def test_python_imports_no_module_that_is_not_reached(module):
    code = f"import json, sys, {module}; print(json.dumps(sorted(sys.modules)))"
    run = subprocess.run(
        [*warm.python(), "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    imported = json.loads(run.stdout.splitlines()[-1])
    ours = {name for name in imported if name.partition(".")[0] in code_digest.PACKAGES}
    assert ours <= code_digest.reached(module)
    assert len(ours) > 5


@pytest.fixture(scope="module")
def digests(tmp_path_factory):
    """Digest of every component after a file of a copy of the code has been changed by a function."""
    copy = tmp_path_factory.mktemp("code")
    for package in code_digest.PACKAGES:
        shutil.copytree(
            ROOT / package, copy / package, ignore=shutil.ignore_patterns("__pycache__")
        )
    code = (
        "import json; from components.code_digest import digest; "
        f"print(json.dumps({{n: digest(*names.split()) for n, names in {COMPONENTS!r}.items()}}))"
    )

    @functools.cache
    def after(file=None, change=None):
        text = (copy / file).read_text() if file else ""
        if file:
            (copy / file).write_text(change(text))
        try:
            run = subprocess.run(
                [sys.executable, "-c", code], cwd=copy, capture_output=True, text=True, check=True
            )
        finally:
            if file:
                (copy / file).write_text(text)
        return json.loads(run.stdout)

    return after


def statement(text):
    return f"{text}\nADDED = 1\n"


@pytest.mark.parametrize(
    ("file", "changed"),
    [
        ("models/training/schedules.py", {"Trainer", "Tuner"}),
        ("models/training/terminal.py", {"Trainer", "Tuner"}),
        ("components/data_validation/drift.py", {"ExampleValidator"}),
        ("components/evaluator/tfma_metrics.py", {"Evaluator"}),
        ("serving/server/rest_api/routes.py", {"server"}),
        ("components/example_gen/sources/tar_index.py", {"ExampleGen"}),
        ("components/example_gen/sources/tfds_source.py", set()),
        ("components/example_gen/sources/registry.py", set()),
        ("models/settings.py", set(COMPONENTS) - {"server"}),
        ("pipeline/local/summary.py", set()),
        ("pipeline/config/settings.py", set()),
    ],
)
def test_a_change_counts_where_the_module_is_used_and_nowhere_else(digests, file, changed):
    before, after = digests(), digests(file, statement)
    found = {name for name in COMPONENTS if before[name] != after[name]}
    assert changed == found


@pytest.mark.parametrize(
    "change",
    [
        lambda text: "# A remark.\n" + text,
        lambda text: text.replace('"""', '"""Another word. ', 1),
        lambda text: text.replace("\n\n\n", "\n\n\n\n"),
    ],
)
def test_remarks_and_layout_train_nothing_again(digests, change):
    assert digests("models/training/schedules.py", change) == digests()


def test_a_module_that_is_not_there_is_an_error():
    with pytest.raises(ModuleNotFoundError, match=r"components\.no_such"):
        code_digest.digest("components.no_such")
