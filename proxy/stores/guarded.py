"""Redis, and what a worker does while Redis is gone.

Every worker mirrors its own grants, and knows from heartbeats how many workers there are. Without Redis it goes by
STORE_DOWN_POLICY: `local` gives each worker its share of every limit, `allow` admits everybody, `deny` nobody. Once
Redis answers again it is first told what it missed: from the memory that it had, what was admitted meanwhile; a new
memory, all that the mirrors hold. Days and months it reads from the ledger then.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import NamedTuple

from accounts.errors import StoreUnavailable

from . import Claim, Grant, Meter, Reading, Store, Verdict
from .connection import StoreDown
from .memory import Account, MemoryStore
from .redis import Pulse, RedisStore, lease_of

logger = logging.getLogger(__name__)

BEAT = 0.5  # seconds between two heartbeats, and between two tries to reach Redis
RENEW_EVERY = 5.0  # seconds

POLICIES = ("local", "deny", "allow")


class Settlement(NamedTuple):
    """What Redis was not told of a call that has ended."""

    grant: Grant
    tokens: int
    requests: int


class Parcel(NamedTuple):
    """What Redis is to be told of one account. The mark keeps it from being added twice."""

    name: str
    account: Account
    mark: str


class Share(NamedTuple):
    """A worker's part of every limit: the `rank`th of `workers`."""

    workers: int
    rank: int

    def of(self, limit: int) -> int:
        """As much as all others; the remainder goes to the first ones, one each."""
        return limit // self.workers + (self.rank < limit % self.workers)


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
        self.mirror = self._new_memory()  # own grants, in whatever way they came about
        self._unsent = self._new_memory()  # those that Redis does not know of
        self._parcels: list[Parcel] = []  # the same, on its way, and no more to be changed
        self._doubtful: list[Claim] = []  # those of which nobody knows whether Redis does
        self._unsettled: list[Settlement] = []
        self._epoch: str | None = None
        self._sent = 0  # parcels
        self._renewed_at = 0.0
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

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
                self._doubtful.append(claim)
                self._down(exc)
            else:
                if verdict.grant:
                    self.mirror.record(verdict.grant)
                return verdict
        return await self._admit_alone(claim)

    async def settle(self, grant: Grant, tokens: int, requests: int = 1) -> bool:
        await self.mirror.settle(grant, tokens, requests)
        if self._unsent.holds(grant):
            return await self._unsent.settle(grant, tokens, requests)
        if self.is_up:
            try:
                return await self.shared.settle(grant, tokens, requests)
            except StoreDown as exc:
                self._down(exc)
        self._unsettled.append(Settlement(grant, tokens, requests))
        return True

    async def found(self, account: str, uses: Mapping[Meter, int], since: float | None = None) -> None:
        if self.is_up:
            with suppress(StoreDown):
                await self.shared.found(account, uses, since)
        else:
            await self.mirror.found(account, uses, since)

    async def read(self, account: str, meters: Sequence[Meter]) -> Verdict:
        if self.is_up:
            try:
                return await self.shared.read(account, meters)
            except StoreDown as exc:
                self._down(exc)
        if self.policy == "deny":
            raise StoreUnavailable
        return await self.mirror.read(account, meters)

    # -- alone ---------------------------------------------------------------------------------------------------

    async def _admit_alone(self, claim: Claim) -> Verdict:
        if self.policy == "deny":
            raise StoreUnavailable("Limits cannot be checked at the moment. Try again shortly.")
        if self.policy == "allow":
            now = self.clock()
            grant = Grant(claim, now, claim.most, lease_of(claim, now, claim.most))
            self.mirror.record(grant)
            verdict = Verdict(grant, (await self.mirror.read(claim.account, claim.meters)).readings)
        else:
            verdict = await self._admit_share(claim)
        if verdict.grant:
            self._unsent.record(verdict.grant)
        return verdict

    async def _admit_share(self, claim: Claim) -> Verdict:
        """Admit what this worker's share of every limit has room for."""
        shared = [self._shared(claim.account, meter) for meter in claim.meters]
        most_at_once = None if claim.max_concurrent is None else self.share.of(claim.max_concurrent)
        verdict = await self.mirror.admit(claim._replace(meters=tuple(shared), max_concurrent=most_at_once))
        meters = dict(zip(shared, claim.meters, strict=True))
        refusing = meters[verdict.refused_by] if verdict.refused_by else None
        if refusing and verdict.retry_after is None and fits(claim, refusing):
            raise StoreUnavailable("Limits are counted by each worker alone at the moment, too little for this call.")
        return verdict._replace(
            grant=verdict.grant and verdict.grant._replace(claim=claim),
            refused_by=refusing,
            readings=tuple(whole(reading, meters[reading.meter]) for reading in verdict.readings),
            unread=tuple(meters[meter] for meter in verdict.unread),
            stale=tuple((meters[meter], since) for meter, since in verdict.stale),
        )

    def _shared(self, account: str, meter: Meter) -> Meter:
        """A meter with this worker's share of its limit or, of a day or month, of what was left of it."""
        if meter.limit is None:
            return meter
        held = self.mirror.accounts.get(account)
        count = held.counts.get(meter.name) if held else None
        used = min(count.base, meter.limit) if count else 0
        return meter._replace(limit=used + self.share.of(meter.limit - used))

    # -- there and gone ------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Reach Redis, and then keep in touch. Where it cannot be reached it starts all the same, and says so."""
        await self._turn()
        if not self.is_up:
            logger.error("Redis cannot be reached; policy: %s, as one of %d.", self.policy, self.share.workers)
            self.changed(False)
        self._task = asyncio.create_task(self._run(), name="store")

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task
        with suppress(StoreDown):
            await self.shared.leave()
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
            if pulse.epoch != self._epoch:
                self._lose(pulse.epoch)
            self.share = share_of(pulse, self.shared.worker)
            if not self.is_up:
                await self._recover()
            await self._renew()
        except StoreDown as exc:
            self._down(exc)
            await self.shared.stop()

    async def _renew(self) -> None:
        now = asyncio.get_running_loop().time()
        if now - self._renewed_at >= RENEW_EVERY:
            self._renewed_at = now
            await self.shared.renew({name: account.running for name, account in self.mirror.accounts.items()})

    def _down(self, reason: StoreDown) -> None:
        if self.is_up:
            self.is_up = False
            self.mirror.forget_calendars()
            logger.error(
                "Redis is out of reach (%s); policy: %s, as one of %d.", reason, self.policy, self.share.workers
            )
            self.changed(False)
            self._wake.set()

    def _lose(self, epoch: str) -> None:
        """Redis has another memory: all that it knew of this worker is what the mirror holds."""
        if self._epoch is not None:
            logger.warning("Redis has lost what it counted, and is told again.")
            self.is_up = False
        self._epoch = epoch
        self._doubtful.clear()
        self._unsettled.clear()
        self._parcels.clear()
        self._unsent = self.mirror.sliding_part()

    async def _recover(self) -> None:
        """Tell Redis what it does not know, until there is nothing left, and then trust it."""
        while self._doubtful or self._unsettled or self._parcels or self._unsent.accounts:
            self._pack()
            while self._doubtful:
                await self.shared.cancel(self._doubtful[-1])
                self._doubtful.pop()
            while self._parcels:
                await self._send(self._parcels[-1])
                self._parcels.pop()
            while self._unsettled:
                await self.shared.settle(*self._unsettled[-1])
                self._unsettled.pop()
        self.is_up = True
        logger.warning("Redis counts the limits, of %d workers together.", self.share.workers)
        self.changed(True)

    def _pack(self) -> None:
        """Take what is unsent on its way: what comes now is for the next round."""
        unsent, self._unsent = self._unsent, self._new_memory()
        for name, account in unsent.accounts.items():
            self._sent += 1
            self._parcels.append(Parcel(name, account, f"{self.shared.worker}:{self._sent}"))

    async def _send(self, parcel: Parcel) -> None:
        account = parcel.account
        counts = {account.meters[name]: count for name, count in account.counts.items()}
        await self.shared.add(parcel.name, counts, tuple(account.running), parcel.mark)

    def _new_memory(self) -> MemoryStore:
        return MemoryStore(self.clock, lease_of)


def share_of(pulse: Pulse, worker: str) -> Share:
    return Share(len(pulse.workers), pulse.workers.index(worker))


def fits(claim: Claim, meter: Meter) -> bool:
    """Whether a call could ever be admitted by a meter."""
    return meter.limit is None or (claim.least if meter.counts_tokens else 1) <= meter.limit


def whole(reading: Reading, meter: Meter) -> Reading:
    """A reading of a share, told of the meter that it is a share of: what remains is what this worker may give."""
    if meter.limit is None or reading.remaining is None:
        return reading
    return Reading(meter, meter.limit - reading.remaining, reading.resets_in)
