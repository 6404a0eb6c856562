"""Random walks of calls that wait for slots while Redis goes, comes back, is emptied and is slow.

Time and Redis are the test's own, so that a walk takes milliseconds and is the same in each run; the scripts that run
in a real Redis have their tests in test_slots.py.
"""

import asyncio
import itertools
import random
from collections import defaultdict

import pytest

from proxy.errors import UpstreamUnavailable
from proxy.members import Lease
from proxy.pool import Pool
from proxy.queue import SlotQueue, Want
from proxy.slots import Ticket, least_loaded
from proxy.slots.guarded import GuardedSlots
from proxy.slots.memory import MemorySlots
from proxy.stores.connection import StoreDown
from proxy.stores.shares import Share
from proxy.upstream import UpstreamClient
from tests.cast import member
from tests.effort import effort

pytestmark = pytest.mark.once

CASES = effort(100)  # walks of a part
LEASE, HOLD = 5.0, 2.5  # seconds, as in proxy/slots/redis.py
URLS = ("http://a", "http://b")


class Clock:
    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        self.now += 1e-5  # no two moments are the same
        return self.now


class Redis:
    """The scripts of proxy/slots/lua, on the test's clock."""

    def __init__(self, clock):
        self.clock = clock
        self.is_up, self.is_slow = True, False
        self.empty()

    def empty(self):
        self.leases = defaultdict(dict)  # url -> ticket -> when it lapses
        self.lines = defaultdict(dict)  # model -> ticket -> rank, worker, places
        self.inboxes = defaultdict(list)
        self.epoch = None
        self.held_back_until = 0.0
        self.newest = 0

    def busy(self, url):
        now = self.clock()
        self.leases[url] = {name: at for name, at in self.leases[url].items() if at > now}
        return len(self.leases[url])

    @property
    def is_held_back(self):
        return self.epoch is None or self.clock() < self.held_back_until

    def ask(self, worker, name, model, rank, places):
        line = self.lines[model]
        if name in line:
            rank = line[name][0]
        elif rank is None:
            rank = self.newest = max(self.newest + 1, int(self.clock() * 1e6))
        for url in places:
            self.busy(url)
            if name in self.leases[url]:
                return url, rank, 0
        line[name] = rank, worker, places
        while not self.is_held_back and (best := least_loaded(places, {url: self.busy(url) for url in places})):
            before = self.busy(best)
            if self.hand_over(best, name):
                return best, rank, 0
            if self.busy(best) == before:
                break
        return None, rank, sum(each[0] < rank for each in line.values())

    def hand_over(self, url, own=None):
        got = False
        while True:
            firsts = [
                min((each[0], name, model) for name, each in line.items() if url in each[2])
                for model, line in self.lines.items()
                if any(url in each[2] for each in line.values())
            ]
            fit = [each for each in firsts if self.busy(url) < self.lines[each[2]][each[1]][2][url]]
            if not fit:
                return got
            _, name, model = min(fit)
            _, worker, _ = self.lines[model].pop(name)
            self.leases[url][name] = self.clock() + LEASE
            if name == own:
                got = True
            else:
                self.inboxes[worker].append((name, url))

    def release(self, url, name):
        self.leases[url].pop(name, None)
        if not self.is_held_back:
            self.hand_over(url)

    def beat(self, known, held, new):
        if self.epoch is None:
            self.epoch = new
            self.held_back_until = self.clock() + HOLD if known else 0.0
        elif known and self.epoch != known and not self.is_held_back:
            self.held_back_until = self.clock() + HOLD
        for name, url in held:
            self.leases[url][name] = self.clock() + LEASE
        if not self.is_held_back:
            for url in URLS:
                self.hand_over(url)
        return self.epoch


class FakeRedisSlots:
    """RedisSlots on that Redis. While it is slow, replies wait until it is fast again, or gone."""

    epochs = itertools.count(1)

    def __init__(self, redis, worker):
        self.redis, self.worker = redis, worker
        self.is_open, self.epoch = False, None
        self.late = []
        self.granted = None

    async def start(self):
        self.stop()
        self._reach()
        self.is_open = True

    def stop(self):
        self.is_open = False
        late, self.late = self.late, []
        for reply in late:
            if not reply.done():
                reply.set_exception(StoreDown("no answer"))

    def _reach(self):
        if not self.redis.is_up:
            self.stop()
            raise StoreDown("gone")

    async def _reply(self, result):
        if self.redis.is_slow:
            self.late.append(reply := asyncio.get_running_loop().create_future())
            await reply
        await asyncio.sleep(0)
        return result

    async def ask(self, ticket):
        self._reach()
        places = dict(ticket.places)
        url, ticket_rank, ahead = await self._reply(
            self.redis.ask(self.worker, ticket.name, ticket.model, ticket.rank, places)
        )
        ticket.rank = ticket_rank
        if url:
            self.granted(ticket.name, url)
        return ahead

    def leave(self, ticket):
        if self.redis.is_up and self.is_open:
            self.redis.lines[ticket.model].pop(ticket.name, None)
            for url in ticket.places:
                self.redis.release(url, ticket.name)

    def release(self, name, url):
        if self.redis.is_up and self.is_open:
            self.redis.release(url, name)

    async def beat(self, held):
        self._reach()
        if not self.is_open:
            raise StoreDown("not connected")
        known = self.epoch
        self.epoch = self.redis.beat(known, list(held), f"e{next(self.epochs)}")
        return known in (None, self.epoch)

    def listen_once(self):
        if self.redis.is_up and self.is_open:
            inbox, self.redis.inboxes[self.worker] = self.redis.inboxes[self.worker], []
            for name, url in inbox:
                self.granted(name, url)


