"""Upstreams in the admin: added, steered, redirected with care, and their keys never shown."""

import pytest
from cryptography.fernet import Fernet
from django.contrib.admin.models import LogEntry
from django.contrib.auth.models import Permission
from django.db import connection
from django.test import Client
from django.urls import reverse

from proxy.checks import check_llama_servers
from proxy.encryption import Unreadable
from proxy.gateway import gateway, load_site, upstreams_of_settings
from proxy.models import Upstream
from tests import fake_llama
from tests.cast import new_tier, person
from tests.fake_llama import FakeLlama
from tests.servers import free_port, wait_until

KEY = "sk-very-secret"
FORM = {"name": "gpu1", "base_url": "http://gpu1:8080/", "slots": "2", "is_enabled": "on", "new_key": KEY}


def page(name, *args):
    return reverse(f"admin:proxy_upstream_{name}", args=args)


@pytest.fixture
def upstream(db):
    return Upstream.objects.create(name="gpu1", base_url="http://gpu1:8080", api_key=KEY, slots=2)


@pytest.fixture
def staff(db, client):
    """Signs somebody in who has these permissions."""

    def sign_in(*permissions):
        user = person("staff", new_tier(), is_staff=True).user
        user.user_permissions.set(Permission.objects.filter(codename__in=permissions))
        client.force_login(user)
        return client

    return sign_in


def raw_key(upstream):
    with connection.cursor() as cursor:
        cursor.execute("SELECT api_key FROM proxy_upstream WHERE id = %s", [upstream.pk])
        return cursor.fetchone()[0]


# -- keys ----------------------------------------------------------------------------------------------------------


def test_a_key_is_encrypted_in_the_database_and_read_from_it(upstream):
    assert KEY not in raw_key(upstream)
    assert Upstream.objects.get().api_key == KEY
    assert KEY not in repr(upstream.spec)


def test_all_keys_decrypt_and_the_first_encrypts(upstream, settings):
    old, new = settings.FIELD_ENCRYPTION_KEYS[0], Fernet.generate_key().decode()
    settings.FIELD_ENCRYPTION_KEYS = (new, old)
    held = Upstream.objects.get()
    assert held.api_key == KEY
    held.save()
    settings.FIELD_ENCRYPTION_KEYS = (new,)
    assert Upstream.objects.get().api_key == KEY


def test_one_whose_key_cannot_be_read_is_not_used_and_not_overwritten(upstream, settings):
    before, raw = settings.FIELD_ENCRYPTION_KEYS, raw_key(upstream)
    settings.FIELD_ENCRYPTION_KEYS = (Fernet.generate_key().decode(),)
    held = Upstream.objects.get()
    assert isinstance(held.api_key, Unreadable)
    assert held.spec.problem
    assert held.spec.api_key == ""
    held.save()
    assert raw_key(upstream) == raw
    settings.FIELD_ENCRYPTION_KEYS = before
    assert Upstream.objects.get().api_key == KEY


@pytest.mark.parametrize("fields", [None, ["base_url"]])
def test_a_key_is_for_one_url(upstream, fields):
    held = Upstream.objects.get()
    held.base_url = "http://elsewhere"
    held.save(update_fields=fields)
    assert Upstream.objects.get().api_key == ""


def test_another_url_with_another_key_keeps_that(upstream):
    held = Upstream.objects.get()
    held.base_url, held.api_key = "http://elsewhere", "other"
    held.save()
    assert Upstream.objects.get().api_key == "other"


def test_where_the_admin_has_none_those_of_the_settings_serve(db, upstream):
    assert [spec.base_url for spec in load_site().upstreams] == ["http://gpu1:8080"]
    upstream.delete()
    assert load_site().upstreams == ()


# -- pages ---------------------------------------------------------------------------------------------------------


def test_an_admin_adds_one(admin_client):
    admin_client.post(page("add"), FORM)
    made = Upstream.objects.get()
    assert (made.base_url, made.api_key, made.slots, made.is_enabled) == ("http://gpu1:8080", KEY, 2, True)


