"""The way of an admitted call: to an upstream, and its answer back, event by event or folded into one."""

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import orjson

from accounts.errors import GatewayError

from .calls import Call
from .endings import Endings
from .endpoints import Endpoint
from .errors import BrokenOff, NeverSent, UpstreamError
from .events import COMMENT, UNREADABLE, EventSplitter
from .metrics import UPSTREAM_ERRORS
from .pool import Pool, Upstream
from .readers import Reader
from .records import Record
from .upstream import Answer

logger = logging.getLogger(__name__)

COUNT_TIMEOUT = 2.0  # seconds that a llama-server has to count the tokens of a cut answer

Events = list[bytes]  # complete ones, that came in together


@dataclass(frozen=True, slots=True)
class Errand:
    """What is to be done: a call of an endpoint, and the body to send for it."""

    endpoint: Endpoint
    call: Call
    model: str
    body: bytes
    shows_timings: bool = False

    def new_reader(self) -> Reader:
        assert self.endpoint.reader is not None
        return self.endpoint.reader(self.call, self.model, shows_timings=self.shows_timings)


class Relay:
    """One call, at one upstream after the other until something of its answer was passed on.

    What it opens is closed by `endings`, however the call ends; what becomes known is kept in `record`.
    """

    def __init__(self, errand: Errand, pool: Pool, endings: Endings, record: Record) -> None:
        self.errand = errand
        self.pool = pool
        self.endings = endings
        self.record = record
        self.upstream: Upstream | None = None
        self._tried: list[Upstream] = []
        self._broke_off = False
        self._is_over = False  # the last event was taken
        self._fault: GatewayError | None = None  # an error event, whose portion had more before it
        self._take = self._passed_on if errand.call.stream else self._folded

    # -- what views ask ------------------------------------------------------------------------------------------

    async def whole(self) -> bytes:
        """The answer to a caller who asked for no stream, as JSON."""
        self.endings.push_async_callback(self._count_rest)
        with self._faults_counted():
            answer, _ = await self._begin()
        return answer

    async def stream(self, patience: float) -> AsyncIterator[bytes]:
        """The answer as events. Until the first is there errors raise, but for no longer than `patience` seconds."""
        self.endings.push_async_callback(self._count_rest)
        beginning = asyncio.create_task(self._begin())
        self.endings.push_async_callback(cancelled, beginning)
        await asyncio.wait({beginning}, timeout=patience)
        if beginning.done():
            with self._faults_counted():
                beginning.result()
        return self._parts(beginning)

    # -- streaming -----------------------------------------------------------------------------------------------

    async def _parts(self, beginning: "asyncio.Task[tuple[bytes, Several]]") -> AsyncIterator[bytes]:
        """What the caller gets, as it comes. The status is said, so a fault is an error event, and the end."""
        self.record.status = 200
        try:
            if not beginning.done():
                yield COMMENT
            with self._faults_counted():
                first, several = await beginning
                async for part in self._from(first, several):
                    yield part
        except GatewayError as exc:
            yield self._error_event(exc)
        except Exception:
            logger.exception("A stream failed.")
            yield self._error_event(GatewayError())

    async def _from(self, part: bytes, several: "Several") -> AsyncIterator[bytes]:
        """The first part and all that follow. Whoever reads the last may call again at once: first all is settled."""
        while True:
            if self._is_over:
                self.record.answered(200)
                await self.endings.unwind()
            if part:
                yield part
            if self._fault:
                raise self._fault
            if self._is_over:
                return
            part = self._take(await anext(several))

    def _error_event(self, error: GatewayError) -> bytes:
        self.record.answered(200, error.code)
        return (self.record.reader or self.errand.new_reader()).error_event(error)

    # -- attempts ------------------------------------------------------------------------------------------------

    async def _begin(self) -> "tuple[bytes, Several]":
        """The first part for the caller, or all of it at once, from whichever upstream gives it.

        Raises UpstreamUnavailable where none is left, and what the one that took the call says against it.
        """
        while True:
            try:
                async with AsyncExitStack() as attempt:
                    begun = await self._attempt(attempt)
                    self.endings.push_async_callback(attempt.pop_all().aclose)
                    return begun
            except (NeverSent, BrokenOff) as exc:
                self._give_up_on(exc)

    async def _attempt(self, attempt: AsyncExitStack) -> "tuple[bytes, Several]":
        lease = self.pool.lease(self.errand.model, self._tried)
        attempt.callback(lease.release)
        self.upstream = lease.upstream
        self.record.upstream = lease.upstream.name
        url = self.upstream.base_url + self.errand.endpoint.path
        self.record.reader = None  # of an attempt before
        answer = await self.pool.client.post(url, self.upstream.api_key, self.errand.body)
        attempt.push_async_callback(answer.aclose)
        if self.errand.endpoint.reader is None:
            return await self._unstreamed(answer), nothing()
        self.record.reader = self.errand.new_reader()
        several = complete_events(answer, self.reader.is_last)
        attempt.push_async_callback(several.aclose)
        events = await anext(several)
        if self.reader.lacks_start(events[0]):
            counted = await self._ask(self.errand.endpoint.counting_path, self.errand.body)
            events.insert(0, self.reader.start(counted["input_tokens"]))
        while not (part := self._take(events)):
            events = await anext(several)
        return part, several

    async def _ask(self, path: str, body: bytes) -> Any:
        """The JSON that the upstream of this attempt answers at once, without a slot."""
        assert self.upstream is not None
        answer = await self.pool.client.post(self.upstream.base_url + path, self.upstream.api_key, body)
        try:
            return await answer.whole()
        finally:
            await answer.aclose()

    async def _count_rest(self) -> None:
        """Have the text of a cut answer counted, where its events do not say how many tokens they are."""
        if self.record.reader and (text := self.record.reader.uncounted):
            with suppress(GatewayError, TimeoutError, *UNREADABLE):
                async with asyncio.timeout(COUNT_TIMEOUT):
                    tokens = await self._ask("/tokenize", orjson.dumps({"content": text}))
                    self.reader.counted(len(tokens["tokens"]))

    def _give_up_on(self, exc: NeverSent | BrokenOff) -> None:
        """Note which upstream failed, and raise where the call may not go on to another.

        A call that was never sent may; one that an upstream broke off may once, or it could break them all.
        """
        assert self.upstream is not None
        self._tried.append(self.upstream)
        if isinstance(exc, NeverSent):
            self.pool.mark_down(self.upstream, str(exc))
        elif self._broke_off:
            raise exc
        else:
            self._broke_off = True
        if not self.pool.fit(self.errand.model, self._tried):
            raise exc
        UPSTREAM_ERRORS.labels(self.upstream.name, exc.code).inc()

    # -- taking events -------------------------------------------------------------------------------------------

    def _passed_on(self, events: Events) -> bytes:
        """The part of a stream that these events make."""
        part = b""
        try:
            for event in events:
                part += self.reader.pass_on(event)
        except GatewayError as exc:
            if not part:
                raise
            self._fault = exc
        except UNREADABLE as exc:
            raise UpstreamError(NO_ANSWER) from exc
        self._note(events, has_begun=bool(part))
        return part

    def _folded(self, events: Events) -> bytes:
        """The answer, once these were the last events of it; nothing before."""
        try:
            begun = [self.reader.fold(event) for event in events]
            self._note(events, has_begun=any(begun))
            if not self._is_over:
                return b""
            if not self.reader.is_complete:
                raise BrokenOff("The llama-server ended its answer without a finish reason.")
            return orjson.dumps(self.reader.answer)
        except UNREADABLE as exc:
            raise UpstreamError(NO_ANSWER) from exc

    async def _unstreamed(self, answer: Answer) -> bytes:
        body = await answer.whole()
        try:
            body.pop("timings", None)
            self.record.known = self.errand.endpoint.count(body)
        except UNREADABLE as exc:
            raise UpstreamError(NO_ANSWER) from exc
        self.record.first_token()
        return orjson.dumps(body)

    def _note(self, events: Events, *, has_begun: bool) -> None:
        self._is_over = self.reader.is_last(events[-1]) and not self._fault
        if has_begun and self.record.first_token_at is None:
            self.record.first_token()

    @property
    def reader(self) -> Reader:
        assert self.record.reader is not None
        return self.record.reader

    @contextmanager
    def _faults_counted(self) -> Iterator[None]:
        try:
            yield
        except GatewayError as exc:
            if self.upstream is not None and exc.status >= 500:
                UPSTREAM_ERRORS.labels(self.upstream.name, exc.code).inc()
            raise


Several = AsyncGenerator[Events, None]
NO_ANSWER = "The llama-server sent something that is no answer."


async def complete_events(answer: Answer, is_last: Callable[[bytes], bool]) -> Several:
    """The complete events of each portion that comes in, up to the last. An end without that is a fault."""
    splitter = EventSplitter()
    async for data in answer.parts():
        if events := splitter.feed(data):
            yield events
            if is_last(events[-1]):
                return
    raise BrokenOff("The llama-server ended its answer before it was complete.")


async def nothing() -> Several:
    return
    yield []


async def cancelled(task: "asyncio.Task[Any]") -> None:
    """End a task, and wait until it has. What it failed with is nobody's any more."""
    task.cancel()
    await asyncio.wait({task})
    if not task.cancelled():
        task.exception()
