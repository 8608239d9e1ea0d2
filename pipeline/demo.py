"""`make demo`: the whole pipeline on handwritten digits, then a served prediction.

The images are read through the same archives, components and server as
ImageNet is; only the sizes differ.
"""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator

from components.example_gen.sources import devkit, digits
from pipeline import local_runner
from pipeline.config import presets
from pipeline.config.paths import Paths

_IMAGES = 5


def main() -> int:
    """Runs, serves, predicts; returns the exit status."""
    # A terminal that has no ✓ shows a question mark.
    sys.stdout.reconfigure(errors="replace")  # type: ignore[union-attr]
    start = time.monotonic()
    if status := local_runner.main([]):
        return status
    paths = Paths(presets.digits())
    print(f"\nServing {os.path.relpath(paths.serving)} and sending {_IMAGES} held-out scans:")
    with _server(paths.serving) as url:
        wrong = _predict(digits.write(paths.embedded), url)
    print(
        f"\nDone in {time.monotonic() - start:.0f} s. The line Serve above starts one that stays."
    )
    return 1 if wrong == _IMAGES else 0


@contextlib.contextmanager
def _server(model: str) -> Iterator[str]:
    """A server on a free port, ready to answer."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    log_path = os.path.join(os.path.dirname(model), "server.log")
    command = [
        sys.executable,
        "-m",
        "serving.server",
        "--model_name=resnet",
        f"--model_base_path={model}",
        f"--rest_api_port={port}",
        "--port=0",
    ]
    with open(log_path, "w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(30)


def _predict(archives: str, url: str) -> int:
    """Prints predicted and true label of a few validation images; returns how many differ."""
    from serving.client import Client

    client = Client(url, "resnet")
    client.wait_until_available(120)
    wrong = 0
    for name, image, label in _held_out(archives):
        [answer] = client.top_k([image])
        best = answer[0]
        wrong += best.name != label
        mark = "✓" if best.name == label else "✗"
        print(f"  {mark} {name}   predicted {best.name} ({best.probability:.1%}), true {label}")
    return wrong


def _held_out(archives: str) -> Iterator[tuple[str, bytes, str]]:
    """The first validation images with their labels, straight from the archive."""
    kit = devkit.load(os.path.join(archives, "ILSVRC2012_devkit_t12.tar.gz"))
    with tarfile.open(os.path.join(archives, "ILSVRC2012_img_val.tar")) as archive:
        for member in sorted(archive.getmembers(), key=lambda m: m.name)[:_IMAGES]:
            data = archive.extractfile(member)
            assert data is not None
            yield member.name, data.read(), kit.words[kit.wnid(member.name)]


if __name__ == "__main__":
    sys.exit(main())
