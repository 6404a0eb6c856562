"""Limits as headers tell them."""

import pytest

from proxy.rates import rate_headers
from proxy.stores import Meter, Reading
from proxy.windows import WINDOWS

pytestmark = pytest.mark.once


def reading(used, limit=10, metric="requests", window="minute", model="", resets_in=30.2):
    return Reading(Meter(f"{metric}:{window}:{model}", WINDOWS[window], limit, metric, model), used, resets_in)


def test_openais_headers_speak_of_requests_and_of_tokens():
    headers = rate_headers([reading(4), reading(700, 1000, "tokens")])
    assert {name: value for name, value in headers.items() if name.startswith("x-")} == {
        "x-ratelimit-limit-requests": "10",
        "x-ratelimit-remaining-requests": "6",
        "x-ratelimit-reset-requests": "31s",
        "x-ratelimit-limit-tokens": "1000",
        "x-ratelimit-remaining-tokens": "300",
        "x-ratelimit-reset-tokens": "31s",
    }


def test_they_speak_of_the_tightest_meter():
    headers = rate_headers([reading(4), reading(90, 100, window="hour"), reading(998, 1000, window="day")])
    assert headers["x-ratelimit-limit-requests"] == "1000"


def test_of_two_that_are_as_tight_it_is_the_one_that_lasts():
    headers = rate_headers([reading(4, resets_in=5), reading(94, 100, window="hour", resets_in=500)])
    assert headers["x-ratelimit-limit-requests"] == "100"


def test_more_used_than_the_limit_leaves_nothing():
    assert rate_headers([reading(15)])["x-ratelimit-remaining-requests"] == "0"


def test_without_a_limit_there_is_nothing_to_tell():
    assert rate_headers([reading(4, limit=None)]) == {}


def test_the_drafts_headers_tell_of_every_meter():
    headers = rate_headers([reading(4), reading(5, 50, window="month", model="gpt-4o")])
    assert headers["RateLimit-Policy"] == (
        '"requests-minute";q=10;w=60;qu="requests", "requests-month-gpt-4o";q=50;qu="requests"'
    )
    assert headers["RateLimit"] == '"requests-minute";r=6;t=31, "requests-month-gpt-4o";r=45;t=31'


@pytest.mark.parametrize("model", ['a"b', "a\\b", "漢", "a\r\nb", "a\x7fb"])
def test_a_models_name_cannot_break_a_header(model):
    headers = rate_headers([reading(4, model=model)])
    assert all(value.isascii() and value.isprintable() for value in headers.values())
    assert headers["RateLimit"].count('"') == 2
