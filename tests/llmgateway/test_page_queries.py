"""Queries of pages that take too long: stopped, told as that, and nobody else is."""

import httpx
import pytest
from django.db import connection
from django.urls import reverse
from django.utils import timezone

from proxy.usage_admin import UsageRecordAdmin
from tests.cast import person
from tests.proxy.rows import usage_row

CALLS = reverse("admin:proxy_usagerecord_changelist")
FOREVER = {
    "postgresql": "pg_sleep(120) IS NOT NULL",
    "sqlite": "(WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT max(i) FROM n) > 0",
}

A_MOMENT = {
    "postgresql": "pg_sleep(0.1) IS NOT NULL",
    "sqlite": "(WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT 500000) SELECT max(i) FROM n) > 0",
}


@pytest.fixture
def ask_more(live, monkeypatch):
    """Has the list of calls ask for something more, of a ledger that is not empty."""
    every_row = UsageRecordAdmin.get_queryset
    row = usage_row(timezone.now())

    def ask(condition):
        monkeypatch.setattr(UsageRecordAdmin, "get_queryset", lambda *of: every_row(*of).extra(where=[condition]))

    yield ask
    row.delete()


@pytest.fixture
def slow_list(ask_more, settings):
    """The list of calls asks something that never ends, unless it is stopped."""
    ask_more(FOREVER[connection.vendor])
    settings.PAGE_QUERY_TIMEOUT = 1.0


@pytest.fixture
def open_list(live, root, slow_list):
    def get(query=""):
        return httpx.get(f"{live.url}{CALLS}{query}", cookies=root, timeout=60)

    return get


def test_a_page_that_takes_too_long_is_stopped_and_says_so(open_list):
    answer = open_list("?tier=free")
    assert answer.status_code == 503
    assert "This took longer than 1 s" in answer.text
    assert f'href="{CALLS}"' in answer.text


def test_the_next_page_and_a_sign_in_are_answered(open_list, live, root, settings):
    alice = person("alice", password="xk-71-opensesame").user
    for _ in range(3):  # more than there are threads
        assert open_list().status_code == 503
    settings.PAGE_QUERY_TIMEOUT = 15.0
    assert httpx.get(f"{live.url}/admin/", cookies=root, timeout=60).status_code == 200
    named = {"username": alice.username, "password": "xk-71-opensesame"}
    assert httpx.post(f"{live.url}/auth/token", json=named, timeout=60).status_code == 200


def test_api_clients_are_told_in_their_own_envelope(live, slow_list, monkeypatch):
    def slow(self, request, username, password):
        with connection.cursor() as cursor:
            cursor.execute(f"SELECT 1 WHERE {FOREVER[connection.vendor]}")

    monkeypatch.setattr("accounts.logins.LoginGuard.authenticate", slow)
    answer = httpx.post(f"{live.url}/auth/token", json={"username": "a", "password": "b"}, timeout=60)
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "store_unavailable")


def test_whatever_takes_a_connection_after_a_page_has_no_limit(open_list):
    if connection.vendor != "postgresql":
        pytest.skip("SQLite's connections are not shared.")
    assert open_list().status_code == 503
    seen = set()
    for _ in range(8):  # the pool gives its connections in turn
        connection.close()
        with connection.cursor() as cursor:
            cursor.execute("SHOW statement_timeout")
            seen.add(cursor.fetchone()[0])
    assert seen == {"0"}


def test_without_the_setting_pages_take_any_time(live, root, ask_more, settings, monkeypatch):
    monkeypatch.setattr("llmgateway.page_queries.LOOK_EVERY", 1)
    settings.PAGE_QUERY_TIMEOUT = 0
    ask_more(A_MOMENT[connection.vendor])
    assert httpx.get(f"{live.url}{CALLS}", cookies=root, timeout=60).status_code == 200
