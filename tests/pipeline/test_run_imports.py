"""What a run imports before its first node, and how."""

import subprocess
import sys


def test_a_run_imports_no_client_of_googles_cloud_ai():
    code = (
        "import sys\nfrom pipeline.local import dag, summary\n"
        "sys.exit(any(name.startswith('google.cloud.aiplatform') for name in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0
