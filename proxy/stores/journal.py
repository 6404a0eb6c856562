"""What a worker did while Redis was out of reach, and how Redis is told of it once it is back."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import NamedTuple, TypeVar

from . import Claim, Grant
from .memory import Account, MemoryStore
from .redis import RedisStore
from .wire import member_of

T = TypeVar("T")

AT_ONCE = 200  # commands under way


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

    @property
    def is_empty(self) -> bool:
        return not (self._doubtful or self._settlements or self._parcels or self._unsent.accounts)

    async def send(self) -> None:
        """Tell Redis all that there is to tell now. Raises StoreDown; what was not told is kept."""
        unsent, self._unsent = self._unsent, self._new_memory()
        for name, account in unsent.accounts.items():
            self._packed += 1
            self._parcels.append(Parcel(name, account, f"{self.shared.worker}:{self._packed}"))
        await self._tell(self._doubtful, self.shared.cancel)
        await self._tell(self._parcels, self._add)
        await self._tell(self._settlements, self._settle)

    async def _tell(self, items: list[T], tell: Callable[[T], Awaitable[None]]) -> None:
        """Tell what is in a list now, many at once, and drop it from there once Redis has answered."""
        for _ in range(0, len(items), AT_ONCE):
            now = items[:AT_ONCE]  # others may be appended meanwhile
            await asyncio.gather(*map(tell, now))
            del items[: len(now)]

    async def _add(self, parcel: Parcel) -> None:
        account = parcel.account
        counts = {account.meters[name]: count for name, count in account.counts.items()}
        await self.shared.add(parcel.name, counts, tuple(account.running), parcel.mark)

    async def _settle(self, settlement: Settlement) -> None:
        await self.shared.settle(*settlement)

    def _new_memory(self) -> MemoryStore:
        return MemoryStore(self.shared.clock, member_of)
