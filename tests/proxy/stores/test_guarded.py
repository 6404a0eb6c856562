"""What workers do while Redis is gone, and how they come back: on a Redis server of the tests' own."""

import asyncio
import logging
from contextlib import asynccontextmanager

import pytest

from accounts.errors import StoreUnavailable
from proxy.stores import Lost, connection, guarded
from proxy.stores.guarded import GuardedStore
from proxy.stores.redis import RedisStore
from proxy.stores.shares import Share
from proxy.windows import Count
from tests.servers import OwnRedis, wait_until_async

from .test_contract import claim, meter, tokens

pytestmark = pytest.mark.once


@pytest.fixture
def redis():
    with OwnRedis() as server:
        yield server


class Workers:
    """So many workers on one Redis, on one loop."""

    def __init__(self, redis, count=1, policy="local"):
        self.told = []
        self.stores = [
            GuardedStore(RedisStore(redis.url), policy, count, lambda is_up: self.told.append(is_up))
            for _ in range(count)
        ]

    async def __aenter__(self):
        for store in self.stores:
            await store.start()
        await self.until(lambda store: store.share.workers == len(self.stores), "know of each other")
        return self.stores

    async def __aexit__(self, *exc):
        for store in self.stores:
            await store.stop()

    async def until(self, condition, what):
        await wait_until_async(lambda: all(map(condition, self.stores)), f"all workers {what}")

    async def down(self):
        await self.until(lambda store: not store.is_up, "are alone")

    async def up(self):
        await self.until(lambda store: store.is_up, "are back")


@asynccontextmanager
async def alone(redis, count=1, policy="local"):
    """So many workers that Redis has left alone."""
    workers = Workers(redis, count, policy)
    async with workers as stores:
        redis.kill()
        await workers.down()
        yield stores


async def admitted(store, limit, times, **kwargs):
    """How many of so many calls are admitted."""
    return sum([(await store.admit(claim(*limit, **kwargs))).admitted for _ in range(times)])


async def used(store, *meters):
    return [reading.used for reading in (await store.read("user:1", meters)).readings]


# -- gone ----------------------------------------------------------------------------------------------------------


def test_workers_share_limits_while_redis_is_gone(redis):
    async def main():
        async with alone(redis, 3) as stores:
            return [await admitted(store, [meter(10)], 20) for store in stores]

    assert sorted(asyncio.run(main())) == [3, 3, 4]


def test_what_a_worker_gave_before_counts_in_its_share(redis):
    async def main():
        workers = Workers(redis, 2)
        async with workers as (first, second):
            before = await admitted(first, [meter(10)], 3)
            redis.kill()
            await workers.down()
            return before, await admitted(first, [meter(10)], 20), await admitted(second, [meter(10)], 20)

    assert asyncio.run(main()) == (3, 2, 5)


def test_running_calls_are_shared_too(redis):
    async def main():
        async with alone(redis, 2) as stores:
            return [await admitted(store, [], 20, max_concurrent=5) for store in stores]

    assert sorted(asyncio.run(main())) == [2, 3]


@pytest.mark.parametrize("fault", ["kill", "freeze"])
def test_it_is_noticed_by_the_next_call_which_it_does_not_cost(redis, fault):
    async def main():
        workers = Workers(redis)
        async with workers as (store,):
            getattr(redis, fault)()
            verdict = await store.admit(claim(meter(10)))
            return verdict.admitted, store.is_up, workers.told

    assert asyncio.run(main()) == (True, False, [True, False])


def test_without_calls_it_is_noticed_in_less_than_a_second():
    assert guarded.BEAT + connection.TIMEOUT + connection.GRACE < 1


def test_a_call_too_large_for_a_share_is_told_to_come_back(redis):
    async def main():
        async with alone(redis, 2) as (store, _):
            with pytest.raises(StoreUnavailable) as refused:
                await store.admit(claim(tokens(100), least=60))
            never = await store.admit(claim(tokens(100), least=101))
            return refused.value.retry_after, never.retry_after

    assert asyncio.run(main()) == (1, None)


