"""The way of an admitted call: to an upstream, or another, and its answer back, event by event or folded into one."""

from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager
from typing import Any

import orjson

from accounts.errors import GatewayError

from .attempts import Attempt, Errand, Portion
from .cache.flights import Flight
from .endings import Endings
from .errors import BrokenOff, NeverSent, UpstreamError
from .events import NO_ANSWER, UNREADABLE
from .metrics import UPSTREAM_ERRORS
from .pool import Pool, Upstream
from .records import Record
from .telling import Begun, Telling, nothing
from .upstream import Answer


class Relay(Telling):
    """One call, at one upstream after the other until something of its answer was passed on.

    One that works for a flight folds the answer, and publishes its events there.
    """

    def __init__(
        self, errand: Errand, pool: Pool, endings: Endings, record: Record, flight: Flight | None = None
    ) -> None:
        super().__init__(errand, endings, record)
        self.pool = pool
        self.flight = flight
        self.folds = flight is not None or not errand.asked.call.stream
        self.answer: dict[str, Any] = {}  # the whole one, once it is folded
        self.attempt: Attempt | None = None  # the last one
        self._tried: list[Upstream] = []
        self._broke_off = False
        self._held: Portion = []  # events that are published once the answer has begun
        endings.push_async_callback(self._count_rest)

    # -- attempts ------------------------------------------------------------------------------------------------

    async def _begin(self) -> Begun:
        """Ask whichever upstream gives an answer.

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
        self.reader = self.record.reader = self.errand.new_reader()
        self.record.first_token_at = None
        self._held = []
        if self.flight:
            self.flight.restart()
        portions = self.attempt.portions(answer, self.reader)
        opened.push_async_callback(portions.aclose)
        take = self._folded if self.folds else self._passed_on
        while not (part := take(await anext(portions))):
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
        if self.flight and self.flight.was_heard:
            raise exc
        if not self.pool.fit(self.errand.asked.model, self._tried):
            raise exc
        UPSTREAM_ERRORS.labels(upstream.name, exc.code).inc()

    async def _count_rest(self) -> None:
        if self.attempt and self.record.reader:
            await self.attempt.count_rest(self.record.reader)

    # -- folding -------------------------------------------------------------------------------------------------

    def _folded(self, events: Portion) -> bytes:
        """The answer, once these were the last events of it; nothing before."""
        begun = [False]
        try:
            for number, event in enumerate(events):
                try:
                    begun.append(self.reader.fold(event))
                except GatewayError:
                    self._publish(events[:number], has_begun=any(begun))
                    raise
            self._publish(events, has_begun=any(begun))
            self._note(events, has_begun=any(begun))
            if not self._is_over:
                return b""
            if not self.reader.is_complete:
                raise BrokenOff("The llama-server ended its answer without a finish reason.")
            self.answer = self.reader.answer
            return orjson.dumps(self.answer)
        except UNREADABLE as exc:
            raise UpstreamError(NO_ANSWER) from exc

    def _publish(self, events: Portion, *, has_begun: bool) -> None:
        """Tell those who follow. Until the answer has begun, another upstream may still give it."""
        if self.flight:
            self._held += events
            if self._held and (has_begun or self.record.first_token_at is not None):
                self.flight.publish(self._held)
                self._held = []

    async def _unstreamed(self, answer: Answer) -> bytes:
        self.answer = await answer.whole()
        try:
            self.answer.pop("timings", None)
            self.record.known = self.errand.endpoint.count(self.answer)
        except UNREADABLE as exc:
            raise UpstreamError(NO_ANSWER) from exc
        self.record.first_token()
        return orjson.dumps(self.answer)

    @contextmanager
    def _counting_faults(self) -> Iterator[None]:
        try:
            yield
        except GatewayError as exc:
            if self.attempt is not None and exc.status >= 500:
                UPSTREAM_ERRORS.labels(self.attempt.upstream.name, exc.code).inc()
            raise
