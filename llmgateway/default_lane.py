"""The default lane: Django as it comes, on as many threads as it may take from the event loop."""

import itertools
from concurrent.futures import ThreadPoolExecutor
from typing import IO, Any

from asgiref.sync import ThreadSensitiveContext
from django.conf import settings
from django.core.handlers.asgi import ASGIHandler

from proxy.answers import answer_to, send_whole
from proxy.errors import RequestTooLarge


class DefaultLane(ASGIHandler):
    """Django's own handler, with a shared set of threads instead of one for each request, and a limit for bodies."""

    def __init__(self, threads: int) -> None:
        super().__init__()
        self.threads = itertools.cycle([ThreadPoolExecutor(1, thread_name_prefix="pages") for _ in range(threads)])

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        try:
            async with ThreadSensitiveContext(executor=next(self.threads)):
                await self.handle(scope, receive, send)
        except RequestTooLarge as exc:
            await send_whole(answer_to(exc), send)

    async def read_body(self, receive: Any) -> IO[bytes]:
        """Django's, refusing a body that is larger than any form of the admin."""
        limit, size = settings.DATA_UPLOAD_MAX_MEMORY_SIZE, 0

        async def counted() -> Any:
            nonlocal size
            message = await receive()
            size += len(message.get("body", b""))
            if size > limit:
                raise RequestTooLarge(f"The body is larger than {limit} bytes.")
            return message

        return await super().read_body(counted)
