"""Error pages: for people a page with a way back and the id of the request, for programs the envelope."""

from contextlib import closing
from http.client import HTTPConnection

import pytest
from django.contrib.sessions.backends.db import SessionStore
from django.db import OperationalError
from django.test import Client
from django.urls import reverse

from llmgateway.env import site_of
from tests.cast import person

pytestmark = pytest.mark.once

BROWSER = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"


def is_page(response):
    return response.headers["content-type"].startswith("text/html")


def shows_its_id(response):
    return f"Request id: <code>{response.headers['x-request-id']}</code>" in response.text


@pytest.mark.parametrize(
    ("path", "accept", "gets_page"),
    [
        ("/nope", BROWSER, True),
        ("/nope", "*/*", False),
        ("/nope", "application/json", False),
        ("/account/nope", BROWSER, True),
        ("/account/nope", "*/*", True),
        ("/auth/nope", BROWSER, False),
        ("/v1/nope", BROWSER, False),
    ],
)
def test_people_get_a_page_and_programs_the_envelope(http, path, accept, gets_page):
    response = http.get(path, headers={"accept": accept})
    assert (response.status_code, is_page(response)) == (404, gets_page)
    if gets_page:
        assert shows_its_id(response)
        assert 'href="/account/"' in response.text
    else:
        assert response.json()["error"]["code"] == "unknown_url"


@pytest.mark.parametrize(
    ("path", "leads_to"),
    [
        ("/docs/", "/docs"),
        ("/account/sign-in/?next=/docs", "/account/sign-in?next=/docs"),
        ("/schema/", "/schema"),
        ("/account", "/account/"),
        ("/favicon.ico", "/static/accounts/icon.svg"),
    ],
)
def test_a_slash_too_many_or_too_few_leads_to_the_page(http, path, leads_to):
    assert http.get(path).headers["location"] == leads_to


@pytest.mark.parametrize("path", ["/nope/", "//evil.example/", "//docs/", "///"])
def test_a_slash_leads_nowhere_where_there_is_no_page(live, path):
    with closing(HTTPConnection("127.0.0.1", live.port)) as wire:  # httpx would take a path of two slashes for a host
        wire.request("GET", path, headers={"accept": BROWSER})
        assert wire.getresponse().status == 404


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("path", "is_superuser"),
    [
        ("/admin/accounts/apikey/999/made/", True),
        ("/admin/proxy/upstream/999/redirect/", True),
        ("/admin/nope/", True),
        ("/admin/accounts/", False),
    ],
)
def test_what_the_admin_does_not_have_is_a_page_not_a_loop(client, path, is_superuser):
    client.force_login(person("staff", is_staff=True, is_superuser=is_superuser).user)
    answer = client.get(path, follow=True, headers={"accept": BROWSER})
    assert (answer.status_code, "There is no such page" in answer.text) == (404, True)


def test_a_form_is_not_sent_again_for_its_slash(http):
    assert http.post("/auth/token/", json={}).status_code == 404


@pytest.mark.django_db
def test_what_staff_may_not_see_is_a_page_with_a_way_back(client):
    client.force_login(person("staff", is_staff=True).user)
    refused = client.get(reverse("admin:accounts_user_changelist"))
    assert refused.status_code == 403
    assert "You may not open this page" in refused.text
    assert 'href="/admin/"' in refused.text
    assert shows_its_id(refused)


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("headers", "said"),
    [({}, "open too long"), ({"origin": "https://llm.example.org"}, "CSRF_TRUSTED_ORIGINS")],
)
def test_a_form_without_its_token_is_told_why_it_failed(headers, said):
    refused = Client(enforce_csrf_checks=True, headers=headers).post("/account/sign-in", {"username": "x"})
    assert refused.status_code == 403
    assert "The form was not accepted" in refused.text
    assert said in refused.text
    assert "DEBUG" not in refused.text
    assert shows_its_id(refused)


@pytest.mark.django_db
@pytest.mark.parametrize(("path", "leads_to"), [("/account/sign-in", "/account/"), ("/admin/login/", "/admin/")])
def test_a_form_from_another_address_is_told_the_right_one(settings, path, leads_to):
    settings.PUBLIC_SITE = site_of("https://llm.example.org")
    browser = Client(enforce_csrf_checks=True, headers={"origin": "http://10.0.0.7:8000"})
    refused = browser.post(path, {"username": "x"})
    assert "It is at https://llm.example.org, as its administrator says in PUBLIC_URL" in refused.text
    assert f'<a href="https://llm.example.org{leads_to}">Open https://llm.example.org</a>' in refused.text


def test_a_fault_is_a_page_without_a_database_or_session(http, monkeypatch, caplog):
    def fail(*_):
        raise OperationalError("no database")

    monkeypatch.setattr(SessionStore, "load", fail)
    failed = http.get("/account/", headers={"cookie": f"sessionid={'x' * 32}"})
    assert (failed.status_code, is_page(failed)) == (500, True)
    assert "Something went wrong" in failed.text
    assert "no database" not in failed.text
    assert shows_its_id(failed)
    told = [each.getMessage() for each in caplog.records if each.name == "llmgateway.pages"]
    assert told == [f"Request {failed.headers['x-request-id']} failed: OperationalError('no database')"]


def test_a_fault_of_auth_is_the_envelope_for_a_browser_too(live, http, monkeypatch):
    def fail(*_):
        raise RuntimeError

    monkeypatch.setattr("llmgateway.pages.Http404", fail)  # a handler that fails itself is one more fault
    failed = http.get("/auth/nope", headers={"accept": BROWSER})
    assert (failed.status_code, failed.json()["error"]["code"]) == (500, "internal_error")


def test_an_unknown_host_is_told_as_that(http):
    strange = {"host": "evil.example"}
    page = http.get("/account/", headers={**strange, "accept": BROWSER})
    assert (page.status_code, "ALLOWED_HOSTS" in page.text, is_page(page)) == (400, True, True)
    answer = http.get("/auth/me", headers=strange)
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_request_error")


def test_pages_of_errors_are_kept_by_no_cache(http):
    assert http.get("/account/nope").headers["cache-control"] == "no-store"
