"""Checkpoints that PyTorch itself has written, against its own logits.

PyTorch is none of our requirements. TORCH_PYTHON names a Python that has torch and torchvision; on
Debian 12 that is /usr/bin/python3 with the packages python3-torch and python3-torchvision.
"""

import importlib.util
import os
import pathlib
import subprocess
import sys

import keras
import numpy as np
import pytest

from models.settings import Model
from models.weights import conversion

HERE = pathlib.Path(__file__).parent
NETWORKS = {
    "resnet18": Model("imagenet", 18),
    "resnet34": Model("imagenet", 34),
    "resnet50": Model("imagenet", 50, variant="v1.5"),
    "cifar20": Model("cifar", 20, shortcut="A"),
}


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    python = os.environ.get("TORCH_PYTHON") or (
        importlib.util.find_spec("torch") and sys.executable
    )
    if not python:
        pytest.skip("needs PyTorch: set TORCH_PYTHON to a Python that has torch and torchvision")
    folder = tmp_path_factory.mktemp("torch")
    subprocess.run([python, str(HERE / "torch_networks.py"), str(folder)], check=True)
    return folder


@pytest.mark.parametrize("name", NETWORKS)
def test_networks_of_pytorch_have_their_logits(checkpoints, name):
    found = conversion.load(str(checkpoints / f"{name}.pth"))
    with np.load(checkpoints / f"{name}.npz") as values:
        images, theirs = values["images"], values["logits"]
    ours = keras.ops.convert_to_numpy(found.model(images - found.channel_mean, training=False))
    assert found.settings == NETWORKS[name]
    difference, largest = np.abs(ours - theirs).max(), np.abs(theirs).max()
    print(f"{name}: logits up to {largest:.4g}, largest difference {difference:.2g}")
    assert difference < 1e-5 * largest
