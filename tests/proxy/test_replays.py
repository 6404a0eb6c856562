"""Kept answers, told again: what each endpoint's own reader makes of a replayed stream is the answer that was kept."""

import json

import orjson
import pytest

from proxy.calls import Call
from proxy.endpoints import ENDPOINTS
from proxy.events import EventSplitter
from proxy.readers import Asked

pytestmark = pytest.mark.once
BY_NAME = {each.name: each for each in ENDPOINTS}
USAGE = {"prompt_tokens": 5, "completion_tokens": 2, "total_tokens": 7}
LOGPROBS = {"content": [{"token": "Hi", "logprob": -0.5}]}
CALLS = [{"id": f"c{n}", "type": "function", "function": {"name": "f", "arguments": '{"a":1}'}} for n in range(2)]
HEAD = {"model": "m", "system_fingerprint": "b1", "usage": USAGE, "id": "chatcmpl-old", "created": 1, "timings": {}}


def chat(reason="stop", logprobs=None, **message):
    choice = {"index": 0, "message": {"role": "assistant", **message}, "finish_reason": reason}
    told = {"logprobs": logprobs} if logprobs else {}
    return "chat-completions", {**HEAD, "object": "chat.completion", "choices": [{**choice, **told}]}


def text(text, logprobs=None):
    choice = {"index": 0, "text": text, "logprobs": logprobs, "finish_reason": "length"}
    return "completions", {**HEAD, "object": "text_completion", "choices": [choice]}


def message(*content, reason="end_turn"):
    usage = {"input_tokens": 5, "output_tokens": 2}
    head = {"id": "msg_old", "type": "message", "role": "assistant", "model": "m", "content": list(content)}
    return "messages", {**head, "stop_reason": reason, "stop_sequence": None, "usage": usage}


def response(*output, status="completed"):
    details = {"input_tokens_details": {"cached_tokens": 3}, "output_tokens_details": {"reasoning_tokens": 0}}
    usage = {"input_tokens": 5, "output_tokens": 2, "total_tokens": 7, **details}
    head = {"id": "resp_old", "object": "response", "status": status, "model": "m", "created_at": 1}
    return "responses", {**head, "output": list(output), "usage": usage, "temperature": 0, "instructions": "Foreign."}


SAID = {"type": "output_text", "text": "Hello", "annotations": [], "logprobs": []}
ITEM = {"type": "message", "id": "msg_old", "role": "assistant", "status": "completed", "content": [SAID]}
THOUGHT = {"type": "reasoning_text", "text": "Hm"}
ANSWERS = {
    "a chat": chat(content="Hello"),
    "a chat with logprobs": chat(content="Hi", logprobs=LOGPROBS),
    "a chat that thinks": chat(content="Hello", reasoning_content="Hm"),
    "a chat that calls tools": chat("tool_calls", content=None, tool_calls=CALLS),
    "an empty chat": chat(content=""),
    "a text": text("Hello"),
    "a text with logprobs": text("Hi", LOGPROBS),
    "an empty text": text(""),
    "a message": message({"type": "text", "text": "Hello"}),
    "an empty message": message({"type": "text", "text": ""}, reason="max_tokens"),
    "a message that thinks": message(
        {"type": "thinking", "thinking": "Hm", "signature": "s"}, {"type": "text", "text": "Hello"}
    ),
    "a message that calls a tool": message(
        {"type": "tool_use", "id": "t", "name": "f", "input": {"a": 1}}, reason="tool_use"
    ),
    "a message that calls a tool without input": message({"type": "tool_use", "id": "t", "name": "f", "input": {}}),
    "a response": response(ITEM),
    "a response that thinks": response(
        {"type": "reasoning", "id": "rs_old", "summary": [], "content": [THOUGHT]}, ITEM
    ),
    "a response that calls a tool": response(
        {"type": "function_call", "call_id": "fc_c", "name": "f", "arguments": "{}", "status": "completed"}
    ),
    "a response that was cut": response(ITEM, status="incomplete"),
}
ASKED = {
    "chat-completions": {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 9},
    "completions": {"prompt": ""},
    "messages": {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 9},
    "responses": {"input": "", "instructions": "Own.", "temperature": 0},
}


