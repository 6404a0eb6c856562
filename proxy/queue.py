"""The queue: calls wait here for a slot of an upstream, never in a llama-server, whose own queue nobody can leave.

`SlotQueue.lease` is the one way to a slot: it is given what a call wants, and awaits its place. Who is served first is
the rank of its ticket, by arrival; which upstream serves it, `slots.least_loaded`.
"""

import asyncio
import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import count
from time import monotonic, time

from .errors import Overloaded, StillLoading, Stopping, UpstreamUnavailable
from .members import Lease, Member
from .metrics import QUEUE_DEPTH, QUEUE_WAIT, REJECTIONS
from .pool import Pool
from .service import Service
from .slots import Slots, Ticket

logger = logging.getLogger(__name__)

LONGEST_ADVICE = 600  # seconds that anybody is told to wait


@dataclass(slots=True, eq=False)
class Want:
    """What a call wants: a slot at an upstream that serves its model, within `limit` seconds of waiting in all.

    One that comes again, since an upstream failed, has the place in line that it had.
    """

    model: str
    limit: float
    tier: str
    tried: list[Member] = field(default_factory=list)
    waited: float = 0.0  # seconds
    sent: int = 0  # how many upstreams the call has reached
    rank: int | None = None


@dataclass(slots=True, eq=False)
class Waiting:
    want: Want
    ticket: Ticket
    slot: "asyncio.Future[str]"  # an upstream's URL


