"""Events come in as bytes in any portions, and go out whole."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.errors import ContextLengthExceeded, UpstreamError
from proxy.events import DONE, EventSplitter, event_of, read

pytestmark = pytest.mark.once

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


@pytest.mark.parametrize("event", [b":\n\n", DONE, b"data: null\n\n"])
def test_some_events_hold_nothing(event):
    assert read(event) is None


def test_an_event_may_have_a_name():
    assert read(event_of({"type": "ping"}, "ping")) == {"type": "ping"}


def test_a_response_may_have_no_error():
    assert read(event_of({"type": "response.completed", "error": {"code": "x"}}))["type"] == "response.completed"


@pytest.mark.parametrize("event", [b"data: {\n\n", b"data: []\n\n", b"data: 5\n\n", b'data: {"error":"text"}\n\n'])
def test_what_is_no_answer_is_an_upstream_error(event):
    with pytest.raises(UpstreamError):
        read(event)


def test_an_error_event_is_what_it_means():
    with pytest.raises(ContextLengthExceeded):
        read(b'data: {"error":{"code":500,"message":"Context size has been exceeded.","type":"server_error"}}\n\n')
