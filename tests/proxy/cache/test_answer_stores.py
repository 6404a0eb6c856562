"""What every store of answers does: one suite for memory and Redis."""

import time

import pytest

from proxy.cache import Kept, Size, Turn
from proxy.cache.memory import ENTRY_BYTES, LARGEST, MemoryAnswers
from tests.servers import wait_until

pytestmark = pytest.mark.once


def test_what_is_not_kept_is_ones_own_turn(answers):
    assert answers().look() is Turn.OWN


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
    assert store.look("other") is Turn.OWN


def test_an_answer_lapses(answers):
    store = answers()
    store.keep(ttl=0.05)
    wait_until(lambda: store.look() is Turn.OWN, "it has lapsed")


def test_a_turn_that_is_given_back_is_the_next_ones(answers):
    store = answers()
    store.look()
    store.run(store.store.leave("k", failed=False))
    assert store.look() is Turn.OWN


def test_nothing_is_kept_without_a_turn(answers):
    store = answers()
    store.run(store.store.keep("k", b"1", 60))
    assert store.look() is Turn.OWN


def test_an_answer_that_is_computed_anew_takes_the_place_of_the_old_one(answers):
    store = answers()
    store.keep(b"old")
    store.run(store.store.begin("k"))
    store.run(store.store.keep("k", b"newer", 60))
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
    assert store.look("k0") is Turn.OWN
    assert store.size().answers >= 40


def test_an_answer_that_would_take_too_much_of_the_room_is_not_kept(answers):
    store = answers(100_000)
    store.keep(b"x" * (100_000 // LARGEST))
    assert store.look() is Turn.OWN
    assert store.size() == Size(0, 0)


def test_emptied_it_holds_nothing_and_says_how_many_there_were(answers):
    store = answers(room=2_000_000)
    for number in range(1200):
        store.keep(b"1", f"k{number}")
    assert store.run(store.store.empty()) == 1200
    assert store.size() == Size(0, 0)
    assert store.look("k7") is Turn.OWN
    assert store.run(store.store.empty()) == 0


def test_an_answer_that_was_under_way_when_it_was_emptied_is_not_kept(answers):
    store = answers()
    store.look()
    store.run(store.store.empty())
    store.run(store.store.keep("k", b"stale", 60))
    assert store.look() is Turn.OWN


def test_in_memory_those_that_were_not_asked_for_longest_make_room(in_memory):
    store = in_memory(20 * (ENTRY_BYTES + 1))
    for number in range(20):
        store.keep(b"1", f"k{number}")
    store.look("k0")
    store.keep(b"1", "k20")
    assert isinstance(store.look("k0"), Kept)
    assert store.look("k1") is Turn.OWN


def test_in_memory_time_is_what_the_clock_says(in_memory):
    now = 0.0
    driven = in_memory()
    driven.stores = [MemoryAnswers(10_000, lambda: now)]
    driven.keep(ttl=10)
    now = 9.9
    assert isinstance(driven.look(), Kept)
    now = 10.0
    assert driven.look() is Turn.OWN
