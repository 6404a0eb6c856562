"""The page of a signed-in client."""

from datetime import timedelta

import pytest
from django.contrib.messages import get_messages
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from accounts.models import ApiKey
from accounts.tokens import ApiKeyToken
from tests.cast import new_tier, person
from tests.proxy.rows import usage_row

pytestmark = [pytest.mark.django_db, pytest.mark.once]

PAGE = reverse("account")
PASSWORD = "xk-71-opensesame"


@pytest.fixture
def alice(client):
    """Signed in."""
    alice = person("alice", new_tier(requests_a_minute=7), password=PASSWORD)
    client.force_login(alice.user, backend="django.contrib.auth.backends.ModelBackend")
    return alice


def test_strangers_are_asked_to_sign_in_and_come_back(client):
    assert client.get(PAGE).headers["location"] == f"{reverse('account-login')}?next={PAGE}"
    assert client.post(reverse("account-revoke-key", args=[1])).status_code == 302


def test_signing_in_leads_to_the_own_page(client):
    alice = person("alice", password=PASSWORD)
    sign_in = {"username": alice.user.username, "password": PASSWORD}
    assert client.post(reverse("account-login"), sign_in).headers["location"] == PAGE


def test_a_wrong_password_is_told_and_many_are_held_up(client):
    alice = person("alice", password=PASSWORD)
    sign_in = {"username": alice.user.username, "password": "wrong"}
    texts = [client.post(reverse("account-login"), sign_in).text for _ in range(11)]
    assert "enter a correct username and password" in texts[0]
    assert "Too many failed sign-ins" in texts[-1]
    assert "Try again in" in texts[-1]


def test_it_shows_own_limits_and_use_and_nobody_elses(client, alice):
    usage_row(timezone.now(), user_id=alice.user.pk, model="own-model", request_id="req_own")
    usage_row(timezone.now(), user_id=person("bob").user.pk, model="bobs-model", request_id="req_bobs")
    person("bob").key(name="bobs key")
    text = client.get(PAGE).text
    assert all(each in text for each in ("0 of 7", "own-model", "req_own", "Any number of calls"))
    assert "bobs" not in text


def test_a_key_is_made_with_the_password_and_shown_once(client, alice):
    made = client.post(PAGE, {"name": "laptop", "password": PASSWORD}, follow=True)
    text = made.text.split("<textarea")[1].split(">")[1].split("<")[0]
    assert ApiKeyToken(text)["jti"] == ApiKey.objects.get(user=alice.user).jti
    assert "no-store" in made.headers["cache-control"]
    again = client.get(PAGE).text
    assert "laptop" in again
    assert text[:100] not in again


def test_the_text_of_a_key_is_shown_to_its_session_once_and_kept_nowhere(client, alice):
    where = client.post(PAGE, {"name": "laptop", "password": PASSWORD}).headers["location"]
    assert "eyJ" not in str(dict(client.session))
    stranger = Client()
    stranger.force_login(alice.user, backend="django.contrib.auth.backends.ModelBackend")
    assert "<textarea" not in stranger.get(where).text
    assert client.head(where).status_code == 200  # a look whether it is there uses nothing up
    assert "<textarea" in client.get(where).text
    assert "<textarea" not in client.get(where).text
    assert ApiKey.objects.count() == 1


def test_a_key_is_shown_for_some_minutes_only_and_not_once_it_is_revoked(client, alice):
    late, revoked = (client.post(PAGE, {"name": "x", "password": PASSWORD}).headers["location"] for _ in range(2))
    second, first = ApiKey.objects.order_by("-pk")
    ApiKey.objects.filter(pk=first.pk).update(created_at=timezone.now() - timedelta(minutes=6))
    ApiKey.objects.filter(pk=second.pk).revoke()
    for where in (late, revoked):
        assert "was shown once" in client.get(where).text


def test_a_session_forgets_keys_that_it_can_show_no_more(client, alice):
    for minutes in (6, 0):
        client.post(PAGE, {"name": "x", "password": PASSWORD})
        made = timezone.now() - timedelta(minutes=minutes)
        ApiKey.objects.filter(pk=ApiKey.objects.latest("pk").pk).update(created_at=made)
    client.post(PAGE, {"name": "x", "password": PASSWORD})
    recent = ApiKey.objects.order_by("pk").values_list("pk", flat=True)[1:]
    assert [name for name, _ in client.session.items() if "key" in name] == [f"new_key:{pk}" for pk in recent]


