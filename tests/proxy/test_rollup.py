"""The ledger added up by day, what is read from it, and what is pruned."""

import asyncio
import threading
from datetime import UTC, datetime, timedelta
from io import StringIO

import pytest
from django.core.management import CommandError, call_command
from django.db.models import Q
from django.utils import timezone

from proxy.models import DailyUsage, RefusalCount, UsageRecord
from proxy.reports import Total, totals
from proxy.rollup import RollUp, days_due, roll_up, roll_up_due
from tests.cast import person
from tests.proxy.rows import usage_row
from tests.servers import wait_until_async

pytestmark = pytest.mark.django_db

DAY = datetime(2026, 11, 3, tzinfo=UTC)


@pytest.fixture(autouse=True)
def nothing_added_up(db):
    """A gateway that serves other tests may have added up days of theirs."""
    DailyUsage.objects.all().delete()
    UsageRecord.objects.all().delete()


def at(hours):
    return DAY + timedelta(hours=hours)


@pytest.fixture
def a_day():
    """Three calls of one day, one of which failed, and one of the next."""
    for hours, fields in [(0, {}), (23.99, {"status": 502}), (12, {"model": "other"}), (24, {})]:
        usage_row(at(hours), **fields)


def test_a_day_holds_what_was_admitted_from_midnight_to_midnight(a_day):
    assert roll_up(DAY.date()) == 2
    row = DailyUsage.objects.get(model="m")
    assert (row.calls, row.failed, row.prompt_tokens, row.completion_tokens, row.total_ms) == (2, 1, 14, 6, 200)


def test_adding_up_a_day_again_replaces_what_it_was(a_day):
    roll_up(DAY.date())
    DailyUsage.objects.update(rolled_up_at=at(30))
    usage_row(at(5))
    roll_up(DAY.date())
    assert DailyUsage.objects.get(model="m").calls == 3


def test_a_day_whose_rows_are_pruned_keeps_its_sums(a_day):
    roll_up(DAY.date())
    for _ in range(2):
        UsageRecord.objects.first().delete()
        roll_up(DAY.date())
    assert DailyUsage.objects.get(model="m").calls == 2


def test_a_day_that_is_added_up_in_this_moment_is_not_missed(a_day, monkeypatch):
    everything = totals(DAY.date(), "tier")
    monkeypatch.setattr("proxy.reports.first_open_day", lambda: roll_up(DAY.date()) and None)
    assert totals(DAY.date(), "tier") == everything


@pytest.mark.parametrize(
    ("rolled", "rolled_at", "now", "due"),
    [
        (None, None, at(20), []),  # today is not added up
        (None, None, at(50), [3, 4]),
        (3, at(25), at(25.5), []),  # a moment ago
        (3, at(25), at(27), [3]),  # yesterday, anew
        (3, at(47), at(49), [3, 4]),
        (3, at(47.7), at(48.1), [3, 4]),  # a moment ago, but not when all was in
        (3, at(72.1), at(97), [4, 5, 6]),  # nothing comes in that late
    ],
)
def test_days_are_added_up_when_they_are_over_and_yesterday_again(a_day, rolled, rolled_at, now, due):
    if rolled:
        roll_up(DAY.replace(day=rolled).date())
        DailyUsage.objects.update(rolled_up_at=rolled_at)
    assert [day.day for day in days_due(now)] == due


def test_what_was_used_is_the_same_before_and_after_the_days_were_added_up():
    user = person("alice").user
    for days in (0, 1, 2, 40):
        usage_row(timezone.now() - timedelta(days=days), user_id=user.pk)
    since = (timezone.now() - timedelta(days=10)).date()
    before = totals(since, "user_id", "model", only=Q(user_id=user.pk))
    assert before == {(user.pk, "m"): Total(3, 0, 21, 0, 9, 300)}
    assert len(roll_up_due()) == 40
    assert totals(since, "user_id", "model", only=Q(user_id=user.pk)) == before
    assert len(totals(since, "day")) == 3


def test_free_calls_are_told_apart():
    for is_free in (True, False, False):
        usage_row(at(1), is_free=is_free)
    roll_up(DAY.date())
    assert DailyUsage.objects.values_list("calls", "free_calls").get() == (3, 1)


