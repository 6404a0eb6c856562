"""What the caller of chat/completions or completions gets of a llama-server's events."""

import orjson
import pytest

from proxy.calls import Call
from proxy.errors import ContextLengthExceeded
from proxy.events import DONE, event_of, read
from proxy.readers import Asked
from proxy.readers.choices import ChatReader
from proxy.schemas import CHAT
from proxy.usage import NOTHING_KNOWN, Usage

pytestmark = pytest.mark.once

TIMINGS = {"cache_n": 4, "prompt_n": 1, "predicted_n": 2, "predicted_ms": 1.5}
USAGE = {"prompt_tokens": 5, "completion_tokens": 3, "prompt_tokens_details": {"cached_tokens": 4}}
ROLE = {"role": "assistant", "content": None}


def reader(*, shows_timings=False, begun=True, **fields):
    body = {"messages": [{"role": "user", "content": "Hi"}], "stream": True, **fields}
    made = ChatReader(Asked(Call.parse(orjson.dumps(body), CHAT), "m", shows_timings=shows_timings))
    if begun:
        made.pass_on(event(ROLE))
    return made


def event(delta, index=0, finish=None, **fields):
    choice = {"finish_reason": finish, "index": index, "delta": delta}
    return event_of({"choices": [choice], "id": "x", "model": "m", **fields})


def token(text, index=0, predicted=2):
    return event({"content": text}, index, timings={**TIMINGS, "predicted_n": predicted})


def usage(**fields):
    return event_of({"choices": [], "id": "x", "model": "m", "usage": {**USAGE, **fields}, "timings": TIMINGS})


PROGRESS = event(ROLE, timings=TIMINGS, prompt_progress={"total": 9, "cache": 4, "processed": 6, "time_ms": 1})


def test_a_token_passes_without_its_timings():
    assert reader().pass_on(token("Hi ü 😀")) == event({"content": "Hi ü 😀"})


def test_a_token_that_talks_of_timings_and_errors_passes_as_it_is():
    text = 'the "usage", the "error", ,"timings":{ and "prompt_progress"'
    assert read(reader().pass_on(token(text)))["choices"][0]["delta"]["content"] == text


@pytest.mark.parametrize("first", [event(ROLE), event({"content": "Hi"})])
def test_every_choice_begins_with_its_role(first):
    told = reader(n=2, begun=False)
    assert read(told.pass_on(first))["choices"][0]["delta"]["role"] == "assistant"
    assert "role" not in read(told.pass_on(token("lo")))["choices"][0]["delta"]


@pytest.mark.parametrize("silent", [PROGRESS, usage(), b":\n\n", b"data: null\n\n"])
def test_some_events_are_not_for_the_caller(silent):
    assert reader().pass_on(silent) == b""


def test_usage_goes_to_those_who_asked_before_the_end():
    told = reader(stream_options={"include_usage": True})
    assert told.pass_on(usage()) == b""
    last, done = told.pass_on(DONE).split(b"\n\n")[:2]
    expected = {"prompt_tokens": 5, "completion_tokens": 3, "total_tokens": 8}
    assert read(last + b"\n\n") == {"choices": [], "id": "x", "model": "m", "usage": expected}
    assert done == b"data: [DONE]"


def test_others_get_the_end_alone():
    asked = reader()
    asked.pass_on(usage())
    assert asked.pass_on(DONE) == DONE


def test_the_usage_of_several_choices_is_one():
    several = reader(n=2, stream_options={"include_usage": True})
    for index in (1, 0):
        several.pass_on(event({}, index, finish="stop"))
        several.pass_on(usage(completion_tokens=3 + index))
    assert read(several.pass_on(DONE).split(b"data: [DONE]")[0])["usage"]["completion_tokens"] == 7


def test_all_is_shown_where_a_setting_says_so():
    shown = reader(shows_timings=True, stream_options={"include_usage": True})
    assert shown.pass_on(token("Hi")) == token("Hi")
    shown.pass_on(usage())
    assert b'"cached_tokens":4' in shown.pass_on(DONE)


def test_an_error_event_is_what_it_means():
    error = {"code": 500, "message": "Context size has been exceeded.", "type": "server_error"}
    with pytest.raises(ContextLengthExceeded):
        reader().pass_on(event_of({"error": error}))


# -- what is known, at any moment ------------------------------------------------------------------------------------


@pytest.mark.parametrize("take", ["pass_on", "fold"])
@pytest.mark.parametrize(
    ("events", "known"),
    [
        ([], NOTHING_KNOWN),
        ([PROGRESS], Usage(6, 4, 0, is_estimated=True)),
        ([PROGRESS, token("a", predicted=1), token("b", predicted=4)], Usage(5, 4, 4, is_estimated=True)),
        ([token("a"), event({}, finish="stop"), usage()], Usage(5, 4, 3)),
        ([token("a"), event({}, finish="stop"), usage(), DONE], Usage(5, 4, 3)),
    ],
)
def test_the_tokens_are_known_however_far_it_came(take, events, known):
    cut = reader()
    for each in events:
        getattr(cut, take)(each)
    assert cut.usage == known


def test_the_tokens_of_several_choices_are_known_when_one_has_ended():
    cut = reader(n=2)
    for each in (token("a", 0), token("b", 1, predicted=1), event({}, 0, finish="stop"), usage()):
        cut.pass_on(each)
    assert cut.usage == Usage(5, 4, 4, is_estimated=True)


def test_an_answer_is_complete_when_every_choice_has_ended():
    several = reader(n=2)
    several.fold(event({"content": "a"}, 0, finish="stop"))
    assert not several.is_complete
    several.fold(event({"content": "b"}, 1, finish="length"))
    assert several.is_complete
    assert [choice["message"]["content"] for choice in several.answer["choices"]] == ["a", "b"]
