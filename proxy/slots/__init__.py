"""Who has the slots of the upstreams: the interface of every store of them, and the values that pass through it.

A call that wants a slot is a ticket in the line of its model. A store grants a slot to the first in line that takes it,
and tells `granted`; whoever got it gives it back.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(slots=True, eq=False)
class Ticket:
    """A call in line. `places` are the upstreams that it takes, by URL, and how many calls each may have.

    The store gives it a `rank` when it is asked: lower ones are served first. One that comes back keeps it.
    """

    name: str
    model: str
    places: Mapping[str, int]
    rank: int | None = None


Granted = Callable[[str, str], None]  # a ticket's name, an upstream's URL


def nobody(*_: str) -> None:
    """Who is told of slots before there is a queue."""


class Slots(Protocol):
    granted: Granted
    lost: Callable[[], None]  # called when all who wait must ask anew

    async def start(self) -> None: ...

    async def stop(self) -> None: ...

    async def ask(self, ticket: Ticket) -> int:
        """Put a ticket in line, or change what it takes. Granted now or later; gives how many are before it."""
        ...

    def leave(self, ticket: Ticket) -> None:
        """Take a ticket out of line. If it was granted a slot meanwhile, `granted` is told all the same."""
        ...

    def release(self, name: str, url: str) -> None:
        """Give a slot back."""
        ...

    async def busy(self, urls: Sequence[str]) -> Mapping[str, int]:
        """How many calls each upstream has, those of all workers. Raises StoreUnavailable."""
        ...

    async def waiting(self) -> int:
        """How many tickets are in line, those of all workers. Raises StoreUnavailable."""
        ...


def least_loaded(places: Mapping[str, int], busy: Mapping[str, int]) -> str | None:
    """The upstream with a free slot that has the smallest part of its slots busy; the first of equals."""
    free = [url for url, capacity in places.items() if busy.get(url, 0) < capacity]
    return min(free, key=lambda url: busy.get(url, 0) / places[url], default=None)