@pytest.mark.parametrize("url", ["http://169.254.169.254", "http://[fe80::1]:80", "gpu1:8080", "http://gpu1/v1"])
def test_a_url_that_no_upstream_may_be_at_is_refused(admin_client, url):
    assert b"errornote" in admin_client.post(page("add"), {**FORM, "base_url": url}).content
    assert not Upstream.objects.exists()


def test_a_key_is_never_shown_and_stays_where_none_is_given(admin_client, upstream):
    assert KEY not in admin_client.get(page("change", upstream.pk)).content.decode()
    admin_client.post(page("change", upstream.pk), {**FORM, "new_key": "", "slots": "7"})
    held = Upstream.objects.get()
    assert (held.slots, held.api_key) == (7, KEY)
    admin_client.post(page("change", upstream.pk), {**FORM, "new_key": "", "has_no_key": "on"})
    assert Upstream.objects.get().api_key == ""
    assert not LogEntry.objects.filter(change_message__contains=KEY).exists()


def test_the_form_does_not_change_where_it_leads(admin_client, upstream):
    admin_client.post(page("change", upstream.pk), {**FORM, "base_url": "http://evil"})
    assert Upstream.objects.get().base_url == "http://gpu1:8080"


def test_redirecting_is_confirmed_noted_and_takes_the_key(admin_client, upstream):
    where = page("redirect", upstream.pk)
    admin_client.post(where, {"base_url": "http://gpu2:8080"})
    assert Upstream.objects.get().base_url == "http://gpu1:8080"
    admin_client.post(where, {"base_url": "http://gpu2:8080", "is_sure": "on"})
    held = Upstream.objects.get()
    assert (held.base_url, held.api_key) == ("http://gpu2:8080", "")
    assert "from http://gpu1:8080 to http://gpu2:8080" in LogEntry.objects.get().change_message


def test_redirecting_needs_its_own_permission(staff, upstream):
    changes = staff("view_upstream", "change_upstream")
    assert changes.get(page("redirect", upstream.pk)).status_code == 403
    assert b"Change its base URL" not in changes.get(page("change", upstream.pk)).content
    redirects = staff("view_upstream", "redirect_upstream")
    assert redirects.get(page("redirect", upstream.pk)).status_code == 200


@pytest.mark.parametrize(("action", "before", "after"), [("disable", True, False), ("enable", False, True)])
def test_actions_disable_and_enable_and_are_noted(admin_client, upstream, action, before, after):
    Upstream.objects.update(is_enabled=before)
    answer = admin_client.post(page("changelist"), {"action": action, "_selected_action": upstream.pk}, follow=True)
    assert f"{action.capitalize()}d: gpu1. Takes effect within 2 seconds." in answer.text
    assert Upstream.objects.get().is_enabled is after
    assert LogEntry.objects.get().change_message == f"{action.capitalize()}d."


def test_who_may_only_look_has_no_actions(staff, upstream):
    looks = staff("view_upstream")
    looks.post(page("changelist"), {"action": "disable", "_selected_action": upstream.pk})
    assert Upstream.objects.get().is_enabled


def test_without_any_the_page_says_who_serves(admin_client, settings):
    settings.LLAMA_SERVERS = ("http://a:1", "http://b:2")
    assert "the gateway uses LLAMA_SERVERS: http://a:1, http://b:2." in admin_client.get(page("changelist")).text


# -- the servers of LLAMA_SERVERS ----------------------------------------------------------------------------------


@pytest.fixture
def two_servers(settings):
    settings.LLAMA_SERVERS = ("http://a:1/", "http://b:2")
    settings.LLAMA_API_KEY = "sk-of-both"


def saved():
    return {each.name: (each.base_url, each.api_key) for each in Upstream.objects.all()}


def test_the_form_of_the_first_one_names_what_it_replaces(admin_client, two_servers):
    text = admin_client.get(page("add")).text
    assert "a-1 (http://a:1), b-2 (http://b:2)" in text
    assert "with LLAMA_API_KEY" in text
    assert admin_client.get(page("add")).context["adminform"].form["takes_over"].value() is True


