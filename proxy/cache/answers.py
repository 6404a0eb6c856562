"""The cache of answers, as calls use it: look, then lead or follow a flight, and keep what came of it."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from time import time
from typing import Any

from accounts.errors import GatewayError
from proxy.endings import cancelled

from . import AnswerStore, Kept, Turn
from .flights import Flight

logger = logging.getLogger(__name__)


@dataclass(slots=True, eq=False)
class Seat:
    """A call's place in a flight, until it is given back. With a `turn` its answer is kept, if it leads."""

    key: str
    flight: Flight
    leads: bool
    turn: Turn | None = None
    is_taken: bool = True


@dataclass(frozen=True, slots=True)
class Computed:
    """What came of the leader's work: the answer as it is told again, and whether it may be kept."""

    answer: bytes
    may_be_kept: bool


class AnswerCache:
    def __init__(self, store: AnswerStore) -> None:
        self.store = store
        self._flights: dict[str, Flight] = {}
        self._closing: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        await self.store.start()

    async def stop(self) -> None:
        """End the flights that are still under way, and leave the store."""
        for flight in list(self._flights.values()):
            if flight.task is not None:
                await cancelled(flight.task)
        await self.store.stop()

    async def look(self, key: str) -> Kept | Seat:
        """The answer, or a seat in the flight that brings it. Whoever gets a seat gives it back."""
        flight = self._flights.get(key)
        if flight is not None:
            return self._seat(key, flight, leads=False)
        flight = self._flights[key] = Flight()
        seat = self._seat(key, flight, leads=True)
        try:
            found = await self.store.look(key)
        except BaseException:  # the client has left, as a rule
            await self.give_back(seat)
            raise
        if isinstance(found, Kept):
            self._land(key, flight, found)
            return found
        seat.turn = found
        if found is None:
            seat.leads = False
            self._begin(seat, self._wait(key, flight))
        return seat

    def alone(self) -> Seat:
        """A seat in a flight that nobody else boards, and whose answer is not kept."""
        return self._seat("", Flight(), leads=True)

    async def anew(self, key: str) -> Seat:
        """The same, but its answer takes the place of what is kept."""
        turn = await self.store.begin(key)
        seat = self._seat(key, Flight(), leads=True)
        seat.turn = turn
        return seat

    def lead(self, seat: Seat, compute: Callable[[Flight], Awaitable[Computed]], ttl: float) -> None:
        """Begin the work of a flight. It publishes its events on the flight, and gives the answer."""
        self._begin(seat, self._work(seat, compute, ttl))

    async def give_back(self, seat: Seat) -> None:
        """Leave a flight; a leader does so before its work has begun, or when it has ended."""
        if not seat.is_taken:
            return
        seat.is_taken = False
        seat.flight.leave()
        if seat.leads and seat.flight.task is None:
            turn, seat.turn = seat.turn, None
            await self._end_turn(turn, failed=False)
            self._land(seat.key, seat.flight, None)

    async def end_lead(self, seat: Seat) -> None:
        """The leader leaves. Its call is not over before its work is: whoever else is aboard has that go on."""
        await self.give_back(seat)
        if seat.flight.task is not None:
            await asyncio.wait({seat.flight.task})

    # -- the work ------------------------------------------------------------------------------------------------

    def _seat(self, key: str, flight: Flight, *, leads: bool) -> Seat:
        flight.board()
        return Seat(key, flight, leads)

    def _begin(self, seat: Seat, work: Coroutine[Any, Any, None]) -> None:
        seat.flight.task = asyncio.create_task(work, name="cache")
        seat.flight.task.add_done_callback(lambda _: self._ended(seat))

    def _ended(self, seat: Seat) -> None:
        """Land a flight whose work was ended before its first step, which leaves no trace otherwise."""
        if not seat.flight.landed.is_set():
            self._land(seat.key, seat.flight, None)
            self._closing.add(task := asyncio.create_task(self._end_turn(seat.turn, failed=False), name="cache"))
            task.add_done_callback(self._closing.discard)

    async def _work(self, seat: Seat, compute: Callable[[Flight], Awaitable[Computed]], ttl: float) -> None:
        """A turn is over before those who follow are told of a failure: they look again at once."""
        key, flight, turn = seat.key, seat.flight, seat.turn
        try:
            computed = await compute(flight)
        except asyncio.CancelledError:
            await self._end_turn(turn, failed=False)
            raise
        except Exception as exc:
            if not isinstance(exc, GatewayError):
                logger.exception("A shared call failed.")
            await self._end_turn(turn, failed=True)
            self._land(key, flight, exc if isinstance(exc, GatewayError) else GatewayError())
        else:
            flight.land(Kept(computed.answer, time()))
            if turn is not None and computed.may_be_kept:
                await self.store.keep(turn, computed.answer, ttl)
            else:
                await self._end_turn(turn, failed=True)
        finally:
            self._land(key, flight, None)

    async def _end_turn(self, turn: Turn | None, *, failed: bool) -> None:
        if turn is not None:
            await self.store.leave(turn, failed=failed)

    async def _wait(self, key: str, flight: Flight) -> None:
        """Wait for the answer that another worker computes."""
        kept = None
        try:
            kept = await self.store.wait(key)
        finally:
            self._land(key, flight, kept)

    def _land(self, key: str, flight: Flight, outcome: Kept | GatewayError | None) -> None:
        """The flight is over, and the next call looks for itself."""
        if self._flights.get(key) is flight:
            del self._flights[key]
        flight.land(outcome)
