"""Users in the admin: who may change whom, and what can be done with them."""

import pytest
from django.conf import settings
from django.contrib.admin.models import LogEntry
from django.contrib.auth.models import Permission
from django.test import Client
from django.urls import reverse
from django.utils import timezone
from django.utils.datastructures import MultiValueDict

from accounts.confirmation import MOST_AT_ONCE, named
from accounts.models import ApiKey, Tier, User
from accounts.user_admin import KEYS_SHOWN
from proxy.gateway import gateway
from tests.cast import new_tier, person
from tests.proxy.rows import usage_row

pytestmark = [pytest.mark.django_db, pytest.mark.once]

USERS = reverse("admin:accounts_user_changelist")
YES = {"confirmed": "yes"}


def may(user, *permissions):
    user.user_permissions.add(*Permission.objects.filter(codename__in=permissions))
    return user


@pytest.fixture
def staff(client):
    """A browser of somebody who may see and change users, and has no other right."""
    client.force_login(may(person("staff", is_staff=True).user, "view_user", "change_user", "delete_user"))
    return client


def act(client, action, *people, path=USERS, **fields):
    """Choose an action, and answer its question, if it has one, with yes."""
    chosen = [each.user.pk for each in people]
    return client.post(path, {"action": action, "_selected_action": chosen, **YES, **fields}, follow=True)


def history_of(someone):
    return [each.change_message for each in LogEntry.objects.filter(object_id=someone.user.pk).order_by("pk")]


def change_page(someone):
    return reverse("admin:accounts_user_change", args=[someone.user.pk])


# -- actions -------------------------------------------------------------------------------------------------------


def test_users_are_moved_to_a_tier(admin_client):
    alice, bob = person("alice", "free"), person("bob", "free")
    assert "moved to tier premium" in act(admin_client, "move_to_premium", alice, bob).text
    assert {each.tier.name for each in User.objects.filter(pk__in=[alice.user.pk, bob.user.pk])} == {"premium"}
    assert history_of(alice) == ["Moved to tier premium."]


def test_all_keys_of_a_user_are_revoked(admin_client):
    alice, bob = person("alice"), person("bob")
    for each in (alice, alice, bob):
        each.key()
    assert "revoked: 2." in act(admin_client, "revoke_keys", alice).text
    assert [key.user for key in ApiKey.objects.working()] == [bob.user]
    assert history_of(alice) == ["All API keys revoked."]


def test_all_tokens_of_a_user_are_revoked(admin_client, client):
    alice = person("alice")
    headers = alice.headers
    assert client.get("/auth/me", headers=headers).status_code == 200
    act(admin_client, "revoke_tokens", alice)
    assert client.get("/auth/me", headers=headers).status_code == 401
    assert history_of(alice) == ["All tokens revoked."]


def test_a_key_is_made_for_one_user_on_the_page_that_makes_keys(admin_client):
    alice, bob = person("alice"), person("bob")
    assert "Choose one user" in act(admin_client, "make_key", alice, bob).text
    response = act(admin_client, "make_key", alice)
    assert response.redirect_chain[-1][0].endswith(f"/admin/accounts/apikey/add/?user={alice.user.pk}")
    assert f'<option value="{alice.user.pk}" selected>' in response.text


def test_a_user_page_has_the_actions_that_fit(admin_client):
    alice = person("alice")
    assert 'value="suspend"' in admin_client.get(change_page(alice)).text
    act(admin_client, "suspend", alice)
    text = admin_client.get(change_page(alice)).text
    assert 'value="reactivate"' in text
    assert 'value="suspend"' not in text


# -- questions -----------------------------------------------------------------------------------------------------

ACTIONS = ["suspend", "revoke_keys", "revoke_tokens", "reset_quotas", "erase", "move_to_free"]


def state_of(someone):
    row = User.objects.filter(pk=someone.user.pk).values().get()
    return row, list(someone.user.api_keys.values())


@pytest.mark.parametrize("action", ACTIONS)
def test_nothing_is_done_before_the_question_is_answered(admin_client, action):
    alice = person("alice")
    alice.key()
    before = state_of(alice)
    asked = act(admin_client, action, alice, confirmed="")
    assert alice.user.username in asked.context["title"]
    assert ("cannot be undone" in asked.text) is (action not in ("suspend", "move_to_free"))
    assert (state_of(alice), history_of(alice)) == (before, [])
    act(admin_client, action, alice)
    assert state_of(alice) != before
    assert len(history_of(alice)) == 1