def test_the_first_one_takes_them_over_with_their_key(admin_client, two_servers):
    told = admin_client.post(page("add"), {**FORM, "takes_over": "on"}, follow=True).text
    both = {"a-1": ("http://a:1", "sk-of-both"), "b-2": ("http://b:2", "sk-of-both")}
    assert saved() == {"gpu1": ("http://gpu1:8080", KEY), **both}
    assert "Taken over from LLAMA_SERVERS: a-1 (http://a:1), b-2 (http://b:2)." in told
    assert "sk-of-both" not in raw_key(Upstream.objects.get(name="a-1"))
    assert LogEntry.objects.filter(change_message="Taken over from LLAMA_SERVERS.").count() == 2


def test_whoever_does_not_want_them_is_told_that_they_are_out(admin_client, two_servers):
    told = admin_client.post(page("add"), FORM, follow=True).text
    assert saved() == {"gpu1": ("http://gpu1:8080", KEY)}
    assert "LLAMA_SERVERS is no longer used: http://a:1/, http://b:2." in told


def test_one_of_them_that_is_added_keeps_its_key(admin_client, two_servers):
    form = {**FORM, "base_url": "http://a:1", "new_key": "", "takes_over": "on"}
    admin_client.post(page("add"), form)
    assert saved() == {"gpu1": ("http://a:1", "sk-of-both"), "b-2": ("http://b:2", "sk-of-both")}


def test_names_of_what_is_taken_over_are_unique(admin_client, settings):
    settings.LLAMA_SERVERS = ("http://gpu1:8080", "https://gpu1:8080", "http://gpu1-8080", "http://[::]")
    admin_client.post(page("add"), {**FORM, "name": "gpu1-8080", "base_url": "http://new", "takes_over": "on"})
    assert sorted(saved()) == ["gpu1-8080", "gpu1-8080-2", "gpu1-8080-3", "gpu1-8080-4", "upstream"]


def test_one_that_may_not_be_an_upstream_is_left_out_and_told(admin_client, settings):
    settings.LLAMA_SERVERS = ("http://a:1", "http://169.254.169.254", "http://b:2/path")
    told = admin_client.post(page("add"), {**FORM, "takes_over": "on"}, follow=True).text
    assert sorted(saved()) == ["a-1", "gpu1"]
    assert "Taken over from LLAMA_SERVERS: a-1 (http://a:1)." in told
    assert "Not taken over from LLAMA_SERVERS: http://169.254.169.254 (169.254.169.254 is at" in told
    assert "http://b:2/path (" in told


@pytest.mark.parametrize("takes_over", ["on", ""])
def test_a_password_in_a_setting_is_shown_on_no_page(admin_client, settings, takes_over):
    settings.LLAMA_SERVERS = ("http://somebody:hush/@a:1", "http://somebody:hush@b:2", "somebody:hush@c:3")
    saved_page = admin_client.post(page("add"), {**FORM, "name": "", "takes_over": takes_over})
    pages = [admin_client.get(page("changelist")), admin_client.get(page("add")), saved_page]
    pages.append(admin_client.post(page("add"), {**FORM, "takes_over": takes_over}, follow=True))
    assert ["http://b:2" in each.text for each in pages] == [True] * 4
    assert not [word for each in pages for word in ("somebody", "hush") if word in each.text]
    assert not [problem for problem in check_llama_servers() if "hush" in problem.msg]
    assert not [spec.name for spec in upstreams_of_settings() if "hush" in spec.name]
    assert list(saved()) == ["gpu1"]


def test_a_second_one_has_nothing_to_take_over(admin_client, two_servers, upstream):
    assert "LLAMA_SERVERS" not in admin_client.get(page("add")).text
    admin_client.post(page("add"), {**FORM, "name": "gpu2", "base_url": "http://gpu2", "takes_over": "on"})
    assert sorted(saved()) == ["gpu1", "gpu2"]


def test_a_form_with_mistakes_takes_nothing_over(admin_client, two_servers):
    assert "errornote" in admin_client.post(page("add"), {**FORM, "name": "", "takes_over": "on"}).text
    assert not saved()


# -- live ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def root(live):
    client = Client()
    client.force_login(person("root", is_staff=True, is_superuser=True).user)
    yield client
    Upstream.objects.all().delete()
    wait_until(lambda: len(gateway().pool.members) == 1, "the settings' own serves again")


