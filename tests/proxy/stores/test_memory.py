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
        await store.learn("month", {meter(3, "month"): 1}, store.clock())
        for number in range(10_000):
            await call(f"guess-{number}")
            now[0] += 1
        return running

    asyncio.run(main())
    assert {"running", "month"} <= store.accounts.keys()
    assert len(store.accounts) < 200


@pytest.mark.parametrize("window", ["day", "month"])
def test_a_day_that_was_forgotten_may_end(window):
    calendar, now = meter(10, window), [START]
    store = MemoryStore(lambda: now[0])

    async def main():
        await store.learn("user:1", {calendar: 3}, START)
        grant = (await store.admit(claim(calendar))).grant
        store.forget_calendars()
        now[0] += 40 * 86400
        store.record(grant._replace(admitted_at=now[0]))
        return (await store.admit(claim(calendar))).unknown

    assert asyncio.run(main()) == (calendar,)


def test_a_copy_forgets_nothing():
    store = MemoryStore(lambda: START)

    async def main():
        for number in range(10):
            await store.settle((await store.admit(claim(meter(3), account=f"user:{number}"))).grant, 0)
        copy = store.copy()
        for number in range(10):
            await copy.admit(claim(meter(3), account=f"new:{number}"))
        return [(await copy.read(f"user:{number}", [meter(3)])).readings[0].used for number in range(10)]

    assert asyncio.run(main()) == [1] * 10
