"""Limits in this process's memory: exact while there is one worker."""

import math
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from threading import Lock

from proxy.stores import Claim, Meter, Reading, Verdict
from proxy.windows import Count


class Account:
    """What one caller has used, by meter, and how many of its calls run now."""

    __slots__ = ("counts", "running")

    def __init__(self) -> None:
        self.counts: dict[str, Count] = {}
        self.running = 0

    def count(self, meter: Meter, now: float) -> Count:
        count = self.counts.get(meter.name)
        if count is None:
            count = self.counts[meter.name] = Count(meter.window)
        count.drop_old(now)
        return count


class MemoryStore:
    """A Store of one process. Times are Unix times, since days and months are calendar ones."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self.clock = clock
        self._accounts: defaultdict[str, Account] = defaultdict(Account)
        self._lock = Lock()  # the admin reads from another thread

    async def admit(self, claim: Claim) -> Verdict:
        with self._lock:
            now = self.clock()
            account = self._accounts[claim.account]
            counts = [(meter, account.count(meter, now)) for meter in claim.meters]
            if refusal := self._refusal(counts, now):
                return Verdict(False, readings(counts, now), *refusal)
            if claim.max_concurrent is not None and account.running >= claim.max_concurrent:
                return Verdict(False, readings(counts, now), None, 1)
            for _, count in counts:
                count.add(1, now)
            account.running += 1
            return Verdict(True, readings(counts, now))

    async def release(self, claim: Claim) -> None:
        with self._lock:
            self._accounts[claim.account].running -= 1

    def read(self, account: str, meters: Sequence[Meter]) -> tuple[Reading, ...]:
        with self._lock:
            now = self.clock()
            held = self._accounts.get(account) or Account()
            return readings([(meter, held.count(meter, now)) for meter in meters], now)

    @staticmethod
    def _refusal(counts: list[tuple[Meter, Count]], now: float) -> tuple[Meter, int | None] | None:
        """The meter that keeps the call out longest, and the seconds until it does no more."""
        worst: tuple[Meter, int | None] | None = None
        for meter, count in counts:
            if meter.limit is None or count.used < meter.limit:
                continue
            if meter.limit == 0:
                return meter, None
            wait = math.ceil(count.frees_at(count.used + 1 - meter.limit) - now)
            if worst is None or wait > (worst[1] or 0):
                worst = meter, max(1, wait)
        return worst


def readings(counts: list[tuple[Meter, Count]], now: float) -> tuple[Reading, ...]:
    return tuple(
        Reading(meter, count.used, count.frees_at(count.used) - now if count.used else 0.0) for meter, count in counts
    )
