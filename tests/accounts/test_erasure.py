"""Erasing a person: nothing is left that could be traced, and all sums stay."""

import json
from io import StringIO

import pytest
from axes.models import AccessAttempt, AccessLog
from django.apps import apps
from django.contrib.admin.models import CHANGE, LogEntry
from django.contrib.auth.models import Group, Permission
from django.core.management import CommandError, call_command
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from accounts.erasure import erase
from accounts.models import ApiKey, SignIn, User
from proxy.models import UsageRecord
from tests.cast import person
from tests.proxy.rows import usage_row

pytestmark = pytest.mark.django_db

PERSONAL = ("grace", "Grâce", "Höpper", "hopper@navy.example", "amazing", "10.7.7.7", "Mozilla")


@pytest.fixture
def grace():
    """Somebody who has left traces in every table that can hold one."""
    grace = person("grace", first_name="Grâce", last_name="Höpper", email="hopper@navy.example", password="x")
    user = grace.user
    grace.key(name="amazing laptop")
    assert grace.refresh
    user.user_permissions.add(Permission.objects.get(codename="view_user"))
    user.groups.add(Group.objects.create(name="helpdesk"))
    usage_row(timezone.now(), user_id=user.pk, prompt_tokens=700)
    root = person("root", is_staff=True, is_superuser=True).user
    key = user.api_keys.get()
    for row in (user, key):
        LogEntry.objects.log_actions(root.pk, [row], CHANGE, f"Spoke with Grâce Höpper, {user.username}.")
    LogEntry.objects.log_actions(root.pk, [user], CHANGE, [{"changed": {"name": "quota", "object": "of Höpper"}}])
    came = {"ip_address": "10.7.7.7", "user_agent": "Mozilla", "http_accept": "*/*", "path_info": "/"}
    log = AccessLog.objects.create(username=user.username, **came)
    LogEntry.objects.log_actions(root.pk, [log], CHANGE, "Deleted.")
    failed = {"failures_since_start": 1, **came}
    AccessAttempt.objects.create(username=user.username.upper(), **failed)
    AccessAttempt.objects.create(username="Hopper@navy.example", **failed)
    return grace


def tables_that_hold(*words):
    """The tables of this database in which one of these words can be read, JSON's spelling of it included."""
    spelled = [form.casefold() for word in words for form in (word, json.dumps(word)[1:-1])]
    found = set()
    for model in apps.get_models():
        if model._meta.managed and not model._meta.proxy:
            text = str(list(model._base_manager.values_list())).casefold().replace("\\\\", "\\")
            found |= {model._meta.db_table for form in spelled if form in text}
    return found


def test_no_table_holds_a_trace(grace):
    assert tables_that_hold(*PERSONAL) >= {
        "accounts_user", "accounts_apikey", "django_admin_log", "axes_accesslog", "axes_accessattempt",
    }  # fmt: skip
    erase(grace.user)
    assert tables_that_hold(*PERSONAL) == set()
    assert grace.user.username == f"erased-{grace.user.pk}"


def test_a_name_from_before_goes_too(grace):
    before = grace.user.username
    grace.user.username = f"new-{before}"
    grace.user.save()
    erase(grace.user)
    assert tables_that_hold("grace") == set()


def test_access_of_every_kind_ends(grace):
    browser, token, key = Client(), grace.headers, grace.key()[1]
    browser.force_login(grace.user, backend="django.contrib.auth.backends.ModelBackend")
    assert browser.get("/account/").status_code == 200
    assert erase(grace.user) == 2
    assert browser.get("/account/").status_code == 302
    for credentials in (token, {"authorization": f"Bearer {key}"}):
        assert Client().get("/auth/me", headers=credentials).status_code == 401
    assert not SignIn.objects.filter(user=grace.user).exists()
    assert not ApiKey.objects.working().filter(user=grace.user).exists()
    now = User.objects.get(pk=grace.user.pk)
    assert (now.is_active, now.has_usable_password(), now.last_login) == (False, False, None)


