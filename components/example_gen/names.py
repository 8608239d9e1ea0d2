"""What the name of a file says: an image, something else, or what a program has left behind."""

from __future__ import annotations

import functools
import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from components import files
from components.example_gen.errors import SourceError

# Suffixes of pictures, of formats that are read and of others: what cannot be read is then said of
# each.
_IMAGES = re.compile(
    r"jpe?g|jpe|jfif|jif|pjpe?g|pjp|a?png|bmp|dib|gif|webp|tiff?|hei[cf]|hif|avifs?|p[pgbnf]m|jp2|j2k|jp[fx]|jxl"
    r"|tga|pcx|ico"
)
_ARCHIVES = re.compile(r"tar|t[gx]z|tbz2?|gz|bz2|xz|zst|zip|7z|rar")
# Names of text files that have no suffix.
_TEXTS = re.compile(
    r"readme|licen[sc]e|copying|authors|notice|changelog|version|makefile|manifest|labels|classes|checksums"
    r"|(md5|sha1|sha256)sums"
)
# Folders and files of file managers, network disks and notebooks; those with a dot in front need no
# name.
_BY_PRODUCTS = (
    "@eaDir", "@tmp", "@Recycle", "@Recently-Snapshot", "#recycle", "#snapshot", "__MACOSX",
    "__pycache__",
    "lost+found", "$RECYCLE.BIN", "System Volume Information", "Network Trash Folder",
    "Temporary Items",
    "Thumbs.db", "ehthumbs.db", "ehthumbs_vista.db", "desktop.ini", "Icon\r",
)  # fmt: skip
_KNOWN = frozenset(name.lower() for name in _BY_PRODUCTS)
# What else stands behind a dot, as in "St. Bernard 7", "a.jpg?w=300" or "scan.0001", is no suffix.
_SUFFIX = re.compile(r"[a-z0-9]{1,10}")
_SHOWN = 3


def is_image(path: str) -> bool:
    """Whether a file may be an image: by its suffix, or, without one, if it has no text's name."""
    name = path.rpartition("/")[2]
    kind = _kind(name)
    return kind == "image" if kind else not _TEXTS.fullmatch(name.strip().lower())


def has_image_suffix(path: str) -> bool:
    """Whether a file is named as an image: for files that lie where no image should."""
    return _kind(path.rpartition("/")[2]) == "image"


def is_archive(path: str) -> bool:
    """Whether a file is named as an archive, which may hold images."""
    return _kind(path.rpartition("/")[2]) == "archive"


def by_product(path: str) -> str:
    """The part of a path up to what a program has left behind; "" where nothing is."""
    folder, _, name = path.rpartition("/")
    if found := _folder_product(folder):
        return found
    return path if _left_behind(name) else ""


@functools.lru_cache(maxsize=4096)  # the files of a folder come one after another
def _folder_product(folder: str) -> str:
    return by_product(folder) if folder else ""


def _left_behind(name: str) -> bool:
    return (name[:1] == "." and name not in (".", "..")) or name.lower() in _KNOWN


def _kind(name: str) -> str:
    """What the suffix of a file says; "" without one."""
    _, dot, suffix = name.rpartition(".")
    return _of_suffix(suffix) if dot else ""


@functools.lru_cache(maxsize=256)
def _of_suffix(suffix: str) -> str:
    suffix = suffix.strip().lower()
    if suffix.isdigit() or not _SUFFIX.fullmatch(suffix):
        return ""
    if _IMAGES.fullmatch(suffix):
        return "image"
    return "archive" if _ARCHIVES.fullmatch(suffix) else "other"


class LeftOut:
    """Counts the files of a split that are no images; a folder (its name ends with /) once."""

    def __init__(self) -> None:
        self._count, self._names, self._folders = 0, list[str](), set[str]()

    def add(self, name: str) -> None:
        """Counts a file or a folder, by its name as the file system has it."""
        if name.endswith("/"):
            if name in self._folders:
                return
            self._folders.add(name)
        self._count += 1
        if len(self._names) < _SHOWN:
            self._names.append(files.one_line(name))

    def told(self) -> dict[str, Any]:
        """`count`, and `names` of the first three."""
        return {"count": self._count, "names": self._names}


# Is called with the name of what is left out.
Skip = Callable[[str], None]


def class_name(text: str) -> str:
    """The class that a name spells: macOS spells accents in two characters, others in one."""
    return unicodedata.normalize("NFC", text)


def check_class(name: str, path: str) -> None:
    """Raises SourceError for a class of `path` that no list of labels can hold."""
    if files.printable(name) != name:
        raise SourceError(f"The class {files.printable(name)} of {path} is not UTF-8: rename it.")
    if len(name.splitlines()) != 1:  # labels.txt has a class a line
        raise SourceError(f"The class {name!r} of {path} has a line break: rename it.")


def kept(paths: Iterable[str], wanted: Callable[[str], bool], skip: Skip) -> Iterator[str]:
    """The paths that are wanted and no by-products; those of folders end with a slash."""
    for path in paths:
        product = by_product(path)
        if not product and wanted(path):
            yield path
        else:
            skip(f"{product}{'/' * (product != path)}" if product else path)


def ignore(name: str) -> None:
    """Counts nothing."""