def test_a_question_sends_what_was_chosen_and_where_it_was_chosen(admin_client):
    alice, bob = person("alice"), person("bob")
    asked = act(admin_client, "suspend", alice, bob, path=f"{USERS}?is_active__exact=1", confirmed="", index="0")
    assert sorted(asked.context["fields"]) == sorted(
        [("action", "suspend"), ("_selected_action", str(alice.user.pk)), ("_selected_action", str(bob.user.pk))]
    )
    assert asked.context["back"] == f"{USERS}?is_active__exact=1"


def test_all_users_of_a_filter_are_asked_about_and_moved(admin_client):
    tier = new_tier()
    for number in range(60):  # more than one page of the list
        person(f"m{number:02}", tier)
    filtered = f"{USERS}?tier__id__exact={tier.pk}"
    first = tier.users.order_by("username").first()
    fields = {"action": "move_to_free", "_selected_action": first.pk, "select_across": "1"}
    asked = admin_client.post(filtered, fields)
    assert f"On another tier until now: {tier} (60)." in asked.text
    assert "and 57 more" in asked.context["title"]
    assert "60 in all: " in asked.text
    assert " and 10 more.</p>" in asked.text
    late = person("late", tier)
    done = admin_client.post(filtered, {**sent_by(asked), **YES}, follow=True)
    assert "and 57 more moved to tier free" in done.text
    assert list(tier.users.all()) == [late.user]


def sent_by(asked):
    """The fields of the form of a question."""
    fields = MultiValueDict()
    for name, value in asked.context["fields"]:
        fields.appendlist(name, value)
    return dict(fields.lists())


def test_more_than_a_form_can_name_are_not_asked_about(admin_client, monkeypatch):
    monkeypatch.setattr("accounts.confirmation.MOST_AT_ONCE", 2)
    people = [person(name) for name in ("alice", "bob", "carol")]
    told = act(admin_client, "suspend", *people, confirmed="")
    assert "3 are chosen, and at most 2 can be changed at once" in told.text
    asked = act(admin_client, "suspend", *people[:2], confirmed="")
    assert asked.context["title"].startswith("Suspend ")
    assert User.objects.filter(is_active=False).count() == 0
    assert MOST_AT_ONCE + 50 < settings.DATA_UPLOAD_MAX_NUMBER_FIELDS


@pytest.mark.parametrize(
    ("count", "told"),
    [(1, "a"), (2, "a and b"), (4, "a, b, c and d"), (5, "a, b, c and 2 more"), (15, "a, b, c and 12 more")],
)
def test_a_sentence_names_a_few_and_counts_the_others(count, told):
    assert named("abcdefghijklmnopqrst"[:count]) == told


def test_names_in_a_sentence_are_text_not_html():
    assert named(["<b>", "&"]) == "&lt;b&gt; and &amp;"


@pytest.mark.parametrize(
    ("chosen_on", "leads_to"),
    [
        (
            "/admin/accounts/user/7/change/?_changelist_filters=q%3Da",
            "/admin/accounts/user/7/change/?_changelist_filters=q%3Da",
        ),
        ("https://evil.example/", USERS),
        ("//evil.example/", USERS),
        ("javascript:alert(1)", USERS),
        ("", USERS),
    ],
)
def test_an_action_leads_back_to_where_it_was_chosen(admin_client, chosen_on, leads_to):
    fields = {"action": "suspend", "_selected_action": person("alice").user.pk, "next": chosen_on}
    assert admin_client.post(USERS, fields).context["back"] == leads_to
    assert admin_client.post(USERS, {**fields, **YES}).headers["location"] == leads_to


@pytest.mark.parametrize(
    ("action", "told"),
    [
        ("suspend", "Nobody was suspended"),
        ("revoke_keys", "No API key was revoked"),
        ("move_to_enterprise", "Nobody was moved"),
    ],
)
def test_what_changes_nothing_is_a_warning_and_no_question(admin_client, action, told):
    carol = person("carol", is_active=action != "suspend")
    answer = act(admin_client, action, carol, confirmed="")
    assert [(each.level_tag, told in str(each)) for each in answer.context["messages"]] == [("warning", True)]
    assert history_of(carol) == []