class Worker:
    """A queue of calls on guarded slots, and the calls that run."""

    def __init__(self, redis, name, workers, rank):
        pool = Pool(UpstreamClient(1, 1), interval=60)
        self.members = (member(URLS[0], "m", "n", slots=2), member(URLS[1], "m", slots=3))
        pool.members = self.members
        self.pool = pool
        self.shared = FakeRedisSlots(redis, name)
        self.slots = GuardedSlots(self.shared, lambda: Share(workers, rank))
        self.queue = SlotQueue(pool, self.slots, name)
        self.calls: dict[asyncio.Task[Lease], tuple[int, str]] = {}  # that wait: which one it was, and its model
        self.leases: list[Lease] = []
        self.got: list[tuple[int, str]] = []

    async def beat(self):
        await self.slots._turn()
        self.shared.listen_once()

    def arrive(self, number, model):
        self.calls[asyncio.create_task(self.queue.lease(Want(model, 1e9, "tier")))] = number, model

    def take(self):
        """Look who got a slot, left, or was told that no upstream has its model now."""
        for task in [each for each in self.calls if each.done()]:
            call = self.calls.pop(task)
            if not task.cancelled() and not isinstance(task.exception(), UpstreamUnavailable):
                self.got.append(call)
                self.leases.append(task.result())

    def running(self, url):
        return sum(lease.member.url == url for lease in self.leases)


