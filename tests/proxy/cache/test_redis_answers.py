"""Several workers on one Redis: one computes, the others wait. And what a slow or dead Redis costs: one miss."""

import asyncio
import time

import pytest

from accounts.errors import StoreUnavailable
from proxy.cache import Kept
from proxy.cache import redis as cache_redis
from tests.servers import PATIENCE, OwnRedis, free_port, wait_until

pytestmark = pytest.mark.once
A, B, C = range(3)


def waiting(driven, worker, key="k"):
    """Have a worker wait for what another computes, while something else happens; gives what it got."""

    async def both(happens):
        task = asyncio.create_task(driven.stores[worker].wait(key))
        await happens
        return await asyncio.wait_for(task, PATIENCE)

    return lambda happens: driven.run(both(happens))


def test_one_worker_has_the_turn_and_the_others_wait(on_redis):
    three = on_redis(workers=3)
    assert [three.owns(worker=each) for each in (A, B, C)] == [True, False, False]


def test_who_waits_gets_the_answer(on_redis):
    two = on_redis(workers=2)
    two.look(worker=A)
    two.look(worker=B)
    kept = waiting(two, B)(two.kept(b"1", worker=A))
    assert kept.answer == b"1"


@pytest.mark.parametrize("failed", [True, False])
def test_who_waits_for_nothing_is_told_so(on_redis, failed):
    two = on_redis(workers=2)
    two.look(worker=A)
    assert waiting(two, B)(two.left(worker=A, failed=failed)) is None


def test_a_turn_that_was_given_back_is_the_next_ones_and_others_wait_for_it(on_redis):
    three = on_redis(workers=3)
    three.look(worker=A)
    three.run(three.left(worker=A, failed=False))
    assert [three.owns(worker=each) for each in (B, C)] == [True, False]


def test_after_a_failure_all_go_their_own_ways_for_a_while(on_redis, monkeypatch):
    monkeypatch.setattr(cache_redis, "FAILED", 100)
    three = on_redis(workers=3)
    three.look(worker=A)
    three.run(three.left(worker=A, failed=True))
    assert [three.owns(worker=each) for each in (B, C)] == [True, True]
    three.run(three.kept(b"1", worker=B))
    assert isinstance(three.look(worker=C), Kept)


def test_the_turn_of_a_worker_that_died_lapses(on_redis, monkeypatch):
    monkeypatch.setattr(cache_redis, "TURN", 100)
    monkeypatch.setattr(cache_redis, "BEAT", 60.0)
    two = on_redis(workers=2)
    two.look(worker=A)
    wait_until(lambda: two.owns(worker=B), "its turn is over")


def test_a_turn_that_has_lapsed_cannot_be_given_back_when_it_is_anothers(on_redis, monkeypatch):
    monkeypatch.setattr(cache_redis, "TURN", 100)
    monkeypatch.setattr(cache_redis, "BEAT", 60.0)
    three = on_redis(workers=3)
    three.look(worker=A)
    monkeypatch.setattr(cache_redis, "TURN", 60_000)
    wait_until(lambda: three.owns(worker=B), "its turn is over")
    three.run(three.left(worker=A, failed=False))
    assert three.look(worker=C) is None


def test_the_turn_of_one_that_works_on_does_not(on_redis, monkeypatch):
    monkeypatch.setattr(cache_redis, "TURN", 60_000)
    monkeypatch.setattr(cache_redis, "BEAT", 0.05)
    two = on_redis(workers=2)
    two.look(worker=A)

    async def milliseconds_left():
        await asyncio.sleep(0.02)  # the loop's heartbeats beat only while it runs
        async with two.store._visit() as connection:
            return await connection.send("PTTL", two.store._turn("k"))

    left = [two.run(milliseconds_left())]
    wait_until(lambda: left.append(two.run(milliseconds_left())) or left[-1] > left[-2], "it is renewed")
    wait_until(lambda: left.append(two.run(milliseconds_left())) or left[-1] > left[-2], "it is renewed again")
    assert two.look(worker=B) is None


def test_a_look_whose_client_left_gives_its_turn_back(on_redis):
    two = on_redis(workers=2)

    async def leave():
        look = asyncio.create_task(two.stores[A].look("k"))
        await asyncio.sleep(0)
        look.cancel()
        await asyncio.gather(look, return_exceptions=True)

    two.run(leave())
    assert two.owns(worker=B)


def test_every_key_lapses(on_redis, own_redis):
    driven = on_redis()
    driven.keep()
    driven.run(driven.store.empty())
    driven.keep()
    driven.look("other")

    async def unlimited():
        async with driven.store._visit() as connection:
            keys = await connection.send("KEYS", f"{driven.store._prefix}*")
            return keys, [key for key in keys if await connection.send("PTTL", key) < 0]

    keys, without = driven.run(unlimited())
    assert len(keys) >= 5
    assert without == []


# -- faults --------------------------------------------------------------------------------------------------------


def test_a_dead_redis_is_a_miss_and_nothing_waits(on_redis):
    driven = on_redis(url=f"redis://127.0.0.1:{free_port()}/0")
    began = time.monotonic()
    assert [driven.keep(key=f"k{n}") for n in range(50)] == [True] * 50
    assert time.monotonic() - began < 50 * cache_redis.DEADLINE  # what each would take that waited
    assert driven.up == [False]
    with pytest.raises(StoreUnavailable):
        driven.run(driven.store.empty())


def test_a_frozen_redis_costs_one_short_wait(on_redis):
    with OwnRedis() as frozen:
        driven = on_redis(url=frozen.url)
        driven.keep()
        frozen.freeze()
        assert driven.owns()
        assert driven.up == [True, False]  # with the first, so that the others do not ask
        began = time.monotonic()
        assert all(driven.owns(f"k{n}") for n in range(100))
        assert time.monotonic() - began < 100 * cache_redis.DEADLINE / 2
        assert driven.up == [True, False]
        frozen.thaw()


def test_it_is_used_again_when_it_answers(on_redis, monkeypatch):
    monkeypatch.setattr(cache_redis, "BEAT", 0.05)
    with OwnRedis() as redis:
        driven = on_redis(url=redis.url)
        redis.kill()
        assert driven.owns()
        assert driven.up == [True, False]
        redis.start()
        wait_until(lambda: driven.run(asyncio.sleep(0.02)) or driven.up[-1], "it is back")
        driven.keep()
        assert isinstance(driven.look(), Kept)
        assert driven.up == [True, False, True]


def test_an_answer_from_before_its_memory_was_lost_is_kept_all_the_same(on_redis):
    driven = on_redis()
    driven.look()
    driven.run(flush(driven))
    driven.run(driven.kept(b"1"))
    assert driven.look().answer == b"1"


async def flush(driven):
    async with driven.store._visit() as connection:
        await connection.send("FLUSHALL")
