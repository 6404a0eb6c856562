"""The relay lane: Django's ASGI handler without its threads, signals and browser middleware.

One request comes in here, meets the same URLs, views and policy classes as on the default lane, and leaves. What
it opens on its way (a lease, a connection) is closed by `request.endings`, which is unwound once, on the event
loop, however the request ends.
"""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import aclosing, suppress
from functools import lru_cache
from io import BytesIO
from time import perf_counter
from typing import Any

from django.conf import settings
from django.core.exceptions import RequestAborted
from django.core.handlers.asgi import ASGIHandler, ASGIRequest
from django.http.response import HttpResponse, HttpResponseBase
from django.urls import get_resolver
from django.utils.module_loading import import_string

from proxy.answers import EventStream, answer_to, asgi_start, send_whole
from proxy.endings import CUT, Endings
from proxy.errors import RequestTimeout, RequestTooLarge

from .heartbeat import Heartbeat

Message = dict[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

BODY_TIMEOUT = 60.0  # seconds that a client has to send its body
LINGER = 2.0  # seconds that the rest of a refused body is still taken in, so that its sender reads the answer


resolve = lru_cache(maxsize=256)(get_resolver().resolve)  # only what is found is remembered


class RelayRequest(ASGIRequest):
    """A request of the relay lane: a view that takes a body reads it itself, once it knows whose it is."""

    def __init__(self, scope: Message, receive: Receive) -> None:
        super().__init__(scope, BytesIO())
        self.receive = receive
        self.endings = Endings()
        self.client_left = False
        self.was_cut = False  # since the gateway stops
        self.task: asyncio.Task[Any] | None = None  # what is cancelled when the client leaves
        self.began = perf_counter()

    async def read_body(self, limit: int) -> None:
        """Read the body, and from then on watch for the client to leave.

        Raises RequestTooLarge as soon as it is known to be, RequestTimeout, or RequestAborted if the client leaves.
        """
        try:
            async with asyncio.timeout(BODY_TIMEOUT):
                self._body = await self._whole_body(limit)
        except TimeoutError as exc:
            raise RequestTimeout from exc
        self._watch()

    async def _whole_body(self, limit: int) -> bytes:
        too_large = RequestTooLarge(f"The body is larger than {limit} bytes.")
        if int(self.META.get("CONTENT_LENGTH") or 0) > limit:
            raise too_large
        parts: list[bytes] = []
        size = 0
        async for part in self.body_parts():
            parts.append(part)
            size += len(part)
            if size > limit:
                raise too_large
        return b"".join(parts)

    async def body_parts(self) -> Any:
        while True:
            message = await self.receive()
            if message["type"] == "http.disconnect":
                raise RequestAborted
            yield message.get("body", b"")
            if not message.get("more_body"):
                return

    def _watch(self) -> None:
        """From now on, cancel this task when the client leaves."""
        self.task = asyncio.current_task()
        watcher = asyncio.create_task(self._leave_with_client())
        self.endings.callback(watcher.cancel)

    async def _leave_with_client(self) -> None:
        while (await self.receive())["type"] != "http.disconnect":
            pass
        self.leave()

    def leave(self) -> None:
        """End the request: nobody waits for its answer any more."""
        assert self.task is not None
        self.client_left = True
        self.task.cancel()

    def cut(self) -> None:
        """End the request, since the gateway stops. Its client is told, if there still is a way."""
        assert self.task is not None
        self.was_cut = True
        self.task.cancel(CUT)


class RelayLane(ASGIHandler):
    """ASGI from end to end. RELAY_MIDDLEWARE is its list of middleware, outermost first."""

    def __init__(self) -> None:
        super().__init__()
        self.running: set[RelayRequest] = set()

    def cut(self) -> int:
        """End all calls that run. Gives how many there were."""
        cut = [request for request in self.running if request.task is not None and not request.was_cut]
        for request in cut:
            request.cut()
        return len(cut)

    def load_middleware(self, is_async: bool = True) -> None:
        handler: Any = self.call_view
        for path in reversed(settings.RELAY_MIDDLEWARE):
            handler = import_string(path)(handler)
        self._middleware_chain = handler

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:  # type: ignore[override]
        request = RelayRequest(scope, receive)
        self.running.add(request)
        try:
            response = await self._middleware_chain(request)
            await self.send(request, response, send)
        except RequestAborted:
            pass
        except asyncio.CancelledError:
            if not (request.client_left or request.was_cut):
                raise
        finally:
            self.running.discard(request)
            await request.endings.unwind()

    async def call_view(self, request: RelayRequest) -> HttpResponseBase:
        """The innermost step: find the view, and call it. Every error becomes an answer here."""
        try:
            match = resolve(request.path_info)
            request.resolver_match = match
            return await match.func(request, *match.args, **match.kwargs)
        except RequestAborted:
            raise
        except Exception as exc:
            return answer_to(exc, request)

    async def send(self, request: RelayRequest, response: HttpResponseBase, send: Send) -> None:
        if isinstance(response, EventStream):
            await send(asgi_start(response))
            with Heartbeat(send, settings.HEARTBEAT_AFTER, request.leave) as alive:
                async with aclosing(response.events) as events:  # type: ignore[type-var]  # an asynchronous generator
                    async for part in events:
                        await alive.send(part)
            await request.endings.unwind()  # before the end is told: to the server, a finished client has left
            await send({"type": "http.response.body"})
            return
        assert isinstance(response, HttpResponse)
        await request.endings.unwind()  # whoever reads the answer may call again at once
        if response.status_code == RequestTooLarge.status:
            await send(asgi_start(response))
            await send({"type": "http.response.body", "body": response.content, "more_body": True})
            await self.linger(request)
            await send({"type": "http.response.body"})
        else:
            await send_whole(response, send)

    async def linger(self, request: RelayRequest) -> None:
        """Drop what still comes in: a connection closed on unread bytes can take the answer with it."""
        with suppress(TimeoutError, RequestAborted):
            async with asyncio.timeout(LINGER):
                async for _ in request.body_parts():
                    pass
