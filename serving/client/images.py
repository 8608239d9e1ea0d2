"""Finds images: files, folders and addresses of the web; and reads them."""

from __future__ import annotations

import functools
import http.client
import os
import time
import urllib.error
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from . import api, transport
from .api import Busy, ImageError

# As many as the server takes by default.
MAX_IMAGE_BYTES = 50 * 2**20
# Files of a folder with another ending are not looked at.
SUFFIXES = (".jpg", ".jpeg", ".png")
# First bytes of the formats that the exported signatures decode.
_MAGIC = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n")
_CHUNK = 2**16


class Source(NamedTuple):
    """A file or an address that should hold one image."""

    name: str
    # Why it cannot be read, where that is known already.
    problem: str = ""


class Found(NamedTuple):
    """What the names of files, folders and addresses lead to."""

    sources: list[Source]
    # For people: what was left out.
    notes: list[str]


def find(names: Iterable[str]) -> Found:
    """The images behind names: a folder gives all files in and below it that end as images do.

    Nothing but folders is opened. What cannot be read becomes a source with a problem.
    """
    found = Found([], [])
    for name in names:
        if "://" not in name and os.path.isdir(name):
            _walk(name, found)
        else:
            found.sources.append(Source(name))
    return found


def _walk(folder: str, found: Found) -> None:
    sources: list[Source] = []
    others = 0

    def unreadable(error: OSError) -> None:
        sources.append(Source(str(error.filename), f"{error.filename}: {error.strerror}."))

    for root, folders, files in os.walk(folder, onerror=unreadable):
        folders.sort()
        for name in sorted(files):
            path = os.path.join(root, name)
            if name.lower().endswith(SUFFIXES):
                # Whoever opens a pipe waits for a writer, which may never come.
                problem = f"{path}: is a pipe." if Path(path).is_fifo() else ""
                sources.append(Source(path, problem))
            else:
                others += 1
    if not sources:
        sources.append(
            Source(folder, f"{folder}: holds no file that ends in {', '.join(SUFFIXES)}.")
        )
    found.sources.extend(sources)
    if others:
        files_are = "1 file is" if others == 1 else f"{others} files are"
        found.notes.append(
            f"{folder}: {files_are} left out, for not ending in {', '.join(SUFFIXES)}."
        )


def read(source: Source, timeout: float = 60.0, retries: int = 0) -> bytes:
    """Content of the image of a source.

    Args:
      timeout: seconds in which a download must be done.
      retries: further attempts to download while the server refuses or is too busy.

    Raises:
      ImageError: there is none.
    """
    if source.problem:
        raise ImageError(source.problem)
    if "://" not in source.name:
        return read_image(Path(source.name))
    if not transport.valid(source.name):
        raise ImageError(
            f"{source.name}: only files and addresses with http:// or https:// can be read."
        )
    try:
        return api.retried(functools.partial(_download, source.name, timeout), retries)
    except Busy as error:
        raise ImageError(str(error), error.status) from None


def read_image(path: Path) -> bytes:
    """Content of a JPEG or PNG file.

    Raises:
      ImageError: no such file, it is something else, or larger than a server takes.
    """
    try:
        with open(path, "rb") as file:
            return _image(str(path), iter(lambda: file.read(_CHUNK), b""))
    except OSError as error:
        raise ImageError(f"{path}: {error.strerror}.") from None


def _download(url: str, timeout: float) -> bytes:
    try:
        with transport.opener(url).open(url, timeout=timeout) as response:
            return _image(url, _chunks(url, response, time.monotonic() + timeout))
    except urllib.error.HTTPError as error:
        text = f"{url}: its server answered {error.code} {error.reason}."
        kind = Busy if error.code in transport.BUSY else ImageError
        raise kind(text, error.code) from None
    except TimeoutError:
        raise _late(url) from None
    except (OSError, http.client.HTTPException, ValueError) as error:
        reason = transport.reason(error)
        if isinstance(reason, TimeoutError):
            raise _late(url) from None
        kind = Busy if transport.refused(error) else ImageError
        raise kind(f"{url}: cannot be downloaded ({reason}).") from None


def _chunks(url: str, response: http.client.HTTPResponse, deadline: float) -> Iterator[bytes]:
    expected, seen = response.length, 0
    while chunk := response.read1(_CHUNK):
        seen += len(chunk)
        yield chunk
        # The timeout of the socket is for each piece; a slow server sends many.
        if time.monotonic() > deadline:
            raise _late(url)
    if expected is not None and seen < expected:
        raise ImageError(f"{url}: the download broke off after {seen} of {expected} bytes.")


def _late(url: str) -> ImageError:
    return ImageError(f"{url}: the download took too long; give it more time with --timeout.")


def _image(name: str, chunks: Iterator[bytes]) -> bytes:
    """All bytes of `chunks`; stops at once when they are no image, or too many."""
    content = bytearray()
    longest = max(map(len, _MAGIC))
    for chunk in chunks:
        content += chunk
        if len(content) >= longest:
            _check_format(name, content)
        if len(content) > MAX_IMAGE_BYTES:
            raise ImageError(
                f"{name}: has more than {MAX_IMAGE_BYTES} bytes, the most that a server takes."
            )
    _check_format(name, content)
    return bytes(content)


def _check_format(name: str, content: bytearray) -> None:
    if not content.startswith(_MAGIC):
        # The words of the model itself.
        raise ImageError(
            f"{name}: the bytes are no JPEG or PNG; convert the image to PNG, which loses nothing."
        )
