"""/auth: sign in, refresh, revoke, me."""

import pytest
from django.db import InterfaceError, OperationalError
from rest_framework.test import APIClient

from accounts.models import SignIn, User
from accounts.tokens import RefreshToken
from tests.cast import new_tier, person

pytestmark = pytest.mark.django_db


@pytest.fixture
def client():
    return APIClient()


@pytest.fixture
def alice():
    return person("alice", "free", password="opensesame")


@pytest.fixture
def post(client):
    return lambda path, **body: client.post(f"/auth/{path}", body, format="json")


@pytest.fixture
def pair(alice, post):
    return post("token", username=alice.user.username, password="opensesame").json()


def code_of(response):
    return response.status_code, response.json()["error"]["code"]


def test_a_password_gives_a_pair_under_both_kinds_of_names(pair):
    assert pair["access"] == pair["access_token"]
    assert (pair["token_type"], pair["expires_in"]) == ("bearer", 3600)
    assert RefreshToken(pair["refresh"])["token_type"] == "refresh"


def test_a_form_is_taken_as_json_is(alice, client):
    response = client.post("/auth/token", {"username": alice.user.username, "password": "opensesame"})
    assert response.status_code == 200
    assert response["cache-control"] == "no-store"


@pytest.mark.parametrize("change", [{"password": "wrong"}, {"username": "nobody"}])
def test_wrong_credentials_are_all_told_the_same(alice, post, change):
    response = post("token", **{"username": alice.user.username, "password": "opensesame", **change})
    assert code_of(response) == (401, "invalid_api_key")
    assert response.json()["error"]["message"] == "No active account has this user name and password."


def test_a_suspended_user_cannot_sign_in(alice, post):
    User.objects.filter(pk=alice.user.pk).suspend()
    assert code_of(post("token", username=alice.user.username, password="opensesame"))[0] == 401


@pytest.mark.parametrize(
    "body", [{}, {"username": "a"}, {"username": "a\0", "password": "b"}, {"username": [], "password": 1}]
)
def test_a_body_that_lacks_something_is_told_what(post, body):
    response = post("token", **body)
    assert code_of(response) == (400, "invalid_request_error")
    assert response.json()["error"]["param"] in ("username", "password")


def test_broken_json_is_said_to_be(client):
    response = client.post("/auth/token", b"{", content_type="application/json")
    assert code_of(response) == (400, "invalid_json")


def test_json_nested_without_end_is_the_senders_mistake(client):
    response = client.post("/auth/token", b"[" * 100_000, content_type="application/json")
    assert code_of(response) == (400, "invalid_json")


@pytest.mark.parametrize("error", [OperationalError, InterfaceError])
def test_without_the_database_it_is_503(alice, post, monkeypatch, error):
    def gone(*_: object, **__: object) -> None:
        raise error("connection refused")

    monkeypatch.setattr("accounts.tokens.SignIn.objects.create", gone)
    response = post("token", username=alice.user.username, password="opensesame")
    assert code_of(response) == (503, "store_unavailable")
    assert response["retry-after"] == "1"


def test_the_tier_is_the_admins_word(alice, post, client):
    token = post("token", username=alice.user.username, password="opensesame", tier="enterprise").json()["access"]
    me = client.get("/auth/me", HTTP_AUTHORIZATION=f"Bearer {token}").json()
    assert me["tier"] == "free"


def test_a_refresh_token_is_good_once_for_the_next_pair(pair, post):
    following = post("token/refresh", refresh=pair["refresh"]).json()
    assert following["refresh"] != pair["refresh"]
    assert post("token/refresh", refresh=following["refresh"]).status_code == 200


def test_a_refresh_token_used_twice_ends_its_sign_in(pair, post, client):
    following = post("token/refresh", refresh=pair["refresh"]).json()
    assert code_of(post("token/refresh", refresh=pair["refresh"])) == (401, "invalid_api_key")
    assert code_of(post("token/refresh", refresh=following["refresh"])) == (401, "invalid_api_key")
    assert client.get("/auth/me", HTTP_AUTHORIZATION=f"Bearer {following['access']}").status_code == 401


def test_another_sign_in_of_the_same_user_goes_on(alice, pair, post):
    other = str(alice.refresh)
    post("token/refresh", refresh=pair["refresh"])
    post("token/refresh", refresh=pair["refresh"])
    assert post("token/refresh", refresh=other).status_code == 200


@pytest.mark.parametrize("kind", ["access", "refresh"])
def test_either_token_revokes_both(pair, post, client, kind):
    assert post("token/revoke", token=pair[kind]).json() == {"revoked": True}
    assert post("token/refresh", refresh=pair["refresh"]).status_code == 401
    assert client.get("/auth/me", HTTP_AUTHORIZATION=f"Bearer {pair['access']}").status_code == 401
    assert post("token/revoke", token=pair[kind]).status_code == 200


def test_revoke_takes_a_token_under_the_name_it_was_given_out_by(pair, post):
    assert post("token/revoke", refresh=pair["refresh"]).status_code == 200
    assert SignIn.objects.get().ended_at


@pytest.mark.parametrize("body", [{}, {"token": "nonsense"}, {"token": ["x"]}])
def test_revoke_refuses_what_is_no_token(post, body):
    assert post("token/revoke", **body).status_code in (400, 401)


@pytest.mark.parametrize("token", ["access", "nonsense"])
def test_what_is_no_refresh_token_refreshes_nothing(pair, post, token):
    assert code_of(post("token/refresh", refresh=pair.get(token, token))) == (401, "invalid_api_key")


def test_a_refresh_token_of_a_deleted_user_is_401(alice, pair, post):
    alice.user.delete()
    assert code_of(post("token/refresh", refresh=pair["refresh"])) == (401, "invalid_api_key")


def test_a_refresh_token_of_a_suspended_user_is_403(alice, pair, post):
    User.objects.filter(pk=alice.user.pk).update(is_active=False)
    assert code_of(post("token/refresh", refresh=pair["refresh"])) == (403, "account_suspended")


def test_a_refresh_token_from_before_a_new_password_is_401(alice, pair, post):
    alice.user.set_password("another")
    alice.user.save()
    assert code_of(post("token/refresh", refresh=pair["refresh"])) == (401, "invalid_api_key")


def test_me_tells_what_is_left(client):
    tier = new_tier(requests_a_minute=5, allowed_models=["m"])
    me = client.get("/auth/me", HTTP_AUTHORIZATION=person("grace", tier).headers["Authorization"]).json()
    assert (me["tier"], me["allowed_models"]) == (tier.name, ["m"])
    quota = me["quotas"][0]
    assert (quota["metric"], quota["window"], quota["limit"], quota["used"], quota["remaining"]) == (
        "requests",
        "minute",
        5,
        0,
        5,
    )


def test_me_takes_an_api_key_and_not_nothing(alice, client):
    assert client.get("/auth/me", HTTP_AUTHORIZATION=f"Bearer {alice.key()[1]}").status_code == 200
    refused = client.get("/auth/me")
    assert code_of(refused) == (401, "invalid_api_key")
    assert refused["www-authenticate"].startswith("Bearer")
