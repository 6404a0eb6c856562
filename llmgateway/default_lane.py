"""The default lane: Django as it comes, on as many threads as it may take from the event loop."""

import itertools
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from asgiref.sync import ThreadSensitiveContext
from django.conf import settings
from django.core.handlers.asgi import ASGIHandler

from proxy.answers import answer_to, send_whole
from proxy.errors import RequestTooLarge

from .addresses import scheme_of
from .page_queries import limit_queries


class DefaultLane(ASGIHandler):
    """Django's own handler, with a shared set of threads instead of one for each request, and a limit for bodies."""

    def __init__(self, threads: int) -> None:
        super().__init__()
        self.threads = itertools.cycle([ThreadPoolExecutor(1, "pages", limit_queries) for _ in range(threads)])

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        body = LimitedBody(receive, settings.DATA_UPLOAD_MAX_MEMORY_SIZE)
        scope = {**scope, "scheme": scheme_of(scope)}  # which pages, cookies and redirects go by
        async with ThreadSensitiveContext(executor=next(self.threads)):
            await self.handle(scope, body.receive, send)
        if body.is_too_large:
            await send_whole(answer_to(RequestTooLarge(f"The body is larger than {body.limit} bytes.")), send)


class LimitedBody:
    """A body as it comes in. To Django, one that is larger than any form is one whose client has left."""

    def __init__(self, receive: Any, limit: int) -> None:
        self._receive = receive
        self.limit = limit
        self.size = 0

    @property
    def is_too_large(self) -> bool:
        return self.size > self.limit

    async def receive(self) -> Any:
        message = await self._receive()
        self.size += len(message.get("body", b""))
        return {"type": "http.disconnect"} if self.is_too_large else message
