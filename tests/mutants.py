"""`make mutants`: changes the code in small ways, one at a time, and tells which changes no test
notices.

mutmut imports TensorFlow and the tests once for a group of modules and forks a process for each
mutant. It works on a copy in runs/mutants, where functions that numba compiles are plain Python:
mutmut changes nothing that a decorator has.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
COPIES = ROOT / "runs" / "mutants"
MUTMUT = ROOT / ".uv" / "mutmut"
PACKAGES = ("pipeline", "models", "components", "serving")


class Group(NamedTuple):
    """Modules that the same tests look at.

    Attributes:
      compiled: whether numba compiles what it compiles elsewhere; then these functions are left
        alone.
    """

    modules: tuple[str, ...]
    tests: tuple[str, ...]
    compiled: bool = False


EXAMPLE_GEN = "components/example_gen"
GROUPS = {
    "records": Group(("models/data/records.py",), ("models/data/test_records.py",)),
    "draws": Group(("models/pixels/crops.py",), ("models/pixels/test_crops.py",)),
    "decoding": Group(("models/pixels/decoding.py",), ("models/pixels/test_decoding.py",)),
    # In Python the inner loops of fast_crops.py would take hours for a round of the tests.
    "views": Group(
        ("models/pixels/views.py", "models/pixels/fast_crops.py", "models/pixels/augmentation.py"),
        ("models/pixels/test_augmentation.py", "models/pixels/test_fast_crops.py"),
        compiled=True,
    ),
    "headers": Group(
        (f"{EXAMPLE_GEN}/writing/jpeg_headers.py",),
        ("components/example_gen/test_jpeg_headers.py",),
    ),
    "images": Group(
        (f"{EXAMPLE_GEN}/writing/image_files.py",),
        ("components/example_gen/test_example_gen_images.py",),
        compiled=True,
    ),
    "devkit": Group(
        (f"{EXAMPLE_GEN}/sources/devkit.py",), ("components/example_gen/test_devkit.py",)
    ),
    "index": Group(
        (f"{EXAMPLE_GEN}/writing/index.py",),
        (
            "components/example_gen/test_example_gen_index.py",
            "components/example_gen/test_example_gen_folders.py",
        ),
        compiled=True,
    ),
    "partition": Group(
        (f"{EXAMPLE_GEN}/holdout.py", f"{EXAMPLE_GEN}/writing/record_writer.py"),
        (
            "components/example_gen/test_example_gen_holdout.py",
            "components/example_gen/test_example_gen_records.py",
        ),
        compiled=True,
    ),
    "metrics": Group(
        ("components/evaluator/tfma_metrics.py",), ("components/evaluator/test_top_k.py",)
    ),
    "verdicts": Group(
        ("components/evaluator/evaluation.py",), ("components/evaluator/test_evaluation.py",)
    ),
    "baseline": Group(
        ("components/evaluator/comparable.py", "components/evaluator/baseline.py"),
        ("components/evaluator/test_baseline.py", "components/evaluator/test_warm_start.py"),
    ),
    "requests": Group(
        ("serving/server/rest_api/codec.py", "serving/server/running/limits.py"),
        ("serving/server/test_json_codec.py", "serving/server/test_limits.py"),
    ),
    "versions": Group(
        ("serving/server/versions/versions.py",), ("serving/server/test_version_manager.py",)
    ),
}
# What mutmut says of a mutant, by the exit code that it notes (mutmut.stats).
SURVIVED, NO_TESTS, NOT_RUN, TIMED_OUT = (0,), (5, 33), (None, 34), (-24, 24, 36, 152, 255)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument(
        "groups", nargs="*", choices=[*GROUPS, []], help="all of them where none is named"
    )
    parser.add_argument(
        "--only", metavar="PATTERN", default="*", help="mutants whose names match, a*_glob"
    )
    arguments = parser.parse_args()
    rows = [row for name in arguments.groups or GROUPS for row in run(name, arguments.only)]
    print(
        "\n| module | mutants | killed | by time | survived | no test | score |\n"
        + "|---" * 7
        + "|"
    )
    print("\n".join(rows))


def run(name: str, only: str) -> list[str]:
    """Runs a group, prints its survivors; lines of the table, one for each module."""
    group, copy = GROUPS[name], COPIES / name
    lay(group, copy)
    environment = {
        **os.environ,
        "PYTHONPATH": str(MUTMUT),
        "NUMBA_DISABLE_JIT": str(int(not group.compiled)),
    }
    mutmut = [sys.executable, "-c", "from mutmut.__main__ import cli; cli()"]
    done = subprocess.run([*mutmut, "run", only], cwd=copy, env=environment)
    if done.returncode:
        sys.exit(f"mutmut could not test the group {name}: see above.")
    rows = []
    for module in group.modules:
        codes = json.loads((copy / "mutants" / f"{module}.meta").read_text())["exit_code_by_key"]
        for mutant, code in codes.items():
            if code in SURVIVED + NO_TESTS:
                print(f"\n{'Survived' if code in SURVIVED else 'No test'}:", flush=True)
                subprocess.run([*mutmut, "show", mutant], cwd=copy, env=environment, check=True)
        rows.append(row(module, list(codes.values())))
    return rows


def row(module: str, codes: list[int | None]) -> str:
    """A module's line of the table."""
    tried = [code for code in codes if code not in NOT_RUN]
    survived, without, late = (
        sum(code in of for code in tried) for of in (SURVIVED, NO_TESTS, TIMED_OUT)
    )
    killed = len(tried) - survived - without
    score = f"{100 * killed / len(tried):.1f} %" if tried else "not run"
    return f"| `{module}` | {len(tried)} | {killed} | {late} | {survived} | {without} | {score} |"


def lay(group: Group, copy: Path) -> None:
    """A fresh copy of the code with mutmut's settings for the group."""
    shutil.rmtree(copy, ignore_errors=True)
    for package in (*PACKAGES, "tests", "benchmarks", "docs", "requirements"):
        shutil.copytree(
            ROOT / package, copy / package, ignore=shutil.ignore_patterns("__pycache__")
        )
    for module in () if group.compiled else group.modules:
        text = (copy / module).read_text()
        (copy / module).write_text(re.sub(r"^@compiled\n", "", text, flags=re.MULTILINE))
    tests = [f"tests/{test}" for test in group.tests]
    settings = {
        "source_paths": list(PACKAGES),
        "only_mutate": list(group.modules),
        "also_copy": ["benchmarks", "docs", "requirements"],
        "pytest_add_cli_args_test_selection": tests,
        "pytest_add_cli_args": ["-p", "no:cacheprovider"],
        # Each process has threads of TensorFlow, which a fork of a process that ran it would lack.
        "process_isolation": "forkserver",
        # Times (the tests' own time and a second), and half of that in seconds of the clock. It
        # counts as a kill, and the tests' own time has no fixtures of a module in it: on a busy
        # machine 8 were too few.
        "timeout_multiplier": 30.0,
        "use_git_change_detection": False,
    }
    lines = [f"{key} = {json.dumps(value)}" for key, value in settings.items()]
    project = (ROOT / "pyproject.toml").read_text()
    (copy / "pyproject.toml").write_text(project + "\n[tool.mutmut]\n" + "\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
