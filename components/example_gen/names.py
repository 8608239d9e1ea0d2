"""What the name of a file says: an image, something else, or what a program has left behind."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

# Suffixes of pictures, of formats that are read and of others: what cannot be read is then said of each.
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
# Folders and files of file managers, network disks and notebooks; those with a dot in front need no name.
_BY_PRODUCTS = (
    "@eaDir", "@tmp", "@Recycle", "@Recently-Snapshot", "#recycle", "#snapshot", "__MACOSX", "__pycache__",
    "lost+found", "$RECYCLE.BIN", "System Volume Information", "Network Trash Folder", "Temporary Items",
    "Thumbs.db", "ehthumbs.db", "ehthumbs_vista.db", "desktop.ini", "Icon\r",
)  # fmt: skip
_BY_PRODUCT = re.compile(
    rf"(?:.*?/)??(?:\.(?!\.?(?:/|$))[^/]*|{'|'.join(map(re.escape, _BY_PRODUCTS))})(?=/|$)",
    re.IGNORECASE | re.DOTALL,
)
# What else stands behind a dot, as in "St. Bernard 7", "a.jpg?w=300" or "scan.0001", is no suffix.
_SUFFIX = re.compile(r"\.([a-z0-9]{1,10})\s*\Z")
_SHOWN = 3


def is_image(path: str) -> bool:
    """Whether a file may be an image: by its suffix, or, without one, unless it has the name of a text.

    What such a file really is its content says.
    """
    name = path.rsplit("/", 1)[-1].lower()
    suffix = _suffix(name)
    return bool(_IMAGES.fullmatch(suffix) if suffix else not _TEXTS.fullmatch(name.strip()))


def has_image_suffix(path: str) -> bool:
    """Whether a file is named as an image: for files that lie where no image should."""
    return bool(_IMAGES.fullmatch(_suffix(path.lower())))


def is_archive(path: str) -> bool:
    """Whether a file is named as an archive, which may hold images."""
    return bool(_ARCHIVES.fullmatch(_suffix(path.lower())))


def by_product(path: str) -> str:
    """The part of a path up to the first file or folder that a program has left behind; "" without one."""
    match = _BY_PRODUCT.match(path)
    return match[0] if match else ""


def _suffix(name: str) -> str:
    match = _SUFFIX.search(name)
    return match[1] if match and not match[1].isdigit() else ""


class LeftOut:
    """Counts the files of a split that are no images; a folder, whose name ends with a slash, once."""

    def __init__(self) -> None:
        self._count, self._names, self._folders = 0, list[str](), set[str]()

    def add(self, name: str) -> None:
        """Counts a file or a folder."""
        if name.endswith("/"):
            if name in self._folders:
                return
            self._folders.add(name)
        self._count += 1
        if len(self._names) < _SHOWN:
            self._names.append(name)

    def told(self) -> dict[str, Any]:
        """`count`, and `names` of the first three."""
        return {"count": self._count, "names": self._names}


# Is called with the name of what is left out.
Skip = Callable[[str], None]


def ignore(name: str) -> None:
    """Counts nothing."""
