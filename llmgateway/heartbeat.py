"""A comment for each stretch of silence in a stream, so that proxies and clients do not give up on it."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Self

from proxy.events import COMMENT

Send = Callable[[dict[str, Any]], Awaitable[None]]

STALLED = 60.0  # seconds that a client may take nothing


def body(part: bytes) -> dict[str, Any]:
    return {"type": "http.response.body", "body": part, "more_body": True}


class Heartbeat:
    """Sends the parts of a stream, and a comment after each `interval` seconds (a float) without one.

    It costs a stream one timer. Nothing is sent while a part is under way, nor after the block has ended. A client that
    takes nothing for STALLED seconds holds a slot for nothing: then `give_up` is called.
    """

    def __init__(self, send: Send, interval: float, give_up: Callable[[], object]) -> None:
        self._send = send
        self._give_up = give_up
        self._interval = interval
        self._loop = asyncio.get_running_loop()
        self._sent_at = self._loop.time()
        self._is_sending = False
        self._beat: asyncio.Task[None] | None = None

    def __enter__(self) -> Self:
        self._timer = self._loop.call_later(self._interval, self._look)
        return self

    def __exit__(self, *_: object) -> None:
        self._timer.cancel()
        if self._beat is not None:
            self._beat.cancel()

    async def send(self, part: bytes) -> None:
        self._is_sending = True
        await self._send(body(part))
        self._is_sending = False
        self._sent_at = self._loop.time()

    def _look(self) -> None:
        """Beat if it is time, and look again when it may be."""
        now = self._loop.time()
        silent = now - self._sent_at
        if self._is_sending and silent >= STALLED:
            self._give_up()
        is_beating = self._beat is not None and not self._beat.done()
        if not self._is_sending and not is_beating and silent >= self._interval:
            self._beat = self._loop.create_task(self._comment())
            self._sent_at = now
        self._timer = self._loop.call_at(max(self._sent_at, now - self._interval / 2) + self._interval, self._look)

    async def _comment(self) -> None:
        await self._send(body(COMMENT))