def test_rights_and_groups_are_gone(grace):
    User.objects.filter(pk=grace.user.pk).update(is_staff=True, is_superuser=True)
    erase(grace.user)
    now = User.objects.get(pk=grace.user.pk)
    assert (now.is_staff, now.is_superuser) == (False, False)
    assert (now.groups.count(), now.user_permissions.count()) == (0, 0)


def test_the_ledger_stays_and_its_sums(grace):
    erase(grace.user)
    assert [row.prompt_tokens for row in UsageRecord.objects.filter(user=grace.user)] == [700]


def test_others_of_like_names_keep_theirs(grace):
    name = grace.user.username
    loud, second = User.objects.create_user(name.upper()), User.objects.create_user(f"{name}-2")
    root = User.objects.filter(is_superuser=True).first()
    for other in (loud, second):
        LogEntry.objects.log_actions(root.pk, [other], CHANGE, f"Suspended {other.username}.")
        AccessLog.objects.create(username=other.username, path_info="/", http_accept="")
    erase(grace.user)
    for other in (loud, second):
        assert LogEntry.objects.get(object_id=other.pk).change_message == f"Suspended {other.username}."
        assert AccessLog.objects.filter(username=other.username).exists()


def test_erasing_twice_is_erasing_once(grace):
    assert erase(grace.user) == 1
    before = User.objects.filter(pk=grace.user.pk).values().get()
    assert erase(User.objects.get(pk=grace.user.pk)) == 0
    assert User.objects.filter(pk=grace.user.pk).values().get() == before


def test_a_name_that_somebody_took_as_a_joke_is_left(grace):
    User.objects.create_user(f"erased-{grace.user.pk}")
    erase(grace.user)
    assert grace.user.username.startswith(f"erased-{grace.user.pk}-")


@pytest.mark.parametrize("name", ["changed", "fields", "name", "object", "quota"])
def test_the_history_of_any_name_can_still_be_read(admin_client, name):
    user = User.objects.create_user(name)
    root = User.objects.get(is_superuser=True)
    told = {"name": "quota", "object": f"5 requests of {name}", "fields": ["Username"]}
    LogEntry.objects.log_actions(root.pk, [user], CHANGE, [{"changed": told}])
    erase(user)
    page = admin_client.get(reverse("admin:accounts_user_history", args=[user.pk]))
    assert (page.status_code, f"5 requests of {user.username}" in page.text) == (200, True)
    assert "Changed Username for quota" in page.text


# -- the command ---------------------------------------------------------------------------------------------------


def command(*arguments):
    out = StringIO()
    call_command("erase_user", *arguments, stdout=out, stderr=StringIO())
    return out.getvalue()


def test_the_command_says_what_it_did_and_can_be_run_again(grace):
    name = grace.user.username
    assert command(name, "--yes") == f"{name} erased: called erased-{grace.user.pk} from now on. API keys revoked: 1.\n"
    assert "was erased on" in command(f"erased-{grace.user.pk}")
    with pytest.raises(CommandError, match="no user named"):
        command(name, "--yes")


@pytest.mark.parametrize(("typed", "erased"), [("{name}", True), ("y", False), ("", False), (None, False)])
def test_the_command_asks_for_the_name_again(grace, monkeypatch, typed, erased):
    def answer(_):
        if typed is None:
            raise EOFError
        return typed.format(name=grace.user.username)

    monkeypatch.setattr("builtins.input", answer)
    if erased:
        command(grace.user.username)
    else:
        with pytest.raises(CommandError, match="Nobody was erased"):
            command(grace.user.username)
    assert (User.objects.get(pk=grace.user.pk).erased_at is not None) is erased


# -- in the admin --------------------------------------------------------------------------------------------------


def erase_in_admin(client, *people):
    chosen = [each.user.pk for each in people]
    fields = {"action": "erase", "_selected_action": chosen, "confirmed": "yes"}
    return client.post(reverse("admin:accounts_user_changelist"), fields, follow=True)


def is_erased(someone):
    return User.objects.get(pk=someone.user.pk).erased_at is not None


