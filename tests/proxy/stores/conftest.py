"""Stores for tests, with a clock that tests move, and without `await`."""

import asyncio
from collections.abc import Iterator

import pytest

from proxy.stores import Store
from proxy.stores.memory import MemoryStore

START = 1_800_000_000.0  # in the middle of a day and of a month


class Driven:
    """A store on a loop of its own, and the clock that it was given."""

    def __init__(self, make) -> None:
        self.now = START
        self._runner = asyncio.Runner()
        self.store: Store = self.run(make(lambda: self.now))

    def run(self, coroutine):
        return self._runner.run(coroutine)

    def move(self, seconds):
        self.now += seconds

    def admit(self, claim):
        return self.run(self.store.admit(claim))

    def admit_all(self, claims):
        async def at_once():
            return await asyncio.gather(*map(self.store.admit, claims))

        return self.run(at_once())

    def settle(self, grant, tokens, **kwargs):
        return self.run(self.store.settle(grant, tokens, **kwargs))

    def found(self, *args):
        return self.run(self.store.found(*args))

    def read(self, account, meters):
        return self.run(self.store.read(account, meters))

    def close(self):
        self.run(self.store.stop())
        self._runner.close()


async def memory(clock):
    return MemoryStore(clock)


MAKERS = {"memory": memory}


@pytest.fixture(params=MAKERS)
def store(request) -> Iterator[Driven]:
    driven = Driven(MAKERS[request.param])
    yield driven
    driven.close()