@pytest.mark.parametrize("action", [*ACTIONS, "reactivate"])
def test_all_that_is_done_is_told_in_one_colour_and_by_name(admin_client, action):
    alice = person("alice", is_active=action != "reactivate")
    alice.key()
    (told,) = act(admin_client, action, alice).context["messages"]
    assert told.level_tag == "success"
    assert alice.user.username in str(told)


def test_staff_are_told_whom_an_action_leaves_out(staff):
    alice, root = person("alice"), person("root", is_staff=True)
    answer = act(staff, "suspend", alice, root, confirmed="")
    assert f"since only superusers change staff: {root.user.username}." in answer.text
    assert answer.context["title"] == f"Suspend {alice.user.username}?"


# -- browser sessions ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("actions", [["revoke_tokens"], ["suspend", "reactivate"], ["erase"]])
def test_browser_sessions_end_with_the_tokens(admin_client, actions):
    alice, browser = person("alice"), Client()
    browser.force_login(alice.user, backend="django.contrib.auth.backends.ModelBackend")
    assert browser.get("/account/").status_code == 200
    for action in actions:
        act(admin_client, action, alice)
    assert browser.get("/account/").status_code == 302


def test_other_actions_end_no_session(admin_client):
    alice, browser = person("alice"), Client()
    browser.force_login(alice.user, backend="django.contrib.auth.backends.ModelBackend")
    for action in ("reset_quotas", "move_to_free", "revoke_keys"):
        act(admin_client, action, alice)
    assert browser.get("/account/").status_code == 200


# -- quotas --------------------------------------------------------------------------------------------------------


def test_resetting_quotas_is_an_action(admin_client):
    alice = person("alice")
    assert "reset. Takes effect" in act(admin_client, "reset_quotas", alice).text
    alice.user.refresh_from_db()
    assert alice.user.quotas_reset_at
    assert history_of(alice) == ["Quotas reset."]


def test_the_list_asks_once_for_what_all_users_have_used(admin_client, django_assert_max_num_queries):
    for number in range(20):
        person(f"user{number}", new_tier(requests_a_minute=number + 1))
    with django_assert_max_num_queries(12):
        text = admin_client.get(USERS).text
    assert "0%: 0 of 20 requests this minute" in text


def test_where_what_was_used_is_not_known_the_pages_say_so(admin_client, monkeypatch):
    from accounts.errors import StoreUnavailable  # noqa: PLC0415

    def fail(users):
        raise StoreUnavailable

    monkeypatch.setattr(gateway(), "remaining", fail)
    alice = person("alice")
    assert "not known at the moment" in admin_client.get(USERS).text
    assert "Not known at the moment" in admin_client.get(change_page(alice)).text


# -- what a page shows ---------------------------------------------------------------------------------------------


def test_a_user_page_shows_use_keys_and_calls_to_those_who_may_see_them(staff, admin_client):
    alice = person("alice")
    alice.key(name="nightly")
    usage_row(timezone.now(), user_id=alice.user.pk, request_id="req_of_alice", error="upstream_error", status=502)
    text = admin_client.get(change_page(alice)).text
    assert all(each in text for each in ("nightly", "req_of_alice", "502 upstream_error", "Last 30 days"))
    text = staff.get(change_page(alice)).text
    assert not any(each in text for each in ("nightly", "req_of_alice", "Last 30 days"))


def test_a_tier_page_shows_some_members_and_where_the_others_are(admin_client):
    tier = new_tier()
    for number in range(KEYS_SHOWN + 1):
        person(f"m{number:02}", tier)
    text = admin_client.get(reverse("admin:accounts_tier_change", args=[tier.pk])).text
    assert "All 21</a>" in text
    assert (
        "Nobody is on this tier"
        in admin_client.get(reverse("admin:accounts_tier_change", args=[new_tier().pk])).content.decode()
    )
    assert admin_client.get(f"{USERS}?tier__id__exact={tier.pk}").context["cl"].result_count == 21


# -- rights --------------------------------------------------------------------------------------------------------


