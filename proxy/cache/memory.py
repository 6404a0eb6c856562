"""Answers in this process's memory, up to so many bytes; those that were not asked for longest make room."""

from collections import OrderedDict
from collections.abc import Callable
from time import monotonic, time
from typing import NamedTuple

from . import AnswerStore, Kept, Size, Turn

ENTRY_BYTES = 500  # around an answer: its key, its place, the objects that hold them
LARGEST = 16  # an answer may take this part of the room at most


class Entry(NamedTuple):
    kept: Kept
    ends_at: float  # on the store's clock

    @property
    def size(self) -> int:
        return ENTRY_BYTES + len(self.kept.answer)


class MemoryAnswers(AnswerStore):
    """An AnswerStore of one process, where every turn is one's own. `clock` is in seconds."""

    def __init__(self, most_bytes: int, clock: Callable[[], float] = monotonic) -> None:
        self.most_bytes = most_bytes
        self.clock = clock
        self.bytes = 0
        self._entries: OrderedDict[str, Entry] = OrderedDict()  # those that were not asked for longest first
        self._epoch = 0

    async def start(self) -> None:
        """Nothing to be reached."""

    async def stop(self) -> None:
        """Nothing to be kept."""

    async def look(self, key: str) -> Kept | Turn | None:
        entry = self._entries.get(key)
        if entry is not None and entry.ends_at > self.clock():
            self._entries.move_to_end(key)
            return entry.kept
        return await self.begin(key)

    async def begin(self, key: str) -> Turn:
        return Turn(key, "", b"%d" % self._epoch)

    async def wait(self, key: str) -> Kept | None:  # noqa: ARG002
        return None

    async def keep(self, turn: Turn, answer: bytes, ttl: float) -> None:
        entry = Entry(Kept(answer, time()), self.clock() + ttl)
        if turn.epoch != b"%d" % self._epoch or entry.size * LARGEST > self.most_bytes:
            return
        self._drop(turn.key)
        self._entries[turn.key] = entry
        self.bytes += entry.size
        while self.bytes > self.most_bytes:
            self._drop(next(iter(self._entries)))

    async def leave(self, turn: Turn, *, failed: bool) -> None:
        """Nobody waits for it: in one process there are flights."""

    async def empty(self) -> int:
        emptied = len(self._entries)
        self._entries.clear()
        self._epoch += 1
        self.bytes = 0
        return emptied

    async def size(self) -> Size:
        return Size(len(self._entries), self.bytes)

    def _drop(self, key: str) -> None:
        if entry := self._entries.pop(key, None):
            self.bytes -= entry.size
