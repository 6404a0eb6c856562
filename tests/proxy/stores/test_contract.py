"""What every store keeps. All of it is asked of each of them."""

from collections import Counter
from datetime import UTC, datetime

import pytest

from proxy.stores import Claim, Meter
from proxy.windows import WINDOWS

from .conftest import START

pytestmark = pytest.mark.once
NEW_YEAR = datetime(2027, 1, 1, tzinfo=UTC).timestamp()


def meter(limit: int | None, window: str = "minute", model: str = "", metric: str = "requests") -> Meter:
    return Meter(f"{metric}:{window}:{model}", WINDOWS[window], limit, metric, model)


def tokens(limit: int | None, window: str = "minute") -> Meter:
    return meter(limit, window, metric="tokens")


leases = map(str, range(1, 10**9))


def claim(*meters, account="user:1", max_concurrent=None, least=0, most=None):
    return Claim(account, meters, max_concurrent, next(leases), least, least if most is None else most)


def used(store, *meters, account="user:1"):
    return [reading.used for reading in store.read(account, meters).readings]


def outcomes(verdicts):
    return [verdict.admitted for verdict in verdicts]


# -- requests ------------------------------------------------------------------------------------------------------


def test_it_admits_up_to_the_limit(store):
    assert outcomes(store.admit(claim(meter(2))) for _ in range(3)) == [True, True, False]


def test_a_refusal_names_the_meter_and_the_moment(store):
    store.admit(claim(meter(1)))
    refused = store.admit(claim(meter(1)))
    assert (refused.refused_by, refused.retry_after) == (meter(1), 61)


def test_all_meters_are_charged_or_none(store):
    tight, wide = meter(1), meter(10, "hour")
    for _ in range(5):
        store.admit(claim(tight, wide))
    assert used(store, tight, wide) == [1, 1]


def test_the_meter_that_takes_longest_is_the_one_told(store):
    both = meter(1), meter(1, "hour")
    store.admit(claim(*both))
    refused = store.admit(claim(*both))
    assert refused.refused_by.window.name == "hour"
    assert refused.retry_after > 3600


def test_a_meter_without_a_limit_counts_and_never_refuses(store):
    verdicts = [store.admit(claim(meter(None))) for _ in range(3)]
    assert all(outcomes(verdicts))
    assert verdicts[-1].readings[0].used == 3
    assert verdicts[-1].readings[0].remaining is None


def test_a_limit_of_nothing_names_no_moment(store):
    refused = store.admit(claim(meter(0)))
    assert (refused.admitted, refused.refused_by, refused.retry_after) == (False, meter(0), None)


def test_accounts_do_not_touch(store):
    assert store.admit(claim(meter(1))).admitted
    assert store.admit(claim(meter(1), account="user:2")).admitted


def test_meters_of_two_models_do_not_touch(store):
    assert store.admit(claim(meter(1, model="a"))).admitted
    assert store.admit(claim(meter(1, model="b"))).admitted


def test_what_was_used_leaves_with_its_window(store):
    assert store.admit(claim(meter(5))).readings[0].resets_in == 61
    store.move(61)
    assert used(store, meter(5)) == [0]


def test_a_limit_lowered_below_what_is_used_refuses_until_it_fits(store):
    for _ in range(5):
        store.admit(claim(meter(10)))
    refused = store.admit(claim(meter(2)))
    assert refused.readings[0].remaining == 0
    store.move(refused.retry_after)
    assert store.admit(claim(meter(2))).admitted


def test_reading_charges_nothing(store):
    assert used(store, meter(3), account="user:9") == [0]
    assert store.admit(claim(meter(1), account="user:9")).admitted


# -- tokens --------------------------------------------------------------------------------------------------------


def test_tokens_are_reserved(store):
    verdict = store.admit(claim(tokens(100), least=30, most=60))
    assert (verdict.grant.tokens, verdict.readings[0].used) == (60, 60)


def test_as_many_tokens_are_reserved_as_are_left(store):
    store.admit(claim(tokens(100), least=60))
    assert store.admit(claim(tokens(100), least=10, most=60)).grant.tokens == 40


def test_fewer_tokens_than_the_least_are_refused(store):
    store.admit(claim(tokens(100), least=60))
    refused = store.admit(claim(tokens(100), least=41, most=60))
    assert (refused.refused_by, refused.retry_after) == (tokens(100), 61)


def test_more_than_an_empty_window_holds_is_no_matter_of_time(store):
    refused = store.admit(claim(tokens(100), least=101))
    assert (refused.refused_by, refused.retry_after) == (tokens(100), None)


def test_the_tightest_of_several_token_meters_bounds_the_reservation(store):
    assert store.admit(claim(tokens(100), tokens(50, "hour"), tokens(None, "hour"), most=80)).grant.tokens == 50


def test_a_settled_call_has_used_what_it_used(store):
    grant = store.admit(claim(tokens(100), meter(10), least=60)).grant
    store.settle(grant, 20)
    assert used(store, tokens(100), meter(10)) == [20, 1]


