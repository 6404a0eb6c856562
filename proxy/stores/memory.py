"""Limits in this process's memory: exact while there is one worker."""

import math
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import islice

from proxy.windows import Count

from . import Claim, Grant, Lost, Meter, Reading, Store, Verdict, is_stale

LOOKED_AT = 2  # accounts, for each that is new

Counts = list[tuple[Meter, Count]]
NameLease = Callable[[str, float, int], str]


def as_asked(lease: str, admitted_at: float, tokens: int) -> str:  # noqa: ARG001  # the shape of a NameLease
    return lease


class Account:
    """What one caller has used, by meter, and the grants of its calls that run now, by lease."""

    __slots__ = ("counts", "empty_at", "meters", "running")

    def __init__(self) -> None:
        self.meters: dict[str, Meter] = {}
        self.counts: dict[str, Count] = {}
        self.running: dict[str, Grant] = {}
        self.empty_at = 0  # when nothing of it counts any more

    def count(self, meter: Meter, now: float) -> Count:
        count = self.counts.get(meter.name)
        if count is None:
            count = self.counts[meter.name] = Count(meter.window)
            self.meters[meter.name] = meter
        count.drop_old(now)
        return count


class MemoryStore(Store):
    """A Store of one process and one event loop. Its leases end with the process, so they need not lapse.

    `name_lease` makes a grant's lease of its claim's, the moment it is admitted and the tokens it gets.
    """

    def __init__(self, clock: Callable[[], float] = time.time, name_lease: NameLease = as_asked) -> None:
        self.clock = clock
        self.name_lease = name_lease
        self.accounts: OrderedDict[str, Account] = OrderedDict()  # those that were not looked at for longest first

    async def start(self) -> None:
        """Nothing to be reached."""

    async def stop(self) -> None:
        """Nothing to be kept."""

    async def admit(self, claim: Claim) -> Verdict:
        now = self.clock()
        account = self._account(claim.account)
        counts = [(meter, account.count(meter, now)) for meter in claim.meters]
        if unknown := unknown_of(counts):
            return Verdict(None, unknown=unknown)
        stale = tuple((m, c.since) for m, c in counts if m.window.is_calendar and is_stale(c.since, c.read_at, now))
        if refusal := refusal_of(claim, counts, now):
            return Verdict(None, readings(counts, now), *refusal, stale=stale)
        if claim.max_concurrent is not None and len(account.running) >= claim.max_concurrent:
            return Verdict(None, readings(counts, now), None, 1, stale=stale)
        tokens = granted(claim, counts)
        grant = Grant(claim, now, tokens, self.name_lease(claim.lease, now, tokens))
        self._charge(account, grant, counts)
        return Verdict(grant, readings(counts, now), stale=stale)

    def record(self, grant: Grant) -> None:
        """Charge a call that was admitted, here or elsewhere."""
        account = self._account(grant.claim.account)
        counts = [(meter, account.count(meter, grant.admitted_at)) for meter in grant.claim.meters]
        self._charge(account, grant, counts)

    def holds(self, grant: Grant) -> bool:
        account = self.accounts.get(grant.claim.account)
        return account is not None and grant.lease in account.running

    async def settle(self, grant: Grant, tokens: int, requests: int = 1) -> None:
        account, now = self.accounts.get(grant.claim.account), self.clock()
        if account is None or account.running.pop(grant.lease, None) is None:
            return
        for meter in grant.claim.meters:
            change = tokens - grant.tokens if meter.counts_tokens else requests - 1
            if change:
                account.count(meter, now).adjust(change, grant.admitted_at, now)

    async def learn(self, account: str, uses: Mapping[Meter, int], read_at: float, since: float | None = None) -> None:
        now = self.clock()
        held = self._account(account)
        for meter, used in uses.items():
            count = held.count(meter, now)
            if meter.window.bucket(read_at) != meter.window.bucket(now):
                continue
            if since is None and not count.is_known:
                count.learn(used, now, now)
            elif since == count.since:
                count.learn(used, since, now)
            held.empty_at = max(held.empty_at, count.all_free_at)

    async def note(self, account: str, lost: Sequence[Lost]) -> None:
        """Nothing is lost here but with all the rest."""

    async def read(self, account: str, meters: Sequence[Meter]) -> Verdict:
        now = self.clock()
        held = self.accounts.get(account) or Account()
        counts = [(meter, held.count(meter, now)) for meter in meters]
        return Verdict(None, readings(counts, now), unknown=unknown_of(counts))

    def forget_calendars(self) -> None:
        """Know no more what was used of days and months: the ledger has to be read for them."""
        for account in self.accounts.values():
            for count in account.counts.values():
                if count.window.is_calendar:
                    count.forget()

    def copy(self) -> "MemoryStore":
        """The same, of what was counted here."""
        other = MemoryStore(self.clock, self.name_lease)
        for name, account in self.accounts.items():
            copied = other.accounts[name] = Account()
            copied.running = dict(account.running)
            copied.empty_at = account.empty_at
            copied.meters = dict(account.meters)
            copied.counts = {key: count.copy() for key, count in account.counts.items()}
        return other

    @staticmethod
    def _charge(account: Account, grant: Grant, counts: Counts) -> None:
        for meter, count in counts:
            if amount := grant.tokens if meter.counts_tokens else 1:
                count.add(amount, grant.admitted_at)
                if count.all_free_at > account.empty_at:
                    account.empty_at = count.all_free_at
        account.running[grant.lease] = grant

    def _account(self, name: str) -> Account:
        account = self.accounts.get(name)
        if account is None:
            self._forget_idle()
            account = self.accounts[name] = Account()
        return account

    def _forget_idle(self) -> None:
        """Look at the next accounts in turn, and drop those that nothing is known of any more: more leave than come."""
        now = self.clock()
        for name in list(islice(self.accounts, LOOKED_AT)):
            account = self.accounts[name]
            if account.running or account.empty_at > now:
                self.accounts.move_to_end(name)
            else:
                del self.accounts[name]


def unknown_of(counts: Counts) -> tuple[Meter, ...]:
    """The calendar meters that no ledger was read for yet."""
    return tuple(meter for meter, count in counts if meter.window.is_calendar and not count.is_known)


def refusal_of(claim: Claim, counts: Counts, now: float) -> tuple[Meter, int | None] | None:
    """The meter that keeps the call out longest, and the whole seconds until it does no more, if nothing goes back."""
    worst: tuple[Meter, int | None] | None = None
    for meter, count in counts:
        amount = claim.least if meter.counts_tokens else 1
        if meter.limit is None or count.used + amount <= meter.limit:
            continue
        if amount > meter.limit:
            return meter, None
        wait = max(1, math.ceil(count.frees_at(count.used + amount - meter.limit) - now))
        if worst is None or wait > (worst[1] or 0):
            worst = meter, wait
    return worst


def granted(claim: Claim, counts: Counts) -> int:
    """The tokens to reserve: as many as are asked for and fit."""
    rooms = [meter.limit - count.used for meter, count in counts if meter.counts_tokens and meter.limit is not None]
    return min(claim.most, *rooms) if rooms else claim.most


def readings(counts: Iterable[tuple[Meter, Count]], now: float) -> tuple[Reading, ...]:
    return tuple(Reading(meter, count.used, count.all_free_at - now if count.used else 0.0) for meter, count in counts)
