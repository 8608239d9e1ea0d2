"""HTTP with the standard library."""

from __future__ import annotations

import http.client
import urllib.error
import urllib.parse
import urllib.request

SCHEMES = ("http", "https")
# What a server means by "come back later".
BUSY = (429, 503)


def opener(url: str) -> urllib.request.OpenerDirector:
    """Opens http and https addresses only: no redirection leads to a file."""
    host = urllib.parse.urlsplit(url).hostname
    made = urllib.request.OpenerDirector()
    # A proxy from the environment cannot reach this machine's own ports.
    proxies: dict[str, str] | None = {} if host in ("localhost", "127.0.0.1", "::1") else None
    for handler in (
        urllib.request.ProxyHandler(proxies),
        urllib.request.UnknownHandler(),
        urllib.request.HTTPHandler(),
        urllib.request.HTTPSHandler(),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPRedirectHandler(),
        urllib.request.HTTPErrorProcessor(),
    ):
        made.add_handler(handler)
    return made


def valid(url: str) -> bool:
    """Whether it is an http or https address with a host."""
    try:
        parts = urllib.parse.urlsplit(url)
        return parts.scheme in SCHEMES and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False


def refused(error: Exception) -> bool:
    """Whether nobody listens, or the connection broke before there was an answer."""
    kinds = (ConnectionRefusedError, ConnectionResetError, http.client.RemoteDisconnected)
    return isinstance(reason(error), kinds)


def reason(error: Exception) -> object:
    """What urllib has wrapped."""
    return getattr(error, "reason", error)


def retry_after(error: urllib.error.HTTPError) -> float:
    """Seconds that the answer asks to wait; 0 where it does not say."""
    value = error.headers.get("Retry-After") or ""
    return float(value) if value.isdecimal() else 0.0
