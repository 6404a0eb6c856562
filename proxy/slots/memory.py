"""Slots counted in this process: exact while there is one worker."""

from bisect import insort
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from itertools import count

from . import Granted, Slots, Ticket, least_loaded, nobody


class MemorySlots(Slots):
    """While a slot that somebody takes is free, nobody waits for it: it is handed over in the step that frees it.

    `part_of` says how many of an upstream's slots are this process's to give.
    """

    def __init__(self, part_of: Callable[[int], int] = lambda capacity: capacity) -> None:
        self.part_of = part_of
        self.granted: Granted = nobody
        self.lost: Callable[[], None] = nobody
        self.held: dict[str, str] = {}  # ticket -> upstream
        self._busy: Counter[str] = Counter()
        self._lines: dict[str, list[Ticket]] = {}  # by model, in order
        self._ranks = count()

    async def start(self) -> None:
        """Nothing to be reached."""

    async def stop(self) -> None:
        """Nothing to be kept."""

    async def ask(self, ticket: Ticket) -> int:
        return self.put(ticket)

    def put(self, ticket: Ticket) -> int:
        """The same, at once."""
        if ticket.name in self.held:
            return 0
        self.leave(ticket)
        if ticket.rank is None:
            ticket.rank = next(self._ranks)
        if url := least_loaded({url: self.part_of(most) for url, most in ticket.places.items()}, self._busy):
            self._grant(ticket, url)
            return 0
        line = self._lines.setdefault(ticket.model, [])
        insort(line, ticket, key=rank_of)
        return line.index(ticket)

    def leave(self, ticket: Ticket) -> None:
        line = self._lines.get(ticket.model)
        if line and ticket in line:
            line.remove(ticket)
            if not line:
                del self._lines[ticket.model]

    def hold(self, name: str, url: str) -> None:
        """Note a slot that was granted elsewhere."""
        self.held[name] = url
        self._busy[url] += 1

    def release(self, name: str, url: str) -> None:
        if self.held.pop(name, None) is None:
            return
        self._busy[url] -= 1
        while ticket := self._first_for(url):
            self.leave(ticket)
            self._grant(ticket, url)

    def forget_lines(self) -> None:
        """Nobody waits here any more."""
        self._lines.clear()

    async def busy(self, urls: Sequence[str]) -> Mapping[str, int]:
        return {url: self._busy[url] for url in urls}

    async def waiting(self) -> int:
        return sum(len(line) for line in self._lines.values())

    def _first_for(self, url: str) -> Ticket | None:
        """Who is first in line for a free slot of an upstream."""
        firsts = [next((each for each in line if url in each.places), None) for line in self._lines.values()]
        fit = [each for each in firsts if each is not None and self._busy[url] < self.part_of(each.places[url])]
        return min(fit, key=rank_of, default=None)

    def _grant(self, ticket: Ticket, url: str) -> None:
        self.hold(ticket.name, url)
        self.granted(ticket.name, url)


def rank_of(ticket: Ticket) -> int:
    assert ticket.rank is not None
    return ticket.rank