def test_deny_admits_nobody_and_says_when_to_come_back(redis):
    async def main():
        async with alone(redis, policy="deny") as (store,):
            with pytest.raises(StoreUnavailable) as refused:
                await store.admit(claim(meter(10)))
            return refused.value.retry_after, store.admits

    assert asyncio.run(main()) == (1, False)


def test_allow_admits_everybody_and_counts_it_afterwards(redis):
    async def main():
        workers = Workers(redis, policy="allow")
        async with workers as (store,):
            redis.kill()
            await workers.down()
            alone = await admitted(store, [meter(5)], 20)
            redis.start()
            await workers.up()
            return alone, await used(store, meter(5)), await admitted(store, [meter(5)], 1)

    assert asyncio.run(main()) == (20, [20], 0)


def test_a_start_without_redis_serves_by_the_policy(redis):
    redis.kill()

    async def main():
        store = GuardedStore(RedisStore(redis.url), "local", 4, lambda is_up: None)
        await store.start()
        try:
            return await admitted(store, [meter(9)], 20)
        finally:
            await store.stop()

    assert asyncio.run(main()) == 2


# -- back ----------------------------------------------------------------------------------------------------------


def test_a_new_memory_is_told_what_all_workers_gave(redis):
    async def main():
        workers = Workers(redis, 2)
        async with workers as (first, second):
            await admitted(first, [meter(10)], 2)
            await admitted(second, [meter(10)], 3)
            redis.kill()
            await workers.down()
            await admitted(first, [meter(10)], 1)
            redis.start()
            await workers.up()
            return await used(first, meter(10)), await admitted(second, [meter(10)], 20)

    assert asyncio.run(main()) == ([6], 4)


def test_a_memory_that_was_kept_is_told_only_what_it_missed(redis):
    async def main():
        workers = Workers(redis)
        async with workers as (store,):
            await admitted(store, [meter(10)], 2)
            redis.freeze()
            await admitted(store, [meter(10)], 3)
            redis.thaw()
            await workers.up()
            return await used(store, meter(10))

    assert asyncio.run(main()) == [5]


def test_a_memory_that_is_emptied_while_it_answers_is_told_again(redis):
    async def main():
        workers = Workers(redis)
        async with workers as (store,):
            await admitted(store, [meter(10)], 4)
            await store.shared._command("FLUSHALL")
            await wait_until_async(lambda: workers.told == [True, False, True], "it was told")
            return await used(store, meter(10))

    assert asyncio.run(main()) == [4]


def test_calls_that_end_meanwhile_are_settled_when_it_is_back(redis):
    async def main():
        workers = Workers(redis)
        async with workers as (store,):
            before = (await store.admit(claim(tokens(1000), least=100, max_concurrent=9))).grant
            redis.freeze()
            alone = (await store.admit(claim(tokens(1000), least=200, max_concurrent=9))).grant
            await store.settle(before, 10)
            await store.settle(alone, 20)
            redis.thaw()
            await workers.up()
            return await used(store, tokens(1000)), await admitted(store, [], 9, max_concurrent=9)

    assert asyncio.run(main()) == ([30], 9)


def test_calls_that_run_all_through_it_keep_their_place_and_are_settled_once(redis):
    async def main():
        workers = Workers(redis)
        async with workers as (store,):
            before = (await store.admit(claim(tokens(1000), least=100, max_concurrent=2))).grant
            redis.kill()
            await workers.down()
            alone = (await store.admit(claim(tokens(1000), least=200, max_concurrent=2))).grant
            redis.start()
            await workers.up()
            full = await admitted(store, [], 1, max_concurrent=2)
            await store.settle(before, 10)
            await store.settle(alone, 20)
            return full, await used(store, tokens(1000)), await admitted(store, [], 3, max_concurrent=2)

    assert asyncio.run(main()) == (0, [30], 2)


