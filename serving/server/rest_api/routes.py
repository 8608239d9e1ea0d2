"""TensorFlow Serving's REST API as one ASGI application."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import threading
import zlib
from collections.abc import Callable
from typing import Any, NamedTuple
from urllib.parse import unquote

from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.types import Receive, Scope, Send

from serving.server.prometheus import Metrics
from serving.server.rest_api import requests, responses
from serving.server.rest_api.page import Page
from serving.server.rpc_errors import Code, ServingError, invalid
from serving.server.running import inference
from serving.server.running.servable import DEFAULT_SIGNATURE
from serving.server.running.warmup import serialized_examples
from serving.server.server_config import ServerSettings
from serving.server.versions.manager import Manager
from serving.server.workers import Workers

_log = logging.getLogger(__name__)

# Matched against path and query together, so that a query makes a request malformed.
_API = re.compile(rb"/v1/.*", re.IGNORECASE)
_POST = re.compile(
    rb"/v1/models/([^/:]+)(?:/versions/(\d+)|/labels/([^/:]+))?:(classify|regress|predict)",
    re.IGNORECASE,
)
_GET = re.compile(
    rb"/v1/models(?:/([^/:]+))?(?:/versions/(\d+)|/labels/([^/:]+))?(?:/(metadata))?", re.IGNORECASE
)

# Codes that are not here are 500.
_HTTP_STATUS = {
    Code.CANCELLED: 499,
    Code.INVALID_ARGUMENT: 400,
    Code.DEADLINE_EXCEEDED: 504,
    Code.NOT_FOUND: 404,
    Code.ALREADY_EXISTS: 409,
    Code.PERMISSION_DENIED: 403,
    Code.RESOURCE_EXHAUSTED: 429,
    Code.FAILED_PRECONDITION: 400,
    Code.ABORTED: 409,
    Code.OUT_OF_RANGE: 400,
    Code.UNIMPLEMENTED: 501,
    Code.UNAVAILABLE: 503,
    Code.UNAUTHENTICATED: 401,
}

# Added after TensorFlow Serving's own text, for the mistakes that people make most.
_HINTS = {
    "is not of expected type: string": (
        'send encoded images as {"b64": "<base64 of the file>"}, not pixels'
    ),
    "Type: Object is not of expected type": (
        "this signature takes numbers, serving_default encoded images"
    ),
    "Unable to base64 decode": 'standard base64 only, without a "data:" prefix',
    "Unknown image file format": 'send encoded images as {"b64": "<base64 of the file>"}',
}

# Bytes of a document from which on it is long.
_LONG = 2**20
_INFERENCE = ("predict", "classify", "regress")
_CORS = {
    "Access-Control-Allow-Origin": "*",
    "Access-Control-Allow-Methods": "POST, GET",
    "Access-Control-Allow-Headers": "Content-Type",
}
_NOT_FOUND = (
    "<HTML><HEAD>\n<TITLE>404 Not Found</TITLE>\n</HEAD><BODY>\n<H1>Not"
    " Found</H1>\n</BODY></HTML>\n"
)


class _Target(NamedTuple):
    """What a URL asks for."""

    model: str
    version: int | None
    label: str | None
    # "predict", "classify", "regress", "metadata" or "status".
    method: str


class RestApi:
    """ASGI application: predict, classify, regress, status and metadata under /v1/models.

    Beside TensorFlow Serving's API: /healthz (the process answers), /readyz (200 when a version of
    every model takes requests, else 503) and the page of `serving.server.rest_api.page` at /.
    """

    def __init__(
        self,
        manager: Manager,
        settings: ServerSettings,
        metrics: Metrics | None = None,
        workers: Workers | None = None,
    ) -> None:
        self._manager = manager
        self._settings = settings
        self._max_bytes = settings.rest_api_max_body_bytes
        self._metrics = metrics or Metrics()
        self._long = threading.Lock()
        # Parsing and the model run here, so that the event loop stays free.
        self._workers = workers or Workers(settings)
        self._page = Page(manager) if settings.enable_page else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            raise RuntimeError(f"This application serves http, not {scope['type']}.")
        try:
            response = await self._answer(Request(scope, receive))
        except ClientDisconnect:
            return
        if self._settings.rest_api_enable_cors_support:
            response.headers.update(_CORS)
        await response(scope, receive, send)

    async def _answer(self, request: Request) -> Response:
        path: bytes = request.scope.get("raw_path") or request.url.path.encode()
        query: bytes = request.scope["query_string"]
        full = path + b"?" + query if query else path
        if not _API.fullmatch(full):
            return await self._beside(request.method, path)
        if request.method == "OPTIONS":
            origin = request.headers.get("origin", "")
            return Response(status_code=200 if re.search("https?://", origin) else 400)
        body = await _read(request, self._max_bytes)
        if body is None:
            text = (
                f"Request body is larger than {self._max_bytes} bytes (--rest_api_max_body_bytes)"
            )
            return _reply(responses.error_body(text), 413)
        zipped = "gzip" in request.headers.get("content-encoding", "")
        try:
            return await self._workers.run(self._process, request.method, full, body, zipped)
        except ServingError as error:
            return _refusal(error)
        except Exception as error:
            _log.exception("%s %s failed.", request.method, full.decode(errors="replace"))
            return _reply(responses.error_body(f"{type(error).__name__}: {error}"), 500)

    async def _beside(self, method: str, path: bytes) -> Response:
        """What is not TensorFlow Serving's API."""
        if path == b"/healthz":
            return JSONResponse({"status": "ok"})
        if path == b"/readyz":
            ready = self._manager.ready()
            return JSONResponse({"ready": ready}, 200 if ready else 503)
        if path == self._settings.metrics_path.encode() and path and method == "GET":
            return Response(self._metrics.text(), media_type="text/plain; version=0.0.4")
        if self._page and method in ("GET", "HEAD"):
            # In a thread, for it reads files of the versions; not in ours, that it need not wait
            # for models.
            page = await asyncio.to_thread(self._page.answer, path)
            if page:
                return page
        return HTMLResponse(_NOT_FOUND, 404)

    def _process(self, http_method: str, path: bytes, body: bytes, zipped: bool) -> Response:
        if zipped:
            body = _gunzip(body, self._max_bytes)
        target = _parse(http_method, path)
        with self._counted(target):
            return _reply(self._handler(target.method)(target, body))

    def _counted(self, target: _Target) -> contextlib.AbstractContextManager[None]:
        if target.method in _INFERENCE and target.model in self._manager.models():
            return self._metrics.request(target.model, target.method.capitalize(), "REST")
        return contextlib.nullcontext()

    def _handler(self, method: str) -> Callable[[_Target, bytes], bytes]:
        return {
            "predict": self._predict,
            "classify": self._classify,
            "regress": self._regress,
            "metadata": self._metadata,
            "status": self._status,
        }[method]

    def _predict(self, target: _Target, body: bytes) -> bytes:
        with contextlib.ExitStack() as stack:
            with self._reading(body):
                document = requests.parse_json(body)
                name = requests.signature_name(document) or DEFAULT_SIGNATURE
                servable = stack.enter_context(
                    self._manager.use(target.model, target.version, target.label)
                )
                signature = servable.signatures.get(name)
                if signature is None:
                    raise invalid(f'Serving signature name: "{name}" not found in signature def')
                if not signature.inputs:
                    raise invalid(f"Failed to get input map for signature: {name}")
                dtypes = {key: info.dtype for key, info in signature.inputs.items()}
                inputs, rows = requests.decode_predict(document, dtypes)
                del document
            with self._metrics.run(target.model, "Predict"):
                outputs = servable.run(name, inputs)
        return responses.predict_body(
            outputs, {k: v.dtype for k, v in signature.outputs.items()}, rows
        )

    def _classify(self, target: _Target, body: bytes) -> bytes:
        return responses.classify_body(self._on_examples(inference.classify, target, body))

    def _regress(self, target: _Target, body: bytes) -> bytes:
        return responses.regress_body(self._on_examples(inference.regress, target, body))

    def _on_examples(self, function: Callable[..., Any], target: _Target, body: bytes) -> Any:
        with self._reading(body):
            document = requests.parse_json(body)
            name = requests.signature_name(document)
            examples = serialized_examples(requests.decode_examples(document), self._max_bytes)
        with (
            self._manager.use(target.model, target.version, target.label) as servable,
            self._metrics.run(target.model, target.method.capitalize()),
        ):
            return function(servable, name, examples)

    def _reading(self, body: bytes) -> contextlib.AbstractContextManager[Any]:
        """Long documents are read one at a time: Python's objects take 25 times their memory."""
        return self._long if len(body) > _LONG else contextlib.nullcontext()

    def _metadata(self, target: _Target, _: bytes) -> bytes:
        with self._manager.use(target.model, target.version, target.label) as servable:
            return responses.metadata_body(target.model, servable.version, servable.signatures)

    def _status(self, target: _Target, _: bytes) -> bytes:
        return responses.status_body(self._manager.status(target.model, target.version))


