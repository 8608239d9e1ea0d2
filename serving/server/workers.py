"""The threads that parse requests and run the model, with a bound on what waits for them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from serving.server.rpc_errors import Code, ServingError
from serving.server.server_config import ServerSettings

_T = TypeVar("_T")


class Workers:
    """A pool that all protocols share. Used from one event loop."""

    def __init__(self, settings: ServerSettings) -> None:
        self._pool = ThreadPoolExecutor(settings.rest_api_num_threads, thread_name_prefix="request")
        self._most = settings.rest_api_num_threads + settings.max_waiting_requests
        self._waiting = settings.max_waiting_requests
        self._taken = 0

    async def run(self, function: Callable[..., _T], *arguments: object) -> _T:
        """What the function returns, in a thread.

        Raises:
          ServingError: UNAVAILABLE when too many wait already.
        """
        if self._taken >= self._most:
            raise ServingError(
                Code.UNAVAILABLE,
                f"{self._waiting} requests wait already (--max_waiting_requests); try again",
            )
        self._taken += 1
        future = asyncio.get_running_loop().run_in_executor(self._pool, function, *arguments)
        # Not when the caller stops waiting: its thread is busy until then.
        future.add_done_callback(self._release)
        return await asyncio.shield(future)

    def _release(self, future: asyncio.Future) -> None:
        self._taken -= 1
        if not future.cancelled():
            future.exception()  # who stopped waiting does not ask for it
