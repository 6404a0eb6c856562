"""Questions before harsh actions, erasing a person, keys shown once, and pages of errors, in a real browser."""

import re

import pytest
from axes.models import AccessAttempt
from django.utils import timezone
from playwright.sync_api import expect

from accounts.models import ApiKey, User
from accounts.self_service import AccountView
from tests.browsing import PASSWORD, browser, call, look_at, page, root, sign_in  # noqa: F401  # fixtures
from tests.cast import new_tier, numbers, person
from tests.proxy.rows import usage_row
from tests.servers import wait_until

# ruff: noqa: F811  # a test's argument is the fixture of that name

pytestmark = pytest.mark.once


def user_page(someone):
    return f"/admin/accounts/user/{someone.user.pk}/change/"


def is_active(someone):
    return User.objects.get(pk=someone.user.pk).is_active


# -- questions -----------------------------------------------------------------------------------------------------


def test_suspending_asks_by_keyboard_too_and_leads_back(page, live):
    alice = person("alice", password=PASSWORD)
    sign_in(page, "/admin/", root())
    page.goto(user_page(alice))
    page.get_by_role("button", name="Suspend").focus()
    page.keyboard.press("Enter")
    expect(page).to_have_title(re.compile(f"^Suspend {alice.user.username}"))
    expect(page.get_by_text("API keys are kept")).to_be_visible()
    look_at(page, "ask-suspend")
    page.get_by_role("link", name="Cancel").press("Enter")
    expect(page).to_have_url(re.compile(rf"{user_page(alice)}$"))
    assert is_active(alice)

    page.get_by_role("button", name="Suspend").press("Enter")
    page.get_by_role("button", name="Suspend").press("Enter")
    expect(page.get_by_text(f"{alice.user.username} suspended. Calls are refused from now on")).to_be_visible()
    expect(page).to_have_url(re.compile(rf"{user_page(alice)}$"))
    expect(page.get_by_text("Suspended: calls are refused.")).to_be_visible()
    assert not is_active(alice)


def test_a_client_revokes_a_key_without_scripts(browser, live):
    alice = person("alice", password=PASSWORD)
    alice.key(name="laptop")
    with browser.new_context(base_url=live.url, java_script_enabled=False) as context:
        page = context.new_page()
        sign_in(page, "/account/", alice)
        page.get_by_role("button", name="Revoke laptop").click()
        page.get_by_role("button", name="Revoke").click()
        expect(page.get_by_text("The key “laptop” is revoked.")).to_be_visible()
    assert not ApiKey.objects.working().filter(user=alice.user).exists()


def test_users_of_a_filtered_list_are_moved_and_the_filter_stays(page, live):
    course, other = new_tier(), new_tier()
    people = [person(name, course) for name in ("ann", "ben", "cem")]
    filtered = f"/admin/accounts/user/?tier__id__exact={course.pk}"
    sign_in(page, "/admin/", root())
    page.goto(filtered)
    for box in page.locator("#result_list input.action-select").all()[:2]:
        box.check()
    page.locator("select[name=action]").select_option(label=f"Move to tier {other}")
    page.get_by_role("button", name="Run").click()
    expect(page.get_by_text(f"On another tier until now: {course} (2).")).to_be_visible()
    assert not other.users.exists()
    look_at(page, "ask-move")
    page.get_by_role("button", name="Move").click()

    first, second = (each.user.username for each in people[:2])
    expect(page.get_by_text(f"{first} and {second} moved to tier {other}.")).to_be_visible()
    look_at(page, "told")
    expect(page).to_have_url(f"{live.url}{filtered}")
    expect(page.locator("#result_list tbody tr")).to_have_count(1)
    page.get_by_role("link", name=first).click()
    expect(page).to_have_url(re.compile(user_page(people[0])))


def test_a_key_is_revoked_on_its_page_and_nothing_to_revoke_is_a_warning(page, live):
    alice = person("alice")
    row, key = alice.key(name="nightly")
    assert call(live, key).status_code == 200
    sign_in(page, "/admin/", root())
    page.goto(f"/admin/accounts/apikey/{row.pk}/change/")
    page.get_by_role("button", name="Revoke").click()
    expect(page.get_by_text("This cannot be undone.")).to_be_visible()
    page.get_by_role("button", name="Revoke").click()
    expect(page.get_by_text(f"nightly ({alice.user.username}) revoked.")).to_be_visible()
    wait_until(lambda: call(live, key).status_code == 401, "the key has ended")
    page.goto(user_page(alice))
    page.get_by_role("button", name="Revoke all API keys").click()
    expect(page.locator("[class*=orange]", has_text="No API key was revoked")).to_be_visible()


