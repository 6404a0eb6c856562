"""What was used, in a real browser: charts, and lists of which no page takes forever."""

import pytest
from django.db import connection
from django.utils import timezone
from playwright.sync_api import expect

from accounts.models import Tier
from proxy.dashboard import TIER_COLOURS
from proxy.models import DailyUsage, UsageRecord
from proxy.usage_admin import UsageRecordAdmin
from tests.browsing import browser, look_at, page, root, sign_in  # noqa: F401  # fixtures
from tests.cast import new_tier
from tests.llmgateway.test_page_queries import FOREVER
from tests.proxy.rows import usage_row

# ruff: noqa: F811  # a test's argument is the fixture of that name

pytestmark = pytest.mark.once

SHOWN = """name => Chart.getChart(document.querySelector(`canvas[aria-label^="${name}"]`)).data.datasets.map(
    each => [each.label, each.backgroundColor, each.data.reduce((sum, one) => sum + one, 0)])"""


@pytest.fixture
def admin(page):
    sign_in(page, "/admin/", root())
    expect(page.get_by_text("Waiting calls")).to_be_visible()
    return page


@pytest.fixture
def empty_ledger(live):
    """No calls, neither in the ledger nor in its daily sums, which the tests of a run share."""
    for model in (UsageRecord, DailyUsage):
        model.objects.all().delete()
    yield
    UsageRecord.objects.all().delete()


def test_the_chart_tells_what_became_of_calls(admin, empty_ledger):
    for status, error in [(200, ""), (200, "client_left"), (499, "client_left"), (400, "x"), (200, "x"), (502, "x")]:
        usage_row(timezone.now(), status=status, error=error)
    for span in ("hour", "day", "month"):
        admin.goto(f"/admin/?span={span}")
        counts = {label: count for label, _, count in admin.evaluate(SHOWN, "Calls")}
        assert counts.pop("Rate-limited") >= 0  # those of other tests
        assert counts == {"Completed": 1, "Client disconnected": 2, "Refused": 1, "Interrupted": 1, "Failed": 1}


def tier_of_another_colour(*others):
    taken = {tier.pk % len(TIER_COLOURS) for tier in others}
    return next(tier for tier in iter(new_tier, None) if tier.pk % len(TIER_COLOURS) not in taken)


def test_a_tier_keeps_its_colour(admin, empty_ledger):
    oldest = Tier.objects.order_by("pk").first()
    earlier = tier_of_another_colour(oldest)
    later = tier_of_another_colour(oldest, earlier)
    usage_row(timezone.now(), tier=later.name)
    admin.goto("/admin/")
    [(name, colour, _)] = admin.evaluate(SHOWN, "Tokens")
    usage_row(timezone.now(), tier=earlier.name)
    usage_row(timezone.now(), tier=oldest.name)
    admin.goto("/admin/")
    assert dict(each[:2] for each in admin.evaluate(SHOWN, "Tokens"))[name] == colour
    look_at(admin, "dashboard-tiers", "/admin/")


def test_no_button_counts_what_filters_find(admin):
    usage_row(timezone.now())
    admin.goto("/admin/proxy/usagerecord/")
    admin.locator("#changelist a", has_text="Filters").first.click()
    expect(admin.get_by_role("button", name="Apply Filters")).to_be_visible()
    expect(admin.get_by_text("Show counts")).to_have_count(0)


def test_a_page_that_takes_too_long_leads_back(browser, live, monkeypatch, settings):
    page = browser.new_page(base_url=live.url)  # of its own: a status of 503 is an error on a browser's console
    usage_row(timezone.now())
    every_row = UsageRecordAdmin.get_queryset
    with monkeypatch.context() as patched:
        patched.setattr(
            UsageRecordAdmin, "get_queryset", lambda *of: every_row(*of).extra(where=[FOREVER[connection.vendor]])
        )
        settings.PAGE_QUERY_TIMEOUT = 1.0
        sign_in(page, "/admin/login/?next=/admin/proxy/usagerecord/%3Ftier=free", root())
        expect(page.get_by_role("heading", name="This took longer than 1 s")).to_be_visible()
        look_at(page, "too-slow")
    page.get_by_role("link", name="The same page without filters").click()
    expect(page.locator("#result_list")).to_be_visible()
    page.close()
