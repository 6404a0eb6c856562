"""The arithmetic of windows, against a model that keeps every timestamp."""

from datetime import UTC, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.windows import WINDOWS, Count
from tests.effort import effort

pytestmark = pytest.mark.once

MINUTE, HOUR, DAY, MONTH = (WINDOWS[name] for name in ("minute", "hour", "day", "month"))
NOW = datetime(2026, 12, 31, 23, 59, 59, tzinfo=UTC).timestamp()


def admit(count: Count, limit: int, now: float) -> bool:
    count.drop_old(now)
    if count.used >= limit:
        return False
    count.add(1, now)
    return True


@settings(max_examples=effort(1000), deadline=None)
@given(gaps=st.lists(st.floats(0, 40), max_size=60), limit=st.integers(1, 8), start=st.floats(0, 1e6))
@pytest.mark.parametrize("window", [MINUTE, HOUR], ids=["minute", "hour"])
def test_no_stretch_of_a_window_holds_more_than_the_limit(window, gaps, limit, start):
    count, now, admitted = Count(window), start, []
    for gap in gaps:
        now += gap * window.width
        if admit(count, limit, now):
            admitted.append(now)
    for begin in admitted:
        assert sum(begin <= moment < begin + window.seconds for moment in admitted) <= limit


@settings(max_examples=effort(1000), deadline=None)
@given(gaps=st.lists(st.floats(0, 40), max_size=60), limit=st.integers(1, 8), start=st.floats(0, 1e6))
def test_room_comes_back_at_most_one_bucket_late(gaps, limit, start):
    count, now, admitted = Count(MINUTE), start, []
    for gap in gaps:
        now += gap
        if admit(count, limit, now):
            admitted.append(now)
        else:
            late = MINUTE.seconds + MINUTE.width
            assert sum(now - late < moment for moment in admitted) >= limit


@settings(max_examples=effort(1000), deadline=None)
@given(gaps=st.lists(st.floats(0, 20), min_size=1, max_size=40), limit=st.integers(1, 5), start=st.floats(0, 1e6))
def test_a_refused_call_fits_when_it_is_told_and_not_a_bucket_before(gaps, limit, start):
    count, now = Count(MINUTE), start
    for gap in gaps:
        now += gap
        if not admit(count, limit, now):
            break
    else:
        return
    at = count.frees_at(count.used + 1 - limit)
    count.drop_old(at - 0.001)
    assert count.used >= limit
    count.drop_old(at)
    assert count.used < limit


def test_a_day_ends_at_midnight_utc():
    assert DAY.leaves_at(DAY.bucket(NOW)) == NOW + 1


def test_a_month_ends_with_its_last_day_and_so_does_a_year():
    assert MONTH.leaves_at(MONTH.bucket(NOW)) == NOW + 1
    february = datetime(2028, 2, 10, tzinfo=UTC).timestamp()
    assert MONTH.leaves_at(MONTH.bucket(february)) == datetime(2028, 3, 1, tzinfo=UTC).timestamp()


@pytest.mark.parametrize("window", [DAY, MONTH], ids=["day", "month"])
def test_a_calendar_window_is_empty_when_it_begins(window):
    count = Count(window)
    assert admit(count, 1, NOW)
    assert not admit(count, 1, NOW)
    assert admit(count, 1, NOW + 1)


def test_a_clock_that_steps_back_loses_no_count():
    count = Count(MINUTE)
    for moment in (100.0, 50.0, 101.0):
        count.add(1, moment)
    assert count.used == 3
    assert [bucket for bucket, _ in count.buckets] == [100, 101]


def test_more_than_is_used_cannot_be_freed():
    with pytest.raises(ValueError, match="cannot be freed"):
        Count(MINUTE).frees_at(1)
