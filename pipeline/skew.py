"""`python -m pipeline.skew --data FOLDER --model SERVED`: does a server see what the model was
evaluated on?

Exit status: 0 when nothing differs, 1 when something does, 2 when nothing can be compared.
docs/pixels.md says what is compared.
"""

from __future__ import annotations

import argparse
import contextlib
import math
import os
import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from components.pixel_skew import Ask, Compared
    from serving.client import Client

_DATA = "folder of original files, as people have them"
_MODEL = "folder of a pushed model, or of its versions, of which the newest is taken"
_SERVER = (
    "address of a server of this model, such as http://127.0.0.1:8501; without, one is started"
)
_NAME = "name of the model on that server"
_TOLERANCE = (
    "largest difference of a probability that is rounding (another machine rounds otherwise)"
)
_SECONDS = 120.0
# Files that are named.
_WORST = 10
_HEAD = ("format", "files", "ingestion refuses", "server refuses", "probability", "labels")


def main(arguments: Sequence[str] | None = None) -> int:
    """Compares and prints; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m pipeline.skew", description=__doc__.split("\n")[0]
    )
    parser.add_argument("--data", required=True, metavar="FOLDER", help=_DATA)
    parser.add_argument("--model", required=True, metavar="SERVED", help=_MODEL)
    parser.add_argument("--server", metavar="URL", help=_SERVER)
    parser.add_argument("--model_name", default="resnet", metavar="NAME", help=_NAME)
    parser.add_argument("--tolerance", type=float, default=1e-4, metavar="P", help=_TOLERANCE)
    args = parser.parse_args(arguments)
    if not 0 <= args.tolerance <= 1:
        parser.error(f"--tolerance {args.tolerance:g}: must be from 0 to 1")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    from components import pixel_skew

    try:
        pixel_skew.files(args.data)  # before anything slow
        path = _version(args.model)
        model = pixel_skew.Model(path)
        with _server(path, args.server, args.model_name) as ask:
            found = list(pixel_skew.compare(args.data, model, ask))
    except pixel_skew.SkewError as error:
        print(error, file=sys.stderr)
        return 2
    print(report(found, args.tolerance))
    return int(any(one.skew(args.tolerance) for one in found))


def report(found: Sequence[Compared], tolerance: float) -> str:
    """A table by format, and the worst files."""
    formats = sorted({one.format for one in found})
    table = [_HEAD, *(_row(kind, [one for one in found if one.format == kind]) for kind in formats)]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    lines = []
    for kind, *cells in table:
        padded = [cell.rjust(width) for cell, width in zip(cells, widths[1:], strict=True)]
        lines.append("  ".join([kind.ljust(widths[0]), *padded]))
    lines.append("(probability: the largest difference; labels: files whose best class differs)")
    different = sorted(
        (one for one in found if one.skew(tolerance)), key=lambda one: one.badness, reverse=True
    )
    if not different:
        return "\n".join([*lines, f"{len(found):,} files: served as evaluated."])
    lines.append(f"{len(different):,} of {len(found):,} files differ, the worst first:")
    lines += [f"  {one.name}: {one.skew(tolerance)}" for one in different[:_WORST]]
    if len(different) > _WORST:
        lines.append(f"  and {len(different) - _WORST:,} more")
    return "\n".join(lines)


def _row(kind: str, found: Sequence[Compared]) -> tuple[str, ...]:
    known = [one.probability for one in found if not math.isnan(one.probability)]
    return (
        kind,
        f"{len(found):,}",
        f"{sum(bool(one.ingestion) for one in found):,}",
        f"{sum(bool(one.server) for one in found):,}",
        f"{max(known):.1e}" if known else "-",
        f"{sum(one.relabelled for one in found):,}",
    )


def _version(model: str) -> str:
    """The folder of the SavedModel.

    Raises:
      SkewError: there is none.
    """
    from components.pixel_skew import SkewError

    def is_whole(folder: str) -> bool:
        return os.path.isfile(os.path.join(folder, "saved_model.pb"))

    model = os.path.abspath(model)
    if is_whole(model):
        return model
    versions = (
        [name for name in os.listdir(model) if name.isdecimal()] if os.path.isdir(model) else []
    )
    whole = [int(name) for name in versions if is_whole(os.path.join(model, name))]
    if not whole:
        raise SkewError(f"{model} holds no SavedModel; name the folder of a pushed model.")
    return os.path.join(model, str(max(whole)))


@contextlib.contextmanager
def _server(path: str, url: str | None, name: str) -> Iterator[Ask]:
    """Asks the server at an address, or one that serves the model until the block ends."""
    from components.pixel_skew import SkewError
    from components.serving_validator import model_server
    from serving.client import Client, ClientError

    try:
        if url is None:
            with model_server.running(path, model_server.EMBEDDED, _SECONDS) as started:
                yield _asking(Client(started.url, model_server.NAME, timeout=_SECONDS))
        else:
            yield _asking(Client(url, name, timeout=_SECONDS))
    except (model_server.ServerError, model_server.StartError, ClientError) as error:
        raise SkewError(str(error)) from None


def _asking(client: Client) -> Ask:
    import numpy as np

    from serving.client import ClientError

    def ask(data: bytes) -> np.ndarray | str:
        try:
            return np.array(client.predict([data])[0], np.float32)
        except ClientError as error:
            if error.status in (400, 413):
                return str(error)
            raise

    return ask


if __name__ == "__main__":
    sys.exit(main())
