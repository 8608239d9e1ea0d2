"""uvicorn's HTTP/1.1, watched: there is no setting for clients that neither send nor read."""

from __future__ import annotations

import asyncio

from uvicorn.protocols.http.h11_impl import H11Protocol

_FULL = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


class PatientProtocol(H11Protocol):
    """HTTP/1.1 that gives up a client which neither sends nor reads, and clients beyond a number.

    A client that has gone without a word would hold its descriptor, and the end of the server, for
    ever. Without descriptors no version is loaded, and asyncio writes thousands of lines a second.

    Attributes:
      seconds: without a byte from a client that should send, or to one that should read.
      leaving: the same once the server is told to end.
      most: connections; one beyond them is answered with 503.
    """

    seconds, leaving, most = 60.0, 5.0, 10_000
    _received, _seen = 0, (-1, -1)
    _timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > self.most:
            transport.write(_FULL)
            transport.close()
        self._look()

    def data_received(self, data: bytes) -> None:
        self._received += len(data)
        super().data_received(data)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._timer:
            self._timer.cancel()
        super().connection_lost(exc)

    def shutdown(self) -> None:
        super().shutdown()
        self.seconds, self._seen = self.leaving, (-1, -1)
        self._look()

    def _look(self) -> None:
        """Ends the connection where it was the client's turn and nothing has come of it."""
        now = (self._received, self.transport.get_write_buffer_size())
        reads = self.cycle is None or self.cycle.response_complete or self.cycle.more_body
        if now == self._seen and (reads or self.flow.write_paused):
            self.transport.abort()
            return
        self._seen = now
        if self._timer:
            self._timer.cancel()
        self._timer = self.loop.call_later(self.seconds, self._look)
