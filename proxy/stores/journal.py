"""What a worker did while Redis was out of reach, and how Redis is told of it once it is back."""

from typing import NamedTuple

from . import Claim, Grant
from .memory import Account, MemoryStore
from .redis import RedisStore
from .wire import lease_of


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


class Journal:
    """Grants that Redis does not know of, settlements that it missed, and admissions that it may have made."""

    def __init__(self, shared: RedisStore) -> None:
        self.shared = shared
        self._unsent = self._new_memory()
        self._parcels: list[Parcel] = []  # of what was unsent, on its way, and no more to be changed
        self._doubtful: list[Claim] = []
        self._settlements: list[Settlement] = []
        self._packed = 0  # parcels so far

    def granted(self, grant: Grant) -> None:
        """A call was admitted without Redis."""
        self._unsent.record(grant)

    def doubted(self, claim: Claim) -> None:
        """Redis was asked to admit a call, and its answer never came."""
        self._doubtful.append(claim)

    async def settled(self, grant: Grant, tokens: int, requests: int) -> None:
        """A call has ended that Redis should have been told of, now or by and by."""
        if self.holds(grant):
            await self._unsent.settle(grant, tokens, requests)
        else:
            self._settlements.append(Settlement(grant, tokens, requests))

    def holds(self, grant: Grant) -> bool:
        """Whether Redis does not know of a grant yet."""
        return self._unsent.holds(grant)

    def begin_anew(self, mirror: MemoryStore) -> None:
        """Redis has another memory: it is to be told all that the mirror holds."""
        self._doubtful.clear()
        self._settlements.clear()
        self._parcels.clear()
        self._unsent = mirror.copy()

    async def send(self) -> None:
        """Tell Redis, until there is nothing left to tell. Raises StoreDown; what was not told is kept."""
        while self._doubtful or self._settlements or self._parcels or self._unsent.accounts:
            self._pack()
            while self._doubtful:
                await self.shared.cancel(self._doubtful[-1])
                self._doubtful.pop()
            while self._parcels:
                await self._send(self._parcels[-1])
                self._parcels.pop()
            while self._settlements:
                await self.shared.settle(*self._settlements[-1])
                self._settlements.pop()

    def _pack(self) -> None:
        """Take what is unsent on its way: what comes from now on is for the next round."""
        unsent, self._unsent = self._unsent, self._new_memory()
        for name, account in unsent.accounts.items():
            self._packed += 1
            self._parcels.append(Parcel(name, account, f"{self.shared.worker}:{self._packed}"))

    async def _send(self, parcel: Parcel) -> None:
        account = parcel.account
        counts = {account.meters[name]: count for name, count in account.counts.items()}
        await self.shared.add(parcel.name, counts, tuple(account.running), parcel.mark)

    def _new_memory(self) -> MemoryStore:
        return MemoryStore(self.shared.clock, lease_of)
