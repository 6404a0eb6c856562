"""Who has the slots of the upstreams: the interface of every store of them, and the values that pass through it.

A call that wants a slot is a ticket in the line of its model. A store grants a slot to the first in line that takes it,
and tells `granted`; whoever got it gives it back.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from time import time
from typing import Protocol


@dataclass(slots=True, eq=False)
class Ticket:
    """A call in line. `places` are the upstreams that it takes, by URL, and how many calls each may have.

    Lower ranks are served first. The store that is asked first gives the rank: the moment of arrival in microseconds,
    by Redis's clock or, alone, by this machine's (`arrived`, a Unix time). So it means the same in any line, and a
    ticket keeps it when it comes back, and when Redis comes or goes. In line its rank is the line's, whatever becomes
    of this attribute.
    """

    name: str
    model: str
    places: Mapping[str, int]
    rank: int | None = None
    arrived: float = field(default_factory=time)


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