def _parse(http_method: str, path: bytes) -> _Target:
    pattern = {"POST": _POST, "GET": _GET}.get(http_method)
    match = pattern.fullmatch(path) if pattern else None
    # The address may be in any case, the verb after the colon may not.
    if not match or (http_method == "POST" and match[4] != match[4].lower()):
        raise invalid(f"Malformed request: {http_method} {path.decode(errors='replace')}")
    if match[1] is None:
        raise invalid("Missing model name in request.")
    digits = match[2].decode() if match[2] else ""
    # Without the zeros in front, and compared by length first: int() refuses thousands of digits.
    number = digits.lstrip("0") or "0"
    if len(number) > 19 or int(number) >= 2**63:
        raise invalid(f"Failed to convert version: {digits} to numeric.")
    method = match[4].decode() if match[4] else "status"
    return _Target(
        unquote(match[1].decode(errors="replace")),
        int(number) if digits else None,
        unquote(match[3].decode(errors="replace")) if match[3] else None,
        method if method != "METADATA" else "status",
    )


async def _read(request: Request, limit: int) -> bytes | None:
    """The body, or None when it is longer than `limit` bytes."""
    declared = request.headers.get("content-length", "0")
    if declared.isdigit() and int(declared) > limit:
        return None
    chunks, size = [], 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > limit:
            return None
        chunks.append(chunk)
    return b"".join(chunks)


def _gunzip(body: bytes, limit: int) -> bytes:
    """The unzipped body; damaged or too long, it reads as empty, as in TensorFlow Serving."""
    stream = zlib.decompressobj(wbits=31)
    try:
        plain = stream.decompress(body, limit)
    except zlib.error:
        return b""
    return plain if stream.eof else b""


def _reply(body: bytes, status: int = 200) -> Response:
    return Response(body, status, media_type="application/json")


def _refusal(error: ServingError) -> Response:
    hint = next((f" (hint: {hint})" for text, hint in _HINTS.items() if text in error.message), "")
    return _reply(responses.error_body(error.message + hint), _HTTP_STATUS.get(error.code, 500))
