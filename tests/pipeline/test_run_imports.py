"""What a run imports before its first node, and how."""

import gc
import subprocess
import sys

from pipeline import local_runner


def test_a_run_imports_no_client_of_googles_cloud_ai():
    code = (
        "import sys\nfrom pipeline.local import dag, summary\n"
        "sys.exit(any(name.startswith('google.cloud.aiplatform') for name in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0


def test_the_collector_leaves_imports_alone_and_goes_on_after_them():
    gc.unfreeze()
    with local_runner.uncollected():
        assert not gc.isenabled()
        made = [[number] for number in range(1000)]
    assert gc.isenabled() and gc.get_freeze_count() >= len(made)
    frozen = gc.get_freeze_count()
    with local_runner.uncollected():
        made += [[number] for number in range(1000)]
    assert gc.get_freeze_count() <= frozen, "the second time, there may be garbage of a run"
    gc.unfreeze()
    gc.disable()
    try:
        with local_runner.uncollected():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()
        gc.freeze()  # as tests/conftest.py does
