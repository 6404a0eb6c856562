"""What was used, in the admin: filters, dates, search and export of the ledger."""

import csv
import io
from datetime import UTC, datetime, timedelta

import httpx
import pytest
from django.contrib.admin import ShowFacets, site
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from django.utils import timezone

from accounts.models import User
from proxy.export import line
from proxy.models import DailyUsage, RefusalCount, UsageRecord
from proxy.rollup import roll_up
from proxy.usage_admin import steps
from tests.cast import person
from tests.proxy.rows import usage_row
from tests.servers import PATIENCE

CALLS = reverse("admin:proxy_usagerecord_changelist")
NOON = datetime(2026, 11, 3, 12, tzinfo=UTC)


def ids(client, **query):
    return sorted(row.request_id for row in client.get(CALLS, query).context["cl"].result_list)


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("query", "found"),
    [
        ({"outcome": "well"}, ["well"]),
        ({"outcome": "failed"}, ["failed"]),
        ({"outcome": "left"}, ["left"]),
        ({"outcome": "refused"}, ["refused"]),
        ({"outcome": "cut"}, ["cut"]),
        ({"outcome": "nonsense"}, ["cut", "failed", "left", "refused", "well"]),
        ({"tier": "premium"}, ["well"]),
        ({"endpoint": "messages"}, ["failed"]),
        ({"cache": "hit"}, ["left"]),
        ({"q": " well "}, ["well"]),
        ({"q": "wel"}, []),
        ({"admitted_at__year": 2026, "admitted_at__month": 11, "admitted_at__day": 3}, ["well"]),
    ],
)
def test_calls_are_found_by(admin_client, query, found):
    usage_row(NOON, request_id="well", tier="premium")
    later = NOON + timedelta(days=1)
    usage_row(later, request_id="failed", status=502, error="upstream_error", endpoint="messages")
    usage_row(later, request_id="left", status=499, error="client_left", cache="hit")
    usage_row(later, request_id="refused", status=400, error="context_length_exceeded")
    usage_row(later, request_id="cut", status=200, error="upstream_error")
    assert ids(admin_client, **query) == found


@pytest.mark.django_db
def test_calls_of_a_user_are_a_link_away(admin_client):
    alice = person("alice").user
    usage_row(NOON, request_id="hers", user_id=alice.pk)
    usage_row(NOON, request_id="not hers")
    assert ids(admin_client, user__id__exact=alice.pk) == ["hers"]


@pytest.mark.once
def test_months_and_days_are_those_from_the_first_row_to_the_last():
    first, last = datetime(2026, 11, 30, 23, tzinfo=UTC), datetime(2027, 1, 2, 1, tzinfo=UTC)
    assert [(each.year, each.month) for each in steps(first, last, "month")] == [(2026, 11), (2026, 12), (2027, 1)]
    assert [each.day for each in steps(first, first + timedelta(hours=3), "day")] == [30, 1]


@pytest.mark.django_db
@pytest.mark.parametrize("model", [UsageRecord, DailyUsage, RefusalCount])
def test_no_list_counts_its_rows_or_looks_for_the_values_of_a_column(admin_client, model):
    usage_row(NOON)
    roll_up(NOON.date())
    RefusalCount.objects.create(minute=NOON, user_id=1, reason="requests_minute", count=1)
    with CaptureQueriesContext(connection) as queries:
        admin_client.get(reverse(f"admin:proxy_{model._meta.model_name}_changelist"))
    asked = [each["sql"] for each in queries if model._meta.db_table in each["sql"]]
    assert len(queries) <= 12
    assert not [sql for sql in asked if "COUNT(" in sql or "DISTINCT" in sql]


@pytest.mark.django_db
@pytest.mark.parametrize("model", [UsageRecord, DailyUsage, RefusalCount])
def test_no_list_counts_what_its_filters_find(admin_client, model):
    with CaptureQueriesContext(connection) as queries:
        shown = admin_client.get(reverse(f"admin:proxy_{model._meta.model_name}_changelist"), {"_facets": "True"})
    assert shown.status_code == 200
    assert "Show counts" not in shown.text
    assert not [each["sql"] for each in queries if model._meta.db_table in each["sql"] and "COUNT(" in each["sql"]]


@pytest.mark.once
def test_no_page_with_filters_offers_to_count_what_they_find():
    pages = [page for page in site._registry.values() if page.list_filter]
    assert len(pages) >= 5
    assert not [page for page in pages if page.show_facets is not ShowFacets.NEVER]


# -- export --------------------------------------------------------------------------------------------------------


def export(live, cookies, query=""):
    answer = httpx.get(f"{live.url}{CALLS}export/{query}", cookies=cookies, timeout=PATIENCE)
    return answer, list(csv.DictReader(io.StringIO(answer.text)))


def test_the_calls_that_a_list_shows_are_exported(live, root):
    name = person("alice").user
    made = [usage_row(timezone.now(), user_id=name.pk, tier=f"tier-{name.pk}").request_id for _ in range(3)]
    answer, rows = export(live, root, f"?user__id__exact={name.pk}&outcome=well")
    assert answer.headers["content-type"].startswith("text/csv")
    assert "attachment" in answer.headers["content-disposition"]
    assert [row["request_id"] for row in rows] == made
    assert {row["user"] for row in rows} == {name.username}
    assert rows[0]["prompt_tokens"] == "7"
    UsageRecord.objects.filter(user_id=name.pk).delete()


def test_an_export_comes_in_chunks(live, root, monkeypatch):
    monkeypatch.setattr("proxy.export.CHUNK", 2)
    user = person("alice").user
    for _ in range(5):
        usage_row(timezone.now(), user_id=user.pk)
    assert len(export(live, root, f"?user__id__exact={user.pk}")[1]) == 5
    UsageRecord.objects.filter(user_id=user.pk).delete()


def test_whoever_may_not_see_calls_exports_none(live):
    assert httpx.get(f"{live.url}{CALLS}export/", timeout=PATIENCE).status_code == 302


@pytest.mark.django_db
def test_staff_without_the_right_export_none(client):
    client.force_login(person("staff", is_staff=True).user)
    assert client.get(f"{CALLS}export/").status_code == 403


@pytest.mark.django_db
@pytest.mark.parametrize("query", ["foo=bar", "admitted_at__gte=bogus", "admitted_at__year=2026&admitted_at__month=13"])
def test_an_export_of_odd_filters_leads_back_to_the_list(admin_client, query):
    answer = admin_client.get(f"{CALLS}export/?{query}", follow=True)
    assert answer.status_code == 200
    assert answer.redirect_chain[0][0].startswith(CALLS)


@pytest.mark.once
def test_what_a_spreadsheet_would_take_for_a_formula_is_text():
    assert line(["=1+1", "@x", -5, "a,b"]) == "'=1+1,'@x,-5,\"a,b\"\r\n"


@pytest.mark.django_db
def test_sign_ins_are_listed_and_locks_are_lifted(client, admin_client):
    name = User.objects.create_user("alice", password="xk-71-opensesame").username
    for _ in range(11):
        client.post("/auth/token", {"username": name, "password": "wrong"})
    locked = reverse("admin:axes_accessattempt_changelist")
    (attempt,) = admin_client.get(locked).context["cl"].result_list
    right = {"username": name, "password": "xk-71-opensesame"}
    assert client.post("/auth/token", right).status_code == 429
    assert (
        "1 unlocked"
        in admin_client.post(locked, {"action": "unlock", "_selected_action": attempt.pk}, follow=True).text
    )
    assert client.post("/auth/token", right).status_code == 200
    assert name in admin_client.get(reverse("admin:axes_accesslog_changelist")).text
