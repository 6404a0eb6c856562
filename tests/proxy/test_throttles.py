"""When a prompt is worth counting whose bound kept its call out."""

from types import SimpleNamespace

import pytest

from proxy.reservations import Ask
from proxy.stores import Meter, Reading, Verdict
from proxy.throttles import counting_may_help
from proxy.windows import WINDOWS

pytestmark = pytest.mark.once

ASK = Ask(prompt=1600, choices=1, length=100)  # as few as 100 tokens, and 100 of answer


def refused(metric="tokens", left=500, retry_after=10):
    meter = Meter("m", WINDOWS["minute"], 1000, metric, "")
    return Verdict(None, (Reading(meter, 1000 - left, 5.0),), meter, retry_after)


STOCK_VIEW = SimpleNamespace(ask=ASK)


def view(ask=ASK):
    return SimpleNamespace(ask=ask, count_prompt=None)


@pytest.mark.parametrize(
    ("verdict", "asked", "helps"),
    [
        (refused(left=200), view(), True),
        (refused(left=199), view(), False),  # not even the smallest prompt would fit
        (refused(left=0), view(), False),
        (refused(retry_after=None), view(), False),  # never: it was counted before
        (refused("requests"), view(), False),
        (refused(), STOCK_VIEW, False),
        (Verdict(None, refused_by=None, retry_after=1), view(), False),  # too many running
    ],
)
def test_a_prompt_is_counted_only_where_that_may_let_its_call_in(verdict, asked, helps):
    assert counting_may_help(verdict, asked) is helps
