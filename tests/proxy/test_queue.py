"""Calls that wait for a slot: who is served, who is refused, and what that costs."""

import asyncio

import pytest

from proxy.errors import Overloaded, Stopping, UpstreamUnavailable
from proxy.gateway import gateway
from proxy.models import UsageRecord
from proxy.pool import Pool
from proxy.queue import SlotQueue, Want
from proxy.service import Service
from proxy.slots.memory import MemorySlots
from proxy.upstream import UpstreamClient
from tests import fake_llama
from tests.cast import member, new_tier, person
from tests.conftest import CHAT
from tests.proxy.test_endings import send
from tests.servers import PATIENCE, wait_until, wait_until_async

ENDED = [fake_llama.FINISH, fake_llama.USAGE, fake_llama.DONE]


def queue(*members):
    pool = Pool(UpstreamClient(1, 1), interval=60)
    pool.members = members
    return SlotQueue(pool, MemorySlots(), "w")


def want(limit=10.0, **fields):
    return Want("m", limit, "tier", **fields)


async def in_line(own, *wants):
    """Tasks that wait for a lease, in this order."""
    tasks = []
    for each in wants:
        tasks.append(asyncio.create_task(own.lease(each)))
        await asyncio.sleep(0)
    return tasks


def test_calls_are_served_in_order_of_arrival():
    async def run():
        own = queue(member("http://a", "m", slots=1))
        lease = await own.lease(want())
        tasks = await in_line(own, want(), want(), want())
        for task in tasks:
            assert not task.done()
            lease.release()
            lease = await task

    asyncio.run(run())


def test_one_that_would_wait_for_longer_than_it_may_is_refused_at_once_and_told_for_how_long():
    async def run():
        own = queue(member("http://a", "m", slots=1))
        own._services["m"] = service = Service()
        service.begin(0)
        service.end(0, 30)
        await own.lease(want())
        waiting = await in_line(own, want(limit=31))
        with pytest.raises(Overloaded) as refused:
            await own.lease(want(limit=59))
        assert refused.value.retry_after == 60
        assert not waiting[0].done()
        waiting[0].cancel()

    asyncio.run(run())


def test_one_that_never_waits_is_refused_where_no_slot_is_free():
    async def run():
        own = queue(member("http://a", "m", slots=1))
        lease = await own.lease(want(limit=0))
        with pytest.raises(Overloaded):
            await own.lease(want(limit=0))
        lease.release()
        await own.lease(want(limit=0))

    asyncio.run(run())


def test_one_that_has_waited_for_as_long_as_it_may_is_refused_and_out_of_line():
    async def run():
        own = queue(member("http://a", "m", slots=1))
        lease = await own.lease(want())
        with pytest.raises(Overloaded, match=r"within 0\.05 s"):
            await own.lease(want(limit=0.05))
        lease.release()
        assert await own.slots.busy(["http://a"]) == {"http://a": 0}

    asyncio.run(run())


def test_who_leaves_frees_the_line():
    async def run():
        own = queue(member("http://a", "m", slots=1))
        lease = await own.lease(want())
        gone, stays = await in_line(own, want(), want())
        gone.cancel()
        await asyncio.wait({gone})
        lease.release()
        (await stays).release()
        assert await own.slots.busy(["http://a"]) == {"http://a": 0}

    asyncio.run(run())


def test_one_that_leaves_in_the_moment_of_its_turn_gives_the_slot_back():
    async def run():
        own = queue(member("http://a", "m", slots=1))
        lease = await own.lease(want())
        gone, stays = await in_line(own, want(), want())
        lease.release()
        gone.cancel()
        await asyncio.wait({gone})
        assert gone.cancelled()
        await asyncio.wait_for(stays, PATIENCE)

    asyncio.run(run())


def test_an_upstream_that_comes_takes_who_waits():
    async def run():
        a, b = member("http://a", "m", slots=1), member("http://b", "m", slots=1)
        own = queue(a)
        await own.lease(want())
        (waiting,) = await in_line(own, want())
        own.pool.members = (a, b)
        own.pool.changed()
        assert (await waiting).member is b

    asyncio.run(run())


def test_when_the_last_upstream_goes_who_waits_is_told():
    async def run():
        own = queue(member("http://a", "m", slots=1))
        await own.lease(want())
        (waiting,) = await in_line(own, want())
        own.pool.refused(own.pool.members[0], "nobody is there")
        with pytest.raises(UpstreamUnavailable):
            await waiting

    asyncio.run(run())


def test_one_on_trial_gets_one_call_at_a_time_until_it_is_answered():
    async def run():
        a = member("http://a", "m", up=False)
        a.circuit.found_well(0)
        own = queue(a)
        lease = await own.lease(want())
        waiting = await in_line(own, want(), want())
        await asyncio.sleep(0)
        assert not any(task.done() for task in waiting)
        own.pool.answered(lease.member)
        await asyncio.gather(*waiting)

    asyncio.run(run())


