"""What every store of answers does: one suite for memory and Redis."""

import time

import pytest

from proxy.cache import Kept, Size, Turn
from proxy.cache.memory import ENTRY_BYTES, LARGEST, MemoryAnswers
from tests.servers import wait_until

pytestmark = pytest.mark.once


def test_what_is_not_kept_is_ones_own_turn(answers):
    assert isinstance(answers().look(), Turn)


def test_what_is_kept_is_found(answers):
    store = answers()
    store.keep(b'{"a":1}')
    found = store.look()
    assert isinstance(found, Kept)
    assert found.answer == b'{"a":1}'
    assert time.time() - 5 < found.kept_at <= time.time() + 0.01


def test_an_answer_of_any_bytes_comes_back_as_it_was(answers):
    store = answers()
    store.keep(answer := " \n é \x00 1764.5 {".encode())
    assert store.look().answer == answer


def test_each_key_has_its_own(answers):
    store = answers()
    store.keep(b"1", "one")
    assert store.owns("other")


def test_an_answer_lapses(answers):
    store = answers()
    store.keep(ttl=0.05)
    wait_until(lambda: store.owns(), "it has lapsed")


def test_a_turn_that_is_given_back_is_the_next_ones(answers):
    store = answers()
    store.look()
    store.run(store.left(failed=False))
    assert store.owns()


def test_what_is_left_alone_is_not_kept(answers):
    store = answers()
    store.begin()
    store.run(store.left(failed=True))
    assert store.owns()


def test_an_answer_that_is_computed_anew_takes_the_place_of_the_old_one(answers):
    store = answers()
    store.keep(b"old")
    store.begin()
    store.run(store.kept(b"newer"))
    assert store.look().answer == b"newer"
    assert store.size() == Size(1, ENTRY_BYTES + 5)


def test_it_says_how_much_it_holds(answers):
    store = answers()
    for key in "abc":
        store.keep(b"1234", key)
    assert store.size() == Size(3, 3 * (ENTRY_BYTES + 4))


def test_it_never_holds_more_than_its_room_and_what_is_new_stays(answers):
    room = 40 * (ENTRY_BYTES + 1000)
    store = answers(room)
    for number in range(200):
        store.keep(b"x" * (number * 7 % 1000), f"k{number}")
        assert store.size().bytes <= room
    assert isinstance(store.look("k199"), Kept)
    assert store.owns("k0")
    assert store.size().answers >= 40


def test_an_answer_that_would_take_too_much_of_the_room_is_not_kept(answers):
    store = answers(100_000)
    store.keep(b"x" * (100_000 // LARGEST))
    assert store.owns()
    assert store.size() == Size(0, 0)


def test_emptied_it_holds_nothing_and_says_how_many_there_were(answers):
    store = answers(room=2_000_000)
    for number in range(1200):
        store.keep(b"1", f"k{number}")
    assert store.run(store.store.empty()) == 1200
    assert store.size() == Size(0, 0)
    assert store.owns("k7")
    assert store.run(store.store.empty()) == 0


def test_an_answer_that_was_under_way_when_it_was_emptied_is_not_kept(answers):
    store = answers()
    store.look()
    store.run(store.store.empty())
    store.run(store.kept(b"stale"))
    assert store.owns()


def test_a_new_answer_that_was_begun_before_the_emptying_is_not_kept_either(answers):
    """And a turn that began after it does not help one that began before."""
    store = answers()
    store.begin()
    store.run(store.store.empty())
    before = store.kept(b"stale")
    store.begin()
    store.run(before)
    assert store.size() == Size(0, 0)
    store.run(store.kept(b"new"))
    assert store.look().answer == b"new"


def test_an_answer_computed_anew_that_comes_to_nothing_takes_no_turn_from_anybody(answers):
    store = answers()
    store.look()
    first = store.kept(b"1")
    store.begin()
    store.run(store.left(failed=False))
    store.run(first)
    assert store.look().answer == b"1"


def test_in_memory_those_that_were_not_asked_for_longest_make_room(in_memory):
    store = in_memory(20 * (ENTRY_BYTES + 1))
    for number in range(20):
        store.keep(b"1", f"k{number}")
    store.look("k0")
    store.keep(b"1", "k20")
    assert isinstance(store.look("k0"), Kept)
    assert store.owns("k1")


def test_in_memory_time_is_what_the_clock_says(in_memory):
    now = 0.0
    driven = in_memory()
    driven.stores = [MemoryAnswers(10_000, lambda: now)]
    driven.keep(ttl=10)
    now = 9.9
    assert isinstance(driven.look(), Kept)
    now = 10.0
    assert driven.owns()
