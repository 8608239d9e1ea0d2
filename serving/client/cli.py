"""Command line of the client: `python -m serving.client IMAGE ...`."""

from __future__ import annotations

import argparse
import io
import os
import sys
from collections.abc import Iterable, Iterator, Sequence

from . import batch, images, output
from .api import DEFAULT_MODEL, ClientError, Label, ModelClient
from .rest import DEFAULT_URL, Client

_DESCRIPTION = """\
Asks a served model for the labels of images.

An IMAGE is a JPEG or PNG file, a folder (the images in and below it), the address of an image, or
"-" for a list of these on standard input, one a line. Addresses are downloaded by this program: the
server never opens one."""

# So many reasons are printed; a folder of something else would give thousands.
_REASONS = 10


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints or writes the labels of images.

    Returns:
      0; 1 when an image has none; 2 for wrong arguments; 130 after Ctrl-C.
    """
    parser = _parser()
    options = parser.parse_args(arguments)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # labels may have letters that a terminal lacks
    try:
        _check(options)
        client = _client(options)
    except ClientError as error:
        parser.error(str(error))
    try:
        found = images.find(_names(options.images))
        return _Run(client, options).over(found)
    except KeyboardInterrupt:
        print(f"Interrupted.{_unwritten(options.out)}", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m serving.client",
        description=_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("images", nargs="+", metavar="IMAGE", help="file, folder, http(s) address or -")
    server = parser.add_mutually_exclusive_group()
    server.add_argument(
        "--url", default=DEFAULT_URL, help=f"address of the REST API ({DEFAULT_URL})"
    )
    server.add_argument("--grpc", metavar="HOST:PORT", help="ask over gRPC, in the place of --url")
    add("--model_name", default=DEFAULT_MODEL, help=f"name of the model ({DEFAULT_MODEL})")
    chosen = parser.add_mutually_exclusive_group()
    chosen.add_argument(
        "--version", type=int, metavar="N", help="the version that must answer (newest)"
    )
    chosen.add_argument("--label", metavar="L", help="the same by its label, such as canary")
    add("--top", type=int, default=5, metavar="K", help="most labels for each image (5)")
    written = parser.add_mutually_exclusive_group()
    written.add_argument("--json", action="store_true", help="print JSON")
    written.add_argument(
        "--out", metavar="FILE", help="write FILE.csv or FILE.jsonl, whole or not at all"
    )
    add(
        "--jobs",
        type=int,
        default=4,
        metavar="N",
        help="images that are asked for at the same time (4)",
    )
    add(
        "--timeout",
        type=float,
        default=60.0,
        metavar="S",
        help="seconds for one answer or download (60)",
    )
    add("--retries", type=int, default=3, metavar="N", help="further attempts at a busy server (3)")
    return parser


def _check(options: argparse.Namespace) -> None:
    for name, lowest in (("top", 1), ("jobs", 1), ("retries", 0), ("version", 0)):
        value = getattr(options, name)
        if value is not None and value < lowest:
            raise ClientError(f"--{name} {value}: must be at least {lowest}.")
    if not options.timeout > 0:
        raise ClientError(f"--timeout {options.timeout:g}: must be above 0.")
    if options.out:
        output.check_path(options.out)


def _client(options: argparse.Namespace) -> ModelClient:
    if not options.grpc:
        return Client(options.url, options.model_name, options.timeout, options.retries)
    try:
        from serving.compat import quiet

        with quiet.stderr():
            from .grpc_client import GrpcClient
    except ImportError as error:
        raise ClientError(
            f"--grpc needs this project's environment ({error}); without it use --url."
        ) from None
    return GrpcClient(options.grpc, options.model_name, options.timeout, options.retries)


def _names(given: Iterable[str]) -> Iterator[str]:
    for name in given:
        if name == "-":
            # Names of files may be of any bytes.
            lines = os.fsdecode(sys.stdin.buffer.read()).split("\n")
            yield from (line.rstrip("\r") for line in lines if line.strip())
        else:
            yield name


class _Run:
    """Asks for images and counts those without labels."""

    def __init__(self, client: ModelClient, options: argparse.Namespace) -> None:
        self._client = client
        self._options = options
        self._done = self._failed = 0

    def over(self, found: images.Found) -> int:
        """Asks for all of them; returns the exit status."""
        options = self._options
        for note in found.notes:
            print(output.shown(note), file=sys.stderr)
        kept: list[batch.Answer] = []
        stopped = None
        count = output.Counter(len(found.sources))
        answers = self._counted(batch.in_order(self._ask, found.sources, options.jobs), count)
        try:
            if options.out:
                output.write(options.out, answers)
            else:
                kept.extend(answers)
        except ClientError as error:
            stopped = error
            count.say(f"{stopped}{_unwritten(options.out)}")
        if not options.out:
            print(
                output.as_json(kept) if options.json else output.shown(output.table(kept)), end=""
            )
        if not stopped:
            self._sum_up(found)
        return 1 if stopped or self._failed else 0

    def _ask(self, source: images.Source) -> batch.Answer:
        options = self._options

        def ask() -> list[Label]:
            image = images.read(source, options.timeout, options.retries)
            # One request for each image, so that a bad one fails alone.
            [labels] = self._client.top_k([image], options.version, options.label)
            return labels[: options.top]

        return batch.answer(source.name, ask)

    def _counted(
        self, answers: Iterable[batch.Answer], count: output.Counter
    ) -> Iterator[batch.Answer]:
        for answer in answers:
            self._done += 1
            if answer.error:
                self._failed += 1
                if self._failed <= _REASONS:
                    count.say(output.shown(answer.error))
            count.advance()
            yield answer

    def _sum_up(self, found: images.Found) -> None:
        total, failed, out = len(found.sources), self._failed, self._options.out
        if out:
            print(f"{out}: {total} images, {failed} without labels.")
        # Who names a few files sees each of them above.
        elif failed and (failed > _REASONS or total > len(self._options.images)):
            more = f" The first {_REASONS} reasons are above." if failed > _REASONS else ""
            print(f"{failed} of {total} images have no labels.{more}", file=sys.stderr)


def _unwritten(out: str | None) -> str:
    return f" {out} is not written." if out else ""
