"""Random tests draw the same cases in every run; RESNET_TFX_FUZZ=10000 draws that many new ones."""

import gc
import os
from pathlib import Path

import pytest
from hypothesis import settings

HERE = Path(__file__).parent
FUZZ = int(os.environ.get("RESNET_TFX_FUZZ", "0"))
settings.register_profile(
    "tests", max_examples=FUZZ or 100, derandomize=not FUZZ, deadline=None, database=None
)
settings.load_profile("tests")


@pytest.hookimpl(wrapper=True)
def pytest_collection():
    """What is imported stays: the garbage collector looks at it neither now nor later."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


def pytest_collection_modifyitems(items):
    """Whole pipelines first, then the files of this folder: what takes long must not end last."""
    items.sort(key=lambda item: (item.get_closest_marker("e2e") is None, item.path.parent != HERE))
