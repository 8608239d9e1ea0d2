"""Client of the REST API of TensorFlow Serving and of `serving.server`.

    python -m serving.client cat.jpg dog.png

The standard library is all it needs: this file may be copied to any machine.
"""

from __future__ import annotations

import argparse
import base64
import dataclasses
import http.client
import json
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

DEFAULT_URL = "http://127.0.0.1:8501"
DEFAULT_MODEL = "resnet"

# First bytes of the formats that the exported signatures decode.
_MAGIC = {b"\xff\xd8\xff": "JPEG", b"\x89PNG\r\n\x1a\n": "PNG"}


class ClientError(Exception):
    """A request without an answer, or one that was refused.

    Attributes:
      status: HTTP status, or None when no server answered.
    """

    def __init__(self, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


class ImageError(ClientError):
    """A file that is not an image; no request was made."""


class Label(NamedTuple):
    """A class and its probability, 0..1."""

    name: str
    probability: float


# Files and their labels, best first.
Results = list[tuple[Path, list[Label]]]


@dataclasses.dataclass
class Client:
    """Talks to one model of one server.

    Attributes:
      url: address of the server, without a path.
      model_name: name of the model on it.
      timeout: seconds to wait for one answer.
      retries: further attempts, with growing pauses, while the server refuses
        connections or answers 503.
    """

    url: str = DEFAULT_URL
    model_name: str = DEFAULT_MODEL
    timeout: float = 60.0
    retries: int = 3

    def __post_init__(self) -> None:
        try:
            parts = urllib.parse.urlsplit(self.url)
            valid = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
        except ValueError:
            valid = False
        if not valid:
            raise ClientError(f"{self.url}: must be an address such as {DEFAULT_URL}.")
        self.url = self.url.rstrip("/")
        local = parts.hostname in ("localhost", "127.0.0.1", "::1")
        # A proxy from the environment cannot reach this machine's own ports.
        proxy = urllib.request.ProxyHandler({} if local else None)
        self._opener = urllib.request.build_opener(proxy)

    def top_k(self, images: Sequence[bytes], version: int | None = None) -> list[list[Label]]:
        """The most probable classes of encoded images (JPEG or PNG), best first.

        Uses the model's `top_k` signature, which also sets how many there are.
        """
        rows = self.predict(list(images), signature_name="top_k", version=version)
        return [
            [Label(name, score) for name, score in zip(row["classes"], row["scores"], strict=True)]
            for row in rows
        ]

    def predict(
        self,
        instances: Sequence[Any],
        signature_name: str = "serving_default",
        version: int | None = None,
    ) -> list[Any]:
        """One prediction for each instance.

        Args:
          instances: bytes (encoded images), numbers, nested lists of them, or
            dicts of these by input name.

        Returns:
          A value for each instance, or a dict by output name where there are several.
        """
        body = json.dumps({"signature_name": signature_name, "instances": instances}, default=_to_json)
        pinned = f"/versions/{version}" if version is not None else ""
        return self._request(f"{pinned}:predict", body.encode())["predictions"]

    def status(self) -> list[dict[str, Any]]:
        """Versions of the model, newest first: `version`, `state` and `status` of each."""
        return self._request("")["model_version_status"]

    def metadata(self) -> dict[str, Any]:
        """Name, version and signatures of the model that answers."""
        return self._request("/metadata")

    def wait_until_available(self, seconds: float) -> int:
        """Waits for a version that takes requests; returns its number.

        Raises:
          ClientError: none did within `seconds`.
        """
        deadline = time.monotonic() + seconds
        patient = dataclasses.replace(self, retries=0)
        while True:
            reason = "no version is available"
            try:
                for version in patient.status():
                    if version["state"] == "AVAILABLE":
                        return int(version["version"])
            except ClientError as error:
                reason = str(error)
            if time.monotonic() >= deadline:
                raise ClientError(f"{self.model_name} is not ready after {seconds:g} s: {reason}")
            time.sleep(0.2)

    def _request(self, path: str, body: bytes | None = None) -> dict[str, Any]:
        name = urllib.parse.quote(self.model_name, safe="")
        request = urllib.request.Request(
            f"{self.url}/v1/models/{name}{path}", body, {"Content-Type": "application/json"}
        )
        for attempt in range(self.retries + 1):
            try:
                with self._opener.open(request, timeout=self.timeout) as response:
                    return self._read(response)
            except urllib.error.HTTPError as error:
                failure = self._refusal(error)
                if error.code != 503:
                    raise failure from None
            except (OSError, http.client.HTTPException) as error:
                failure = self._silence(error)
                if not _refused(error):
                    raise failure from None
            if attempt < self.retries:
                time.sleep(0.2 * 2**attempt)
        raise failure

    def _read(self, response: http.client.HTTPResponse) -> dict[str, Any]:
        try:
            return json.loads(response.read())
        except ValueError:
            raise ClientError(f"{self.url} does not speak TensorFlow Serving's REST API.") from None

    def _refusal(self, error: urllib.error.HTTPError) -> ClientError:
        content = error.read()
        try:
            text = str(json.loads(content)["error"])
        except (ValueError, KeyError, TypeError):
            return ClientError(
                f"{self.url} does not speak TensorFlow Serving's REST API: it answered {error.code}.",
                error.code,
            )
        if error.code == 404:
            text = f"{self.url} serves no such model or version as {self.model_name} ({text})."
        return ClientError(text, error.code)

    def _silence(self, error: Exception) -> ClientError:
        reason = getattr(error, "reason", error)
        if isinstance(reason, TimeoutError):
            return ClientError(f"{self.url} did not answer within {self.timeout:g} s.")
        if _refused(error):
            return ClientError(
                f"No server answers at {self.url}: start one with `python -m serving.server`, "
                "or give its address with --url."
            )
        return ClientError(f"{self.url} cannot be asked: {reason}.")


def read_image(path: Path) -> bytes:
    """Content of a JPEG or PNG file.

    Raises:
      ImageError: no such file, or it is something else.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ImageError(f"{path}: {error.strerror}.") from None
    if not content.startswith(tuple(_MAGIC)):
        raise ImageError(f"{path}: this is not a {' or '.join(_MAGIC.values())} image.")
    return content


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints the labels of image files; 1 when one of them has none, 2 for wrong arguments."""
    parser = argparse.ArgumentParser(
        prog="python -m serving.client",
        description="Asks a served model for the labels of images.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("images", nargs="+", type=Path, metavar="IMAGE", help="JPEG or PNG file")
    parser.add_argument("--url", default=DEFAULT_URL, help="address of the server")
    parser.add_argument("--model_name", default=DEFAULT_MODEL, help="name of the model on it")
    parser.add_argument("--top", type=int, default=5, help="most labels for each image")
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args(arguments)
    if options.top < 1:
        parser.error("--top must be at least 1")
    results, failed = _ask(options.images, options.url, options.model_name, options.top)
    print(_as_json(results) if options.json else _as_table(results), end="")
    return 1 if failed else 0


def _ask(paths: Sequence[Path], url: str, model_name: str, top: int) -> tuple[Results, bool]:
    """Labels of the files that have some, and whether others failed (said on stderr)."""
    results: Results = []
    failed = False
    for path in paths:
        try:
            # One request for each file, so that a bad image fails alone.
            labels = Client(url, model_name).top_k([read_image(path)])[0]
            results.append((path, labels[:top]))
        except ImageError as error:
            failed = True
            print(error, file=sys.stderr)
        except ClientError as error:
            failed = True
            print(f"{path}: {error}" if error.status == 400 else error, file=sys.stderr)
            if error.status != 400:
                break  # the other files would meet the same
    return results, failed


def _as_table(results: Results) -> str:
    rows = [
        (str(path) if rank == 0 else "", label)
        for path, labels in results
        for rank, label in enumerate(labels)
    ]
    files = max((len(name) for name, _ in rows), default=0)
    names = max((len(label.name) for _, label in rows), default=0)
    return "".join(
        f"{name:{files}}  {label.name:{names}}  {label.probability:6.2%}\n" for name, label in rows
    )


def _as_json(results: Results) -> str:
    listed = [
        {"file": str(path), "labels": [label._asdict() for label in labels]} for path, labels in results
    ]
    return json.dumps(listed, indent=2, ensure_ascii=False) + "\n"


def _refused(error: Exception) -> bool:
    reason = getattr(error, "reason", error)
    return isinstance(reason, (ConnectionRefusedError, ConnectionResetError, http.client.RemoteDisconnected))


def _to_json(value: Any) -> Any:
    if isinstance(value, (bytes, bytearray, memoryview)):
        return {"b64": base64.b64encode(value).decode()}
    raise TypeError(
        f"An instance holds a {type(value).__name__}: send encoded images as bytes "
        "(pixels as JSON are 28 to 55 times larger), other values as numbers, strings, lists and dicts."
    )


if __name__ == "__main__":
    raise SystemExit(main())
