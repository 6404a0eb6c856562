"""What is held in memory, how fresh it is, and what happens without the database."""

import asyncio

import pytest
from django.db import OperationalError

from accounts import snapshot as module
from accounts.callers import Caller, Credential, Policies, TierPolicy
from accounts.errors import StoreUnavailable
from accounts.snapshot import FRESH, Snapshot, Whole

ALICE = Caller(1, "alice", 1, is_active=True, tokens_valid_from=0.0, is_revoked=False)
KEY = Credential("api_key", "a")
POLICIES = Policies({1: TierPolicy("free", None, None, None)})


class Database:
    """A stand-in for the loader's reads. It counts them, and can be down."""

    def __init__(self) -> None:
        self.callers = {KEY: ALICE}
        self.asked: list[set[Credential]] = []
        self.is_down = False

    def read(self, asked, fresh, load_extra):
        self.asked.append(asked)
        if self.is_down:
            raise OperationalError("gone")
        return fresh or Whole(POLICIES, None), {key: self.callers[key] for key in asked if key in self.callers}

    @property
    def reads(self) -> int:
        """How many reads were for somebody."""
        return sum(bool(asked) for asked in self.asked)


@pytest.fixture
def database(monkeypatch):
    stand_in = Database()
    monkeypatch.setattr(module, "read", stand_in.read)
    return stand_in


@pytest.fixture
def now():
    return [1000.0]


@pytest.fixture
def lives(now):
    """Runs a scene with a started snapshot, and stops it."""

    def run(scene, max_stale=300.0, capacity=10):
        async def play():
            snapshot = Snapshot(max_stale, capacity, clock=lambda: now[0])
            await snapshot.start()
            try:
                return await scene(snapshot)
            finally:
                await snapshot.stop()

        return asyncio.run(play())

    return run


def test_a_caller_is_read_once_and_held(database, lives):
    async def scene(snapshot):
        return [await snapshot.caller(KEY) for _ in range(5)]

    assert lives(scene) == [ALICE] * 5
    assert database.reads == 1


def test_all_who_wait_at_a_moment_are_read_at_once(database, lives):
    keys = [Credential("api_key", letter) for letter in "abcdef"]
    database.callers = dict.fromkeys(keys, ALICE)

    async def scene(snapshot):
        return await asyncio.gather(*(snapshot.caller(key) for key in keys * 5))

    assert lives(scene) == [ALICE] * 30
    assert database.reads == 1


def test_an_entry_that_is_too_old_is_read_again_before_it_is_used(database, lives, now):
    async def scene(snapshot):
        await snapshot.caller(KEY)
        now[0] += FRESH + 0.01
        database.callers = {}
        return await snapshot.caller(KEY)

    assert lives(scene) is None


def test_an_unknown_credential_is_not_held_so_a_new_key_works(database, lives):
    new = Credential("api_key", "new")

    async def scene(snapshot):
        first = await snapshot.caller(new)
        database.callers[new] = ALICE
        return first, await snapshot.caller(new)

    assert lives(scene) == (None, ALICE)


def test_what_is_in_use_is_read_ahead_of_time(database, lives, now):
    async def scene(snapshot):
        await snapshot.caller(KEY)
        now[0] += FRESH - 0.1
        await snapshot._turn()
        now[0] += FRESH - 0.1
        before = database.reads
        await snapshot.caller(KEY)
        return database.reads - before

    assert lives(scene) == 0


def test_what_is_not_in_use_is_left_alone(database, lives, now):
    async def scene(snapshot):
        await snapshot.caller(KEY)
        now[0] += 60
        return snapshot._due(now[0])

    assert lives(scene) == set()


def test_it_holds_no_more_than_its_capacity(database, lives):
    keys = [Credential("api_key", str(n)) for n in range(25)]
    database.callers = dict.fromkeys(keys, ALICE)

    async def scene(snapshot):
        for key in keys:
            await snapshot.caller(key)
        return list(snapshot._held)

    assert lives(scene) == keys[-10:]


def test_without_the_database_the_known_are_served_and_the_unknown_are_not(database, lives, now):
    async def scene(snapshot):
        await snapshot.caller(KEY)
        database.is_down = True
        now[0] += 100
        with pytest.raises(StoreUnavailable):
            await snapshot.caller(Credential("api_key", "unknown"))
        return await snapshot.caller(KEY), snapshot.policies, snapshot.is_down

    assert lives(scene) == (ALICE, POLICIES, True)


def test_nobody_is_served_from_memory_for_longer_than_allowed(database, lives, now):
    async def scene(snapshot):
        await snapshot.caller(KEY)
        database.is_down = True
        now[0] += 301
        with pytest.raises(StoreUnavailable):
            await snapshot.caller(KEY)
        with pytest.raises(StoreUnavailable):
            _ = snapshot.policies
        return True

    assert lives(scene)


def test_it_recovers_by_itself(database, lives, now):
    async def scene(snapshot):
        await snapshot.caller(KEY)
        database.is_down = True
        now[0] += 100
        await snapshot._turn()
        assert snapshot.is_down
        database.is_down = False
        await snapshot._turn()
        return snapshot.is_down, snapshot.age

    assert lives(scene) == (False, 0.0)


def test_it_starts_without_a_database_and_says_that_it_knows_nothing(database, lives):
    database.is_down = True

    async def scene(snapshot):
        with pytest.raises(StoreUnavailable):
            _ = snapshot.policies
        return snapshot.age

    assert lives(scene) == float("inf")


def test_while_the_database_hangs_the_known_wait_for_nothing(database, lives, now):
    async def scene(snapshot):
        await snapshot.caller(KEY)
        now[0] += 10
        snapshot._turn_began = now[0] - module.PATIENCE - 1  # a turn that does not end
        before = database.reads
        assert await snapshot.caller(KEY) == ALICE
        return database.reads - before

    assert lives(scene) == 0


def test_the_wait_for_a_database_that_hangs_is_bounded(database, lives, monkeypatch):
    monkeypatch.setattr(module, "PATIENCE", 0.05)
    hang = asyncio.Event()

    async def scene(snapshot):
        snapshot._turn = hang.wait
        await asyncio.sleep(0)
        with pytest.raises(StoreUnavailable):
            await snapshot.caller(KEY)
        return True

    assert lives(scene)