def test_one_that_is_added_disabled_and_removed_serves_and_serves_no_more(root, bob, chat):
    with_two = [fake_llama.STREAM_HEAD, fake_llama.token("Hi"), fake_llama.FINISH, fake_llama.USAGE, fake_llama.DONE]
    server = FakeLlama(fake_llama.sends(*with_two), slots=3)
    pool = gateway().pool
    try:
        root.post(page("add"), {"name": "fake", "base_url": server.url, "slots": "", "is_enabled": "on", "new_key": ""})
        wait_until(lambda: [m.name for m in pool.members if m.is_up] == ["fake"], "it serves")
        assert chat(bob).status_code == 200
        row = Upstream.objects.get()
        shown = root.get(page("changelist")).content.decode()
        assert "0 of 3" in shown
        assert "smollm2-135m" in shown
        root.post(page("changelist"), {"action": "disable", "_selected_action": row.pk})
        wait_until(lambda: not pool.enabled, "it is disabled")
        assert chat(bob).status_code == 503
        root.post(page("delete", row.pk), {"post": "yes"})
        wait_until(lambda: pool.is_up and pool.members[0].name != "fake", "the settings' own serves")
        assert chat(bob).status_code == 200
    finally:
        server.close()


def test_running_calls_go_on_while_their_server_is_taken_over(root, bob, chat, gate, together, settings):
    pool, rest = gateway().pool, [fake_llama.FINISH, fake_llama.USAGE, fake_llama.DONE]
    old = FakeLlama(fake_llama.sends_late(gate, fake_llama.STREAM_HEAD, fake_llama.token("Hi"), *rest))
    new = FakeLlama(fake_llama.sends())
    before = settings.LLAMA_SERVERS
    settings.LLAMA_SERVERS, settings.LLAMA_API_KEY = (old.url,), "sk-of-both"
    try:
        wait_until(lambda: [m.url for m in pool.members if m.is_up] == [old.url], "the settings' own serves")
        held = pool.members[0]
        with together(lambda: chat(bob)) as (call,):
            wait_until(lambda: old.seen, "a call runs there")
            form = {"name": "new", "base_url": new.url, "is_enabled": "on", "takes_over": "on"}
            root.post(page("add"), {**form, "slots": "", "new_key": ""})
            wait_until(lambda: len(pool.members) == 2, "both serve")
            assert held in pool.members
            assert f"1 of {held.slots}" in root.get(page("changelist")).text
            gate.set()
            assert call.result(30).status_code == 200
        assert sorted(member.name for member in pool.members) == sorted(Upstream.objects.values_list("name", flat=True))
    finally:
        settings.LLAMA_SERVERS, settings.LLAMA_API_KEY = before, ""
        old.close()
        new.close()


def test_the_form_says_which_of_them_do_not_answer(root, live, llama, settings):
    settings.LLAMA_SERVERS = (llama, down := f"http://127.0.0.1:{free_port()}")
    wait_until(lambda: "down" in gateway().pool.members[-1].health, "one is down")
    text = root.get(page("add")).text
    assert f"({llama})" in text
    assert f"({down}; down: " in text
    settings.LLAMA_SERVERS = (llama,)


def test_500s_do_not_open_the_circuit_and_cuts_do(fake, bob, chat):
    refusal = fake_llama.whole("500 Internal Server Error", {"error": {"message": "Something new"}})
    server = fake(fake_llama.sends_and_cuts(refusal))
    own = gateway().pool.members[0]
    assert {chat(bob).status_code for _ in range(5)} == {502}
    assert own.is_up
    server.script = fake_llama.sends_and_cuts(fake_llama.STREAM_HEAD, fake_llama.token("Hi"))
    assert [chat(bob).status_code for _ in range(4)] == [502, 502, 502, 503]
    assert own.circuit.is_open
    assert len(server.seen) == 8


def test_a_redirect_is_not_followed(fake, bob, chat):
    elsewhere = FakeLlama(fake_llama.sends())
    head = (
        f"HTTP/1.1 307 Temporary Redirect\r\nLocation: {elsewhere.url}/v1/chat/completions\r\nContent-Length: 0\r\n\r\n"
    )
    fake(fake_llama.sends_and_cuts(head.encode()))
    assert chat(bob).status_code == 502
    assert not elsewhere.seen
    elsewhere.close()
