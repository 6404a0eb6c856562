"""The first page of the admin: what goes on, and what went on."""

from collections import Counter
from datetime import UTC, datetime, timedelta

import orjson
import pytest
from django.contrib.auth.models import Permission
from django.urls import reverse
from django.utils import timezone

from proxy.activity import SPANS, Activity, activity
from proxy.dashboard import OTHER_TIERS, STATUS_COLOURS, TIER_COLOURS, tier_colours, tokens_chart
from proxy.models import RefusalCount
from proxy.outcomes import OUTCOMES
from proxy.rollup import roll_up
from tests.cast import new_tier, person
from tests.proxy.rows import usage_row

pytestmark = pytest.mark.django_db

NOW = datetime(2026, 11, 25, 14, 30, 40, tzinfo=UTC)


def before(**ago):
    return NOW - timedelta(**ago)


def refused(at, user_id, count, reason="requests_minute"):
    RefusalCount.objects.create(minute=at.replace(second=0, microsecond=0), user_id=user_id, reason=reason, count=count)


@pytest.mark.parametrize(
    ("name", "first", "last", "count"),
    [("hour", "13:31", "14:30", 60), ("day", "15:00", "14:00", 24), ("month", "27 Oct", "25 Nov", 30)],
)
def test_a_span_ends_with_the_step_of_now(name, first, last, count):
    labels = activity(SPANS[name], NOW).labels
    assert (labels[0], labels[-1], len(labels)) == (first, last, count)


STEPS = pytest.mark.parametrize(("name", "step"), [("hour", "minutes"), ("day", "hours"), ("month", "days")])


@STEPS
def test_calls_are_counted_in_their_steps(name, step):
    for ago, fields in [(0, {}), (2, {"status": 502}), (2, {"tier": "premium"}), (100, {})]:
        usage_row(before(**{step: ago}), **fields)
    refused(before(**{step: 1}), 1, 5)
    seen = activity(SPANS[name], NOW)
    assert seen.calls["well"][-3:] == [1, 0, 1]
    assert seen.calls["failed"][-3:] == [1, 0, 0]
    assert seen.limited[-3:] == [0, 5, 0]
    assert {tier: tokens[-3:] for tier, tokens in seen.tokens.items()} == {"free": [10, 0, 10], "premium": [10, 0, 0]}
    assert sum(map(sum, seen.calls.values())) == 3


ENDS = [  # of calls: status, error, outcome
    (200, "", "well"),
    (200, "client_left", "left"),
    (499, "client_left", "left"),
    (400, "context_length_exceeded", "refused"),
    (200, "upstream_error", "cut"),
    (200, "upstream_timeout", "cut"),
    (502, "upstream_error", "failed"),
    (503, "overloaded", "failed"),
    (500, "lost", "failed"),
]


@STEPS
def test_calls_are_counted_as_what_they_are(admin_client, name, step):
    """In the chart as in the list, also where the days were added up before."""
    for status, error, _ in ENDS:
        usage_row(before(**{step: 2}), status=status, error=error)
    roll_up(before(**{step: 2}).date())
    seen = activity(SPANS[name], NOW)
    wanted = Counter(outcome for _, _, outcome in ENDS)
    assert {outcome: numbers[-3] for outcome, numbers in seen.calls.items()} == wanted
    calls = reverse("admin:proxy_usagerecord_changelist")
    for outcome, count in wanted.items():
        assert len(admin_client.get(calls, {"outcome": outcome}).context["cl"].result_list) == count


def test_calls_that_came_after_their_day_was_added_up_hide_none():
    usage_row(before(days=3))
    roll_up(before(days=3).date())
    for _ in range(2):
        usage_row(before(days=3), status=502, error="upstream_error")
    seen = activity(SPANS["month"], NOW)
    assert (seen.calls["well"][-4], seen.calls["failed"][-4]) == (0, 2)


def test_a_month_is_the_same_before_and_after_its_days_were_added_up():
    for days in (0, 1, 5):
        usage_row(before(days=days), user_id=person("alice").user.pk)
    seen = activity(SPANS["month"], NOW)
    for days in (1, 5):
        roll_up(before(days=days).date())
    assert activity(SPANS["month"], NOW) == seen
    assert sum(seen.calls["well"]) == 3


def test_the_biggest_and_the_slowest_users_stand_out():
    alice, bob, carol = (person(name).user for name in ("alice", "bob", "carol"))
    for user, tokens, ms, calls in [(alice, 1000, 10, 3), (bob, 10, 900, 3), (carol, 5, 9000, 2)]:
        for _ in range(calls):
            usage_row(before(minutes=1), user_id=user.pk, prompt_tokens=tokens, total_ms=ms)
    seen = activity(SPANS["hour"], NOW)
    assert [each.name for each in seen.biggest] == [each.username for each in (alice, bob, carol)]
    assert [each.name for each in seen.slowest] == [bob.username, alice.username]  # carol has called twice only
    assert seen.slowest[0].total.seconds == 0.9


