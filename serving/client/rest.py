"""Client of the REST API."""

from __future__ import annotations

import base64
import dataclasses
import functools
import http.client
import json
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Sequence
from typing import Any

from . import api, transport
from .api import DEFAULT_MODEL, Busy, ClientError

DEFAULT_URL = "http://127.0.0.1:8501"


@dataclasses.dataclass
class Client(api.ModelClient):
    """Talks to one model of one server over its REST API; see `ModelClient` for the methods.

    Attributes:
      url: address of the server, without a path.

    Raises:
      ClientError: `url` is no such address.
    """

    url: str = DEFAULT_URL
    model_name: str = DEFAULT_MODEL
    timeout: float = 60.0
    retries: int = 3

    def __post_init__(self) -> None:
        if not transport.valid(self.url):
            raise ClientError(f"{self.url}: must be an address such as {DEFAULT_URL}.")
        self.url = self.url.rstrip("/")
        self._opener = transport.opener(self.url)

    def predict(
        self,
        instances: Sequence[Any],
        signature_name: str = "serving_default",
        version: int | None = None,
        label: str | None = None,
    ) -> list[Any]:
        api.check_choice(version, label)
        body = json.dumps(
            {"signature_name": signature_name, "instances": instances}, default=_to_json
        )
        chosen = f"/versions/{version}" if version is not None else ""
        chosen = f"/labels/{_quoted(label)}" if label is not None else chosen
        ask = functools.partial(self._request, f"{chosen}:predict", body.encode(), version)
        predictions = self._listed(api.retried(ask, self.retries), "predictions")
        if len(predictions) != len(instances):
            raise ClientError(
                f"{self.url} answers {len(instances)} instances with {len(predictions)}."
            )
        return predictions

    def metadata(self) -> dict[str, Any]:
        return api.retried(lambda: self._request("/metadata"), self.retries)

    def _status(self) -> list[dict[str, Any]]:
        versions = self._listed(self._request(""), "model_version_status")
        if not all(
            isinstance(one, dict) and {"version", "state"} <= one.keys() for one in versions
        ):
            raise self._stranger()
        return versions

    def _request(
        self, path: str, body: bytes | None = None, version: int | None = None
    ) -> dict[str, Any]:
        """One attempt; Busy where another may have an answer."""
        request = urllib.request.Request(
            f"{self.url}/v1/models/{_quoted(self.model_name)}{path}",
            body,
            {"Content-Type": "application/json"},
        )
        try:
            with self._opener.open(request, timeout=self.timeout) as response:
                return self._read(response)
        except urllib.error.HTTPError as error:
            raise self._refusal(error, version) from None
        except (OSError, http.client.HTTPException) as error:
            raise self._silence(error) from None

    def _read(self, response: http.client.HTTPResponse) -> dict[str, Any]:
        try:
            return json.loads(response.read(), object_hook=_from_json)
        except (ValueError, TypeError, RecursionError):
            raise self._stranger() from None

    def _listed(self, answer: Any, key: str) -> list[Any]:
        """The list that an answer has under a key."""
        if not isinstance(answer, dict) or not isinstance(answer.get(key), list):
            raise self._stranger()
        return answer[key]

    def _stranger(self) -> ClientError:
        return ClientError(f"{self.url} does not speak TensorFlow Serving's REST API.")

    def _refusal(self, error: urllib.error.HTTPError, version: int | None) -> ClientError:
        try:
            text, known = str(json.loads(error.read())["error"]), True
        except (ValueError, KeyError, TypeError, OSError, http.client.HTTPException):
            # A gateway in front of the server, or no server of models at all.
            text, known = f"{self._stranger()} It answered {error.code}.", False
        if error.code in transport.BUSY:
            return Busy(text, error.code, transport.retry_after(error))
        if error.code == 404 and known:
            return api.not_served(self.url, self.model_name, version, text)
        return ClientError(text, error.code)

    def _silence(self, error: Exception) -> ClientError:
        reason = transport.reason(error)
        if isinstance(reason, TimeoutError):
            return ClientError(f"{self.url} did not answer within {self.timeout:g} s.")
        if transport.refused(error):
            return Busy(
                f"No server answers at {self.url}: start one with `python -m serving.server`, "
                "or give its address with --url."
            )
        return ClientError(f"{self.url} cannot be asked: {reason}.")


def _quoted(name: str) -> str:
    return urllib.parse.quote(name, safe="")


def _to_json(value: Any) -> Any:
    if isinstance(value, (bytes, bytearray, memoryview)):
        return {"b64": base64.b64encode(value).decode()}
    raise api.no_pixels(f"a {type(value).__name__}")


def _from_json(value: dict[str, Any]) -> Any:
    return base64.b64decode(value["b64"]) if value.keys() == {"b64"} else value
