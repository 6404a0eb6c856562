"""Stores of answers, on a loop of their own and without `await`."""

import asyncio
import secrets
from collections.abc import Iterator

import pytest
import uvloop

from proxy.cache import AnswerStore, Turn
from proxy.cache.memory import MemoryAnswers
from proxy.cache.redis import RedisAnswers
from tests.servers import OwnRedis

ROOM = 100_000  # bytes


class Driven:
    """Stores that share what they hold, one for each worker, and whether they say that they are up."""

    def __init__(self, make, workers: int = 1) -> None:
        self.up: list[bool] = []
        self.turns: dict[tuple[str, int], Turn] = {}
        self._runner = asyncio.Runner(loop_factory=uvloop.new_event_loop)
        self.stores: list[AnswerStore] = [make(self.up.append) for _ in range(workers)]
        for each in self.stores:
            self.run(each.start())

    @property
    def store(self):
        return self.stores[0]

    def run(self, coroutine):
        return self._runner.run(coroutine)

    def look(self, key="k", worker=0):
        """What is found; a turn is remembered for `kept` and `leave`."""
        found = self.run(self.stores[worker].look(key))
        if isinstance(found, Turn):
            self.turns[key, worker] = found
        return found

    def owns(self, key="k", worker=0):
        """Whether a look gives the turn."""
        return isinstance(self.look(key, worker), Turn)

    def begin(self, key="k", worker=0):
        self.turns[key, worker] = self.run(self.stores[worker].begin(key))

    def kept(self, answer=b'{"a":1}', key="k", ttl=60.0, worker=0):
        """Keep what was computed in a turn. To be awaited."""
        return self.stores[worker].keep(self.turns[key, worker], answer, ttl)

    def left(self, key="k", worker=0, *, failed):
        """Leave a turn. To be awaited."""
        return self.stores[worker].leave(self.turns[key, worker], failed=failed)

    def keep(self, answer=b'{"a":1}', key="k", ttl=60.0, worker=0):
        """Compute an answer in one's turn, and keep it. Whether there was a turn."""
        is_own = self.owns(key, worker)
        if is_own:
            self.run(self.kept(answer, key, ttl, worker))
        return is_own

    def size(self):
        return self.run(self.store.size())

    def close(self) -> None:
        for each in self.stores:
            self.run(each.stop())
        self._runner.close()


@pytest.fixture(scope="session")
def own_redis() -> Iterator[OwnRedis]:
    with OwnRedis() as server:
        yield server


@pytest.fixture
def on_redis(own_redis):
    """Makes stores that share a Redis, and nothing in it with other tests."""
    made: list[Driven] = []

    def make(workers: int = 1, room: int = ROOM, url: str = "") -> Driven:
        prefix = secrets.token_hex(4)
        made.append(Driven(lambda changed: RedisAnswers(url or own_redis.url, room, changed, prefix), workers))
        return made[-1]

    yield make
    for each in made:
        each.close()


@pytest.fixture
def in_memory():
    made: list[Driven] = []

    def make(room: int = ROOM) -> Driven:
        made.append(Driven(lambda changed: MemoryAnswers(room)))
        return made[-1]

    yield make
    for each in made:
        each.close()


@pytest.fixture(params=["memory", "redis"])
def answers(request, in_memory, on_redis):
    """A store of each kind."""
    return in_memory if request.param == "memory" else lambda room=ROOM: on_redis(room=room)
