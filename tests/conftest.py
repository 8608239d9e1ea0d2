"""Random tests draw the same cases in every run; RESNET_TFX_FUZZ=10000 draws that many new ones."""

import gc
import os

import pytest
from hypothesis import settings

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
