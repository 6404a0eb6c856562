"""A store charges every meter or none. These tests are those of any store; the memory is the first."""

import asyncio

import pytest

from proxy.stores import Claim, Meter
from proxy.stores.memory import MemoryStore
from proxy.windows import WINDOWS


def meter(limit: int | None, window: str = "minute", model: str = "") -> Meter:
    return Meter(f"requests:{window}:{model}", WINDOWS[window], limit, "requests", model)


def claim(*meters: Meter, account: str = "user:1", max_concurrent: int | None = None) -> Claim:
    return Claim(account, meters, max_concurrent)


@pytest.fixture
def now():
    return [1_800_000_000.0]


@pytest.fixture
def store(now):
    return MemoryStore(clock=lambda: now[0])


def admit(store, *claims):
    return [asyncio.run(store.admit(each)) for each in claims]


def test_it_admits_up_to_the_limit(store):
    assert [v.admitted for v in admit(store, *[claim(meter(2))] * 3)] == [True, True, False]


def test_a_refusal_names_the_meter_and_the_moment(store):
    refused = admit(store, *[claim(meter(1))] * 2)[1]
    assert refused.refused_by == meter(1)
    assert refused.retry_after == 61


def test_all_meters_are_charged_or_none(store):
    tight, wide = meter(1), meter(10, "hour")
    admit(store, *[claim(tight, wide)] * 5)
    assert [reading.used for reading in store.read("user:1", [tight, wide])] == [1, 1]


def test_the_meter_that_takes_longest_is_the_one_told(store):
    refused = admit(store, *[claim(meter(1), meter(1, "hour"))] * 2)[1]
    assert refused.refused_by.window.name == "hour"
    assert refused.retry_after > 3600


def test_a_meter_without_a_limit_counts_and_never_refuses(store):
    verdicts = admit(store, *[claim(meter(None))] * 3)
    assert all(v.admitted for v in verdicts)
    assert verdicts[-1].readings[0].used == 3
    assert verdicts[-1].readings[0].remaining is None


def test_a_limit_of_nothing_names_no_moment(store):
    refused = admit(store, claim(meter(0)))[0]
    assert (refused.admitted, refused.retry_after) == (False, None)


def test_accounts_do_not_touch(store):
    assert all(v.admitted for v in admit(store, claim(meter(1)), claim(meter(1), account="user:2")))


def test_running_calls_are_counted_until_they_are_released(store):
    one = claim(max_concurrent=1)
    first, second = admit(store, one, one)
    assert (first.admitted, second.admitted, second.retry_after) == (True, False, 1)
    asyncio.run(store.release(one))
    assert admit(store, one)[0].admitted


def test_a_call_refused_for_running_ones_is_not_charged(store):
    one = claim(meter(10), max_concurrent=1)
    admit(store, one, one)
    assert store.read("user:1", [meter(10)])[0].used == 1


def test_what_was_used_leaves_with_its_window(store, now):
    admit(store, claim(meter(5)))
    assert store.read("user:1", [meter(5)])[0].resets_in == 61
    now[0] += 61
    assert store.read("user:1", [meter(5)])[0].used == 0


def test_a_limit_lowered_below_what_is_used_refuses_until_it_fits(store, now):
    admit(store, *[claim(meter(10))] * 5)
    refused = admit(store, claim(meter(2)))[0]
    assert refused.readings[0].remaining == 0
    now[0] += refused.retry_after
    assert admit(store, claim(meter(2)))[0].admitted


def test_reading_an_unknown_account_makes_none(store):
    assert store.read("user:9", [meter(3)])[0].used == 0
    assert "user:9" not in store._accounts
