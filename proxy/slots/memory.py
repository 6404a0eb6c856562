"""Slots counted in this process: exact while there is one worker."""

from bisect import bisect_left, bisect_right, insort
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from operator import itemgetter

from . import Granted, Slots, Ticket, least_loaded, nobody

Place = tuple[int, Ticket]  # of a line: the rank that the ticket has there
rank_of = itemgetter(0)


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
        self._lines: dict[str, list[Place]] = {}  # by model, in order
        self._ranks: dict[str, int] = {}  # of the tickets in line

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
        known = self._ranks.get(ticket.name, ticket.rank)
        self.leave(ticket)
        ticket.rank = rank = int(ticket.arrived * 1e6) if known is None else known
        parts = {url: self.part_of(most) for url, most in ticket.places.items()}
        url = least_loaded(parts, self._busy)
        if url and not self._lines:
            self._grant(ticket, url)
            return 0
        line = self._lines.setdefault(ticket.model, [])
        insort(line, (rank, ticket), key=rank_of)
        self._ranks[ticket.name] = rank
        while url:  # free since this process may give more of them: whoever came first goes first
            before = self._busy[url]
            self._hand_over(url)
            if ticket.name in self.held:
                return 0
            url = least_loaded(parts, self._busy) if self._busy[url] != before else None
        return bisect_right(line, rank, key=rank_of) - 1

    def leave(self, ticket: Ticket) -> None:
        rank = self._ranks.pop(ticket.name, None)
        if rank is None:
            return
        line = self._lines[ticket.model]
        at = bisect_left(line, rank, key=rank_of)
        while line[at][1].name != ticket.name:  # another one with the same rank
            at += 1
        del line[at]
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
        self._hand_over(url)

    def _hand_over(self, url: str) -> None:
        """Grant the free slots of an upstream to those who are first in line for them."""
        while ticket := self._first_for(url):
            self.leave(ticket)
            self._grant(ticket, url)

    def forget_lines(self) -> None:
        """Nobody waits here any more."""
        self._lines.clear()
        self._ranks.clear()

    async def busy(self, urls: Sequence[str]) -> Mapping[str, int]:
        return {url: self._busy[url] for url in urls}

    async def waiting(self) -> int:
        return len(self._ranks)

    def _first_for(self, url: str) -> Ticket | None:
        """Who is first in line for a free slot of an upstream."""
        firsts = [next((each for each in line if url in each[1].places), None) for line in self._lines.values()]
        fit = [each for each in firsts if each and self._busy[url] < self.part_of(each[1].places[url])]
        return min(fit, key=rank_of)[1] if fit else None

    def _grant(self, ticket: Ticket, url: str) -> None:
        self.hold(ticket.name, url)
        self.granted(ticket.name, url)
