"""Quotas that an admin has reset."""

import pytest

from accounts.models import User
from proxy.gateway import gateway
from tests.cast import new_tier, person
from tests.servers import wait_until


def reset(someone):
    User.objects.filter(pk=someone.user.pk).reset_quotas()


@pytest.mark.parametrize("window", ["minute", "day", "month"])
def test_a_reset_gives_the_whole_quota_back_and_no_more(post, window):
    tier = new_tier()
    tier.quotas.create(metric="requests", window=window, limit=2)
    grace = person("grace", tier)
    call = lambda: post("tokenize", grace, content="Hi").status_code  # noqa: E731
    assert [call() for _ in range(3)] == [200, 200, 429]
    wait_until(lambda: not gateway().ledger.waiting, "the rows are written")
    reset(grace)
    wait_until(lambda: call() == 200, "the reset holds")
    assert [call() for _ in range(2)] == [200, 429]


def test_what_a_page_tells_of_use_begins_anew(post):
    grace = person("grace", new_tier(requests_a_minute=5))
    post("tokenize", grace, content="Hi")
    used = lambda: gateway().remaining([User.objects.get(pk=grace.user.pk)])[0][0].used  # noqa: E731
    assert used() == 1
    reset(grace)
    assert used() == 0