class SlotQueue:
    """Calls in line, and the leases of those that run. All of its state belongs to the event loop."""

    def __init__(self, pool: Pool, slots: Slots, worker: str) -> None:
        self.pool = pool
        self.slots = slots
        self.is_closing = False
        self._worker = worker
        self._numbers = count()
        self._waiting: dict[str, Waiting] = {}  # by ticket, in order of arrival
        self._services: dict[str, Service] = {}  # by model
        self._asking: asyncio.Task[None] | None = None
        self._is_stale = False  # what those who wait have asked for
        slots.granted = self._granted
        slots.lost = self.ask_again
        pool.changed = self.ask_again

    async def lease(self, want: Want) -> Lease:
        """A slot for a call, as soon as it is its turn.

        Raises Overloaded where that takes longer than it may wait, at once if that can be told, and UpstreamUnavailable
        where no upstream can take it, now or soon.
        """
        while (lease := await self._turn(want)) is None:
            pass
        return lease

    async def _turn(self, want: Want) -> Lease | None:
        """Stand in line, once. None where the upstream went away in the moment that it would have taken the call."""
        name = f"{self._worker}:{next(self._numbers)}"
        ticket = Ticket(name, want.model, self._places(want), want.rank, time())
        waiting = self._waiting[name] = Waiting(want, ticket, asyncio.get_running_loop().create_future())
        began = monotonic()
        try:
            self._check_hope(waiting)
            ahead = await self.slots.ask(ticket)
            want.rank = ticket.rank
            if not waiting.slot.done():
                await self._wait(waiting, ahead)
            lease = self._begun(waiting, waiting.slot.result())
            if lease is None:
                self._give_up(waiting)
                return None
            QUEUE_WAIT.labels(want.tier).observe(want.waited + monotonic() - began)
            return lease
        except BaseException:
            self._give_up(waiting)
            raise
        finally:
            del self._waiting[name]
            want.waited += monotonic() - began

    def close(self) -> None:
        """From now on nobody waits: a call gets a slot that is free, or none."""
        self.is_closing = True
        for waiting in list(self._waiting.values()):
            refuse(waiting, Stopping())

    def ask_again(self) -> None:
        """Look at all who wait once more: other upstreams may take them now, or the line that they stood in is lost."""
        self._is_stale = True
        if self._waiting and (self._asking is None or self._asking.done()):
            self._asking = asyncio.create_task(self._ask_again(), name="queue")

    def visit(self, want: Want) -> Lease:
        """An upstream for a question that needs no slot: the one with the fewest calls. Raises UpstreamUnavailable."""
        fit = self.pool.fit(want.model, want.tried)
        if not fit:
            raise UpstreamUnavailable
        return Lease(min(fit, key=lambda member: (member.circuit.is_doubted, member.in_flight)))

    # -- waiting -------------------------------------------------------------------------------------------------

    def _places(self, want: Want) -> Mapping[str, int]:
        return {member.url: member.capacity for member in self.pool.fit(want.model, want.tried)}

    def _check_hope(self, waiting: Waiting) -> None:
        if not self.pool.may_serve(waiting.want.model, waiting.want.tried):
            raise UpstreamUnavailable

    async def _wait(self, waiting: Waiting, ahead: int) -> None:
        """Wait in line. Whoever has a slot meanwhile, or is refused one, is told by the future."""
        want = waiting.want
        left = want.limit - want.waited
        estimate = self._estimate(want, ahead)
        if self.is_closing:
            raise Stopping
        if left <= 0 and not self._places(want):
            raise UpstreamUnavailable(StillLoading.sentence)
        if estimate > left or left <= 0:
            REJECTIONS.labels("queue_full", want.tier).inc()
            sentence = "All slots are busy, and a call would have to wait for longer than it may."
            raise Overloaded(f"{sentence} Try again in {advice(estimate)} s.", retry_after=advice(estimate))
        depth = QUEUE_DEPTH.labels(want.model)
        depth.inc()
        try:
            async with asyncio.timeout(left):
                await waiting.slot
        except TimeoutError as exc:
            raise self._too_long(waiting) from exc
        finally:
            depth.dec()

    def _too_long(self, waiting: Waiting) -> Exception:
        want = waiting.want
        REJECTIONS.labels("queue_timeout", want.tier).inc()
        if not self.pool.fit(want.model, want.tried):
            return UpstreamUnavailable(f"The llama-server was still loading its model after {want.limit:g} s.")
        wait = advice(self._estimate(want, 0))
        return Overloaded(f"No slot was free within {want.limit:g} s. Try again in {wait} s.", retry_after=wait)

    def _estimate(self, want: Want, ahead: int) -> float:
        """Seconds until it would be the turn of a call with so many before it."""
        service = self._services.get(want.model)
        slots = sum(member.slots for member in self.pool.fit(want.model))
        return service.wait(ahead, slots, monotonic()) if service and slots else 0.0

    async def _ask_again(self) -> None:
        while self._is_stale:
            self._is_stale = False
            await asyncio.gather(*(self._ask_once_more(waiting) for waiting in self._waiting.values()))

    async def _ask_once_more(self, waiting: Waiting) -> None:
        """Ask for a call that waits. All ask at once, so that no newer call is asked for between them."""
        if waiting.slot.done() or waiting.ticket.name not in self._waiting:
            return
        try:
            self._check_hope(waiting)
        except UpstreamUnavailable as exc:
            refuse(waiting, exc)
            return
        waiting.ticket.places = self._places(waiting.want)
        try:
            await self.slots.ask(waiting.ticket)
        except Exception:  # one fault must not keep the others from being asked for
            logger.exception("A call that waits could not be put in line again.")
        if waiting.ticket.name not in self._waiting and not slot_of(waiting):  # it left meanwhile
            self.slots.leave(waiting.ticket)

    # -- slots ---------------------------------------------------------------------------------------------------

    def _granted(self, name: str, url: str) -> None:
        waiting = self._waiting.get(name)
        if waiting is None or (waiting.slot.done() and slot_of(waiting) != url):  # it has left, or has another one
            self.slots.release(name, url)
        elif waiting.slot.done():  # told twice
            return
        elif self._member(url) is None:  # it went away in this moment
            asyncio.get_running_loop().call_soon(self._hand_back, name, url)
        else:
            waiting.slot.set_result(url)

    def _hand_back(self, name: str, url: str) -> None:
        """Give back a slot that its call cannot use. The call is in no line any more, so it is asked for again."""
        self.slots.release(name, url)
        self.ask_again()

    def _member(self, url: str) -> Member | None:
        return next((member for member in self.pool.enabled if member.url == url and member.is_up), None)

    def _give_up(self, waiting: Waiting) -> None:
        if url := slot_of(waiting):
            self.slots.release(waiting.ticket.name, url)
        else:
            self.slots.leave(waiting.ticket)

    def _begun(self, waiting: Waiting, url: str) -> Lease | None:
        want, name, began = waiting.want, waiting.ticket.name, monotonic()
        member = self._member(url)
        if member is None:
            return None
        service = self._services.setdefault(want.model, Service())
        service.begin(began)
        member.in_flight += 1

        def give_back() -> None:
            service.end(began, monotonic())
            member.in_flight -= 1
            self.slots.release(name, url)

        return Lease(member, give_back)


def slot_of(waiting: Waiting) -> str | None:
    """The upstream that it was granted a slot of, if it was."""
    slot = waiting.slot
    return slot.result() if slot.done() and not slot.cancelled() and slot.exception() is None else None


def refuse(waiting: Waiting, error: Exception) -> None:
    if not waiting.slot.done():
        waiting.slot.set_exception(error)
        waiting.slot.exception()  # seen, also where whoever waited has left


def advice(seconds: float) -> int:
    """What Retry-After says."""
    return min(max(1, math.ceil(seconds)), LONGEST_ADVICE)
