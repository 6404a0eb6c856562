"""What the relay lane knows of accounts, held in memory, so that a call costs no query and no thread.

Tiers and quotas, and what another app adds to them, are held whole and re-read every second. Callers are held as they
come: an entry older than FRESH is re-read before it is used, by one batched query for all callers that wait at that
moment, and entries in use are re-read ahead of time. So every change of the database, however it was made, holds
within FRESH seconds.

Without the database, callers that are held are served for `max_stale` seconds; others get StoreUnavailable.
All state belongs to the event loop. The one loader thread only reads the database.
"""

import asyncio
import logging
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, NamedTuple

from django.db import close_old_connections

from .callers import Caller, Credential, Policies, load_callers, load_policies
from .errors import StoreUnavailable

logger = logging.getLogger(__name__)

FRESH = 2.0  # seconds that an entry may be used without being re-read
AHEAD = 0.8  # seconds after which an entry in use is re-read ahead of time
TURN = 0.5  # seconds between two turns of the loader
WHOLE_EVERY = 0.9  # seconds between two reads of tiers and quotas
PATIENCE = 2.0  # seconds that a call waits for the loader


@dataclass(slots=True)
class Held:
    """A caller, when it was read and when it was last asked for, in seconds of the snapshot's clock."""

    caller: Caller
    read_at: float
    used_at: float


class Whole(NamedTuple):
    """What is held whole: policies, and whatever `load_extra` read with them."""

    policies: Policies
    extra: Any


class Snapshot:
    """Callers and policies for the event loop that starts it.

    `load_extra` reads more, on the loader's thread, and `take` is told what that was, on the loop, at each reading.
    """

    def __init__(
        self,
        max_stale: float,
        capacity: int = 10_000,
        clock: Callable[[], float] = time.monotonic,
        load_extra: Callable[[], Any] = lambda: None,
        take: Callable[[Any], None] = lambda _: None,
    ) -> None:
        self.max_stale = max_stale
        self.load_extra = load_extra
        self.take = take
        self.capacity = capacity
        self.clock = clock
        self.is_down = False  # the loader's last turn failed
        self._whole: Whole | None = None
        self._whole_read_at = float("-inf")
        self._held: OrderedDict[Credential, Held] = OrderedDict()  # least recently used first
        self._wanted: dict[Credential, asyncio.Future[Caller | None]] = {}
        self._turn_began: float | None = None
        self._wake = asyncio.Event()
        self._reader = ThreadPoolExecutor(1, thread_name_prefix="snapshot")
        self._task: asyncio.Task[None] | None = None

    # -- what calls ask ------------------------------------------------------------------------------------------

    @property
    def age(self) -> float:
        """Seconds since tiers and quotas were last read; infinite before the first time."""
        return self.clock() - self._whole_read_at

    @property
    def whole(self) -> Whole:
        if self._whole is None or self.age > self.max_stale:
            raise StoreUnavailable
        return self._whole

    @property
    def policies(self) -> Policies:
        return self.whole.policies

    async def caller(self, credential: Credential) -> Caller | None:
        """Whose credential it is, at most FRESH seconds old; None where the database knows none such."""
        held = self._held.get(credential)
        now = self.clock()
        if held is not None:
            held.used_at = now
            self._held.move_to_end(credential)
            if now - held.read_at <= FRESH:
                return held.caller
        if held is None or not (self.is_down or self._is_stuck(now)):
            with suppress(TimeoutError, StoreUnavailable):
                return await self._read(credential)
        if held is not None and now - held.read_at <= self.max_stale:
            return held.caller
        raise StoreUnavailable

    def _is_stuck(self, now: float) -> bool:
        """The database hangs: the turn that is under way should long have ended."""
        return self._turn_began is not None and now - self._turn_began > PATIENCE

    async def _read(self, credential: Credential) -> Caller | None:
        if credential not in self._wanted:
            self._wanted[credential] = asyncio.get_running_loop().create_future()
        self._wake.set()
        async with asyncio.timeout(PATIENCE):
            return await asyncio.shield(self._wanted[credential])

    # -- the loader ----------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Read tiers and quotas, then keep reading. Without a database it starts all the same, and says so."""
        with suppress(TimeoutError):
            async with asyncio.timeout(PATIENCE):
                await self._turn()
        self._task = asyncio.create_task(self._run(), name="snapshot")

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task
        self._reader.shutdown(wait=False, cancel_futures=True)

    async def _run(self) -> None:
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(TURN):
                    await self._wake.wait()
            self._wake.clear()
            await self._turn()

    async def _turn(self) -> None:
        began = self._turn_began = self.clock()
        asked = self._due(began)
        fresh = self._whole if began - self._whole_read_at < WHOLE_EVERY else None
        try:
            whole, callers = await asyncio.wrap_future(self._reader.submit(read, asked, fresh, self.load_extra))
        except Exception as exc:  # the loader must outlive whatever a database can raise
            if not self.is_down:
                logger.error("The database does not answer; known callers are served from memory. %s", exc)
            self.is_down = True
            self._refuse(asked)
            return
        finally:
            self._turn_began = None
        if self.is_down:
            logger.warning("The database answers again.")
        self.is_down = False
        if whole is not fresh:
            self._whole, self._whole_read_at = whole, began
            self.take(whole.extra)
        self._hold(asked, callers, began)

    def _due(self, now: float) -> set[Credential]:
        """Credentials that somebody waits for, and those in use that soon will be too old."""
        due = set(self._wanted)
        for credential, held in reversed(self._held.items()):
            if now - held.used_at > FRESH + TURN:
                break
            if now - held.read_at >= AHEAD:
                due.add(credential)
        return due

    def _hold(self, asked: set[Credential], callers: dict[Credential, Caller], read_at: float) -> None:
        for credential in asked:
            held = self._held.pop(credential, None)
            if caller := callers.get(credential):
                self._held[credential] = Held(caller, read_at, held.used_at if held else read_at)
            if future := self._wanted.pop(credential, None):
                future.set_result(caller)
        while len(self._held) > self.capacity:
            self._held.popitem(last=False)

    def _refuse(self, asked: set[Credential]) -> None:
        for credential in asked & self._wanted.keys():
            future = self._wanted.pop(credential)
            future.set_exception(StoreUnavailable())
            future.exception()  # seen, also where whoever waited has left


def read(
    asked: set[Credential], fresh: Whole | None, load_extra: Callable[[], Any]
) -> tuple[Whole, dict[Credential, Caller]]:
    """One turn of the loader thread: the callers asked for, and policies that know all their tiers."""
    with fresh_connection():
        callers = load_callers(asked)
        if fresh is None or any(caller.tier_id not in fresh.policies.tiers for caller in callers.values()):
            fresh = Whole(load_policies(), load_extra())
        return fresh, callers


@contextmanager
def fresh_connection() -> Iterator[None]:
    """A background thread has no request that would drop a connection once it broke or grew old."""
    close_old_connections()
    try:
        yield
    finally:
        close_old_connections()
