"""Redis, and what a worker does while Redis is gone.

Every worker mirrors its own grants, and knows from heartbeats how many workers there are. Without Redis it goes by
STORE_DOWN_POLICY: `local` gives each worker its share of every limit, `allow` admits everybody, `deny` nobody. Once
Redis answers again it is first told what it missed: one that kept its memory, what was admitted meanwhile; a new
memory, all that the mirrors hold. Days and months are read from the ledger again.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress

from accounts.errors import StoreUnavailable
from proxy.endings import cancelled

from . import Claim, Grant, Lost, Meter, Store, Verdict
from .connection import StoreDown
from .journal import Journal
from .memory import MemoryStore
from .redis import RedisStore
from .shares import Share, fits, whole
from .wire import member_of

logger = logging.getLogger(__name__)

BEAT = 0.5  # seconds between two heartbeats, and between two tries to reach Redis
RENEW_EVERY = 5.0  # seconds

ROUNDS = 3  # times that Redis is told what it missed before it is trusted; the rest is told when it is
OTHERS_TELL = 1.5  # seconds that a new memory is given until all workers have told it what they know

POLICIES = ("local", "deny", "allow")
TOO_SMALL = "Limits are counted by each worker alone at the moment, too little for this call. Try again shortly."


class GuardedStore(Store):
    """A RedisStore that is always answered for. `workers` is how many there are before any heartbeat told.

    `changed` is told whether Redis is there, whenever that changes.
    """

    def __init__(self, shared: RedisStore, policy: str, workers: int, changed: Callable[[bool], None]) -> None:
        self.shared = shared
        self.policy = policy
        self.changed = changed
        self.is_up = False
        self.share = Share(workers, workers - 1)
        self.mirror = MemoryStore(shared.clock, member_of)  # own grants, in whatever way they came about
        self.journal = Journal(shared)  # what Redis does not know of them
        self._epoch: str | None = None
        self._renewed_at = 0.0
        self._trusted_from = 0.0  # on the loop's clock
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._undoing: set[asyncio.Task[None]] = set()

    def clock(self) -> float:
        return self.shared.clock()

    @property
    def admits(self) -> bool:
        return self.is_up or self.policy != "deny"

    # -- calls ---------------------------------------------------------------------------------------------------

    async def admit(self, claim: Claim) -> Verdict:
        if self.is_up:
            try:
                verdict = await self.shared.admit(claim)
            except StoreDown as exc:
                self.journal.doubted(claim)
                self._down(exc)
            except asyncio.CancelledError:  # the client has left, and Redis may admit its call
                self._undoing.add(task := asyncio.create_task(self._undo(claim), name="store"))
                task.add_done_callback(self._undoing.discard)
                raise
            else:
                if verdict.grant:
                    self.mirror.record(verdict.grant)
                return verdict
        return await self._admit_alone(claim)

    async def settle(self, grant: Grant, tokens: int, requests: int = 1) -> None:
        await self.mirror.settle(grant, tokens, requests)
        if self.is_up and not self.journal.holds(grant):
            try:
                await self.shared.settle(grant, tokens, requests)
            except StoreDown as exc:
                self._down(exc)
            else:
                return
        await self.journal.settled(grant, tokens, requests)

    async def learn(self, account: str, uses: Mapping[Meter, int], read_at: float, since: float | None = None) -> None:
        if self.is_up:
            with suppress(StoreDown):
                await self.shared.learn(account, uses, read_at, since)
        else:
            await self.mirror.learn(account, uses, read_at, since)

    async def note(self, account: str, lost: Sequence[Lost]) -> None:
        with suppress(StoreDown):
            await self.shared.note(account, lost)

    async def read(self, account: str, meters: Sequence[Meter]) -> Verdict:
        if self.is_up:
            try:
                return await self.shared.read(account, meters)
            except StoreDown as exc:
                self._down(exc)
        if self.policy == "deny":
            raise StoreUnavailable
        return await self.mirror.read(account, meters)

    async def _undo(self, claim: Claim) -> None:
        try:
            await self.shared.cancel(claim)
        except StoreDown:
            self.journal.doubted(claim)

    # -- alone ---------------------------------------------------------------------------------------------------

    async def _admit_alone(self, claim: Claim) -> Verdict:
        if self.policy == "deny":
            raise StoreUnavailable("Limits cannot be checked at the moment. Try again shortly.")
        if self.policy == "allow":
            now = self.clock()
            grant = Grant(claim, now, claim.most, member_of(claim.lease, now, claim.most))
            self.mirror.record(grant)
            verdict = Verdict(grant, (await self.mirror.read(claim.account, claim.meters)).readings)
        else:
            verdict = await self._admit_share(claim)
        if verdict.grant:
            self.journal.granted(verdict.grant)
        return verdict

    async def _admit_share(self, claim: Claim) -> Verdict:
        """Admit what this worker's share of every limit has room for."""
        shared = [self._shared(claim.account, meter) for meter in claim.meters]
        most_at_once = None if claim.max_concurrent is None else self.share.of(claim.max_concurrent)
        if most_at_once == 0 and claim.max_concurrent:
            raise StoreUnavailable(TOO_SMALL)
        verdict = await self.mirror.admit(claim._replace(meters=tuple(shared), max_concurrent=most_at_once))
        meters = dict(zip(shared, claim.meters, strict=True))
        refusing = meters[verdict.refused_by] if verdict.refused_by else None
        if refusing and verdict.retry_after is None and fits(claim, refusing):
            raise StoreUnavailable(TOO_SMALL)
        return verdict._replace(
            grant=verdict.grant and verdict.grant._replace(claim=claim),
            refused_by=refusing,
            readings=tuple(whole(reading, meters[reading.meter]) for reading in verdict.readings),
            unknown=tuple(meters[meter] for meter in verdict.unknown),
            stale=tuple((meters[meter], since) for meter, since in verdict.stale),
        )

    def _shared(self, account: str, meter: Meter) -> Meter:
        held = self.mirror.accounts.get(account)
        count = held.counts.get(meter.name) if held else None
        return self.share.of_meter(meter, count.base if count else 0)

    # -- there and gone ------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Reach Redis, and then keep in touch. Where it cannot be reached it starts all the same, and says so."""
        await self._turn()
        if not self.is_up:
            logger.error("Redis cannot be reached; policy: %s, as one of %d.", self.policy, self.share.workers)
            self.changed(False)
        self._task = asyncio.create_task(self._run(), name="store")

    async def stop(self) -> None:
        """Tell Redis the last things. What it cannot be told now stays charged there as it was reserved."""
        if self._task is not None:
            await cancelled(self._task)
        with suppress(StoreDown):
            await self.journal.send()
            await self.shared.leave()
        if not self.journal.is_empty:
            logger.error("Redis could not be told how calls ended, and counts them as they were reserved.")
        await self.shared.stop()

    async def _run(self) -> None:
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(BEAT):
                    await self._wake.wait()
            self._wake.clear()
            try:
                await self._turn()
            except Exception:  # the heart must outlive whatever is wrong with one beat
                logger.exception("A heartbeat of the store failed.")

    async def _turn(self) -> None:
        """One heartbeat, or one try to come back to Redis."""
        try:
            if not self.shared.is_open:
                await self.shared.start()
            pulse = await self.shared.beat()
            if self._epoch not in (None, pulse.epoch):
                self._down(StoreDown("it has lost what it counted"))
                self.journal.begin_anew(self.mirror)
                self._trusted_from = self._now() + OTHERS_TELL
            self._epoch = pulse.epoch
            if self.shared.worker in pulse.workers:
                self.share = Share(len(pulse.workers), pulse.workers.index(self.shared.worker))
            await self._renew()
            await self._tell()
        except StoreDown as exc:
            self._down(exc)
            await self.shared.stop()

    async def _renew(self) -> None:
        """Keep leases from lapsing: now and then, and at once when Redis is back."""
        if not self.is_up or self._now() - self._renewed_at >= RENEW_EVERY:
            self._renewed_at = self._now()
            await self.shared.renew({name: account.running for name, account in self.mirror.accounts.items()})

    async def _tell(self) -> None:
        """Tell Redis what it does not know, and then trust it."""
        for _ in range(ROUNDS):
            if self.journal.is_empty:
                break
            await self.journal.send()
        if not self.is_up and self._now() >= self._trusted_from:
            self.is_up = True
            level = logging.WARNING if self._task else logging.INFO  # a start is no news
            logger.log(level, "Redis counts the limits, of %d workers together.", self.share.workers)
            self.changed(True)
            await self.journal.send()

    def _down(self, reason: StoreDown) -> None:
        if self.is_up:
            self.is_up = False
            self.mirror.forget_calendars()
            workers = self.share.workers
            logger.error("Redis cannot be relied on (%s); policy: %s, as one of %d.", reason, self.policy, workers)
            self.changed(False)
            self._wake.set()

    @staticmethod
    def _now() -> float:
        return asyncio.get_running_loop().time()