# -- erasing -------------------------------------------------------------------------------------------------------


def test_a_person_is_erased_from_the_page_that_cannot_delete_them(page, browser, live):
    name = f"hopper{next(numbers)}"
    grace = person(name, password=PASSWORD, first_name="Grace", last_name=name.title(), email=f"{name}@navy.example")
    key = grace.key(name=f"laptop of {name}")[1]
    usage_row(timezone.now(), user_id=grace.user.pk, request_id=f"req_{name}")
    with browser.new_context(base_url=live.url) as other:
        hers = other.new_page()
        sign_in(hers, "/account/", grace)
        expect(hers.get_by_role("heading", name=name)).to_be_visible()

        sign_in(page, "/admin/", root())
        page.goto(f"/admin/accounts/user/{grace.user.pk}/delete/")
        expect(page.get_by_text("cannot be deleted: API keys were made for this account (1)")).to_be_visible()
        look_at(page, "cannot-delete")
        page.get_by_role("button", name="Erase this person").click()
        expect(page.get_by_text("This cannot be undone.")).to_be_visible()
        look_at(page, "ask-erase")
        page.get_by_role("button", name="Erase").click()
        expect(page.get_by_text(f"erased: called erased-{grace.user.pk} from now on")).to_be_visible()
        look_at(page, "erased", user_page(grace))
        expect(page.get_by_text("This person was erased on")).to_be_visible()
        expect(page.get_by_text(f"req_{name}")).to_be_visible()  # the call stays

        hers.goto("/account/")
        expect(hers.get_by_role("heading", name="Sign in")).to_be_visible()
    wait_until(lambda: call(live, key).status_code == 401, "the key has ended")
    for path in (
        f"accounts/user/?q=erased-{grace.user.pk}",
        f"accounts/user/{grace.user.pk}/history/",
        "accounts/apikey/",
        "axes/accesslog/",
    ):
        page.goto(f"/admin/{path}")
        expect(page.get_by_text(f"erased-{grace.user.pk}").first).to_be_visible()
        assert name not in page.content().lower(), path


# -- keys ----------------------------------------------------------------------------------------------------------


def test_loading_the_page_of_a_new_key_again_makes_no_second_one(page, live):
    alice = person("alice", password=PASSWORD)
    sign_in(page, "/account/", alice)
    page.locator("[name=name]").fill("laptop")
    page.locator("[name=password]").fill(PASSWORD)
    page.get_by_role("button", name="Make a key").click()
    key = page.get_by_label("API key").input_value()
    assert call(live, key).status_code == 200
    look_at(page, "client-key-made")
    page.reload()
    expect(page.get_by_text("It was shown once, and is not kept.")).to_be_visible()
    assert key not in page.content()
    look_at(page, "client-key-shown")
    page.get_by_role("link", name="Back to your account").click()
    page.go_back()
    assert key not in page.content()
    assert ApiKey.objects.filter(user=alice.user).count() == 1

    page.goto("/account/")
    page.get_by_role("button", name="Revoke laptop").click()
    expect(page.get_by_role("heading", name="Revoke the key “laptop”?")).to_be_visible()
    look_at(page, "client-ask-revoke")
    page.get_by_role("link", name="Cancel").click()
    assert ApiKey.objects.working().filter(user=alice.user).exists()


SEND_TWICE = """form => {
    const send = () => fetch(form.action, {method: 'POST', body: new FormData(form), redirect: 'manual'});
    return Promise.all([send(), send()]);
}"""


def test_a_key_form_that_is_sent_twice_at_once_makes_one_key(page, live):
    alice = person("alice", password=PASSWORD)
    keys = ApiKey.objects.filter(user=alice.user)
    sign_in(page, "/account/", alice)
    page.locator("[name=name]").fill("laptop")
    page.locator("[name=password]").fill(PASSWORD)
    page.locator("form.inline").evaluate(SEND_TWICE)
    page.goto(f"/account/keys/{keys.get().pk}")
    expect(page.get_by_label("API key")).to_be_visible()

    sign_in(page, "/admin/", root())
    page.goto(f"/admin/accounts/apikey/add/?user={alice.user.pk}")
    expect(page.get_by_text("Form id")).to_be_hidden()
    page.locator("#id_name").fill("nightly")
    page.locator("#apikey_form").evaluate(SEND_TWICE)
    page.goto(f"/admin/accounts/apikey/{keys.get(name='nightly').pk}/made/")
    expect(page.get_by_label("API key")).to_be_visible()


