"""Tokens, added up over the choices of an answer."""

import pytest

from proxy.usage import MOST, NOTHING_KNOWN, Tally, Usage, believed, of_openai, of_timings, of_whole

pytestmark = pytest.mark.once


def tally(n=1, choices=1, **counts):
    made = Tally(n, choices)
    for index, (how, *tokens) in enumerate(counts.values()):
        getattr(made, how)(index, *tokens)
    return made.usage


def test_an_answer_that_ended_is_known():
    assert tally(a=("ended", 10, 4, 7)) == Usage(10, 4, 7)


def test_one_that_was_cut_is_estimated():
    assert tally(a=("so_far", 10, 4, 7)) == Usage(10, 4, 7, is_estimated=True)


def test_what_ended_counts_instead_of_what_was_so_far():
    made = Tally()
    made.so_far(0, 10, 4, 7)
    made.ended(0, 10, 4, 9)
    assert made.usage == Usage(10, 4, 9)


def test_nothing_known_is_an_estimate():
    assert tally() == NOTHING_KNOWN


def test_several_choices_share_one_prompt():
    assert tally(2, 2, a=("ended", 10, 0, 3), b=("ended", 10, 9, 4)) == Usage(10, 0, 7)


def test_several_prompts_count_each():
    counts = {name: ("ended", prompt, 1, 2) for name, prompt in zip("abcd", (5, 5, 6, 6), strict=True)}
    assert tally(2, 4, **counts) == Usage(11, 2, 8)


def test_a_choice_that_never_came_makes_it_an_estimate():
    assert tally(2, 2, a=("ended", 10, 0, 3)) == Usage(10, 0, 3, is_estimated=True)


def test_timings_leave_out_of_the_prompt_what_was_cached():
    assert of_timings({"prompt_n": 1, "cache_n": 32, "predicted_n": 3, "prompt_ms": 0.5}) == (33, 32, 3)


@pytest.mark.parametrize(
    ("usage", "counts"),
    [
        ({"prompt_tokens": 5, "total_tokens": 5}, (5, 0, None)),
        ({"prompt_tokens": 5, "completion_tokens": 2, "prompt_tokens_details": {"cached_tokens": 4}}, (5, 4, 2)),
        ({"prompt_tokens": 5, "completion_tokens": 2, "prompt_tokens_details": None}, (5, 0, 2)),
    ],
)
def test_openais_usage_is_read(usage, counts):
    assert of_openai(usage) == counts


@pytest.mark.parametrize("said", [0, 7, MOST])
def test_a_number_of_tokens_is_believed(said):
    assert believed(said) == said


@pytest.mark.parametrize("said", [-1, MOST + 1, 2.0, "7", True, None, [], {}, float("nan")])
def test_nothing_else_is_believed(said):
    assert believed(said) is None


def test_what_was_not_said_stays_what_the_events_said():
    made = Tally()
    made.so_far(0, 10, 4, 0)
    made.timed(0, {"prompt_n": 6, "cache_n": 4, "predicted_n": 7})
    made.ended(0, None, 4, None)
    assert made.usage == Usage(10, 4, 7, is_estimated=True)


def test_without_any_count_each_event_is_a_token():
    made = Tally()
    made.events = 3
    made.timed(0, {"prompt_n": -1})
    assert made.usage == Usage(0, 0, 3, is_estimated=True)


def test_timings_that_come_after_the_end_change_nothing():
    made = Tally()
    made.ended(0, 10, 4, 7)
    made.timed(0, {"prompt_n": 6, "cache_n": 4, "predicted_n": 8})
    assert made.usage == Usage(10, 4, 7)


def test_choices_together_are_no_more_than_a_row_holds():
    assert tally(1, 2, a=("ended", MOST, 0, MOST), b=("ended", MOST, 0, 1)) == Usage(MOST, 0, MOST)


def test_an_answer_without_usage_is_an_estimate():
    assert of_whole({"data": []}) == NOTHING_KNOWN
    assert of_whole({"usage": {"prompt_tokens": 5, "total_tokens": 5}}) == Usage(5)
