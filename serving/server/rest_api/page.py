"""The page for people at the server's root: files of `static`, and what is served as JSON.

| address           | answer                                                      |
|-------------------|-------------------------------------------------------------|
| /                 | the page                                                    |
| /page/FILE        | its styles, scripts and icon                                |
| /page/models.json | models, the versions that take requests, their evaluations  |

The page itself asks for predictions where every client does, under /v1/.
"""

from __future__ import annotations

import datetime
import importlib.resources
import json
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from starlette.responses import Response

from serving.server.rpc_errors import ServingError
from serving.server.version_folders import EVALUATION_FILE, PIXELS_FILE
from serving.server.versions.manager import Manager, State

# The pusher writes less.
_MAX_EVALUATION_BYTES = 2**16

# Everything that may be asked for: file and media type, by address. Nothing else is ever opened.
_FILES = {
    b"/": ("index.html", "text/html"),
    b"/page/page.css": ("page.css", "text/css"),
    b"/page/icon.svg": ("icon.svg", "image/svg+xml"),
    b"/page/page.js": ("page.js", "text/javascript"),
    b"/page/cards.js": ("cards.js", "text/javascript"),
    b"/page/columns.js": ("columns.js", "text/javascript"),
    b"/page/api.js": ("api.js", "text/javascript"),
    b"/page/images.js": ("images.js", "text/javascript"),
    b"/page/dom.js": ("dom.js", "text/javascript"),
}

_HEADERS = {
    # A new release of the server shows at the next look, not when a cache expires.
    "Cache-Control": "no-cache",
    # Previews of images are blob: addresses.
    "Content-Security-Policy": (
        "default-src 'self'; img-src 'self' blob: data:; base-uri 'none'; "
        "form-action 'none'; frame-ancestors 'none'"
    ),
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}

# Version numbers from here on are taken for unix seconds (September 2001), as TFX's Pusher makes
# them.
_FIRST_TIME = 10**9
_DAY = 86_400


class Page:
    """Answers GET / and /page/... May be called from any thread."""

    def __init__(self, manager: Manager) -> None:
        self._manager = manager
        folder = importlib.resources.files("serving.server") / "static"
        self._files = {path: (folder / name).read_bytes() for path, (name, _) in _FILES.items()}

    def answer(self, path: bytes) -> Response | None:
        """The answer, or None for an address that is none of the page's."""
        if path == b"/page/models.json":
            # ASCII: names in a damaged file may be no text that UTF-8 can hold.
            content = json.dumps({"models": self._models()})
            return Response(content, headers=_HEADERS, media_type="application/json")
        if path not in self._files:
            return None
        return Response(self._files[path], headers=_HEADERS, media_type=_FILES[path][1])

    def _models(self) -> list[dict[str, Any]]:
        return [{"name": name, "versions": self._versions(name)} for name in self._manager.models()]

    def _versions(self, name: str) -> list[dict[str, Any]]:
        """What the page shows of every version that takes requests, newest first."""
        try:
            versions = self._manager.status(name)
        except ServingError:  # none was seen yet, or the model has just gone
            return []
        labels = self._manager.labels(name)
        return [
            {
                # A string: JavaScript's numbers end at 2**53.
                "number": str(version.number),
                "labels": sorted(
                    label for label, number in labels.items() if number == version.number
                ),
                "pushed": _time(version.number),
                "signatures": sorted(
                    s for s in version.servable.signatures if not s.startswith("__")
                ),
                "upright": _upright(version.servable.path),
                **_evaluation(version.servable.path),
            }
            for version in versions
            if version.state is State.AVAILABLE and version.servable
        ]


def _time(number: int) -> str | None:
    """When a version was pushed (ISO 8601, UTC), if its number looks like unix seconds."""
    if not _FIRST_TIME <= number <= time.time() + _DAY:
        return None
    return datetime.datetime.fromtimestamp(number, datetime.UTC).isoformat()


def _upright(version: Path) -> bool:
    """Whether the model turns photographs by the rotation that they store; other models do not."""
    try:
        with (version / PIXELS_FILE).open("rb") as file:
            found = json.loads(file.read(_MAX_EVALUATION_BYTES))
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(found, dict) and found.get("upright") is True


def _evaluation(version: Path) -> dict[str, Any]:
    """`evaluation`, None where there is none to show, and `evaluation_error`, why not."""
    path = version / EVALUATION_FILE
    try:
        with path.open("rb") as file:
            content = file.read(_MAX_EVALUATION_BYTES + 1)
        if len(content) > _MAX_EVALUATION_BYTES:
            raise ValueError(f"it has more than {_MAX_EVALUATION_BYTES} bytes")
        return {"evaluation": _checked(json.loads(content)), "evaluation_error": None}
    except FileNotFoundError:
        return {"evaluation": None, "evaluation_error": None}
    except (OSError, ValueError, RecursionError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        text = f"{EVALUATION_FILE} of this version cannot be used ({reason}); push the model again."
        return {"evaluation": None, "evaluation_error": text}


def _checked(document: Any) -> dict[str, Any]:
    """The parts of an evaluation that the page shows.

    Args:
      document: `{"examples": n, "protocol": name, "protocols": {name: {metric: number or null}}}`,
        errors ("top1_error") from 0 to 1; or anything else that JSON can hold.

    Raises:
      ValueError: it is anything else.
    """
    if not isinstance(document, dict) or not isinstance(document.get("protocols"), dict):
        raise ValueError("protocols is not an object")
    examples, chosen = document.get("examples"), document.get("protocol")
    if not isinstance(examples, int) or isinstance(examples, bool) or examples < 1:
        raise ValueError("examples is not a positive number")
    protocols = {name: _errors(name, found) for name, found in document["protocols"].items()}
    if not isinstance(chosen, str) or chosen not in protocols:
        raise ValueError("protocol is not one of protocols")
    return {"examples": examples, "protocol": chosen, "protocols": protocols}


def _errors(protocol: str, found: Any) -> dict[str, float | None]:
    if not isinstance(found, Mapping):
        raise ValueError(f"{protocol} is not an object")
    for name, value in found.items():
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if value is not None and not (number and abs(value) <= sys.float_info.max):
            raise ValueError(f"{name} of {protocol} is not a number")
        if value is not None and name.endswith("_error") and not 0 <= value <= 1:
            raise ValueError(f"{name} of {protocol} is not 0 to 1")
    return dict(found)