def test_sums_of_an_earlier_version_in_this_month_are_due(a_day):
    roll_up(DAY.date())
    DailyUsage.objects.update(free_calls=None)
    assert [day.day for day in days_due(at(24 * 7))] == [3, 4, 5, 6, 7, 8, 9]
    assert days_due(at(24 * 30))[0].day == 4  # of another month: its rows may be gone


def test_sums_of_more_calls_than_there_are_rows_stay(a_day):
    roll_up(DAY.date())
    DailyUsage.objects.update(free_calls=None)
    UsageRecord.objects.filter(model="m").first().delete()
    UsageRecord.objects.filter(model="m").first().delete()
    assert roll_up(DAY.date()) == 0
    assert DailyUsage.objects.get(model="m").calls == 2


def test_days_that_are_due_are_added_up_when_the_gateway_starts(monkeypatch):
    looks = []
    monkeypatch.setattr("proxy.rollup.work", lambda: looks.append(threading.current_thread()))

    async def run():
        own = RollUp()
        own.start()
        await wait_until_async(lambda: looks, "it looks")
        await own.stop()

    asyncio.run(run())
    assert looks[0] is not threading.current_thread()


# -- prune_usage ---------------------------------------------------------------------------------------------------


def prune(*options):
    out = StringIO()
    call_command("prune_usage", *options, stdout=out)
    return out.getvalue()


@pytest.fixture
def old_and_new():
    for days in (1, 32, 33, 100):
        usage_row(timezone.now() - timedelta(days=days, minutes=1))
        RefusalCount.objects.create(
            minute=timezone.now() - timedelta(days=days, minutes=1), user_id=1, reason="x", count=1
        )


def test_pruning_deletes_what_is_old_and_keeps_its_sums(old_and_new):
    before = totals(datetime(2000, 1, 1).date(), "model")
    assert prune("--days", "40").startswith("1 rows and 1 counts of refusals from before")
    assert totals(datetime(2000, 1, 1).date(), "model") == before
    assert prune("--days", "40").startswith("0 rows")


def test_a_dry_run_deletes_nothing(old_and_new):
    assert "1 rows and 1 counts" in prune("--days", "40", "--dry-run")
    assert "1 rows and 1 counts" in prune("--days", "40", "--dry-run")
    assert not DailyUsage.objects.exists()


def test_what_quotas_are_counted_from_is_not_pruned():
    with pytest.raises(CommandError, match="at least 32 days"):
        prune("--days", "31")
    with pytest.raises(CommandError, match="more days than there are"):
        prune("--days", "5000000")


# -- usage ---------------------------------------------------------------------------------------------------------


def usage(*options):
    out = StringIO()
    call_command("usage", *options, stdout=out)
    return out.getvalue().splitlines()


def test_the_table_tells_who_used_what_the_most_first():
    alice, bob = person("alice").user, person("bob").user
    usage_row(timezone.now(), user_id=alice.pk, prompt_tokens=1000)
    usage_row(timezone.now(), user_id=bob.pk, prompt_tokens=2000, status=500)
    header, first, second, everybody, refused = usage()
    assert header.split()[:5] == ["user", "tier", "model", "calls", "failed"]
    assert first.split() == [bob.username, "free", "m", "1", "1", "2,000", "0", "3", "0.1"]
    assert second.split()[0] == alice.username
    assert everybody.split() == ["all", "2", "1", "3,000", "0", "6", "0.1"]
    assert refused.startswith("Refused by limits: 0 calls.")


def test_the_table_can_be_of_one_user_one_tier_or_some_days():
    alice = person("alice").user
    usage_row(timezone.now(), user_id=alice.pk)
    usage_row(timezone.now() - timedelta(days=3), user_id=alice.pk, tier="premium")
    assert len(usage("--user", alice.username)) == 5
    assert len(usage("--tier", "premium")) == 3
    assert usage("--user", alice.username, "--since", "2d")[1].split()[1] == "free"
    assert usage("--user", alice.username, "--since", "2099-01-01") == ["No calls since 2099-01-01."]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--user", "nobody"), "no user"),
        (("--tier", "x"), "Tiers: free"),
        (("--since", "x"), "neither a date"),
        (("--since", "9999999d"), "neither a date"),
    ],
)
def test_a_mistake_is_told_with_what_there_is(options, said):
    with pytest.raises(CommandError, match=said):
        usage(*options)
