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
import time
from pathlib import Path
from typing import Any

import pydantic
from starlette.responses import Response

from serving.server.rpc_errors import ServingError
from serving.server.version_folders import EVALUATION_FILE, PIXELS_FILE
from serving.server.versions.manager import Manager, State

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
        found = json.loads((version / PIXELS_FILE).read_bytes())
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(found, dict) and found.get("upright") is True


class _Evaluation(pydantic.BaseModel, strict=True):
    """What the page shows of an evaluation; errors ("top1_error") are 0 to 1."""

    examples: pydantic.PositiveInt
    protocol: str
    protocols: dict[str, dict[str, pydantic.FiniteFloat | None]]

    @pydantic.model_validator(mode="after")
    def _fits(self) -> _Evaluation:
        if self.protocol not in self.protocols:
            raise ValueError("protocol is not one of protocols")
        for protocol, metrics in self.protocols.items():
            for name, value in metrics.items():
                if name.endswith("_error") and not 0 <= (value or 0) <= 1:
                    raise ValueError(f"{name} of {protocol} is not 0 to 1")
        return self


def _evaluation(version: Path) -> dict[str, Any]:
    """`evaluation`, None where there is none to show, and `evaluation_error`, why not."""
    try:
        found = _Evaluation.model_validate_json((version / EVALUATION_FILE).read_bytes())
        return {"evaluation": found.model_dump(), "evaluation_error": None}
    except FileNotFoundError:
        return {"evaluation": None, "evaluation_error": None}
    except OSError as error:
        reason = str(error.strerror)
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        where = "".join(f"{part}: " for part in first["loc"])
        reason = where + first["msg"].removeprefix("Value error, ")
    text = f"{EVALUATION_FILE} of this version cannot be used ({reason}); push the model again."
    return {"evaluation": None, "evaluation_error": text}
