"""Slots in Redis, and what a worker does while Redis is gone: it gives its share of them, at least one of an upstream.

A worker mirrors the slots that its own calls have. So it goes on counting them when Redis goes, and tells Redis of them
when that is back, before it asks for more.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from time import monotonic

from accounts.errors import StoreUnavailable
from proxy.endings import cancelled
from proxy.stores.connection import StoreDown
from proxy.stores.shares import Share

from . import Granted, Slots, Ticket, nobody
from .memory import MemorySlots
from .redis import ALIVE, RedisSlots

logger = logging.getLogger(__name__)

BEAT = 1.0  # seconds between two signs of life, and between two tries to reach Redis
NO_ANSWER = "Redis, which counts the slots, does not answer."
GRACE = 2.5  # seconds in which a Redis that does not answer is waited for: a busy machine may only have been slow


class GuardedSlots(Slots):
    """RedisSlots that are always answered for. `share` is this worker's, at the moment."""

    def __init__(self, shared: RedisSlots, share: Callable[[], Share]) -> None:
        self.shared = shared
        self.share = share
        self.alone = MemorySlots(self._part_of)
        self.granted: Granted = nobody
        self.lost: Callable[[], None] = nobody
        self.is_up = False
        self._beat_at = 0.0
        self._alone_from = 0.0  # of monotonic(): when Redis has been gone for too long
        self._owed: dict[str, str] = {}  # slots that were given back while Redis was gone
        self._tasks: list[asyncio.Task[None]] = []
        shared.granted = self._granted_by_redis
        self.alone.granted = lambda name, url: self.granted(name, url)

    async def start(self) -> None:
        """Reach Redis, and then keep in touch. Where it cannot be reached it starts all the same, and says so."""
        self._alone_from = monotonic() + GRACE
        await self._turn()
        if not self.is_up:
            logger.error("Redis cannot be reached: each worker gives its share of the slots.")
        self._tasks = [asyncio.create_task(self._run(), name="slots")]

    async def stop(self) -> None:
        for task in self._tasks:
            await cancelled(task)
        self.shared.stop()

    # -- calls ---------------------------------------------------------------------------------------------------

    async def ask(self, ticket: Ticket) -> int:
        while self.is_up:  # again, where Redis has gone and come back meanwhile
            try:
                return await self.shared.ask(ticket)
            except StoreDown as exc:
                self._down(exc)
        return self.alone.put(ticket)

    def leave(self, ticket: Ticket) -> None:
        self.alone.leave(ticket)
        if self.is_up:
            self.shared.leave(ticket)

    def release(self, name: str, url: str) -> None:
        self.alone.release(name, url)
        if self.is_up:
            self.shared.release(name, url)
        else:
            self._owed[name] = url

    def _part_of(self, capacity: int) -> int:
        """What this worker gives of an upstream's slots while Redis is gone: at first nothing beyond what it has."""
        return max(1, self.share().of(capacity)) if monotonic() >= self._alone_from else 0

    async def busy(self, urls: Sequence[str]) -> Mapping[str, int]:
        try:
            return await self.shared.busy(urls)
        except StoreDown as exc:
            raise StoreUnavailable(NO_ANSWER) from exc

    async def waiting(self) -> int:
        try:
            return await self.shared.waiting()
        except StoreDown as exc:
            raise StoreUnavailable(NO_ANSWER) from exc

    def _granted_by_redis(self, name: str, url: str) -> None:
        has = self.alone.held.get(name)
        if has is None:
            self.alone.hold(name, url)
            self.granted(name, url)
        elif has != url:  # got while Redis was gone, and still in its line there
            self.shared.release(name, url)

    # -- there and gone ------------------------------------------------------------------------------------------

    async def _run(self) -> None:
        while True:
            listening = asyncio.create_task(self._listen(), name="slots")
            try:
                while not listening.done():
                    await asyncio.wait({listening}, timeout=BEAT)
                    await self._turn()
                await asyncio.sleep(BEAT)
                await self._turn()
            except Exception:  # it must outlive whatever is wrong with one turn
                logger.exception("A heartbeat of the slots failed.")
            finally:
                await cancelled(listening)

    async def _listen(self) -> None:
        try:
            await self.shared.listen()
        except StoreDown as exc:
            self._down(exc)

    async def _turn(self) -> None:
        """One sign of life, or one try to come back to Redis."""
        try:
            if not self.shared.is_open:
                self._down(StoreDown("not connected"))
                await self.shared.start()
            has_kept = await self.shared.beat(self.alone.held.items())
        except StoreDown as exc:
            self._down(exc)
            if self._beat_at < self._alone_from <= monotonic():  # from now on it gives its share
                self._beat_at = monotonic()
                self.lost()
            return
        was_up, is_late = self.is_up, monotonic() - self._beat_at > ALIVE / 1000
        self._beat_at = monotonic()
        if not was_up:
            self.is_up = True
            self.alone.forget_lines()
            for name, url in self._owed.items():
                if self.alone.held.get(name) != url:  # else it has got the same one again
                    self.shared.release(name, url)
            self._owed = {}
            if self._tasks:
                logger.warning("Redis counts the slots again.")
        if not was_up or is_late or not has_kept:
            self.lost()

    def _down(self, reason: StoreDown) -> None:
        if self.is_up:
            self.is_up = False
            self._alone_from = monotonic() + GRACE
            logger.error("Redis does not count the slots (%s): each worker gives its share of them.", reason)
            self.lost()
