"""Answers of deterministic calls, kept to be told again: the interface that every store of them keeps.

A store is asked once for each call that no call beside it has asked about. What it says decides whether the answer is
told from it, computed here, or waited for because another worker computes it.
"""

import time
from enum import StrEnum
from typing import NamedTuple, Protocol


class Result(StrEnum):
    """How a call was answered, as x-cache, metrics and ledger say it."""

    HIT = "hit"  # from what was kept
    MISS = "miss"  # it was computed, and others may have it now
    JOINED = "joined"  # with an identical call that was under way
    BYPASS = "bypass"  # without the cache


class Kept(NamedTuple):
    """An answer as its endpoint's Replay keeps it, and when that was, in Unix time."""

    answer: bytes
    kept_at: float

    @property
    def age(self) -> int:
        """Seconds."""
        return max(0, int(time.time() - self.kept_at))


class Turn(NamedTuple):
    """The right to have an answer computed and kept. Nobody else has it as long as it has a `name`.

    What was computed is kept only in the epoch in which its turn began: the next begins when all answers are forgotten.
    """

    key: str
    name: str
    epoch: bytes


class Size(NamedTuple):
    """How much a store holds: answers, and bytes of them."""

    answers: int
    bytes: int


class AnswerStore(Protocol):
    """Holds answers by their keys. It never fails: what it cannot do now it does not do."""

    async def start(self) -> None: ...

    async def stop(self) -> None: ...

    async def look(self, key: str) -> Kept | Turn | None:
        """The answer, or the turn to compute it, which `keep` or `leave` ends; None where another worker has that."""
        ...

    async def begin(self, key: str) -> Turn:
        """A turn without a name: to compute an answer anew, whatever is kept and whoever else does."""
        ...

    async def wait(self, key: str) -> Kept | None:
        """The answer that another worker computes, once it is there; None where none comes of it."""
        ...

    async def keep(self, turn: Turn, answer: bytes, ttl: float) -> None:
        """Keep an answer for so many seconds, and end its turn."""
        ...

    async def leave(self, turn: Turn, *, failed: bool) -> None:
        """End a turn without an answer: another may have it or, where it `failed`, all go their own ways."""
        ...

    async def empty(self) -> int:
        """Forget all answers, also those that are computed now. Gives how many were kept. Raises StoreUnavailable."""
        ...

    async def size(self) -> Size:
        """Raises StoreUnavailable."""
        ...