def test_days_are_asked_of_the_ledger_again_after_a_loss(redis):
    day = meter(10, "day")

    async def main():
        workers = Workers(redis)
        async with workers as (store,):
            await store.learn("user:1", {day: 3}, store.clock())
            await store.admit(claim(day))
            redis.kill()
            await workers.down()
            alone = (await store.admit(claim(day))).unknown
            await store.learn("user:1", {day: 4}, store.clock())
            shared_alone = await used(store, day)
            redis.start()
            await workers.up()
            return alone, shared_alone, (await store.admit(claim(day))).unknown

    assert asyncio.run(main()) == ((day,), [4], (day,))


def test_days_are_asked_of_the_ledger_again_where_some_calls_were_admitted_alone(redis):
    """Redis kept its memory, but the ledger alone knows of all calls."""
    day = meter(10, "day")

    async def main():
        workers = Workers(redis, policy="allow")
        async with workers as (store,):
            await store.learn("user:1", {day: 3}, store.clock())
            await store.admit(claim(day))
            redis.freeze()
            await store.admit(claim(day))
            redis.thaw()
            await workers.up()
            return (await store.admit(claim(day))).unknown

    assert asyncio.run(main()) == (day,)


def test_what_was_admitted_before_redis_was_ever_reached_is_told_too(redis):
    redis.kill()

    async def main():
        store = GuardedStore(RedisStore(redis.url), "local", 1, lambda is_up: None)
        await store.start()
        await admitted(store, [meter(9)], 3)
        redis.start()
        await wait_until_async(lambda: store.is_up, "it is there")
        try:
            return await used(store, meter(9))
        finally:
            await store.stop()

    assert asyncio.run(main()) == [3]


def test_each_change_is_logged_once(redis, caplog):
    async def main():
        workers = Workers(redis)
        async with workers as (store,):
            redis.kill()
            await workers.down()
            await admitted(store, [meter(100)], 20)
            redis.start()
            await workers.up()

    with caplog.at_level(logging.INFO, "proxy.stores.guarded"):
        asyncio.run(main())
    assert [record.levelname for record in caplog.records] == ["INFO", "ERROR", "WARNING"]


@pytest.mark.parametrize("fault", ["none", "freeze"])
def test_a_call_whose_client_leaves_while_it_is_admitted_costs_nothing(redis, fault):
    async def main():
        workers = Workers(redis)
        async with workers as (store,):
            if fault == "freeze":
                redis.freeze()
            leaving = asyncio.create_task(store.admit(claim(meter(10), tokens(1000), least=100, max_concurrent=1)))
            await asyncio.sleep(0)
            leaving.cancel()
            await asyncio.wait({leaving})
            if fault == "freeze":
                await workers.down()
                redis.thaw()
                await workers.up()
            await wait_until_async(lambda: not store._undoing, "it is undone")
            return await used(store, meter(10), tokens(1000)), await admitted(store, [], 1, max_concurrent=1)

    assert asyncio.run(main()) == ([0, 0], 1)


def test_a_process_that_admits_no_calls_takes_no_share(redis):
    async def main():
        workers = Workers(redis)
        async with workers as (store,):
            shows = GuardedStore(RedisStore(redis.url, joins=False), "local", 1, lambda is_up: None)
            await shows.start()
            await store._turn()
            share, used_there = store.share, await used(shows, meter(10))
            await shows.stop()
            return share, used_there

    assert asyncio.run(main()) == (Share(1, 0), [0])


async def fill(store, accounts, times):
    """Use so many accounts' quotas."""
    for number in range(accounts):
        for _ in range(times):
            verdict = await store.admit(claim(meter(10), account=f"user:{number}"))
            await store.settle(verdict.grant, 0)


async def used_by(store, accounts, *meters):
    verdicts = [await store.read(f"user:{number}", meters) for number in range(accounts)]
    return {tuple(reading.used for reading in verdict.readings) for verdict in verdicts}


