"""`make demo`: the whole pipeline on handwritten digits, then a served prediction.

The images are read through the same archives, components and server as
ImageNet is; only the sizes differ.
"""

from __future__ import annotations

import os
import sys
import tarfile
import time
from collections.abc import Iterator

from components.example_gen.sources import devkit, digits
from pipeline import local_runner
from pipeline.config import presets
from pipeline.config.paths import Paths
from serving.client import Client

_IMAGES = 5


def main() -> int:
    """Runs, serves, predicts; returns the exit status."""
    # A terminal that has no ✓ shows a question mark.
    sys.stdout.reconfigure(errors="replace")  # type: ignore[union-attr]
    start = time.monotonic()
    if status := local_runner.main([]):
        return status
    from components.serving_validator import model_server  # TensorFlow
    from models.weights import pretrained

    paths = Paths(presets.digits())
    print(f"\nServing {os.path.relpath(paths.serving)} and sending {_IMAGES} held-out scans:")
    newest = pretrained.versions(paths.serving)[0]
    with model_server.running(newest, model_server.EMBEDDED, 120) as server:
        wrong = _predict(digits.write(paths.embedded), Client(server.url, model_server.NAME))
    print(
        f"\nDone in {time.monotonic() - start:.0f} s. The line Serve above starts one that stays."
    )
    return 1 if wrong == _IMAGES else 0


def _predict(archives: str, client: Client) -> int:
    """Prints predicted and true label of a few validation images; returns how many differ."""
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