def test_one_that_comes_back_since_its_upstream_failed_goes_first_and_elsewhere():
    async def run():
        a, b = member("http://a", "m", slots=1), member("http://b", "m", slots=1)
        own = queue(a, b)
        first = want()
        lease, other = await own.lease(first), await own.lease(want())
        (waiting,) = await in_line(own, want())
        first.tried.append(lease.member)
        (again,) = await in_line(own, first)
        other.release()
        assert (await again).member is b
        assert not waiting.done()
        lease.release()
        assert (await waiting).member is a

    asyncio.run(run())


def test_a_grant_of_an_upstream_that_is_disabled_in_that_moment_goes_back():
    async def run():
        a, b = member("http://a", "m", slots=1), member("http://b", "m", slots=1)
        own = queue(a, b)
        leases = [await own.lease(want()), await own.lease(want())]
        (waiting,) = await in_line(own, want())
        own.pool.members = (b,)
        leases[0].release()
        await wait_until_async(lambda: own.slots._busy["http://a"] == 0, "the slot is back")
        assert not waiting.done()
        leases[1].release()
        assert (await waiting).member is b

    asyncio.run(run())


def test_from_the_end_on_nobody_waits_but_free_slots_are_given():
    async def run():
        own = queue(member("http://a", "m", slots=2))
        await own.lease(want())
        lease = await own.lease(want())
        (waiting,) = await in_line(own, want())
        own.close()
        for late in (waiting, own.lease(want())):
            with pytest.raises(Stopping):
                await late
        lease.release()
        await own.lease(want())

    asyncio.run(run())


# -- whole calls ---------------------------------------------------------------------------------------------------


@pytest.fixture
def one_slot(served_by, gate):
    """A llama-server of one slot, that answers when the gate opens."""
    server = fake_llama.FakeLlama(fake_llama.sends_late(gate, fake_llama.STREAM_HEAD, fake_llama.token("Hi"), *ENDED))
    served_by(server.url, slots=1)
    yield server
    server.close()


def row_of(someone):
    wait_until(lambda: UsageRecord.objects.filter(user=someone.user).exists(), "the row is written")
    return UsageRecord.objects.get(user=someone.user)


@pytest.mark.parametrize("stream", [False, True])
def test_a_call_waits_for_the_slot_and_its_wait_is_in_the_ledger(one_slot, gate, chat, together, stream):
    first, second = person("first"), person("second")
    with together(lambda: chat(first), lambda: chat(second, stream=stream)) as calls:
        wait_until(lambda: len(gateway().queue._waiting) == 1 and one_slot.seen, "one of them runs, and one waits")
        assert len(one_slot.seen) == 1
        gate.set()
        assert [each.result().status_code for each in calls] == [200, 200]
    waits = sorted(row_of(each).queue_ms for each in (first, second))
    assert waits[0] < waits[1]


@pytest.mark.parametrize("stream", [False, True])
def test_a_call_that_may_not_wait_is_503_and_costs_nothing(one_slot, gate, chat, together, stream):
    hasty = person("hasty", new_tier(2, max_queue_seconds=0))
    with together(lambda: chat(person("slow"))) as (slow,):
        wait_until(lambda: one_slot.seen, "the slot is busy")
        refused = [chat(hasty, stream=stream) for _ in range(3)]
        gate.set()
        assert slow.result().status_code == 200
    for each in refused:
        assert (each.status_code, each.json()["error"]["code"]) == (503, "overloaded")
        assert int(each.headers["retry-after"]) >= 1
    assert chat(hasty).status_code == 200
    wait_until(lambda: UsageRecord.objects.filter(user=hasty.user).count() == 4, "all rows are written")
    rows = UsageRecord.objects.filter(user=hasty.user).order_by("admitted_at")
    assert [(row.is_free, row.prompt_tokens + row.completion_tokens) for row in rows] == [(True, 0)] * 3 + [(False, 7)]


def test_a_client_that_leaves_the_queue_pays_nothing(live, one_slot, gate, together, chat):
    hasty = person("hasty")
    token = hasty.token
    with together(lambda: chat(person("slow"))) as (slow,):
        wait_until(lambda: one_slot.seen, "the slot is busy")
        with send(live, token, CHAT):
            wait_until(lambda: gateway().queue._waiting, "it waits")
        wait_until(lambda: not gateway().queue._waiting, "nobody waits")
        gate.set()
        slow.result()
    row = row_of(hasty)
    assert (row.status, row.is_free, row.upstream) == (499, True, "")
    assert len(one_slot.seen) == 1


def test_questions_that_run_no_model_need_no_slot(one_slot, gate, chat, post, bob, together):
    with together(lambda: chat(bob)) as (slow,):
        wait_until(lambda: one_slot.seen, "the slot is busy")
        with together(lambda: post("tokenize", bob, content="Hi")) as (question,):
            wait_until(lambda: len(one_slot.seen) == 2, "the question is asked")
            gate.set()
            question.result()
        assert slow.result().status_code == 200