def asked_by(name, **more):
    call = Call.parse(json.dumps({**ASKED[name], **more}).encode(), BY_NAME[name].schema)
    return Asked(call, "m", 9)


def events_of(name, answer, **more):
    replay = BY_NAME[name].replay
    return EventSplitter().feed(replay.stream(replay.kept(answer), asked_by(name, stream=True, **more)))


def timeless(answer):
    """An answer without what is made anew for each telling."""
    own = {"id", "created", "created_at", "completed_at", "timings"}
    told = {name: value for name, value in answer.items() if name not in own}
    if "output" in told:
        told["output"] = [{name: value for name, value in item.items() if name != "id"} for item in told["output"]]
    return told


def folded(name, events):
    reader = BY_NAME[name].reader(asked_by(name))
    for event in events:
        reader.fold(event)
    return reader


def whole(name, answer):
    replay = BY_NAME[name].replay
    return orjson.loads(replay.whole(replay.kept(answer), asked_by(name)))


@pytest.mark.parametrize(("name", "answer"), ANSWERS.values(), ids=ANSWERS)
def test_a_replayed_stream_is_the_answer(name, answer):
    options = {"stream_options": {"include_usage": True}} if name in ("chat-completions", "completions") else {}
    reader = folded(name, events_of(name, answer, **options))
    assert reader.is_complete
    assert timeless(reader.answer) == timeless(whole(name, answer))


@pytest.mark.parametrize(("name", "answer"), ANSWERS.values(), ids=ANSWERS)
def test_it_ends_as_a_stream_of_its_kind_does_and_passes_as_a_live_one(name, answer):
    events = events_of(name, answer)
    reader = BY_NAME[name].reader(asked_by(name, stream=True))
    assert [reader.is_last(event) for event in events] == [False] * (len(events) - 1) + [True]
    assert all(reader.pass_on(event) for event in events)


@pytest.mark.parametrize(("name", "answer"), ANSWERS.values(), ids=ANSWERS)
def test_each_telling_has_an_id_of_its_own(name, answer):
    ids = {whole(name, answer)["id"] for _ in range(3)}
    assert len(ids | {answer["id"]}) == 4
    assert {each.partition("-")[0].partition("_")[0] for each in ids} <= {"chatcmpl", "msg", "resp"}


@pytest.mark.parametrize(("name", "answer"), ANSWERS.values(), ids=ANSWERS)
def test_what_was_said_stays_and_timings_do_not(name, answer):
    told = whole(name, answer)
    same = {"chat-completions": "choices", "completions": "choices", "messages": "content"}.get(name)
    assert "timings" not in told
    if same:
        assert told[same] == answer[same]
    else:
        assert [{**item, "id": 0} for item in told["output"]] == [{**item, "id": 0} for item in answer["output"]]


@pytest.mark.parametrize("include_usage", [True, False])
def test_usage_is_streamed_to_those_who_asked(include_usage):
    name, answer = ANSWERS["a chat"]
    events = events_of(name, answer, stream_options={"include_usage": include_usage})
    assert [b'"usage"' in event for event in events].count(True) == include_usage


def test_a_response_repeats_its_own_request_and_not_that_which_was_kept():
    assert whole(*ANSWERS["a response"])["instructions"] == "Own."
    assert b"Foreign" not in b"".join(events_of(*ANSWERS["a response"]))


def test_the_events_of_a_response_are_numbered_and_placed():
    events = [orjson.loads(event.split(b"data: ")[1]) for event in events_of(*ANSWERS["a response that thinks"])]
    assert [each["sequence_number"] for each in events] == list(range(len(events)))
    assert [each["output_index"] for each in events if each["type"] == "response.output_item.done"] == [0, 1]


@pytest.mark.parametrize(
    ("name", "answer"),
    [
        chat("content_filter", content="x"),
        chat("error", content="x"),
        chat(None, content="x"),
        message(reason="refusal"),
        response(status="failed"),
    ],
)
def test_an_answer_that_something_stopped_is_not_complete(name, answer):
    assert not BY_NAME[name].replay.is_complete(answer)


@pytest.mark.parametrize(("name", "answer"), ANSWERS.values(), ids=ANSWERS)
def test_an_answer_that_ended_by_itself_or_at_its_length_is_complete(name, answer):
    assert BY_NAME[name].replay.is_complete(answer)