class Walk:
    def __init__(self, seed, workers):
        self.choose = random.Random(seed)
        self.clock = Clock()
        self.redis = Redis(self.clock)
        self.workers = [Worker(self.redis, f"w{rank}", workers, rank) for rank in range(workers)]
        self.numbers = itertools.count()
        self.apart_until = 0.0  # when what was granted apart counts in Redis
        self.ran = dict.fromkeys(URLS, 0)

    async def run(self):
        for each in self.workers:
            await each.slots._turn()
        for _ in range(self.choose.randrange(20, 120)):
            await self.step()
            await self.settle()
            self.check()
        await self.end()

    async def step(self):
        worker = self.choose.choice(self.workers)
        what = self.choose.choices(
            ["arrive", "leave", "release", "beat", "wait", "down", "up", "empty", "slow", "fast", "cut", "disable"],
            [12, 3, 8, 8, 6, 1, 2, 1, 1, 2, 1, 1],
        )[0]
        match what:
            case "arrive":
                for _ in range(self.choose.randrange(1, 4)):
                    worker.arrive(next(self.numbers), self.choose.choice("mmmn"))
            case "leave" if worker.calls:
                self.choose.choice(list(worker.calls)).cancel()
            case "release" if worker.leases:
                worker.leases.pop(self.choose.randrange(len(worker.leases))).release()
            case "beat":
                await worker.beat()
            case "wait":
                self.clock.now += self.choose.choice([0.1, 1, 3])
                if self.choose.random() < 0.8:  # else some worker is late
                    await self.beats()
            case "down":
                self.redis.is_up = False
                for each in self.workers:
                    each.shared.stop()
            case "up":
                self.redis.is_up = True
            case "empty":
                self.quick()  # a call whose first reply is lost with what Redis knew is one that comes now
                await self.settle()
                self.redis.empty()
            case "slow":
                self.redis.is_slow = True
            case "fast":
                self.quick()
            case "cut":
                worker.shared.stop()
            case "disable":
                self.serve(worker, [each for each in worker.members if self.choose.random() < 0.7])
                if self.choose.random() < 0.5 and worker.leases:
                    worker.leases.pop().release()  # in the same moment

    def serve(self, worker, members):
        worker.pool.members = tuple(members) or worker.members[:1]
        worker.pool.changed()

    def quick(self):
        self.redis.is_slow = False
        for each in self.workers:
            late, each.shared.late = each.shared.late, []
            for reply in late:
                if not reply.done():
                    reply.set_result(None)

    async def beats(self):
        for each in self.workers:
            await each.beat()
            await self.settle()

    async def settle(self):
        for _ in range(30):
            await asyncio.sleep(0)
        are_heard = all(each.slots.is_up and self.clock.now - each.slots._beat_at < 2 for each in self.workers)
        if self.redis.is_slow or not are_heard:
            self.apart_until = self.clock.now + LEASE
        for each in self.workers:
            each.take()

    def check(self):
        for each in self.workers:
            assert all(lease.is_held for lease in each.leases)
            if each.shared.late:  # a call that has a slot may still wait for a reply
                continue
            held = sorted(each.slots.alone.held.values())
            assert held == sorted(lease.member.url for lease in each.leases), "a slot leaked, or was lost"
        for upstream in self.workers[0].members:
            running = sum(each.running(upstream.url) for each in self.workers)
            if self.clock.now > self.apart_until:  # while Redis is gone each worker gives its share, at least one
                assert running <= max(upstream.slots, self.ran[upstream.url]), "more than there are"
            self.ran[upstream.url] = running

    async def end(self):
        """With Redis back and all upstreams there, every call that waits is served, in order, and nothing is left."""
        self.redis.is_up = True
        self.quick()
        for each in self.workers:
            self.serve(each, each.members)
        for _ in range(12):
            self.clock.now += 1
            await self.beats()
        for each in self.workers:
            each.got.clear()  # from here on there is one line
        while running := [each for each in self.workers if each.leases]:
            self.check_that_none_waits_in_vain()
            self.choose.choice(running).leases.pop(0).release()
            await self.settle()
            await self.beats()
        for each in self.workers:
            assert not each.calls, f"{len(each.calls)} calls were lost from the line"
            for model in "mn":
                numbers = [number for number, its in each.got if its == model]
                assert numbers == sorted(numbers), "not in order of arrival"
            assert not each.slots.alone.held
        self.clock.now += LEASE + 1
        assert [self.redis.busy(url) for url in URLS] == [0, 0]

    def check_that_none_waits_in_vain(self):
        free = {each.url for each in self.workers[0].members if self.redis.busy(each.url) < each.slots}
        for each in self.workers:
            assert not (free and any(model == "m" for _, model in each.calls.values())), (
                "a slot is free, and calls wait"
            )


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("part", range(5))
def test_no_call_and_no_slot_is_lost_whatever_redis_does(monkeypatch, part, workers):
    for seed in range(part * CASES, (part + 1) * CASES):
        walk = Walk(seed, workers)
        monkeypatch.setattr("proxy.slots.guarded.monotonic", walk.clock)
        monkeypatch.setattr("proxy.queue.time", walk.clock)
        try:
            asyncio.run(walk.run())
        except AssertionError as exc:
            raise AssertionError(f"Walk {seed}: {exc}") from exc


def test_a_call_in_line_keeps_its_place_whatever_its_rank_says():
    async def run():
        own, grants = MemorySlots(), []
        own.granted = lambda name, _: grants.append(name)
        tickets = [Ticket(name, "m", {"a": 1}) for name in ("t0", "t1", "t2")]
        for each in tickets:
            await own.ask(each)
        tickets[1].rank = None
        own.release("t0", "a")
        assert grants == ["t0", "t1"]
        tickets[2].rank = None
        assert await own.ask(tickets[2]) == 0
        own.release("t1", "a")
        assert grants == ["t0", "t1", "t2"]

    asyncio.run(run())


def test_ranks_of_redis_and_of_a_worker_alone_are_one_order():
    """Who came while Redis was there goes before who came when it was gone, and the other way round."""

    async def run():
        own = MemorySlots()
        first = Ticket("first", "m", {"a": 0})
        await own.ask(first)
        assert first.rank is not None
        assert await own.ask(Ticket("later", "m", {"a": 0})) == 1
        assert await own.ask(Ticket("earlier", "m", {"a": 0}, first.rank - 1)) == 0

    asyncio.run(run())


def test_a_new_call_goes_after_those_in_line_when_slots_become_free_to_give():
    """Whoever waits while a worker gives nothing yet is not overtaken in the moment that it begins to."""

    async def run():
        grants, part = [], 0
        own = MemorySlots(lambda _: part)
        own.granted = lambda name, _: grants.append(name)
        for name in ("t0", "t1"):
            await own.ask(Ticket(name, "m", {"a": 1}))
        part = 1
        assert await own.ask(Ticket("t2", "m", {"a": 1})) == 1
        assert grants == ["t0"]
        own.release("t0", "a")
        own.release("t1", "a")
        assert grants == ["t0", "t1", "t2"]

    asyncio.run(run())
