"""Flights: who is aboard, what they hear, and what becomes of the work."""

import asyncio

import pytest

from accounts.errors import GatewayError
from proxy.cache import Kept
from proxy.cache.answers import AnswerCache, Computed
from proxy.cache.flights import MOST_BYTES, Abandoned
from proxy.cache.memory import MemoryAnswers
from proxy.errors import UpstreamError

pytestmark = pytest.mark.once


def flies(test):
    """Run a test on a loop, with a cache."""

    def run():
        async def fly():
            await asyncio.wait_for(test(AnswerCache(MemoryAnswers(100_000))), 5)

        asyncio.run(fly())

    run.__name__ = test.__name__
    return run


class Work:
    """What a leader does, step by step, as a test says."""

    def __init__(self) -> None:
        self.may_go_on = asyncio.Event()
        self.fails: Exception | None = None
        self.may_be_kept = True
        self.was_ended = False

    async def __call__(self, flight):
        flight.publish([b"1", b"2"])
        try:
            await self.may_go_on.wait()
        except asyncio.CancelledError:
            self.was_ended = True
            raise
        if self.fails:
            raise self.fails
        flight.publish([b"3"])
        return Computed(b"123", self.may_be_kept)


async def led(cache, work, key="k"):
    seat = await cache.look(key)
    assert seat.leads
    cache.lead(seat, work, 60)
    return seat


async def heard(flight):
    return [event async for events in flight.portions() for event in events]


@flies
async def test_those_who_come_meanwhile_follow(cache):
    work = Work()
    leader = await led(cache, work)
    followers = [await cache.look("k") for _ in range(3)]
    assert [each.leads for each in followers] == [False] * 3
    work.may_go_on.set()
    assert {(await each.flight.outcome()).answer for each in (leader, *followers)} == {b"123"}


@flies
async def test_who_comes_late_hears_all_from_the_start(cache):
    work = Work()
    leader = await led(cache, work)
    early = asyncio.create_task(heard(leader.flight))
    await asyncio.sleep(0)
    late = asyncio.create_task(heard((await cache.look("k")).flight))
    await asyncio.sleep(0)
    work.may_go_on.set()
    assert await early == await late == [b"1", b"2", b"3"]


@flies
async def test_who_comes_afterwards_is_told_what_was_kept(cache):
    work = Work()
    leader = await led(cache, work)
    work.may_go_on.set()
    await leader.flight.outcome()
    await cache.end_lead(leader)
    found = await cache.look("k")
    assert isinstance(found, Kept)
    assert found.answer == b"123"


@flies
async def test_what_may_not_be_kept_is_told_to_those_aboard_only(cache):
    work = Work()
    work.may_be_kept = False
    leader = await led(cache, work)
    follower = await cache.look("k")
    work.may_go_on.set()
    assert (await follower.flight.outcome()).answer == b"123"
    await cache.end_lead(leader)
    assert (await cache.look("k")).leads


@flies
async def test_the_work_goes_on_without_the_leader_while_somebody_is_aboard(cache):
    work = Work()
    leader = await led(cache, work)
    follower = await cache.look("k")
    leaving = asyncio.create_task(cache.end_lead(leader))
    for _ in range(5):
        await asyncio.sleep(0)
    assert not leaving.done()
    work.may_go_on.set()
    await leaving
    assert (await follower.flight.outcome()).answer == b"123"
    assert not work.was_ended


@pytest.mark.parametrize("first", ["leader", "follower"])
def test_when_nobody_is_left_the_work_is_ended(first):
    @flies
    async def run(cache):
        work = Work()
        leader = await led(cache, work)
        follower = await cache.look("k")
        await asyncio.sleep(0)
        leaves = [cache.end_lead(leader), cache.give_back(follower)]
        await asyncio.gather(*(leaves if first == "leader" else reversed(leaves)))
        assert work.was_ended
        assert (await cache.look("k")).leads

    run()


@flies
async def test_work_that_was_ended_before_its_first_step_leaves_nothing_behind(cache):
    leader = await led(cache, Work())
    await cache.end_lead(leader)
    assert (await cache.look("k")).leads


@flies
async def test_a_fault_of_the_leader_is_told_to_all(cache):
    work = Work()
    work.fails = UpstreamError()
    leader = await led(cache, work)
    follower = await cache.look("k")
    work.may_go_on.set()
    for each in (leader, follower):
        with pytest.raises(UpstreamError):
            await each.flight.outcome()
    await cache.end_lead(leader)
    assert (await cache.look("k")).leads


@flies
async def test_what_nobody_foresaw_is_an_internal_error(cache):
    work = Work()
    work.fails = ZeroDivisionError()
    leader = await led(cache, work)
    work.may_go_on.set()
    with pytest.raises(GatewayError) as raised:
        await leader.flight.outcome()
    assert raised.value.code == "internal_error"
    await cache.end_lead(leader)


@flies
async def test_a_leader_that_is_refused_leaves_its_flight_to_nobody(cache):
    leader = await cache.look("k")
    follower = await cache.look("k")
    await cache.give_back(leader)
    with pytest.raises(Abandoned):
        await follower.flight.outcome()
    await cache.give_back(follower)
    assert (await cache.look("k")).leads


@flies
async def test_a_seat_is_given_back_once(cache):
    work = Work()
    leader = await led(cache, work)
    follower = await cache.look("k")
    for _ in range(3):
        await cache.give_back(follower)
    assert leader.flight.aboard == 1
    await cache.end_lead(leader)


@flies
async def test_a_seat_alone_is_nobodys_elses(cache):
    work = Work()
    seat = cache.alone()
    cache.lead(seat, work, 60)
    assert (await cache.look("k")).leads
    work.may_go_on.set()
    await cache.end_lead(seat)
    assert (await cache.store.size()).answers == 0


@flies
async def test_an_answer_is_heard_only_by_those_who_listen(cache):
    work = Work()
    leader = await led(cache, work)
    await asyncio.sleep(0)
    assert not leader.flight.was_heard
    listening = asyncio.create_task(heard(leader.flight))
    await asyncio.sleep(0)
    assert leader.flight.was_heard
    work.may_go_on.set()
    await listening
    await cache.end_lead(leader)


@flies
async def test_of_a_long_answer_only_what_somebody_still_has_to_hear_is_held(cache):
    flight = cache.alone().flight
    early = flight.portions()
    flight.publish([b"1"])
    assert await anext(early) == [b"1"]
    flight.publish([b"x" * MOST_BYTES])
    assert len(flight._events) == 1
    late = asyncio.create_task(heard(flight))
    flight.publish([b"3"])
    assert b"".join(await anext(early)) == b"x" * MOST_BYTES + b"3"
    flight.publish([b"4"])
    assert flight._events == [b"4"]
    flight.land(Kept(b"", 0))
    assert await anext(early) == [b"4"]
    assert await late == []


@flies
async def test_a_long_answer_that_nobody_hears_takes_no_memory(cache):
    flight = cache.alone().flight
    for _ in range(3):
        flight.publish([b"x" * MOST_BYTES])
    assert sum(map(len, flight._events)) <= MOST_BYTES
    flight.restart()
    assert not flight.was_heard


@flies
async def test_a_stop_ends_what_is_under_way(cache):
    work = Work()
    seat = await led(cache, work)
    await asyncio.sleep(0)
    await cache.stop()
    assert work.was_ended
    with pytest.raises(Abandoned):
        await seat.flight.outcome()
