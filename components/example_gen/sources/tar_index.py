"""Where the files of tar archives lie, found by walking headers; no payload is read.

A tar inside a tar (ILSVRC's training archive) is read in its place in the outer file, so that every
file has an absolute offset in the archive on disk.
"""

from __future__ import annotations

import os
import tarfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import BinaryIO, Self

from components import files
from components.compat import tarfile_headers
from components.example_gen import names
from components.example_gen.errors import SourceError
from components.example_gen.sources.kinds import File

# Class tars that are walked at once: hides the latency of remote storage.
_WALKERS = 8
# Headers of a header: long names, and pax. tarfile reads them at once.
_NOTES = frozenset((tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK, b"x", b"g", b"X"))
_MOST_NOTES = 2**20
# Zeros behind the end: archives are filled up to a whole record, of 10 kB unless another was asked
# for.
_MOST_FILLING = 2**20


class _Header(tarfile.TarInfo):
    """Refuses a size that would lead back to files before it, or fill the memory."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        header = super().frombuf(buf, encoding, errors)
        if header.size < 0 or (header.type in _NOTES and header.size > _MOST_NOTES):
            raise tarfile.ReadError(f"a size of {header.size} bytes")
        return header


def members(
    path: str, base: int = 0, size: int | None = None, skip: names.Skip = names.ignore
) -> Iterator[File]:
    """Walks the archive at bytes [base, base + size) of `path`; the whole file without `size`.

    Yields regular files in archive order, then links. A hard link is the file it names.

    Args:
      skip: told of what programs have left behind, hidden files and folders among it; none is
        yielded.

    Raises:
      SourceError: the archive is missing, compressed, truncated or damaged, or has a path with
        "..".
    """
    links = []
    for info in _walk(path, base, size):
        product = names.by_product(info.name)
        if product:
            folder = info.isdir() or product != info.name
            skip(os.path.normpath(product) + "/" * folder)
        elif ".." in info.name and ".." in info.name.split("/"):
            raise SourceError(f"{path} has {info.name}, a path with ..: pack it by its plain name.")
        elif info.isreg():
            yield _member(info)
        elif info.islnk() or info.issym():
            links.append(info)
    if links:
        yield from _followed(links, _walk(path, base, size))


def _member(info: tarfile.TarInfo) -> File:
    if info.issparse():
        return File(
            info.name, 0, 0, "stored in pieces, without its zeros: pack it without tar --sparse"
        )
    return File(info.name, info.offset_data, info.size)


def _followed(links: list[tarfile.TarInfo], archive: Iterator[tarfile.TarInfo]) -> Iterator[File]:
    wanted = {link.linkname for link in links if link.islnk()}
    found = {i.name: _member(i) for i in archive if i.isreg() and i.name in wanted}
    for link in links:
        if link.issym():
            yield File(link.name, 0, 0, "a symbolic link: pack the file itself (tar --dereference)")
        elif link.linkname in found:
            yield found[link.linkname]._replace(name=link.name)
        else:
            yield File(
                link.name, 0, 0, f"a hard link to {link.linkname}, which the archive does not hold"
            )


def _walk(path: str, base: int, size: int | None) -> Iterator[tarfile.TarInfo]:
    """Every header of the archive."""
    with files.open_read(path) as stream:
        whole = stream.seek(0, os.SEEK_END) or stream.tell()
        end = whole if size is None else base + size
        stream.seek(base)
        try:
            with tarfile.open(fileobj=stream, mode="r:", tarinfo=_Header) as tar:
                for info in tarfile_headers.walk(tar):
                    if info.size < 0:  # as a pax header may say
                        raise tarfile.ReadError(f"{info.name} has {info.size} bytes")
                    if tarfile_headers.next_at(tar) > end:
                        raise tarfile.ReadError("it ends early")
                    yield info
                _check_end(stream, tarfile_headers.next_at(tar), base, end)
        except (tarfile.TarError, ValueError, RecursionError) as error:
            raise SourceError(_damaged(path, base, error)) from error


def class_tars(path: str) -> dict[str, File]:
    """The class tars of ILSVRC's training archive by wnid, sorted; reads their headers only.

    Raises:
      SourceError: as `members`; or there is no class tar in the archive, or two of one class.
    """
    tars: dict[str, File] = {}
    for member in members(path):
        wnid, suffix = os.path.splitext(os.path.basename(member.name))
        if suffix.lower() != ".tar":
            continue
        if wnid in tars:
            raise SourceError(
                f"{path} has two archives of the class {wnid}, {tars[wnid].name} and {member.name}:"
                " keep one that has the images of both."
            )
        tars[wnid] = member
    if not tars:
        raise SourceError(
            f"{path} holds no class archive such as n01440764.tar: is it the training archive?"
        )
    return dict(sorted(tars.items()))


def members_of_classes(
    path: str, tars: dict[str, File], skip: names.Skip = names.ignore
) -> Iterator[tuple[str, list[File]]]:
    """Walks every class tar inside `path`; yields (wnid, its files), in the order of `tars`.

    Args:
      skip: as of `members`.
    """

    def walk(item: tuple[str, File]) -> tuple[str, list[File], list[str]]:
        skipped: list[str] = []
        found = list(members(path, item[1].offset, item[1].size, skipped.append))
        return item[0], found, skipped

    with ThreadPoolExecutor(_WALKERS) as pool:
        for wnid, found, skipped in pool.map(walk, tars.items()):
            for name in skipped:
                skip(f"{wnid}/{name}")
            yield wnid, found


def _check_end(stream: BinaryIO, offset: int, base: int, end: int) -> None:
    """tarfile takes a missing or a damaged header for the end: the end is a block of zeros."""
    if offset + tarfile.BLOCKSIZE > end:
        raise tarfile.ReadError("it ends early")
    stream.seek(offset)
    if stream.read(tarfile.BLOCKSIZE).strip(b"\0"):
        raise tarfile.ReadError(f"no tar header at byte {offset - base}")
    # A download that reserves its space leaves zeros where it has not been yet.
    filling = end - stream.tell()
    if filling > _MOST_FILLING or stream.read(filling).strip(b"\0"):
        raise tarfile.ReadError(f"it ends at byte {offset - base}, and more follows")


def _damaged(path: str, base: int, error: Exception) -> str:
    where = f"the class archive at byte {base} of {path}" if base else path
    return (
        f"{where} is truncated, compressed or damaged ({error}): download it again, or gunzip it."
    )