@pytest.mark.parametrize("loss", ["kill", "freeze"])
def test_every_account_is_told_of(redis, loss):
    async def main():
        workers = Workers(redis)
        async with workers as (store,):
            await fill(store, 500, times=2)
            getattr(redis, loss)()
            await store.admit(claim(meter(10), account="none"))
            await workers.down()
            await fill(store, 500, times=1)
            redis.start() if loss == "kill" else redis.thaw()
            await workers.up()
            return await used_by(store, 500, meter(10))

    assert asyncio.run(main()) == {(3,)}


def test_calls_that_end_while_it_is_told_are_settled(redis):
    async def main():
        workers = Workers(redis)
        async with workers as (store,):
            kinds = [tokens(10_000), tokens(10_000, "hour")]
            before = [(await store.admit(claim(*kinds, least=10))).grant for _ in range(200)]
            redis.freeze()
            alone = [(await store.admit(claim(*kinds, least=10))).grant for _ in range(200)]
            redis.thaw()

            async def end(grants):
                for grant in grants:
                    await store.settle(grant, 1)
                    await asyncio.sleep(0.004)

            await asyncio.gather(end(before), end(alone), workers.up())
            await wait_until_async(lambda: store.journal.is_empty, "all is told")
            return await used(store, *kinds), await admitted(store, [], 9, max_concurrent=9)

    assert asyncio.run(main()) == ([400, 400], 9)


def test_it_comes_back_under_load(redis):
    async def main():
        workers = Workers(redis)
        async with workers as (store,):
            redis.freeze()
            await store.admit(claim(account="none"))
            running = True

            async def load(number):
                while running:
                    verdict = await store.admit(claim(meter(None), account=f"user:{number}"))
                    await store.settle(verdict.grant, 0)
                    await asyncio.sleep(0.002)

            calls = [asyncio.create_task(load(number)) for number in range(20)]
            redis.thaw()
            await workers.up()
            running = False
            await asyncio.gather(*calls)
            await wait_until_async(lambda: store.journal.is_empty, "all is told")
            return await admitted(store, [], 9, max_concurrent=9)

    assert asyncio.run(main()) == 9


def test_a_partition_longer_than_a_lease_loses_no_call(redis, monkeypatch):
    monkeypatch.setattr("proxy.stores.redis.LEASE", 1)

    async def main():
        workers = Workers(redis, 2)
        async with workers as (first, second):
            ended = (await first.admit(claim(tokens(100_000), least=30_000, max_concurrent=2))).grant
            running = (await first.admit(claim(tokens(100_000), least=30_000, max_concurrent=2))).grant
            redis.freeze()
            await asyncio.gather(*(store.admit(claim(account="none")) for store in workers.stores))
            await workers.down()
            await first.settle(ended, 100)
            await wait_until_async(lambda: first.clock() > running.admitted_at + 1, "the leases have lapsed")
            redis.thaw()
            await workers.up()
            await second.admit(claim(tokens(100_000), max_concurrent=2))
            await first.settle(running, 200)
            return await used(second, tokens(100_000))

    assert asyncio.run(main()) == [300]


def test_more_workers_than_calls_at_once_is_told_as_what_it_is(redis):
    async def main():
        async with alone(redis, 3) as stores:
            last = max(stores, key=lambda store: store.share.rank)
            with pytest.raises(StoreUnavailable):
                await last.admit(claim(max_concurrent=2))

    asyncio.run(main())


# -- workers -------------------------------------------------------------------------------------------------------


def test_a_worker_that_stops_leaves_its_share_to_the_others(redis):
    async def main():
        workers = Workers(redis, 2)
        async with workers as (first, second):
            await second.stop()
            await wait_until_async(lambda: first.share.workers == 1, "the other is gone")
            return first.share

    assert asyncio.run(main()) == Share(1, 0)


@pytest.mark.parametrize("limit", [0, 1, 3, 10, 1000])
@pytest.mark.parametrize("workers", [1, 2, 3, 7])
def test_shares_add_up_to_the_limit(limit, workers):
    shares = [Share(workers, rank).of(limit) for rank in range(workers)]
    assert sum(shares) == limit
    assert max(shares) - min(shares) <= 1


