"""A call whose answer is shared: told from what was kept, or aboard a flight that it leads or follows."""

import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from accounts.errors import GatewayError

from .attempts import Errand, Portion
from .cache import Kept, Result
from .cache.answers import AnswerCache, Computed, Seat
from .cache.flights import Abandoned, Flight
from .endings import Endings
from .errors import UpstreamError, UpstreamUnavailable
from .events import NO_ANSWER, UNREADABLE
from .queue import SlotQueue
from .records import Record
from .relay import Relay
from .replays import Replay, new_id
from .telling import Begun, Telling, nothing
from .usage import Usage

ID = re.compile(rb'"id":"([a-z]+[-_])?[^"]*"')


class Replaying(Telling):
    """One that can tell an answer that was kept. What that is charged is its `price`."""

    def __init__(self, errand: Errand, endings: Endings, record: Record, price: Usage) -> None:
        super().__init__(errand, endings, record)
        self.price = price

    def _told(self, kept: Kept) -> Begun:
        """All of it at once, as this caller asked for it."""
        self.record.first_token()
        self.record.known = self.price
        self._is_over = True
        asked = self.errand.asked
        tell = self._replay.stream if asked.call.stream else self._replay.whole
        return tell(kept.answer, asked), nothing()

    @property
    def _replay(self) -> Replay:
        assert self.errand.endpoint.replay is not None
        return self.errand.endpoint.replay


class Hit(Replaying):
    """A call whose answer was kept: all of it is there, of a stream as well."""

    def __init__(self, errand: Errand, endings: Endings, record: Record, price: Usage, kept: Kept) -> None:
        super().__init__(errand, endings, record, price)
        self.kept = kept

    async def _begin(self) -> Begun:
        return self._told(self.kept)


@dataclass(frozen=True, slots=True)
class Terms:
    """What a call that shares its answer goes by.

    `granted` is what it may ask an upstream for, if it leads. `readmit` has one that was admitted to follow admitted
    anew, to lead, and gives that; it raises what refuses it. `is_current` says whether the model is still served as it
    was when the call looked. It waits for a slot for `limit` seconds, and an answer is kept for `ttl`.
    """

    queue: SlotQueue
    cache: AnswerCache
    granted: Errand
    readmit: Callable[[], Awaitable[Errand]]
    is_current: Callable[[], bool]
    limit: float
    ttl: float


class Sharing(Replaying):
    """A call aboard a flight, whose errand is that of all aboard."""

    def __init__(
        self, errand: Errand, endings: Endings, record: Record, price: Usage, seat: Seat, terms: Terms
    ) -> None:
        super().__init__(errand, endings, record, price)
        self.seat = seat
        self.terms = terms
        self.granted = terms.granted
        self._own = b""  # the whole answer, where this call led
        self._id: tuple[bytes, bytes] | None = None  # the leader's, and the one that is told instead
        self._tried_again = False

    @property
    def length(self) -> int | None:
        return self.granted.asked.length if self.seat.leads else super().length

    async def _begin(self) -> Begun:
        """Lead or follow. Where a flight fails for no fault of the call, those aboard try one more, together."""
        if self.seat.leads:
            await self._lead()
        while True:
            try:
                return await self._followed()
            except Abandoned as exc:
                if self.seat.leads:  # the gateway stops
                    raise UpstreamUnavailable from exc
            except GatewayError as exc:
                if self.seat.leads or exc.status < 500 or self._tried_again:
                    raise
                self._tried_again = True
            if kept := await self._look_again():
                return self._told(kept)

    # -- following -----------------------------------------------------------------------------------------------

    async def _followed(self) -> Begun:
        flight = self.seat.flight
        if self.errand.asked.call.stream:
            self.reader = self.errand.new_reader()
            portions = flight.portions()
            self.endings.push_async_callback(portions.aclose)
            async for events in portions:
                if part := self._passed_on(events):
                    if not self.seat.leads:
                        self.record.known = self.price
                    return part, portions
        kept = await flight.outcome()
        return (self._own, nothing()) if self._own else self._told(kept)

    def _passed_on(self, events: Portion) -> bytes:
        return super()._passed_on(events if self.seat.leads else self._renamed(events))

    def _renamed(self, events: Portion) -> Portion:
        """The leader's events, under an id of this call's own."""
        if self._id is None and (found := ID.search(b"".join(events))):
            self._id = found[0], b'"id":"%s"' % new_id((found[1] or b"").decode()).encode()
        return [event.replace(*self._id) for event in events] if self._id else events

    async def _look_again(self) -> Kept | None:
        await self.terms.cache.give_back(self.seat)
        found = await self.terms.cache.look(self.seat.key)
        if isinstance(found, Kept):
            return found
        self.seat, self._id = found, None
        self.endings.push_async_callback(self.terms.cache.give_back, found)
        if found.leads:
            self.granted = await self.terms.readmit()
            self.record.cache = Result.MISS
            await self._lead()
        return None

    # -- leading -------------------------------------------------------------------------------------------------

    async def _lead(self) -> None:
        """Begin the work. Where less was granted than the others asked for, they have to do without this answer."""
        if self.granted.body != self.errand.body:
            await self.terms.cache.give_back(self.seat)
            self.seat = self.terms.cache.alone()
            self.errand = self.granted
            self.record.cache = Result.BYPASS
        self.endings.push_async_callback(self.terms.cache.end_lead, self.seat)
        self.terms.cache.lead(self.seat, self._computed, self.terms.ttl)

    async def _computed(self, flight: Flight) -> Computed:
        endings = Endings()
        relay = Relay(self.errand, self.terms.queue, endings, self.record, self.terms.limit, flight)
        try:
            whole = await relay.whole()
        finally:
            await endings.unwind()
        if not self.errand.asked.call.stream:
            self._own = whole
        try:
            may_be_kept = self._replay.is_complete(relay.answer) and self.terms.is_current()
            return Computed(self._replay.kept(relay.answer), may_be_kept)
        except UNREADABLE as exc:
            raise UpstreamError(NO_ANSWER) from exc