def test_staff_cannot_give_rights_that_are_not_theirs_to_give(staff):
    alice = person("alice")
    inlines = {"quotas-TOTAL_FORMS": 0, "quotas-INITIAL_FORMS": 0}
    fields = {"username": "renamed", "tier": alice.user.tier_id, "is_active": "on", **inlines}
    response = staff.post(change_page(alice), {**fields, "is_staff": "on", "is_superuser": "on"}, follow=True)
    assert response.status_code == 200
    alice.user.refresh_from_db()
    assert (alice.user.username, alice.user.is_staff, alice.user.is_superuser) == ("renamed", False, False)


def test_staff_leave_other_staff_alone(staff):
    root = person("root", is_staff=True, is_superuser=True)
    password = reverse("admin:auth_user_password_change", args=[root.user.pk])
    fields = {"password1": "xk-71-opensesame", "password2": "xk-71-opensesame", "usable_password": "true"}
    assert staff.post(password, fields).status_code == 403
    assert staff.post(change_page(root), {"username": "x"}).status_code == 403
    assert "only superusers change staff" in act(staff, "suspend", root).text
    root.user.refresh_from_db()
    assert root.user.is_active
    assert history_of(root) == []


def test_a_superuser_who_is_no_staff_at_the_moment_is_left_alone_too(staff):
    root = person("root", is_superuser=True)
    assert staff.post(change_page(root), {"username": "x"}).status_code == 403
    act(staff, "move_to_free", root)
    root.user.refresh_from_db()
    assert root.user.tier.name == "enterprise"


def test_staff_make_and_revoke_keys_of_those_only_whom_they_may_change(client):
    clerk = may(person("clerk", is_staff=True).user, "add_apikey", "change_apikey", "view_apikey", "view_user")
    client.force_login(clerk)
    root, alice = person("root", is_staff=True, is_superuser=True), person("alice")
    fields = {"name": "x", "expires_at_0": "2099-01-01", "expires_at_1": "00:00:00"}
    for user, made in ((root.user, 0), (alice.user, 1), (clerk, 1)):
        client.post(reverse("admin:accounts_apikey_add"), {**fields, "user": user.pk})
        assert ApiKey.objects.filter(user=user).count() == made
    keys = [root.key()[0].pk, alice.key()[0].pk]
    client.post(reverse("admin:accounts_apikey_changelist"), {"action": "revoke", "_selected_action": keys, **YES})
    assert [ApiKey.objects.get(pk=key).state for key in keys] == ["works", "revoked"]


def test_no_key_is_offered_that_could_not_be_made(client):
    client.force_login(may(person("clerk", is_staff=True).user, "add_apikey", "view_user"))
    root, alice = person("root", is_staff=True, is_superuser=True), person("alice")
    assert "Make an API key" in client.get(change_page(alice)).text
    assert "Make an API key" not in client.get(change_page(root)).text


def test_a_mistake_in_the_form_leaves_the_rest_of_the_page_as_it_is(admin_client):
    text = admin_client.post(change_page(person("alice")), {"username": ""}).text
    assert "This field is required" in text
    assert "Not known at the moment" not in text
    assert "Reset quotas" in text


@pytest.mark.parametrize("odd", ["%C2%B2", "9" * 30, "x", "-1"])
def test_what_can_be_nobodys_id_is_nobodys(admin_client, odd):
    for model in ("tier", "user", "apikey"):
        answer = admin_client.get(f"/admin/accounts/{model}/{odd}/change/", follow=True)
        assert "doesn’t exist" in answer.text
    assert admin_client.get(f"{reverse('admin:accounts_apikey_add')}?user={odd}").status_code == 200
    assert admin_client.get(f"/admin/proxy/usagerecord/?user__id__exact={odd}").status_code == 200
    assert admin_client.get(f"/admin/proxy/dailyusage/?user__id__exact={odd}").status_code == 200


def test_whoever_may_only_look_can_do_nothing(client):
    client.force_login(may(person("staff", is_staff=True).user, "view_user"))
    alice = person("alice")
    act(client, "suspend", alice)
    act(client, "move_to_free", alice)
    alice.user.refresh_from_db()
    assert (alice.user.is_active, alice.user.tier.name) == (True, "enterprise")
    text = client.get(change_page(alice)).text
    assert "Suspend" not in text
    assert "Make an API key" not in text


def test_the_default_tier_is_not_among_the_moves_of_those_who_may_not_move(client):
    client.force_login(may(person("staff", is_staff=True).user, "view_user"))
    assert not [tier for tier in Tier.objects.all() if f"move_to_{tier.name}" in client.get(USERS).text]
