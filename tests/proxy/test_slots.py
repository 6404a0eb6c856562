"""Who gets a slot, and when: one contract for slots in memory and in Redis, alone or with Redis that fails."""

import asyncio
import itertools
from contextlib import asynccontextmanager

import pytest

from proxy.slots import Ticket
from proxy.slots.guarded import GuardedSlots
from proxy.slots.memory import MemorySlots
from proxy.slots.redis import LEASE, RedisSlots
from proxy.stores.shares import Share
from tests.servers import OwnRedis, wait_until_async

pytestmark = pytest.mark.once
numbers = itertools.count()


@pytest.fixture(scope="module")
def redis():
    with OwnRedis() as server:
        yield server


@pytest.fixture(params=["memory", "redis"])
def slots(request):
    """Makes slots, each time with nothing in them, that note what they grant."""

    @asynccontextmanager
    async def make():
        server = None if request.param == "memory" else request.getfixturevalue("redis")
        made = MemorySlots() if server is None else shared(server)
        async with noting(made):
            yield made

    return make


def shared(server, prefix=None, workers=1):
    prefix = prefix or f"test{next(numbers)}"
    return GuardedSlots(RedisSlots(server.url, f"w{next(numbers)}", prefix), lambda: Share(workers, 0))


@asynccontextmanager
async def noting(made):
    made.grants = {}
    made.granted = made.grants.__setitem__
    await made.start()
    try:
        yield made
    finally:
        await made.stop()


def ticket(model="m", **places):
    return Ticket(f"t{next(numbers)}", model, places or {"a": 1})


async def granted(slots, ticket):
    await wait_until_async(lambda: ticket.name in slots.grants, f"{ticket.name} has a slot")
    return slots.grants[ticket.name]


async def lapses_at(slots, ticket):
    """When Redis takes the slot of a ticket back, in milliseconds, unless its worker says that it lives."""
    key = f"{slots.shared._prefix}busy:a"
    return float(await slots.shared._connection.send(b"ZSCORE", key, ticket.name))


async def line(slots, *tickets):
    """Put them in line. Gives how many were before each."""
    return [await slots.ask(each) for each in tickets]


def test_a_free_slot_is_granted_at_once(slots):
    async def run():
        async with slots() as own:
            assert await own.ask(one := ticket()) == 0
            assert own.grants == {one.name: "a"}
            assert await own.busy(["a", "b"]) == {"a": 1, "b": 0}

    asyncio.run(run())


def test_never_more_than_there_are_and_each_that_is_freed_goes_to_the_first_in_line(slots):
    async def run():
        async with slots() as own:
            tickets = [ticket(a=2) for _ in range(6)]
            assert await line(own, *tickets) == [0, 0, 0, 1, 2, 3]
            for before, after in zip(tickets, tickets[2:], strict=False):
                assert after.name not in own.grants
                own.release(before.name, "a")
                await granted(own, after)
                assert await own.busy(["a"]) == {"a": 2}

    asyncio.run(run())


def test_the_least_loaded_upstream_takes_the_call(slots):
    async def run():
        async with slots() as own:
            tickets = [ticket(a=2, b=4) for _ in range(6)]
            await line(own, *tickets)
            assert [own.grants[each.name] for each in tickets] == ["a", "b", "b", "a", "b", "b"]

    asyncio.run(run())


def test_a_slot_goes_to_the_first_who_takes_it_whatever_their_model(slots):
    async def run():
        async with slots() as own:
            busy = [ticket(a=1), ticket("n", b=1)]
            only_b, first, second = ticket("n", b=1), ticket("m", a=1), ticket("n", a=1, b=1)
            await line(own, *busy, only_b, first, second)
            own.release(busy[0].name, "a")
            assert await granted(own, first) == "a"
            own.release(first.name, "a")
            assert await granted(own, second) == "a"
            assert only_b.name not in own.grants

    asyncio.run(run())


def test_who_leaves_is_not_served_and_leaves_nothing(slots):
    async def run():
        async with slots() as own:
            busy, gone, next_one = ticket(), ticket(), ticket()
            await line(own, busy, gone, next_one)
            own.leave(gone)
            own.release(busy.name, "a")
            await granted(own, next_one)
            assert gone.name not in own.grants
            own.release(next_one.name, "a")
            assert await own.busy(["a"]) == {"a": 0}

    asyncio.run(run())


def test_who_comes_back_has_the_place_that_they_had(slots):
    async def run():
        async with slots() as own:
            first, second, third = ticket(), ticket(), ticket()
            await line(own, first, second, third)
            again = Ticket("again", "m", {"a": 1}, first.rank)
            await own.ask(again)
            own.release(first.name, "a")
            await granted(own, again)
            assert second.name not in own.grants

    asyncio.run(run())


def test_who_waits_may_take_another_upstream_now(slots):
    async def run():
        async with slots() as own:
            busy, waiting = ticket(), ticket()
            await line(own, busy, waiting)
            waiting.places = {"a": 1, "b": 1}
            await own.ask(waiting)
            assert await granted(own, waiting) == "b"

    asyncio.run(run())


def test_a_slot_that_is_given_back_twice_is_free_once(slots):
    async def run():
        async with slots() as own:
            one, other = ticket(a=2), ticket(a=2)
            await line(own, one, other)
            own.release(one.name, "a")
            own.release(one.name, "a")
            assert await own.busy(["a"]) == {"a": 1}

    asyncio.run(run())


