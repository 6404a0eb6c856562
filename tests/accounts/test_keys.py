"""/auth/keys: API keys that users make for themselves."""

from datetime import timedelta

import pytest
from django.utils import timezone
from rest_framework.test import APIClient

from accounts.models import ApiKey, SignIn
from accounts.tokens import ApiKeyToken
from tests.cast import bearer, person

pytestmark = pytest.mark.django_db


@pytest.fixture
def alice():
    return person("alice", "free")


@pytest.fixture
def call():
    """Calls a path under /auth/keys with a token."""

    def send(method, token, path="", **body):
        return getattr(APIClient(), method)(f"/auth/keys{path}", body, format="json", headers=bearer(token))

    return send


def code_of(response):
    return response.status_code, response.json()["error"]["code"]


def test_a_key_is_made_and_shown_once(alice, call):
    made = call("post", alice.token, name="laptop")
    assert made.status_code == 201
    assert "no-store" in made["cache-control"]
    row = ApiKey.objects.get()
    assert ApiKeyToken(made.json()["key"])["jti"] == row.jti
    (listed,) = call("get", alice.token).json()["data"]
    assert (listed["name"], listed["state"], "key" in listed) == ("laptop", "works", False)


def test_a_key_may_expire_early_but_not_late_and_not_before_now(alice, call, settings):
    tomorrow = (timezone.now() + timedelta(days=1)).replace(microsecond=0)
    call("post", alice.token, name="x", expires_at=tomorrow.isoformat())
    assert ApiKey.objects.get().expires_at == tomorrow
    for days in (-1, 366):
        refused = call("post", alice.token, name="x", expires_at=(timezone.now() + timedelta(days=days)).isoformat())
        assert code_of(refused) == (400, "invalid_request_error")
        assert refused.json()["error"]["param"] == "expires_at"


@pytest.mark.parametrize(("minutes", "status"), [(4, 201), (6, 403)])
def test_the_password_must_have_been_given_a_moment_ago(alice, call, minutes, status):
    token = alice.token
    SignIn.objects.update(created_at=timezone.now() - timedelta(minutes=minutes))
    assert call("post", token, name="x").status_code == status


def test_refreshing_a_token_gives_no_password(alice, call):
    refresh = str(alice.refresh)
    SignIn.objects.update(created_at=timezone.now() - timedelta(minutes=6))
    token = APIClient().post("/auth/token/refresh", {"refresh": refresh}, format="json").json()["access"]
    assert code_of(call("post", token, name="x")) == (403, "password_needed")


@pytest.mark.parametrize("method", ["post", "get", "delete"])
def test_a_key_manages_no_keys(alice, call, method):
    row, key = alice.key()
    path = f"/{row.pk}" if method == "delete" else ""
    assert code_of(call(method, key, path, name="x")) == (403, "password_needed")
    assert ApiKey.objects.get().state == "works"


def test_there_are_so_many_keys_of_a_user_and_ended_ones_do_not_count(alice, call, settings):
    settings.MAX_KEYS_PER_USER = 2
    alice.key(expires_at=timezone.now() - timedelta(days=1))
    first = call("post", alice.token, name="1").json()
    call("post", alice.token, name="2")
    assert code_of(call("post", alice.token, name="3")) == (400, "too_many_keys")
    call("delete", alice.token, f"/{first['id']}")
    assert call("post", alice.token, name="3").status_code == 201


def test_a_key_is_revoked_by_its_owner_and_nobody_else(alice, call):
    row, _ = alice.key()
    assert code_of(call("delete", person("mallory").token, f"/{row.pk}")) == (404, "unknown_key")
    assert call("get", alice.token).json()["data"][0]["state"] == "works"
    assert call("delete", alice.token, f"/{row.pk}").json()["state"] == "revoked"
    assert call("delete", alice.token, f"/{row.pk}").status_code == 200


def test_a_key_needs_a_name(alice, call):
    response = call("post", alice.token)
    assert (*code_of(response), response.json()["error"]["param"]) == (400, "invalid_request_error", "name")
