"""Events come in as bytes in any portions, and go out whole."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.errors import ContextLengthExceeded, UpstreamError
from proxy.events import DONE, EventSplitter, is_plain, payload
from proxy.relay import read, tidied

TOKEN = b'data: {"choices":[{"finish_reason":null,"index":0,"delta":{"content":"%s"}}],"model":"m"}\n\n'
HI = TOKEN % "Hi \u00fc \U0001f600".encode()
USAGE = b'data: {"choices":[],"usage":{"prompt_tokens":1,"prompt_tokens_details":{"cached_tokens":1}},"timings":{}}\n\n'


@given(cuts=st.lists(st.integers(0, len(HI + USAGE + DONE)), max_size=8))
def test_events_are_whole_however_they_come_in(cuts):
    stream = HI + USAGE + DONE
    places = [0, *sorted(cuts), len(stream)]
    splitter = EventSplitter()
    events = [e for a, b in pairwise(places) for e in splitter.feed(stream[a:b])]
    assert events == [HI, USAGE, DONE]


@pytest.mark.parametrize(
    ("event", "plain"),
    [
        (HI, True),
        (USAGE, False),
        (DONE, False),
        (b":\n\n", False),
        (TOKEN % b'\\"timings\\"', True),
        (b"data: {}\n\n", False),
    ],
)
def test_only_a_token_passes_unread(event, plain):
    assert is_plain(event) is plain


def test_a_token_that_talks_of_timings_passes_as_it_is():
    event = TOKEN % b'the \\"usage\\" and the \\"error\\"'
    assert payload(tidied([event], include_usage=False)) == payload(event)


@pytest.mark.parametrize(("include_usage", "out"), [(False, HI + DONE), (True, None)])
def test_usage_goes_to_those_who_asked_without_what_it_tells_of_others(include_usage, out):
    tidy = tidied([HI, USAGE, DONE], include_usage=include_usage)
    assert tidy == (out or HI + b'data: {"choices":[],"usage":{"prompt_tokens":1}}\n\n' + DONE)


def test_comments_pass():
    assert tidied([b":\n\n"], include_usage=False) == b":\n\n"


@pytest.mark.parametrize("event", [b"data: {\n\n", b"data: []\n\n", b"data: 5\n\n", b'data: {"error":"text"}\n\n'])
def test_what_is_no_answer_is_an_upstream_error(event):
    with pytest.raises(UpstreamError):
        read(event)


def test_an_error_event_is_what_it_means():
    with pytest.raises(ContextLengthExceeded):
        read(b'data: {"error":{"code":500,"message":"Context size has been exceeded.","type":"server_error"}}\n\n')