@pytest.mark.parametrize(
    ("permissions", "of_staff", "may"),
    [
        (["view_user", "erase_user"], False, True),
        (["view_user", "change_user"], False, False),
        (["view_user", "erase_user", "change_user"], True, False),
    ],
)
def test_erasing_has_a_permission_of_its_own(client, permissions, of_staff, may):
    staff, target = person("staff", is_staff=True), person("target", is_staff=of_staff)
    staff.user.user_permissions.set(Permission.objects.filter(codename__in=permissions))
    client.force_login(staff.user)
    page = client.get(reverse("admin:accounts_user_change", args=[target.user.pk])).text
    assert ("Erase this person" in page) is may
    erase_in_admin(client, target)
    assert is_erased(target) is may


def test_nobody_erases_themselves(client):
    root, other = (person(name, is_staff=True, is_superuser=True) for name in ("root", "other"))
    client.force_login(root.user)
    assert "nobody erases themselves" in erase_in_admin(client, root, other).text
    assert (is_erased(root), is_erased(other)) == (False, True)


def test_the_history_knows_who_erased_whom_by_the_new_name(admin_client, grace):
    told = erase_in_admin(admin_client, grace).text
    assert f">erased-{grace.user.pk}</a> from now on. API keys revoked: 1." in told
    assert tables_that_hold("grace") == set()
    entry = LogEntry.objects.filter(object_id=grace.user.pk).order_by("-pk")[0]
    assert (entry.change_message, entry.object_repr) == ("Erased.", f"erased-{grace.user.pk}")


def test_an_erased_account_cannot_be_used_again(admin_client, grace):
    erase(grace.user)
    page = admin_client.get(reverse("admin:accounts_user_change", args=[grace.user.pk])).text
    assert "This person was erased on" in page
    assert not any(f'value="{each}"' in page for each in ("reactivate", "erase", "revoke_keys", "_save"))
    fields = {"action": "reactivate", "_selected_action": grace.user.pk}
    assert (
        "since they were erased"
        in admin_client.post(reverse("admin:accounts_user_changelist"), fields, follow=True).text
    )
    assert not User.objects.get(pk=grace.user.pk).is_active
    key = {"user": grace.user.pk, "name": "x", "expires_at_0": "2099-01-01", "expires_at_1": "00:00:00"}
    admin_client.post(reverse("admin:accounts_apikey_add"), key)
    assert grace.user.api_keys.count() == 1


# -- what cannot be deleted ----------------------------------------------------------------------------------------


def test_who_ever_had_a_key_cannot_be_deleted_and_it_is_told_why(admin_client, grace):
    page = reverse("admin:accounts_user_delete", args=[grace.user.pk])
    for answer in (admin_client.get(page), admin_client.post(page, {"post": "yes"})):
        assert "cannot be deleted: API keys were made for this account" in answer.text
        assert "permission to delete" not in answer.text
        assert 'value="erase"' in answer.text
    chosen = {"action": "delete_selected", "_selected_action": grace.user.pk, "post": "yes"}
    answer = admin_client.post(reverse("admin:accounts_user_changelist"), chosen)
    assert "cannot be deleted together" in answer.text
    assert "Erase these persons" in answer.text
    assert User.objects.filter(pk=grace.user.pk).exists()


def test_who_may_delete_and_not_erase_is_told_who_may(client, grace):
    staff = person("staff", is_staff=True).user
    staff.user_permissions.set(Permission.objects.filter(codename__in=["view_user", "delete_user"]))
    client.force_login(staff)
    text = client.get(reverse("admin:accounts_user_delete", args=[grace.user.pk])).text
    assert "the permission “Can erase a person”" in text
    assert 'value="erase"' not in text


def test_who_never_had_a_key_is_deleted_as_before(admin_client):
    alice = person("alice")
    admin_client.post(reverse("admin:accounts_user_delete", args=[alice.user.pk]), {"post": "yes"})
    assert not User.objects.filter(pk=alice.user.pk).exists()