def test_refusals_are_told_by_their_limit_with_whose_they_mostly_are():
    alice, bob = person("alice").user, person("bob").user
    refused(before(minutes=1), alice.pk, 3)
    refused(before(minutes=2), bob.pk, 5)
    refused(before(minutes=1), alice.pk, 1, "tokens_day")
    first, second = activity(SPANS["hour"], NOW).refusals
    assert first[:3] == ("requests_minute", 8, 2)
    assert first.name == bob.username
    assert (second.reason, second.times) == ("tokens_day", 1)


def test_a_deleted_user_has_no_name():
    usage_row(before(minutes=1), user_id=987654)
    assert activity(SPANS["hour"], NOW).biggest[0].name == ""


# -- colours -------------------------------------------------------------------------------------------------------


def test_a_tier_keeps_its_colour_when_others_come_and_go():
    first, second, third = (new_tier() for _ in range(3))
    before_others = tier_colours([second.name])
    assert tier_colours([third.name, second.name, first.name])[second.name] == before_others[second.name]
    usage_row(timezone.now(), tier=second.name)
    first.delete()
    assert tier_colours([second.name, third.name])[second.name] == before_others[second.name]


def test_no_two_tiers_of_a_chart_look_alike():
    names = [new_tier().name for _ in range(len(TIER_COLOURS) - 2)]
    colours = tier_colours(["deleted", *names, "renamed"])
    assert len(set(colours.values())) == len(TIER_COLOURS)
    assert list(colours)[-2:] == ["deleted", "renamed"]


def test_no_tier_looks_like_an_outcome():
    assert not {*TIER_COLOURS, OTHER_TIERS} & set(STATUS_COLOURS.values())
    assert set(STATUS_COLOURS) == {*OUTCOMES, "limited"}


def test_more_tiers_than_colours_are_shown_together():
    names = [new_tier().name for _ in range(len(TIER_COLOURS) + 3)]
    seen = Activity(["now"], tokens={name: [100 - n] for n, name in enumerate(names)})
    *shown, others = orjson.loads(tokens_chart(seen))["datasets"]
    assert [each["label"] for each in shown] == names[: len(TIER_COLOURS)]
    assert (others["label"], others["data"]) == ("3 other tiers", [sum(100 - n for n in range(12, 15))])


# -- the page ------------------------------------------------------------------------------------------------------


def test_it_says_so_where_nothing_went_on(admin_client):
    assert "No calls in the last hour" in admin_client.get("/admin/").text
    assert "No calls in the last month" in admin_client.get("/admin/?span=month").text
    assert "No calls in the last hour" in admin_client.get("/admin/?span=eternity").text


def test_it_shows_what_went_on(admin_client):
    alice = person("alice").user
    usage_row(timezone.now(), user_id=alice.pk)
    refused(timezone.now(), alice.pk, 4, "tokens_minute")
    text = admin_client.get("/admin/").text
    assert all(each in text for each in (alice.username, "tokens_minute", "Top users by tokens", 'class="chart"'))
    live = " ".join(admin_client.get(reverse("admin-live")).text.split())
    assert '<p class="gw-figure">1</p> <p class="gw-bad">4 rate-limited since' in live
    assert '<p class="gw-figure">10</p> <p class="gw-note">free 10</p>' in live


def test_tiers_that_used_most_today_are_told(admin_client):
    for n in range(6):
        usage_row(timezone.now(), tier=f"tier-{n}", prompt_tokens=n)
    live = " ".join(admin_client.get(reverse("admin-live")).text.split())
    assert '<p class="gw-note">tier-5 8, tier-4 7, tier-3 6, tier-2 5, 2 other tiers</p>' in live


def test_refusals_of_the_minute_before_are_still_told(admin_client):
    refused(timezone.now() - timedelta(minutes=1), 1, 3)
    assert "3 rate-limited since" in " ".join(admin_client.get(reverse("admin-live")).text.split())


def test_it_takes_few_queries(admin_client, django_assert_max_num_queries):
    usage_row(timezone.now())
    for span in SPANS:
        with django_assert_max_num_queries(20):
            admin_client.get(f"/admin/?span={span}")
    with django_assert_max_num_queries(8):
        admin_client.get(reverse("admin-live"))


def test_staff_see_what_they_may(client):
    staff = person("staff", is_staff=True).user
    client.force_login(staff)
    usage_row(timezone.now())
    assert "Welcome" in client.get("/admin/").text
    assert "Tokens today" not in client.get(reverse("admin-live")).text
    staff.user_permissions.add(Permission.objects.get(codename="view_usagerecord"))
    text = client.get("/admin/").text
    assert "Tokens today" in text
    assert "Upstreams" not in text


def test_nobody_else_sees_it(client):
    assert client.get(reverse("admin-live")).status_code == 302