def test_a_form_that_is_sent_again_leads_to_the_key_it_made(client, alice):
    fields = {"name": "laptop", "password": PASSWORD, "form_id": client.get(PAGE).context["form"]["form_id"].value()}
    first, again = (client.post(PAGE, fields).headers["location"] for _ in range(2))
    assert first == again
    assert ApiKey.objects.count() == 1
    assert "<textarea" in client.get(first).text
    client.post(PAGE, fields)
    assert "<textarea" not in client.get(first).text


def test_a_form_that_was_changed_makes_another_key(client, alice):
    bobs = person("bob").key(name="laptop")[0]
    for name, form_id in (("a", "f" * 32), ("b", "f" * 32), ("laptop", bobs.jti)):
        client.post(PAGE, {"name": name, "password": PASSWORD, "form_id": form_id})
    assert sorted(ApiKey.objects.filter(user=alice.user).values_list("name", flat=True)) == ["a", "b", "laptop"]


@pytest.mark.parametrize("form_id", ["x", "F" * 32, "f" * 33])
def test_a_form_id_that_is_none_makes_no_key(client, alice, form_id):
    client.post(PAGE, {"name": "x", "password": PASSWORD, "form_id": form_id})
    assert not ApiKey.objects.exists()


def test_the_page_of_a_key_is_its_owners(client, alice):
    assert client.get(reverse("account-key-made", args=[person("bob").key()[0].pk])).status_code == 404


def test_a_key_is_revoked_after_a_question_only(client, alice):
    key = alice.key(name="laptop")[0]
    path = reverse("account-revoke-key", args=[key.pk])
    assert client.get(path).headers["location"] == PAGE
    assert "Revoke the key “laptop”?" in client.post(path).text
    assert ApiKey.objects.working().count() == 1


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"name": "laptop", "password": "wrong"}, "This is not your password."),
        ({"name": "laptop"}, "This field is required."),
        ({"password": PASSWORD}, "This field is required."),
    ],
)
def test_an_open_browser_is_not_enough_to_make_a_key(client, alice, fields, said):
    assert said in client.post(PAGE, fields).text
    assert not ApiKey.objects.exists()


def test_there_are_only_so_many(client, alice, settings):
    settings.MAX_KEYS_PER_USER = 1
    alice.key()
    assert "Revoke one first" in client.post(PAGE, {"name": "x", "password": PASSWORD}).text


def test_own_keys_are_revoked_and_others_are_not(client, alice):
    own, others = alice.key()[0], person("bob").key()[0]
    for key in (own, others):
        response = client.post(reverse("account-revoke-key", args=[key.pk]), {"confirmed": "yes"})
        assert response.status_code == 302
    assert list(ApiKey.objects.working()) == [others]
    told = [str(each) for each in get_messages(response.wsgi_request)]
    assert [each.split()[0] for each in told] == ["The", "Nothing"]


def test_an_ended_key_has_no_button(client, alice):
    alice.key(expires_at=timezone.now() - timedelta(days=1))
    assert "Revoke" not in client.get(PAGE).text


def test_a_new_password_ends_tokens(client, alice):
    headers = alice.headers
    fields = {"old_password": PASSWORD, "new_password1": "qq-82-newsesame", "new_password2": "qq-82-newsesame"}
    assert "is changed" in client.post(reverse("account-password"), fields, follow=True).text
    assert client.get("/auth/me", headers=headers).status_code == 401


def test_an_old_password_is_not_guessed_there_either(client, alice):
    path = "account-password"
    new = {"new_password1": "qq-82-newsesame", "new_password2": "qq-82-newsesame"}
    texts = [client.post(reverse(path), {"old_password": "wrong", **new}).text for _ in range(11)]
    assert "entered incorrectly" in texts[0]
    assert "wrong too often. Try again in" in texts[-1]
    assert "wrong too often" in client.post(reverse(path), {"old_password": PASSWORD, **new}).text


def test_where_users_make_no_keys_there_is_no_form(client, alice, settings):
    settings.MAX_KEYS_PER_USER = 0
    assert "made by the administrator" in client.get(PAGE).text
    assert "made by the administrator" in client.post(PAGE, {"name": "x", "password": PASSWORD}).text
    assert not ApiKey.objects.exists()


def test_signing_out_ends_it(client, alice):
    client.post(reverse("account-logout"))
    assert client.get(PAGE).status_code == 302