def test_settling_more_than_was_reserved_is_not_lost(store):
    grant = store.admit(claim(tokens(100), least=60)).grant
    store.settle(grant, 70)
    assert used(store, tokens(100)) == [70]


def test_settling_twice_is_settling_once(store):
    grant = store.admit(claim(tokens(100), least=60, max_concurrent=5)).grant
    store.settle(grant, 20)
    store.settle(grant, 20)
    assert used(store, tokens(100)) == [20]


def test_a_call_that_never_ran_can_be_given_back_whole(store):
    grant = store.admit(claim(tokens(100), meter(10), least=60)).grant
    store.settle(grant, 0, requests=0)
    assert used(store, tokens(100), meter(10)) == [0, 0]


def test_what_is_settled_counts_in_the_bucket_of_admission(store):
    grant = store.admit(claim(tokens(100), least=60)).grant
    store.move(30)
    store.settle(grant, 50)
    store.move(31)
    assert used(store, tokens(100)) == [0]


def test_a_call_settled_after_its_window_changes_only_what_still_holds_it(store):
    both = tokens(100), tokens(1000, "hour")
    grant = store.admit(claim(*both, least=60)).grant
    store.move(100)
    store.admit(claim(*both, least=10))
    store.settle(grant, 25)
    assert used(store, *both) == [10, 35]


# -- running calls -------------------------------------------------------------------------------------------------


def test_running_calls_are_counted_until_they_are_settled(store):
    first = store.admit(claim(max_concurrent=1))
    second = store.admit(claim(max_concurrent=1))
    assert (second.admitted, second.refused_by, second.retry_after) == (False, None, 1)
    store.settle(first.grant, 0)
    assert store.admit(claim(max_concurrent=1)).admitted


def test_a_call_refused_for_running_ones_is_not_charged(store):
    store.admit(claim(meter(10), max_concurrent=1))
    store.admit(claim(meter(10), max_concurrent=1))
    assert used(store, meter(10)) == [1]


def test_of_many_at_once_exactly_the_limit_is_admitted(store):
    verdicts = store.admit_all([claim(meter(10), max_concurrent=7) for _ in range(50)])
    assert Counter(outcomes(verdicts)) == {True: 7, False: 43}


# -- days and months -----------------------------------------------------------------------------------------------


def test_a_day_is_not_decided_on_until_the_ledger_is_read(store):
    asked = store.admit(claim(meter(10, "day"), meter(10)))
    assert (asked.grant, asked.unknown) == (None, (meter(10, "day"),))
    assert used(store, meter(10)) == [0]


def test_what_the_ledger_says_counts(store):
    day = meter(10, "day")
    store.learn("user:1", {day: 9})
    assert outcomes(store.admit(claim(day)) for _ in range(2)) == [True, False]


def test_the_ledger_is_taken_once(store):
    day = meter(10, "day")
    store.learn("user:1", {day: 3})
    store.admit(claim(day))
    store.learn("user:1", {day: 9})
    assert used(store, day) == [4]


def test_the_ledger_is_read_anew_for_calls_that_ended_since(store):
    day = meter(10, "day")
    store.learn("user:1", {day: 3})
    assert store.admit(claim(day)).stale == ()
    store.move(5)
    ((stale, since),) = store.admit(claim(day)).stale
    assert stale == day
    store.learn("user:1", {day: 4}, since)
    assert used(store, day) == [6]
    assert store.admit(claim(day)).stale == ()


def test_a_reading_for_another_beginning_is_not_taken(store):
    day = meter(10, "day")
    store.learn("user:1", {day: 3})
    store.learn("user:1", {day: 8}, 12345.0)
    assert used(store, day) == [3]


@pytest.mark.parametrize("window", ["day", "month"])
def test_a_new_day_begins_with_nothing_used(store, window):
    calendar = meter(10, window)
    store.learn("user:1", {calendar: 9})
    store.admit(claim(calendar))
    refused = store.admit(claim(calendar))
    assert not refused.admitted
    store.move(refused.retry_after, holds=False)
    verdict = store.admit(claim(calendar))
    assert verdict.unknown or verdict.readings[0].used == 1


def test_a_call_from_before_the_ledger_was_read_is_left_to_the_ledger(store):
    day = tokens(1000, "day")
    store.learn("user:1", {day: 100})
    grant = store.admit(claim(day, least=60)).grant
    store.settle(grant._replace(admitted_at=grant.admitted_at - 5), 10)
    assert used(store, day) == [160]


@pytest.mark.parametrize("window", ["day", "month"])
def test_what_was_read_of_yesterday_says_nothing_of_today(store, window):
    calendar = meter(10, window)
    store.now = START - START % 86400 if window == "day" else NEW_YEAR
    store.learn("user:1", {calendar: 9}, read_at=store.now - 1)
    assert store.admit(claim(calendar)).unknown == (calendar,)


def test_a_clock_that_steps_back_gives_back_what_was_not_used(store):
    store.admit(claim(tokens(1000), least=1))
    store.now -= 2
    grant = store.admit(claim(tokens(1000), least=500)).grant
    store.settle(grant, 10)
    assert used(store, tokens(1000)) == [11]