# -- several workers -----------------------------------------------------------------------------------------------


def test_workers_share_slots_and_one_line(redis):
    async def run():
        one, other = shared(redis, "both"), shared(redis, "both")
        async with noting(one), noting(other):
            tickets = [ticket(a=2) for _ in range(6)]
            owners = [one, other] * 3
            for owner, each in zip(owners, tickets, strict=True):
                await owner.ask(each)
            for number in range(4):
                owners[number].release(tickets[number].name, "a")
                await granted(owners[number + 2], tickets[number + 2])
                assert len(one.grants) + len(other.grants) == number + 3

    asyncio.run(run())


def test_the_slots_of_a_dead_worker_are_free_after_its_leases_and_its_line_is_dropped(redis):
    async def run():
        dead, alive = shared(redis, "dead"), shared(redis, "dead")
        async with noting(alive):
            async with noting(dead):
                await line(dead, ticket(), ticket())
            waiting = ticket()
            await alive.ask(waiting)
            await wait_until_async(lambda: waiting.name in alive.grants, "its slot is free")

    asyncio.run(run())


def test_a_slot_is_kept_for_as_long_as_its_worker_lives(redis):
    async def run():
        async with noting(shared(redis, "lives")) as own:
            held, waiting = ticket(), ticket()
            await line(own, held, waiting)
            beats = [await lapses_at(own, held)]
            while beats[-1] < beats[0] + LEASE:  # without renewals it would have lapsed by now
                if (now := await lapses_at(own, held)) > beats[-1]:
                    beats.append(now)
                await asyncio.sleep(0.05)
            assert len(beats) > 2
            assert waiting.name not in own.grants
            own.release(held.name, "a")
            await granted(own, waiting)

    asyncio.run(run())


def test_without_redis_a_worker_gives_its_share_and_then_goes_on_with_all():
    async def run():
        with OwnRedis() as server:
            own = shared(server, "faulty", workers=2)
            asked_anew = []
            own.lost = lambda: asked_anew.append(own.is_up)
            async with noting(own):
                held, waiting = ticket(a=4), ticket(a=1)
                await own.ask(held)
                server.kill()
                await wait_until_async(lambda: not own.is_up, "Redis is missed")
                tickets = [ticket(a=4) for _ in range(3)]
                await line(own, *tickets)
                assert not any(each.name in own.grants for each in tickets)  # it may only have been slow
                before = len(asked_anew)
                await wait_until_async(lambda: len(asked_anew) > before, "it gives its share")
                await line(own, *tickets)
                assert [each.name in own.grants for each in tickets] == [True, False, False]
                own.release(held.name, "a")
                server.start()
                await wait_until_async(lambda: own.is_up, "Redis is back")
                assert asked_anew[-1]
                assert await own.busy(["a"]) == {"a": 2}
                await own.ask(waiting)
                assert waiting.name not in own.grants

    asyncio.run(run())


def test_a_redis_that_has_lost_its_memory_gives_nothing_before_workers_have_told_it_of_their_slots():
    async def run():
        with OwnRedis() as server:
            one, other = shared(server, "memory"), shared(server, "memory")
            async with noting(one), noting(other):
                held = ticket(a=1)
                await one.ask(held)
                server.kill()
                await wait_until_async(lambda: not (one.is_up or other.is_up), "Redis is missed")
                server.start()
                await wait_until_async(lambda: other.is_up, "Redis is back")
                waiting = ticket(a=1)
                await other.ask(waiting)
                await wait_until_async(lambda: one.is_up, "Redis is back there")
                assert waiting.name not in other.grants
                one.release(held.name, "a")
                await granted(other, waiting)

    asyncio.run(run())


def test_a_ticket_that_is_asked_for_twice_at_once_has_one_slot(slots):
    async def run():
        async with slots() as own:
            one = ticket(a=2)
            await asyncio.gather(own.ask(one), own.ask(one))
            assert await own.busy(["a"]) == {"a": 1}
            own.release(one.name, "a")
            assert await own.busy(["a"]) == {"a": 0}

    asyncio.run(run())


def test_who_leaves_before_the_reply_has_come_leaves_no_slot_behind(redis):
    async def run():
        async with noting(shared(redis)) as own:
            asking = asyncio.create_task(own.ask(gone := ticket()))
            await asyncio.sleep(0)
            asking.cancel()
            await asyncio.wait({asking})
            own.leave(gone)
            assert await own.busy(["a"]) == {"a": 0}

    asyncio.run(run())


def test_a_redis_that_has_lost_its_scripts_is_told_of_them_again():
    async def run():
        with OwnRedis() as server:
            async with noting(shared(server)) as own:
                await own.shared._connection.send(b"SCRIPT", b"FLUSH")
                await own.ask(waiting := ticket())
                await wait_until_async(lambda: not own.is_up, "they are missed")
                await wait_until_async(lambda: own.is_up, "Redis counts again")
                await own.ask(waiting)
                assert waiting.name in own.grants

    asyncio.run(run())


def test_a_redis_that_was_emptied_gives_nothing_until_it_was_told_of_all_slots():
    async def run():
        with OwnRedis() as server:
            async with noting(shared(server)) as own:
                await own.ask(held := ticket())
                await own.shared._connection.send(b"FLUSHALL")
                await own.ask(waiting := ticket())
                assert waiting.name not in own.grants
                own.release(held.name, "a")
                await granted(own, waiting)

    asyncio.run(run())
