"""Upstreams in a real browser: the first is added, one is drained, enabled and deleted, and one is down."""

import re

import pytest
from playwright.sync_api import expect

from proxy.gateway import gateway
from proxy.models import Upstream
from tests.browsing import browser, look_at, page, root, sign_in  # noqa: F401  # fixtures
from tests.cast import numbers
from tests.servers import free_port, wait_until

# ruff: noqa: F811  # a test's argument is the fixture of that name

pytestmark = pytest.mark.once


@pytest.fixture
def no_rows(live):
    """Whatever a test adds is gone after it, and LLAMA_SERVERS serve again."""
    yield
    Upstream.objects.all().delete()
    wait_until(lambda: [each.name for each in gateway().pool.members if ":" in each.name], "LLAMA_SERVERS serve again")


def run(page, action):
    """Choose an action for the only upstream there is, as a person does."""
    page.goto("/admin/proxy/upstream/")
    page.locator("#result_list input.action-select").check()
    page.locator("select[name=action]").select_option(label=action)
    page.get_by_role("button", name="Run").click()


def test_an_upstream_is_drained_enabled_and_deleted(page, llama, no_rows):
    upstream = Upstream.objects.create(name=f"gpu{next(numbers)}", base_url=llama)
    sign_in(page, "/admin/", root())
    expect(page.get_by_text("Waiting calls")).to_be_visible()

    run(page, "Drain: send no more calls; running calls finish")
    expect(page.get_by_text(f"Disabled: {upstream.name}.")).to_be_visible()
    wait_until(lambda: not gateway().pool.enabled, "it gets no more calls")

    run(page, "Enable: send calls")
    expect(page.get_by_text(f"Enabled: {upstream.name}.")).to_be_visible()
    wait_until(lambda: gateway().pool.enabled, "it gets calls again")

    run(page, "Delete selected upstreams")
    expect(page.get_by_text("Are you sure")).to_be_visible()
    page.get_by_role("button", name="Yes, I’m sure").click()
    expect(page.get_by_text("Successfully deleted 1 upstream.")).to_be_visible()
    assert not Upstream.objects.exists()


def test_the_first_upstream_takes_over_those_of_llama_servers(page, llama, no_rows):
    sign_in(page, "/admin/", root())
    page.get_by_role("link", name="add one").click()
    expect(page.get_by_label("Also add the servers of LLAMA_SERVERS")).to_be_checked()
    expect(page.get_by_text(llama)).to_be_visible()
    look_at(page, "upstream-first")
    page.locator("#id_name").fill("gpu2")
    page.locator("#id_base_url").fill(f"http://127.0.0.1:{free_port()}")
    page.get_by_role("button", name="Save", exact=True).click()
    expect(page.get_by_text("Taken over from LLAMA_SERVERS")).to_be_visible()
    expect(page.locator("#result_list tbody tr")).to_have_count(2)
    assert Upstream.objects.filter(base_url=llama).exists()


def test_an_upstream_that_is_down_says_since_when(page, no_rows):
    upstream = Upstream.objects.create(name=f"gpu{next(numbers)}", base_url=f"http://127.0.0.1:{free_port()}")
    down = re.compile(r"^down: it refused the connection \(since [-\d ]*\d\d:\d\d UTC\)$")
    wait_until(lambda: [each.health for each in gateway().pool.members if "down" in each.health], "it is down")
    sign_in(page, "/admin/", root())
    expect(page.locator("#live").get_by_text(down)).to_be_visible()
    for path in ("", f"{upstream.pk}/change/"):
        page.goto(f"/admin/proxy/upstream/{path}")
        expect(page.get_by_text(down)).to_be_visible()
        look_at(page, f"upstream-down{'-one' if path else ''}")
