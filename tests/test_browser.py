"""The pages, in a real browser: what an admin and a client do from the first sign-in on, and how it all looks."""

import os
import subprocess
import sys

import pytest
from django.utils import timezone
from playwright.sync_api import expect

from accounts.models import User
from proxy.gateway import gateway
from proxy.models import ModelAlias, RefusalCount, Upstream, UsageRecord
from tests.browsing import PASSWORD, WIDE, browser, call, look_at, page, root, sign_in  # noqa: F401  # fixtures
from tests.cast import new_tier, numbers, person
from tests.proxy.rows import usage_row
from tests.servers import PATIENCE, wait_until

# ruff: noqa: F811  # a test's argument is the fixture of that name

pytestmark = pytest.mark.once


def test_an_admin_onboards_a_client_sees_its_calls_and_suspends_it(page, live):
    tier, name = f"lab{next(numbers)}", f"grace{next(numbers)}"
    UsageRecord.objects.all().delete()  # of other tests: the dashboard names the tiers that used most
    sign_in(page, "/admin/", root())
    expect(page.get_by_text("Waiting calls")).to_be_visible()

    page.get_by_role("link", name="Tiers").click()
    page.locator("a[href='/admin/accounts/tier/add/']").first.click()
    page.locator("#id_name").fill(tier)
    page.get_by_text("Add another Quota").click()
    page.locator("#id_quotas-0-window").select_option("hour")
    page.locator("#id_quotas-0-limit").fill("50")
    page.get_by_role("button", name="Save", exact=True).click()
    expect(page.get_by_text("was added successfully")).to_be_visible()
    expect(page.get_by_text("50 requests per hour")).to_be_visible()

    page.goto("/admin/accounts/user/add/")
    page.locator("#id_username").fill(name)
    page.locator("#id_password1").fill(PASSWORD)
    page.locator("#id_password2").fill(PASSWORD)
    page.locator("#id_tier").select_option(label=tier)
    page.get_by_role("button", name="Save", exact=True).click()
    expect(page.get_by_text("requests this hour")).to_be_visible()

    page.get_by_role("link", name="Make an API key").click()
    page.locator("#id_name").fill("first steps")
    page.get_by_role("button", name="Save", exact=True).click()
    key = page.get_by_label("API key").input_value()
    look_at(page, "key-made")
    page.set_viewport_size({"width": WIDE[0], "height": WIDE[1]})

    answer = call(live, key)
    assert answer.status_code == 200
    wait_until(lambda: UsageRecord.objects.filter(user__username=name).exists(), "the call is in the ledger")
    page.get_by_role("link", name="Calls").click()
    page.locator("#searchbar").fill(answer.headers["x-request-id"])
    page.locator("#searchbar").press("Enter")
    expect(page.locator("#result_list tbody tr")).to_have_count(1)
    expect(page.locator("#result_list tbody tr")).to_contain_text(name)
    page.get_by_role("link", name="Dashboard").click()
    expect(page.locator("#live").get_by_text(f"{tier} {answer.json()['usage']['total_tokens']}")).to_be_visible()

    page.get_by_role("link", name="Users").click()
    page.locator("#searchbar").fill(name)
    page.locator("#searchbar").press("Enter")
    page.get_by_role("link", name=name).click()
    expect(page.get_by_text("1 of 50")).to_be_visible()
    page.get_by_role("button", name="Suspend").click()
    page.get_by_role("button", name="Suspend").click()
    expect(page.get_by_text(f"{name} suspended")).to_be_visible()
    wait_until(lambda: call(live, key).status_code == 403, "the next call is refused")
    page.goto(f"/admin/accounts/user/{User.objects.get(username=name).pk}/history/")
    expect(page.get_by_text("Suspended.")).to_be_visible()


def test_what_goes_on_now_is_fetched_anew(page, live):
    sign_in(page, "/admin/", root())
    figure = page.locator("#live section", has_text="Tokens today").locator(".gw-figure")
    before = figure.inner_text()
    usage_row(timezone.now(), user_id=None, prompt_tokens=123_456)
    expect(figure).not_to_have_text(before)


def test_a_client_sees_its_limits_and_makes_uses_and_revokes_a_key(page, live):
    alice = person("alice", new_tier(requests_a_minute=9), password=PASSWORD)
    sign_in(page, "/account/", alice)
    expect(page.get_by_text("0 of 9")).to_be_visible()
    page.locator("[name=name]").fill("laptop")
    page.locator("[name=password]").fill(PASSWORD)
    page.get_by_role("button", name="Make a key").click()
    key = page.get_by_label("API key").input_value()
    page.get_by_role("button", name="Copy").first.click()
    expect(page.get_by_role("button", name="Cop").first).not_to_have_text("Copy")

    assert call(live, key).status_code == 200
    page.goto("/account/")
    expect(page.get_by_text("1 of 9")).to_be_visible()
    page.get_by_role("button", name="Revoke laptop").click()
    page.get_by_role("button", name="Revoke").click()
    expect(page.get_by_text("The key “laptop” is revoked")).to_be_visible()
    wait_until(lambda: call(live, key).status_code == 401, "the key has ended")

    page.get_by_role("link", name="API", exact=True).click()
    expect(page.get_by_text("/v1/chat/completions").first).to_be_visible()
    page.goto("/account/")
    page.get_by_role("button", name="Sign out").click()
    expect(page.get_by_role("heading", name="Sign in")).to_be_visible()


