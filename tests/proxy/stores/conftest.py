"""Stores for tests, with a clock that tests move, and without `await`."""

import asyncio
import secrets
from collections import defaultdict
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

import pytest
import uvloop

from proxy.stores import Store
from proxy.stores.memory import MemoryStore
from proxy.stores.redis import RedisStore
from tests.servers import OwnRedis

START = 1_800_000_000.0  # in the middle of a day and of a month


class Driven:
    """A store on a loop of its own, and the clock that it was given."""

    def __init__(self, make) -> None:
        self.now = START
        self.held = defaultdict(list)  # leases, by account
        self._runner = asyncio.Runner(loop_factory=uvloop.new_event_loop)
        self.store: Store = self.run(make(lambda: self.now))

    def run(self, coroutine):
        return self._runner.run(coroutine)

    def move(self, seconds, *, holds=True):
        """Let time pass, while calls that were admitted go on, as their holder says now and then."""
        end = self.now + seconds
        while holds and isinstance(self.store, RedisStore) and self.now + 10 < end:
            self.now += 10
            self.run(self.store.renew(self.held))
        self.now = end

    def admit(self, claim):
        verdict = self.run(self.store.admit(claim))
        if verdict.grant:
            self.held[claim.account].append(verdict.grant.lease)
        return verdict

    def admit_all(self, claims):
        async def at_once():
            return await asyncio.gather(*map(self.store.admit, claims))

        return self.run(at_once())

    def settle(self, grant, tokens, **kwargs):
        return self.run(self.store.settle(grant, tokens, **kwargs))

    def learn(self, account, uses, since=None, *, read_at=None):
        return self.run(self.store.learn(account, uses, self.now if read_at is None else read_at, since))

    def read(self, account, meters):
        return self.run(self.store.read(account, meters))

    def close(self):
        self.run(self.store.stop())
        self._runner.close()


async def memory(clock):
    return MemoryStore(clock)


@pytest.fixture(scope="session")
def redis_url() -> Iterator[str]:
    with OwnRedis() as server:
        yield server.url


@contextmanager
def memory_store() -> Iterator[Driven]:
    driven = Driven(memory)
    yield driven
    driven.close()


@contextmanager
def store_in_redis(url: str) -> Iterator[Driven]:
    """Under names of its own."""

    async def redis(clock):
        store = RedisStore(url, f"test-{secrets.token_hex(6)}", clock)
        await store.start()
        return store

    driven = Driven(redis)
    yield driven
    driven.close()


def store_of(request) -> AbstractContextManager[Driven]:
    if request.param == "memory":
        return memory_store()
    return store_in_redis(request.getfixturevalue("redis_url"))


@pytest.fixture(params=["memory", "redis"])
def store(request) -> Iterator[Driven]:
    with store_of(request) as driven:
        yield driven


@pytest.fixture
def redis_store(redis_url) -> Iterator[Driven]:
    with store_in_redis(redis_url) as driven:
        yield driven


@pytest.fixture(params=["memory", "redis"], scope="module")
def driven(request) -> Iterator[Driven]:
    """One for many histories, each of an account of its own."""
    with store_of(request) as driven:
        yield driven


@pytest.fixture(scope="module")
def both(redis_url) -> Iterator[tuple[Driven, Driven]]:
    with memory_store() as memory, store_in_redis(redis_url) as redis:
        yield memory, redis
