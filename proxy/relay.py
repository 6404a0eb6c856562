"""The way of an admitted call: to an upstream, and its answer back, event by event or folded into one."""

import logging
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import contextmanager
from typing import Any

import orjson

from accounts.errors import GatewayError

from .endings import Endings
from .errors import UpstreamError
from .events import DONE, EventSplitter, event_of, is_plain, payload, without_hidden
from .folding import Fold
from .metrics import UPSTREAM_ERRORS
from .pool import Pool, Upstream
from .upstream import Answer, NeverSent, refusal_of

logger = logging.getLogger(__name__)

Events = list[bytes]  # complete ones, that came in together
Several = AsyncGenerator[Events, None]


class Relay:
    """One call at one upstream. What it opens is closed by `endings`, however the call ends."""

    def __init__(self, pool: Pool, endings: Endings) -> None:
        self.pool = pool
        self.endings = endings
        self.upstream: Upstream | None = None

    async def whole(self, path: str, model: str, body: bytes) -> bytes:
        """The answer to a caller who asked for no stream: the JSON of one completion."""
        fold = Fold()
        with self.faults_counted():
            async for events in await self.open(path, model, body):
                for event in events:
                    if chunk := read(event):
                        fold.add(without_hidden(chunk))
            if not fold.is_complete:
                raise UpstreamError("The llama-server ended its answer without a finish reason.")
        return orjson.dumps(fold.answer)

    async def stream(self, path: str, model: str, body: bytes, *, include_usage: bool) -> AsyncIterator[bytes]:
        """The answer to a caller who asked for a stream, once its first event is there: until then errors raise."""
        with self.faults_counted():
            events = await self.open(path, model, body)
            first = await anext(events)
            tidy = tidied(first, include_usage=include_usage)
        return self.rest(tidy, events, include_usage=include_usage, is_all=first[-1] == DONE)

    async def rest(self, first: bytes, events: Several, *, include_usage: bool, is_all: bool) -> AsyncIterator[bytes]:
        """The events, tidied, as they come. From now on a fault is an error event, and the end."""
        try:
            if is_all:
                await self.endings.unwind()
            yield first
            with self.faults_counted():
                async for several in events:
                    if several[-1] == DONE:
                        await self.endings.aclose()  # whoever reads [DONE] may call again at once
                    if tidy := tidied(several, include_usage=include_usage):
                        yield tidy
        except GatewayError as exc:
            yield event_of(exc.envelope)
        except Exception:
            logger.exception("A stream failed.")
            yield event_of(GatewayError().envelope)

    async def open(self, path: str, model: str, body: bytes) -> Several:
        """Send the call to an upstream, or to the next where it did not reach the first.

        Raises UpstreamUnavailable where none is left, and what the one that took the call says against it.
        """
        tried: list[Upstream] = []
        while True:
            lease = self.pool.lease(model, tried)
            self.upstream = lease.upstream
            try:
                answer = await self.pool.client.post(self.upstream.base_url + path, self.upstream.api_key, body)
            except NeverSent as exc:
                lease.release()
                self.pool.mark_down(self.upstream, str(exc))
                tried.append(self.upstream)
            except BaseException:
                lease.release()
                raise
            else:
                self.endings.callback(lease.release)
                self.endings.push_async_callback(answer.aclose)
                return complete_events(answer)

    @contextmanager
    def faults_counted(self) -> Iterator[None]:
        try:
            yield
        except GatewayError as exc:
            if self.upstream is not None and exc.status >= 500:
                UPSTREAM_ERRORS.labels(self.upstream.name, exc.code).inc()
            raise


async def complete_events(answer: Answer) -> Several:
    """The complete events of each part that comes in, up to [DONE]. An end without it is a fault."""
    splitter = EventSplitter()
    async for part in answer.parts():
        if events := splitter.feed(part):
            yield events
            if events[-1] == DONE:
                return
    raise UpstreamError("The llama-server ended its answer before it was complete.")


def read(event: bytes) -> dict[str, Any] | None:
    """The chunk of an event, None for one without. Raises what an error event means, or UpstreamError."""
    try:
        chunk = payload(event)
        if chunk and (error := chunk.get("error")):
            raise refusal_of(error.get("code", 500), str(error.get("message", "")), str(error.get("type")))
    except (ValueError, AttributeError) as exc:
        raise UpstreamError("The llama-server sent something that is no answer.") from exc
    return chunk


def tidied(events: Events, *, include_usage: bool) -> bytes:
    """Events as the caller may see them: no timings, and no usage where it was not asked for."""
    return b"".join(event if is_plain(event) else tidied_one(event, include_usage=include_usage) for event in events)


def tidied_one(event: bytes, *, include_usage: bool) -> bytes:
    chunk = read(event)
    if chunk is None:
        return event
    if not include_usage and not chunk.get("choices"):
        return b""
    return event_of(without_hidden(chunk))