def test_the_snippets_of_the_page_work_as_they_are(page, live):
    alice = person("alice", password=PASSWORD)
    key = alice.key()[1]
    sign_in(page, "/account/", alice)
    snippets = {name: page.locator(f"#with-{name}").inner_text() for name in ("curl", "openai", "anthropic")}
    for name, text in snippets.items():
        answered = run_snippet(name, text, key)
        assert answered.returncode == 0, answered.stderr
        assert answered.stdout.strip()
    assert live.url in snippets["curl"]


def run_snippet(name: str, text: str, key: str):
    command = ["bash", "-c", f"{text} --fail-with-body -s"] if name == "curl" else [sys.executable, "-c", text]
    return subprocess.run(command, env={**os.environ, "LLM_KEY": key}, capture_output=True, text=True, timeout=PATIENCE)


# -- how it looks --------------------------------------------------------------------------------------------------

ADMIN_PAGES = {
    "dashboard": "/admin/",
    "dashboard-month": "/admin/?span=month",
    "users": "/admin/accounts/user/",
    "user": "/admin/accounts/user/{user}/change/",
    "user-history": "/admin/accounts/user/{user}/history/",
    "user-add": "/admin/accounts/user/add/",
    "tiers": "/admin/accounts/tier/",
    "tier": "/admin/accounts/tier/{tier}/change/",
    "keys": "/admin/accounts/apikey/",
    "key-add": "/admin/accounts/apikey/add/?user={user}",
    "upstreams-none": "/admin/proxy/upstream/",
    "upstream-add": "/admin/proxy/upstream/add/",
    "aliases": "/admin/proxy/modelalias/",
    "cache": "/admin/proxy/cachepage/",
    "calls": "/admin/proxy/usagerecord/",
    "call": "/admin/proxy/usagerecord/{call}/change/",
    "daily-usage": "/admin/proxy/dailyusage/",
    "refusals": "/admin/proxy/refusalcount/",
    "sign-ins": "/admin/axes/accesslog/",
    "failed-sign-ins": "/admin/axes/accessattempt/",
}
CLIENT_PAGES = {"account": "/account/", "password": "/account/password", "docs": "/docs"}


def test_the_pages_of_the_admin_fit_any_window(page, live):
    grace = person("grace", new_tier(requests_a_minute=10), password=PASSWORD)
    grace.user.quotas.create(metric="tokens", window="day", limit=100)
    grace.key(name="nightly report")
    row = usage_row(timezone.now(), user_id=grace.user.pk, status=502, error="upstream_error")
    for _ in range(4):
        usage_row(timezone.now(), user_id=grace.user.pk, model="smollm2-135m", prompt_tokens=800)
    RefusalCount.objects.add(timezone.now().replace(second=0, microsecond=0), grace.user.pk, "requests_minute", 3)
    ModelAlias.objects.get_or_create(name=f"gpt-{next(numbers)}", defaults={"model": "smollm2-135m"})
    look_at(page, "admin-sign-in", "/admin/login/")
    sign_in(page, "/admin/", root())
    for name, path in ADMIN_PAGES.items():
        look_at(page, name, path.format(user=grace.user.pk, tier=grace.user.tier_id, call=row.pk))


def test_the_pages_of_an_upstream_fit_any_window(page, live, llama):
    upstream = Upstream.objects.create(name=f"gpu{next(numbers)}", base_url=llama)
    try:
        sign_in(page, "/admin/", root())
        wait_until(lambda: gateway().pool.members[0].name == upstream.name, "it serves")
        for name, path in {
            "upstreams": "",
            "upstream": f"{upstream.pk}/change/",
            "redirect": f"{upstream.pk}/redirect/",
        }.items():
            look_at(page, name, f"/admin/proxy/upstream/{path}")
        page.goto("/admin/")
        expect(page.locator("#live").get_by_text(upstream.name)).to_be_visible()
    finally:
        upstream.delete()
        wait_until(lambda: gateway().pool.members[0].name != upstream.name, "LLAMA_SERVERS serve again")


def test_the_pages_of_a_client_fit_any_window(page, live):
    alice = person("alice", "free", password=PASSWORD)
    alice.key(name="laptop")
    usage_row(timezone.now(), user_id=alice.user.pk)
    look_at(page, "client-sign-in", "/account/sign-in")
    sign_in(page, "/account/", alice)
    for name, path in CLIENT_PAGES.items():
        look_at(page, name, path)
