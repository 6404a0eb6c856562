"""What the memory keeps, and for how long."""

import asyncio

import pytest

from proxy.stores.memory import MemoryStore

from .conftest import START
from .test_contract import claim, meter

pytestmark = pytest.mark.once


def test_reading_an_unknown_account_keeps_nothing():
    store = MemoryStore()
    asyncio.run(store.read("user:9", [meter(3)]))
    assert not store.accounts


def test_accounts_that_nothing_is_known_of_any_more_are_dropped():
    now = [START]
    store = MemoryStore(lambda: now[0])

    async def call(name):
        verdict = await store.admit(claim(meter(3), account=name))
        await store.settle(verdict.grant, 0)

    async def main():
        running = await store.admit(claim(meter(3), account="running"))
        await store.found("month", {meter(3, "month"): 1})
        for number in range(10_000):
            await call(f"guess-{number}")
            now[0] += 1
        return running

    asyncio.run(main())
    assert {"running", "month"} <= store.accounts.keys()
    assert len(store.accounts) < 200
