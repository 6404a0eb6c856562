"""The admin, as an admin meets it."""

import pytest
from django.contrib.admin.models import LogEntry
from django.urls import reverse

from accounts.models import ApiKey, Tier, User
from accounts.tokens import ApiKeyToken
from tests.cast import new_tier, person

pytestmark = pytest.mark.django_db

PASSWORD = "xk-71-opensesame"
INLINE = {"quotas-TOTAL_FORMS": 0, "quotas-INITIAL_FORMS": 0}


@pytest.fixture
def page(admin_client):
    """A page of the admin by its name, posted to where there are fields."""

    def get(name, /, *args, **fields):
        url = reverse(f"admin:accounts_{name}", args=args)
        return admin_client.post(url, fields, follow=True) if fields else admin_client.get(url)

    return get


@pytest.mark.parametrize("model", ["tier", "user", "apikey"])
@pytest.mark.parametrize("kind", ["changelist", "add"])
def test_every_page_opens(page, model, kind):
    assert page(f"{model}_{kind}").status_code == 200


def test_a_tier_is_made_with_its_quotas(page):
    quota = {"quotas-0-metric": "requests", "quotas-0-window": "hour", "quotas-0-limit": 50, "quotas-0-model": ""}
    fields = {"name": "lab", "quotas-TOTAL_FORMS": 1, "quotas-INITIAL_FORMS": 0, **quota}
    assert page("tier_add", **fields).status_code == 200
    assert [str(q) for q in Tier.objects.get(name="lab").quotas.all()] == ["50 requests per hour"]


def test_the_list_of_tiers_tells_quotas_and_members(page):
    person("alice", new_tier(requests_a_minute=77))
    tiers = page("tier_changelist").context["cl"].result_list
    assert [tier.members for tier in tiers if tier.name.startswith("tier-")] == [1]
    assert "77 requests per minute" in page("tier_changelist").content.decode()


def test_a_weight_that_does_nothing_yet_is_not_shown(page):
    tier = new_tier(weight=16)
    for shown in (page("tier_changelist"), page("tier_add"), page("tier_change", tier.pk)):
        assert not [word for word in (">Weight", 'name="weight"', "column-weight") if word in shown.text]
    page("tier_change", tier.pk, name=tier.name, **INLINE)
    assert Tier.objects.get(pk=tier.pk).weight == 16


def test_a_mistake_in_a_tier_is_told_beside_its_field(page):
    mistake = page("tier_add", name="x", max_output_tokens=0, **INLINE).content.decode()
    assert "greater than or equal to 1" in mistake
    assert not Tier.objects.filter(name="x").exists()


@pytest.mark.parametrize(("typed", "kept"), [("", None), ("m", ["m"]), (" m \r\n n\r\n", ["m", "n"])])
def test_the_models_of_a_tier_are_typed_one_on_a_line(page, typed, kept):
    page("tier_add", name="x", allowed_models=typed, **INLINE)
    tier = Tier.objects.get(name="x")
    assert tier.allowed_models == kept
    shown = page("tier_change", tier.pk).content.decode().split('name="allowed_models"')[1]
    assert shown.split(">", 1)[1].split("</textarea>")[0].split() == (kept or [])


def test_a_user_is_made_on_the_default_tier_unless_another_is_chosen(page):
    free = Tier.objects.get(name="free")
    assert f'value="{free.pk}" selected' in page("user_add").content.decode()
    fields = {"username": "new", "usable_password": "true", "password1": PASSWORD, "password2": PASSWORD}
    page("user_add", **fields, tier=Tier.objects.get(name="premium").pk)
    assert User.objects.get(username="new").tier.name == "premium"


def test_a_user_page_tells_what_was_used(page):
    alice = person("alice", new_tier(requests_a_minute=12))
    text = " ".join(page("user_change", alice.user.pk).content.decode().split())
    assert 'requests this minute</td> <td class="gw-number">0 of 12</td>' in text
    assert "0%: 0 of 12 requests this minute" in page("user_changelist").content.decode()


def test_suspending_and_reactivating_are_actions_that_say_what_they_did(page):
    carol = person("carol")
    for action, active, said in (("suspend", False, "suspended."), ("reactivate", True, "reactivated.")):
        response = page("user_changelist", action=action, _selected_action=carol.user.pk, confirmed="yes")
        assert said in response.content.decode()
        carol.user.refresh_from_db()
        assert carol.user.is_active is active
    assert LogEntry.objects.filter(object_id=carol.user.pk).count() == 2


