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
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from components.pixel_skew import Ask, Compared
    from serving.client import Client

_SECONDS = 120.0
# Files that are named.
_WORST = 10


def main(arguments: Sequence[str] | None = None) -> int:
    """Compares and prints; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m pipeline.skew", description=__doc__.split("\n")[0]
    )
    add = parser.add_argument
    add("--data", required=True, metavar="FOLDER", help="original files, as people have them")
    add("--model", required=True, metavar="SERVED", help="a pushed model, or its versions' folder")
    add("--server", metavar="URL", help="a server of this model; without, one is started")
    add("--model_name", default="resnet", metavar="NAME", help="name of the model on that server")
    add("--tolerance", type=float, default=1e-4, metavar="P",
        help="largest difference of a probability that is rounding")  # fmt: skip
    args = parser.parse_args(arguments)
    if not 0 <= args.tolerance <= 1:
        parser.error(f"--tolerance {args.tolerance:g}: must be from 0 to 1")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    from components import pixel_skew

    try:
        pixel_skew.files(args.data)  # before anything slow
        path = _resolved(args.model)
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
    table = [("format", *_COLUMNS)]
    for kind in formats:
        ours = [one for one in found if one.format == kind]
        table.append((kind, *(cell(ours) for cell in _COLUMNS.values())))
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    lines = []
    for kind, *cells in table:
        padded = [cell.rjust(width) for cell, width in zip(cells, widths[1:], strict=True)]
        lines.append("  ".join([kind.ljust(widths[0]), *padded]))
    lines.append(
        "(probability, levels of pixels: the largest difference; labels: files whose best class"
        " differs)"
    )
    different = sorted(
        (one for one in found if one.skew(tolerance)), key=lambda one: one.badness, reverse=True
    )
    if not different:
        return "\n".join([*lines, f"{len(found):,} files: served as evaluated, pixel for pixel."])
    lines.append(f"{len(different):,} of {len(found):,} files differ, the worst first:")
    lines += [f"  {one.name}: {one.skew(tolerance)}" for one in different[:_WORST]]
    if len(different) > _WORST:
        lines.append(f"  and {len(different) - _WORST:,} more")
    return "\n".join(lines)


def _largest(values: Iterable[float], form: str) -> str:
    known = [value for value in values if not math.isnan(value)]
    return format(max(known), form) if known else "-"


_COLUMNS: dict[str, Callable[[Sequence[Compared]], str]] = {
    "files": lambda found: f"{len(found):,}",
    "ingestion refuses": lambda found: f"{sum(bool(one.ingestion) for one in found):,}",
    "server refuses": lambda found: f"{sum(bool(one.server) for one in found):,}",
    "probability": lambda found: _largest((one.probability for one in found), ".1e"),
    "labels": lambda found: f"{sum(one.relabelled for one in found):,}",
    "levels": lambda found: _largest((one.levels for one in found), ".4f"),
}


def _resolved(model: str) -> str:
    from components.pixel_skew import SkewError
    from models.weights import pretrained

    try:
        return pretrained.resolve(model)
    except ValueError as error:
        raise SkewError(str(error)) from None


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
