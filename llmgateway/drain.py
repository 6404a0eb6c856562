"""The end of a process, so that no call is lost: what SIGTERM begins.

1. At once `/health/ready` says 503, and all else goes on for DRAIN_NOTICE seconds, in which balancers move on.
2. Then calls that wait for a slot get 503, answers close their connections, and the server stops listening.
3. Calls that run end within DRAIN_TIMEOUT seconds, or are cut; then the gateway stops, and the process ends with 0.

uvicorn tells an application of its end last, when all connections are gone, so the signal itself is caught.
"""

import asyncio
import logging
import math
import signal
import threading
from collections.abc import Callable
from contextlib import suppress
from types import FrameType
from typing import Any

from django.conf import settings

from proxy.gateway import Gateway

logger = logging.getLogger(__name__)

CUT_EVERY = 0.5  # seconds
LAST_MOMENT = 3.0  # seconds that connections have to end when their calls were cut
SIGNALS = (signal.SIGTERM, signal.SIGINT)

Message = dict[str, Any]


class Drain:
    """`cut` ends all calls that still run; `gateway` is told of each step."""

    def __init__(self, gateway: Gateway, cut: Callable[[], int]) -> None:
        self.gateway = gateway
        self.cut = cut
        self.closes = False  # connections, after their next answer
        self._loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[None] | None = None
        self._before: dict[int, Any] = {}  # what a signal did before

    def start(self) -> None:
        """Catch the signals from now on. Elsewhere than in the main thread there are none."""
        self._loop = asyncio.get_running_loop()
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._caught) for number in SIGNALS}

    async def stop(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task

    def _caught(self, number: int, frame: FrameType | None) -> None:
        """A service manager may send SIGTERM twice; only Ctrl-C once more means now."""
        assert self._loop is not None
        if self._task is not None and number == signal.SIGINT:
            self._loop.call_soon_threadsafe(self._cut)
            self._stop_server(number, frame)
        self._loop.call_soon_threadsafe(self._begin, number, frame)

    def _begin(self, number: int, frame: FrameType | None) -> None:
        if self._task is None:
            self._task = asyncio.create_task(self._drain(number, frame), name="drain")

    async def _drain(self, number: int, frame: FrameType | None) -> None:
        self.gateway.is_stopping = True
        if number == signal.SIGTERM and settings.DRAIN_NOTICE > 0:
            logger.info("To stop in %g s; not ready any more.", settings.DRAIN_NOTICE)
            await asyncio.sleep(settings.DRAIN_NOTICE)
        logger.info("Stopping: calls that run have %g s to end.", settings.DRAIN_TIMEOUT)
        self.closes = True
        self.gateway.queue.close()
        self._stop_server(number, frame)
        await asyncio.sleep(settings.DRAIN_TIMEOUT)
        while True:  # until the server has ended: a body that was still on its way may have come
            self._cut()
            await asyncio.sleep(CUT_EVERY)

    def _cut(self) -> None:
        if cut := self.cut():
            logger.warning("%d calls were cut, since they had not ended in time.", cut)

    def _stop_server(self, number: int, frame: FrameType | None) -> None:
        """Have the server close its listeners, and end when its connections have.

        uvicorn's own handler would raise the signal again at the very end, and a killed process is no clean end.
        Whatever keeps a connection open after all is not waited for.
        """
        handler = self._before.get(number)
        server: Any = getattr(handler, "__self__", None)
        if hasattr(server, "should_exit"):
            server.should_exit = True
            server.config.timeout_graceful_shutdown = math.ceil(settings.DRAIN_TIMEOUT + LAST_MOMENT)
        elif callable(handler):
            handler(number, frame)

    def closing(self, send: Callable[[Message], Any]) -> Callable[[Message], Any]:
        """Says to clients and balancers that a connection is not to be used again."""

        async def closing_send(message: Message) -> None:
            if self.closes and message["type"] == "http.response.start":
                headers = [header for header in message.get("headers", ()) if header[0].lower() != b"connection"]
                message = {**message, "headers": [*headers, (b"connection", b"close")]}
            await send(message)

        return closing_send