# -- leases --------------------------------------------------------------------------------------------------------


def test_a_lease_whose_holder_died_is_found_by_the_next_call(redis_store):
    held = redis_store.admit(claim(tokens(1000), least=100, max_concurrent=1)).grant
    assert not redis_store.admit(claim(max_concurrent=1)).admitted
    redis_store.move(15, holds=False)
    verdict = redis_store.admit(claim(max_concurrent=1))
    assert verdict.admitted
    assert verdict.lost == (Lost(held.claim.lease, held.admitted_at, 100),)


def test_a_lapsed_lease_is_told_until_somebody_takes_note(redis_store):
    redis_store.admit(claim(max_concurrent=1))
    redis_store.move(15, holds=False)
    (lost,) = redis_store.admit(claim(max_concurrent=2)).lost
    assert redis_store.admit(claim(max_concurrent=2)).lost == (lost,)
    redis_store.run(redis_store.store.note("user:1", [lost]))
    assert redis_store.admit(claim(max_concurrent=3)).lost == ()


@pytest.mark.parametrize("is_noted", [True, False])
def test_a_holder_that_comes_back_late_settles_its_call_once(redis_store, is_noted):
    late = redis_store.admit(claim(tokens(1000), least=100)).grant
    redis_store.move(20, holds=False)
    lost = redis_store.admit(claim()).lost
    if is_noted:
        redis_store.run(redis_store.store.note("user:1", lost))
    redis_store.settle(late, 10)
    redis_store.settle(late, 10)
    assert redis_store.read("user:1", [tokens(1000)]).readings[0].used == 10


def test_a_holder_that_renews_late_has_its_place_again(redis_store):
    redis_store.admit(claim(max_concurrent=1))
    redis_store.move(20, holds=False)
    lost = redis_store.run(redis_store.store.admit(claim())).lost
    redis_store.run(redis_store.store.note("user:1", lost))
    redis_store.run(redis_store.store.renew({"user:1": redis_store.held["user:1"]}))
    assert not redis_store.admit(claim(max_concurrent=1)).admitted


def test_what_was_noted_is_kept_for_a_day(redis_store):
    redis_store.admit(claim())
    redis_store.move(20, holds=False)
    redis_store.run(redis_store.store.note("user:1", redis_store.admit(claim()).lost))
    redis_store.move(86500, holds=False)
    redis_store.run(redis_store.store.note("user:1", redis_store.admit(claim()).lost))
    leases = redis_store.run(redis_store.store._command("ZCARD", f"{redis_store.store.prefix}:{{user:1}}:leases"))
    assert leases == 2  # the one of a moment ago, and that of the day before, noted now


def test_every_key_has_a_time_to_live(redis_store):
    redis_store.learn("user:1", {meter(5, "month"): 1})
    redis_store.admit(claim(meter(5), meter(5, "hour"), meter(5, "month"), tokens(9), least=3))
    redis_store.move(20, holds=False)
    redis_store.admit(claim())
    redis_store.run(redis_store.store.beat())
    keys = redis_store.run(redis_store.store._command("KEYS", f"{redis_store.store.prefix}:*"))
    lives = [redis_store.run(redis_store.store._command("TTL", key)) for key in keys]
    assert len(keys) == 7
    assert all(life > 0 for life in lives), dict(zip(keys, lives, strict=True))


def test_scripts_that_redis_has_forgotten_are_sent_again(redis_store):
    redis_store.run(redis_store.store._command("SCRIPT", "FLUSH"))
    assert redis_store.admit(claim(meter(5))).admitted


def test_what_is_told_twice_is_added_once(redis_store):
    limited = meter(9)
    count = Count(limited.window)
    count.add(3, redis_store.now)
    for _ in range(2):
        redis_store.run(redis_store.store.add("user:1", {limited: count}, ["a lease"], "its mark"))
    assert redis_store.read("user:1", [limited]).readings[0].used == 3
