"""The way of an admitted call: to an upstream, or another, and its answer back, event by event or folded into one."""

import asyncio
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager
from functools import partial
from typing import Any

import orjson

from accounts.errors import GatewayError

from .attempts import Attempt, Errand, Portion
from .cache.flights import Flight
from .endings import Endings
from .errors import BrokenOff, NeverSent, StillLoading, UpstreamError, UpstreamTimeout
from .events import NO_ANSWER, UNREADABLE
from .members import Lease
from .metrics import UPSTREAM_ERRORS
from .queue import SlotQueue, Want
from .records import Record
from .telling import Begun, Telling, nothing
from .upstream import Answer

AFTER_LEAVING = 0.03  # seconds until a llama-server has noticed that it was left: 22 ms were seen


class Relay(Telling):
    """One call, at one upstream after the other until something of its answer was passed on.

    One that works for a flight folds the answer, and publishes its events there.
    """

    def __init__(
        self,
        errand: Errand,
        queue: SlotQueue,
        endings: Endings,
        record: Record,
        limit: float,
        flight: Flight | None = None,
    ) -> None:
        super().__init__(errand, endings, record)
        self.queue = queue
        self.pool = queue.pool
        self.want = record.want = Want(errand.asked.model, limit, record.tier)
        self.flight = flight
        self.folds = flight is not None or not errand.asked.call.stream
        self.answer: dict[str, Any] = {}  # the whole one, once it is folded
        self.attempt: Attempt | None = None  # the last one
        self._lease: Lease | None = None  # its slot
        self._broke_off = False
        self._held: Portion = []  # events that are published once the answer has begun
        endings.push_async_callback(self._count_rest)

    # -- attempts ------------------------------------------------------------------------------------------------

    async def _begin(self) -> Begun:
        """Ask whichever upstream gives an answer.

        Raises Overloaded where none has a slot in time, UpstreamUnavailable where none is left, and what the one that
        took the call says against it.
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
        self._is_over = False
        takes_slot = self.errand.endpoint.takes_slot
        lease = self._lease = await self.queue.lease(self.want) if takes_slot else self.queue.visit(self.want)
        opened.push(partial(self._leave, lease))
        self.attempt = Attempt(self.errand, lease.member, self.pool.client)
        self.record.upstream = lease.member.name
        self.want.sent += 1
        answer = await self._posted(self.attempt)
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

    async def _posted(self, attempt: Attempt) -> Answer:
        """An answer that has begun. Whatever a llama-server says, even no, is a sign of life."""
        try:
            answer = await attempt.post()
        except (NeverSent, BrokenOff, UpstreamTimeout):
            raise
        except GatewayError:
            self.pool.answered(attempt.member)
            raise
        self.pool.answered(attempt.member)
        return answer

    def _give_up_on(self, exc: NeverSent | BrokenOff) -> None:
        """Note which upstream failed, and raise where the call may not go on to another.

        A call that was never sent may; one that an upstream broke off may once, or it could break them all.
        """
        assert self.attempt is not None
        member = self.attempt.member
        if not isinstance(exc, StillLoading):
            self.want.tried.append(member)
        if isinstance(exc, NeverSent):
            self.want.sent -= 1
            self.pool.turned_away(member, exc)
        elif self._broke_off:
            raise exc
        else:
            self._broke_off = True
        if self.flight and self.flight.was_heard:
            raise exc
        if not self.pool.may_serve(self.want.model, self.want.tried):
            raise exc
        if isinstance(exc, BrokenOff):
            self.pool.failed(member, str(exc), exc.code)

    def _note(self, events: Portion, *, has_begun: bool) -> None:
        super()._note(events, has_begun=has_begun)
        if self._is_over and self._lease:  # whoever waits for the slot goes first, before this answer is told
            self.pool.ended_well(self._lease.member)
            self._lease.release()

    def _leave(self, lease: Lease, _: Any, exc: BaseException | None, __: Any) -> None:
        """Give the slot back. Where an answer was left, the llama-server has it for a moment more."""
        if self._is_over:
            self.pool.ended_well(lease.member)
        if self._is_over or isinstance(exc, GatewayError):
            lease.release()
        else:
            asyncio.get_running_loop().call_later(AFTER_LEAVING, lease.release)

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
                self._is_over = False
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
        self._is_over = True
        return orjson.dumps(self.answer)

    @contextmanager
    def _counting_faults(self) -> Iterator[None]:
        try:
            yield
        except GatewayError as exc:
            if self.attempt is not None and isinstance(exc, BrokenOff | UpstreamTimeout):
                self.pool.failed(self.attempt.member, str(exc), exc.code)
            elif self.attempt is not None and isinstance(exc, UpstreamError):  # it said so itself, and lives
                UPSTREAM_ERRORS.labels(self.attempt.member.name, exc.code).inc()
            raise
