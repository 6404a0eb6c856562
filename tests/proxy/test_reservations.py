"""How many tokens a call reserves, and how long its answer may then be."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.calls import Call
from proxy.reservations import DEFAULT_LENGTH, Ask
from proxy.schemas import CHAT

pytestmark = pytest.mark.once


@pytest.mark.parametrize(
    ("asked", "tier", "context", "length"),
    [
        (None, None, None, None),
        (None, None, 2048, None),
        (100, None, None, 100),
        (100, 50, None, 50),
        (None, 50, None, 50),
        (100, 200, None, 100),
        (100_000, None, 2048, 2048),
        (None, 100_000, 2048, 2048),
    ],
)
def test_an_answer_is_as_long_as_all_allow(asked, tier, context, length):
    limit = b"" if asked is None else b',"max_tokens":%d' % asked
    call = Call.parse(b'{"messages":[{"role":"user","content":"Hi"}]%s}' % limit, CHAT)
    assert call.ask(tier, context).length == length


def test_without_any_limit_512_tokens_are_reserved():
    assert Ask(prompt=100, choices=1).most == 100 + DEFAULT_LENGTH


def test_every_choice_reserves_its_answer():
    assert Ask(prompt=100, choices=3, length=20).most == 160


def test_what_makes_no_answer_reserves_its_prompt():
    ask = Ask(prompt=100)
    assert (ask.least([1000]), ask.most) == (100, 100)


@pytest.mark.parametrize(
    ("length", "limits", "least"),
    [
        (200, [], 300),  # a short answer is never shortened
        (200, [1000], 300),
        (5000, [], 612),  # a long one down to 512
        (5000, [100_000], 612),
        (5000, [400], 400),  # and below that only where the quota is smaller
        (5000, [400, 300], 300),
        (200, [150], 150),
        (200, [100], 101),  # a prompt that leaves no room: more than the limit, so never
        (200, [50], 101),
    ],
)
def test_the_least_that_is_worth_running(length, limits, least):
    assert Ask(prompt=100, choices=1, length=length).least(limits) == least


@given(st.integers(0, 5000), st.integers(1, 8), st.integers(1, 5000), st.integers(1, 20_000))
def test_what_is_granted_is_never_overdrawn(prompt, choices, length, limit):
    ask = Ask(prompt, choices, length)
    least = ask.least([limit])
    if least <= limit:
        granted = min(ask.most, limit)
        assert 1 <= ask.length_of(granted) <= length
        assert prompt + choices * ask.length_of(granted) <= granted
        assert least <= granted
    else:
        assert prompt + choices > limit


@pytest.mark.parametrize(
    ("prompt", "room", "may"), [(1600, 200, True), (1600, 199, False), (0, 100, True), (0, 99, False)]
)
def test_a_prompt_is_worth_counting_where_it_may_be_a_sixteenth_of_its_bound(prompt, room, may):
    assert Ask(prompt, choices=2, length=50).may_fit(room, 50) is may


@pytest.mark.parametrize(
    ("ask", "limits", "cramped"),
    [
        (Ask(1600, 1, 100), [2000], False),
        (Ask(1600, 1, 100), [1700], False),  # just enough for its answer
        (Ask(1600, 1, 100), [1699], True),  # the bound would shorten it
        (Ask(1600, 1, 5000), [2111], True),  # to less than 512
        (Ask(1600, 1, 5000), [2112], False),
        (Ask(1600, 1, 100), [1000], True),  # or shut it out
        (Ask(1600, 1, 100), [100], False),  # which even the smallest prompt is
        (Ask(1600), [1600], False),
        (Ask(1600), [1599], True),
    ],
)
def test_a_prompt_is_counted_first_where_its_bound_leaves_too_little(ask, limits, cramped):
    assert ask.is_cramped(limits) is cramped