def test_a_new_key_in_the_admin_is_copied_once_and_not_made_again(page, live):
    alice = person("alice")
    sign_in(page, "/admin/", root())
    page.goto(f"/admin/accounts/apikey/add/?user={alice.user.pk}")
    expect(page.get_by_role("button", name="Save", exact=True)).to_be_visible()
    expect(page.get_by_role("button", name="Save and")).to_have_count(0)
    look_at(page, "key-form")
    page.locator("#id_name").fill("nightly")
    page.get_by_role("button", name="Save", exact=True).click()
    key = page.get_by_label("API key").input_value()
    page.get_by_role("button", name="Copy").click()
    expect(page.get_by_role("button", name=re.compile("Copied|Ctrl-C"))).to_be_visible()
    page.reload()
    expect(page.get_by_text("was shown once, and is not kept.")).to_be_visible()
    assert key not in page.content()
    look_at(page, "key-shown")
    assert ApiKey.objects.filter(user=alice.user).count() == 1
    page.get_by_role("link", name="Make another key").click()
    expect(page.locator("#id_name")).to_have_value("")


# -- pages of errors -----------------------------------------------------------------------------------------------


def test_a_locked_name_gets_a_page_that_says_for_how_long(page, live):
    alice = person("alice", is_staff=True, password=PASSWORD)
    failed = {"failures_since_start": 10, "path_info": "/", "http_accept": "", "get_data": "", "post_data": ""}
    AccessAttempt.objects.create(username=alice.user.username, ip_address="127.0.0.1", user_agent="x", **failed)
    sign_in(page, "/admin/", alice)
    expect(page.get_by_role("heading", name="Too many tries")).to_be_visible()
    expect(page.get_by_text("Try again in 15 minutes.")).to_be_visible()
    look_at(page, "locked")
    page.get_by_role("link", name="Try again").click()
    expect(page.locator("[name=username]")).to_be_visible()


def test_the_root_and_the_admin_lead_a_client_to_the_account(page, live):
    alice = person("alice", password=PASSWORD)
    page.goto("/")
    expect(page.get_by_role("heading", name="Sign in")).to_be_visible()
    sign_in(page, "/admin/", alice)
    page.get_by_role("link", name="your account").click()
    sign_in(page, page.url, alice)
    expect(page.get_by_role("heading", name=alice.user.username)).to_be_visible()


def test_what_is_not_there_not_allowed_or_broken_is_a_page(page, live, monkeypatch):
    staff = person("staff", is_staff=True, password=PASSWORD)
    look_at(page, "error-404", "/nope")
    expect(page.get_by_role("heading", name="There is no such page")).to_be_visible()
    page.goto("/account/nope")
    page.get_by_role("link", name="Back to your account").click()
    expect(page.get_by_role("heading", name="Sign in")).to_be_visible()

    sign_in(page, "/admin/", staff)
    expect(page.get_by_text("What you may see is in the menu.")).to_be_visible()
    answer = page.goto("/admin/accounts/user/")
    expect(page.get_by_role("heading", name="You may not open this page")).to_be_visible()
    expect(page.get_by_text(answer.headers["x-request-id"])).to_be_visible()
    look_at(page, "error-403")
    page.get_by_role("link", name="Back to the admin").click()
    expect(page.get_by_text("What you may see is in the menu.")).to_be_visible()

    page.goto("/account/")
    page.context.clear_cookies(name="csrftoken")
    page.get_by_role("button", name="Sign out").click()
    expect(page.get_by_role("heading", name="The form was not accepted")).to_be_visible()
    look_at(page, "error-csrf")

    def fail(*_, **__):
        raise RuntimeError("broken")

    monkeypatch.setattr(AccountView, "get_context_data", fail)
    answer = page.goto("/account/")
    expect(page.get_by_role("heading", name="Something went wrong")).to_be_visible()
    expect(page.get_by_text(answer.headers["x-request-id"])).to_be_visible()
    look_at(page, "error-500")
    monkeypatch.undo()
    page.get_by_role("link", name="Try again").click()
    expect(page.get_by_role("heading", name=staff.user.username)).to_be_visible()


def test_links_with_a_slash_too_many_work(page, live):
    page.goto("/docs/")
    expect(page.get_by_text("/v1/chat/completions").first).to_be_visible()
    page.goto("/account/sign-in/")
    expect(page.get_by_role("heading", name="Sign in")).to_be_visible()
