"""The way of an admitted call: to an upstream, or another, and its answer back, event by event or folded into one."""

import asyncio
import logging
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, contextmanager

import orjson

from accounts.errors import GatewayError

from .attempts import Attempt, Errand, Portion, Portions
from .endings import Endings, cancelled
from .errors import BrokenOff, NeverSent, UpstreamError
from .events import COMMENT, NO_ANSWER, UNREADABLE
from .metrics import UPSTREAM_ERRORS
from .pool import Pool, Upstream
from .readers import Reader
from .records import Record
from .upstream import Answer

logger = logging.getLogger(__name__)

Begun = tuple[bytes, Portions]  # the first part for the caller, and the portions that follow


class Relay:
    """One call, at one upstream after the other until something of its answer was passed on.

    What it opens is closed by `endings`, however the call ends; what becomes known is kept in `record`.
    """

    def __init__(self, errand: Errand, pool: Pool, endings: Endings, record: Record) -> None:
        self.errand = errand
        self.pool = pool
        self.endings = endings
        self.record = record
        self.attempt: Attempt | None = None  # the last one
        self._tried: list[Upstream] = []
        self._broke_off = False
        self._is_over = False  # the last event was taken
        self._fault: GatewayError | None = None  # an error event, whose portion had more before it
        self._take = self._passed_on if errand.asked.call.stream else self._folded
        endings.push_async_callback(self._count_rest)

    # -- what views ask ------------------------------------------------------------------------------------------

    async def whole(self) -> bytes:
        """The answer to a caller who asked for no stream, as JSON."""
        with self._faults_counted():
            answer, _ = await self._begin()
        return answer

    async def stream(self, patience: float) -> AsyncIterator[bytes]:
        """The answer as events. Until the first is there errors raise, but for no longer than `patience` seconds."""
        beginning = asyncio.create_task(self._begin())
        self.endings.push_async_callback(cancelled, beginning)
        await asyncio.wait({beginning}, timeout=patience)
        if beginning.done():
            with self._faults_counted():
                beginning.result()
        return self._parts(beginning)

    # -- streaming -----------------------------------------------------------------------------------------------

    async def _parts(self, beginning: "asyncio.Task[Begun]") -> AsyncIterator[bytes]:
        """What the caller gets, as it comes. The status is said, so a fault is an error event, and the end."""
        self.record.status = 200
        try:
            if not beginning.done():
                yield COMMENT
            with self._faults_counted():
                part, portions = await beginning
                while not self._is_over:
                    if part:
                        yield part
                    if self._fault:
                        raise self._fault
                    part = self._take(await anext(portions))
                self.record.answered(200)
                await self.endings.unwind()  # whoever reads the last part may call again at once
                yield part
        except GatewayError as exc:
            yield self._error_event(exc)
        except Exception:
            logger.exception("A stream failed.")
            yield self._error_event(GatewayError())

    def _error_event(self, error: GatewayError) -> bytes:
        self.record.answered(200, error.code)
        return (self.record.reader or self.errand.new_reader()).error_event(error)

    # -- attempts ------------------------------------------------------------------------------------------------

    async def _begin(self) -> Begun:
        """The first part for the caller, or all of it at once, from whichever upstream gives it.

        Raises UpstreamUnavailable where none is left, and what the one that took the call says against it.
        """
        while True:
            try:
                async with AsyncExitStack() as opened:
                    begun = await self._try(opened)
                    self.endings.push_async_callback(opened.pop_all().aclose)
                    return begun
            except (NeverSent, BrokenOff) as exc:
                self._give_up_on(exc)

    async def _try(self, opened: AsyncExitStack) -> Begun:
        lease = self.pool.lease(self.errand.asked.model, self._tried)
        opened.callback(lease.release)
        self.attempt = Attempt(self.errand, lease.upstream, self.pool.client)
        self.record.upstream = lease.upstream.name
        answer = await self.attempt.post()
        opened.push_async_callback(answer.aclose)
        if self.errand.endpoint.reader is None:
            return await self._unstreamed(answer), nothing()
        self.record.reader, self.record.first_token_at = self.errand.new_reader(), None
        portions = self.attempt.portions(answer, self.record.reader)
        opened.push_async_callback(portions.aclose)
        while not (part := self._take(await anext(portions))):
            pass
        return part, portions

    def _give_up_on(self, exc: NeverSent | BrokenOff) -> None:
        """Note which upstream failed, and raise where the call may not go on to another.

        A call that was never sent may; one that an upstream broke off may once, or it could break them all.
        """
        assert self.attempt is not None
        upstream = self.attempt.upstream
        self._tried.append(upstream)
        if isinstance(exc, NeverSent):
            self.pool.mark_down(upstream, str(exc))
        elif self._broke_off:
            raise exc
        else:
            self._broke_off = True
        if not self.pool.fit(self.errand.asked.model, self._tried):
            raise exc
        UPSTREAM_ERRORS.labels(upstream.name, exc.code).inc()

    async def _count_rest(self) -> None:
        if self.attempt and self.record.reader:
            await self.attempt.count_rest(self.record.reader)

    # -- taking portions -----------------------------------------------------------------------------------------

    def _passed_on(self, events: Portion) -> bytes:
        """The part of a stream that these events make."""
        part = b""
        try:
            for event in events:
                part += self._reader.pass_on(event)
        except GatewayError as exc:
            if not part:
                raise
            self._fault = exc
        except UNREADABLE as exc:
            raise UpstreamError(NO_ANSWER) from exc
        self._note(events, has_begun=bool(part))
        return part

    def _folded(self, events: Portion) -> bytes:
        """The answer, once these were the last events of it; nothing before."""
        try:
            begun = [self._reader.fold(event) for event in events]
            self._note(events, has_begun=any(begun))
            if not self._is_over:
                return b""
            if not self._reader.is_complete:
                raise BrokenOff("The llama-server ended its answer without a finish reason.")
            return orjson.dumps(self._reader.answer)
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

    def _note(self, events: Portion, *, has_begun: bool) -> None:
        self._is_over = self._reader.is_last(events[-1]) and not self._fault
        if has_begun and self.record.first_token_at is None:
            self.record.first_token()

    @property
    def _reader(self) -> Reader:
        assert self.record.reader is not None
        return self.record.reader

    @contextmanager
    def _faults_counted(self) -> Iterator[None]:
        try:
            yield
        except GatewayError as exc:
            if self.attempt is not None and exc.status >= 500:
                UPSTREAM_ERRORS.labels(self.attempt.upstream.name, exc.code).inc()
            raise


async def nothing() -> Portions:
    return
    yield []