@pytest.fixture
def make_key(page):
    alice = person("alice")
    fields = {"user": alice.user.pk, "name": "report", "expires_at_0": "2099-01-01", "expires_at_1": "00:00:00"}
    return lambda **change: page("apikey_add", **{**fields, **change})


def test_a_key_is_shown_once(page, make_key):
    response = make_key()
    row = ApiKey.objects.get()
    key = str(ApiKeyToken.for_key(row))
    shown = response.content.decode().split("<textarea")[1].split(">")[1].split("<")[0]
    assert ApiKeyToken(shown)["jti"] == row.jti
    assert "no-store" in response["cache-control"]
    assert key[:100] not in page("apikey_changelist").content.decode()
    assert key[:100] not in page("apikey_change", row.pk).content.decode()


@pytest.mark.parametrize("button", ["_save", "_addanother", "_continue"])
def test_a_key_leads_to_its_page_and_is_shown_there_once(admin_client, button):
    fields = {"user": person("alice").user.pk, "name": "x", "expires_at_0": "2099-01-01", "expires_at_1": "00:00:00"}
    where = admin_client.post(reverse("admin:accounts_apikey_add"), {**fields, button: "1"}).headers["location"]
    assert where == reverse("admin:accounts_apikey_made", args=[ApiKey.objects.get().pk])
    assert "eyJ" not in str(dict(admin_client.session))
    assert admin_client.head(where).status_code == 200
    shown = admin_client.get(where)
    assert "eyJ" in shown.text
    assert "no-store" in shown["cache-control"]
    assert "eyJ" not in admin_client.get(where).text
    assert ApiKey.objects.count() == 1


def test_a_key_form_that_is_sent_again_makes_no_second_key(page, make_key):
    form_id = page("apikey_add").context["adminform"].form["form_id"].value()
    assert "<textarea" in make_key(form_id=form_id).text
    assert "was shown once" in make_key(form_id=form_id).text
    assert ApiKey.objects.get().jti == form_id
    make_key(form_id=form_id, name="another")
    assert ApiKey.objects.count() == 2


def test_the_form_of_a_key_has_no_buttons_that_do_something_else(page):
    text = page("apikey_add").text
    assert 'name="_save"' in text
    assert 'name="_addanother"' not in text
    assert 'name="_continue"' not in text


def test_a_key_is_revoked_on_its_own_page_after_a_question(page, make_key):
    make_key()
    row = ApiKey.objects.get()
    assert 'value="revoke"' in page("apikey_change", row.pk).text
    asked = page("apikey_changelist", action="revoke", _selected_action=row.pk)
    assert asked.context["title"] == f"Revoke {row}?"
    assert ApiKey.objects.working().exists()
    page("apikey_changelist", action="revoke", _selected_action=row.pk, confirmed="yes")
    assert 'value="revoke"' not in page("apikey_change", row.pk).text


def test_revoking_nothing_is_a_warning(page, make_key):
    make_key()
    ApiKey.objects.revoke()
    answer = page("apikey_changelist", action="revoke", _selected_action=ApiKey.objects.get().pk)
    assert [each.level_tag for each in answer.context["messages"]] == ["warning"]


def test_a_key_that_is_expired_from_the_start_is_not_made(make_key):
    assert "This moment has passed" in make_key(expires_at_0="2020-01-01").content.decode()
    assert not ApiKey.objects.exists()


def test_revoking_keys_is_an_action_and_their_rows_stay(page, make_key):
    make_key()
    row = ApiKey.objects.get()
    revoked = page("apikey_changelist", action="revoke", _selected_action=row.pk, confirmed="yes")
    assert f"{row} revoked." in revoked.text
    row.refresh_from_db()
    assert row.revoked_at
    assert page("apikey_delete", row.pk, post="yes").status_code == 403


def test_nobody_else_gets_in(client):
    assert client.get("/admin/").status_code == 302
    assert client.get("/admin/accounts/user/").status_code == 302


def test_staff_sees_what_its_permissions_allow(client):
    user = person("staff", is_staff=True).user
    client.force_login(user)
    assert client.get("/admin/").status_code == 200
    assert client.get("/admin/accounts/user/").status_code == 403
