"""What the caller of messages gets of a llama-server's events."""

import orjson
import pytest

from proxy.calls import Call
from proxy.errors import UpstreamTimeout
from proxy.events import event_of, read
from proxy.readers import Asked
from proxy.readers.messages import MessageReader
from proxy.schemas import MESSAGE
from proxy.usage import NOTHING_KNOWN, Usage

pytestmark = pytest.mark.once

START = {"cache_read_input_tokens": 4, "input_tokens": 1, "output_tokens": 0}


def reader(**options):
    body = {"messages": [{"role": "user", "content": "Hi"}], "stream": True}
    return MessageReader(Asked(Call.parse(orjson.dumps(body), MESSAGE), "m", **options))


def named(kind, **fields):
    return event_of({"type": kind, **fields}, kind)


def start():
    message = {"id": "chatcmpl-1", "role": "assistant", "content": [], "stop_reason": None, "usage": dict(START)}
    return named("message_start", message=message)


def block(index=0, **fields):
    return named("content_block_start", index=index, content_block={"type": "text", "text": "", **fields})


def delta(index=0, **fields):
    return named("content_block_delta", index=index, delta={"type": "text_delta", **fields})


END = named("message_delta", delta={"stop_reason": "end_turn", "stop_sequence": None}, usage={"output_tokens": 7})
STOP = named("message_stop")


def test_a_token_passes_as_it_is():
    assert reader().pass_on(delta(text="Hi")) == delta(text="Hi")


def test_what_was_cached_is_hidden_in_the_count_of_the_input():
    told = read(reader().pass_on(start()))["message"]
    assert told["usage"] == {"input_tokens": 5, "output_tokens": 0}
    assert told["id"] == "msg_1"


def test_it_is_shown_where_a_setting_says_so():
    assert read(reader(shows_timings=True).pass_on(start()))["message"]["usage"] == START


@pytest.mark.parametrize("take", ["pass_on", "fold"])
@pytest.mark.parametrize(
    ("events", "known"),
    [
        ([], NOTHING_KNOWN),
        ([start()], Usage(5, 4, 0, is_estimated=True)),
        ([start(), block(), delta(text="a"), delta(text="b")], Usage(5, 4, 2, is_estimated=True)),
        ([start(), block(), delta(text="a"), END, STOP], Usage(5, 4, 7)),
    ],
)
def test_the_tokens_are_known_however_far_it_came(take, events, known):
    cut = reader()
    for each in events:
        getattr(cut, take)(each)
    assert cut.usage == known


def test_a_message_without_its_start_is_given_one():
    headless = reader()
    assert headless.lacks_start(block())
    assert [headless.lacks_start(first) for first in (start(), b":\n\n", b'data: {"error":{}}\n\n')] == [False] * 3
    told = read(headless.pass_on(headless.start(5)))["message"]
    assert (told["role"], told["model"], told["usage"]) == ("assistant", "m", {"input_tokens": 5, "output_tokens": 0})
    assert headless.usage == Usage(5, 0, 0, is_estimated=True)


def test_the_text_of_a_cut_message_can_be_counted():
    cut = reader()
    for each in (start(), block(), delta(text="日"), delta(text="本")):
        cut.pass_on(each)
    assert cut.uncounted == "日本"
    cut.counted(4)
    assert cut.usage == Usage(5, 4, 4, is_estimated=True)


def test_a_message_that_ended_needs_no_counting():
    whole = reader()
    for each in (start(), block(), delta(text="a"), END, STOP):
        whole.pass_on(each)
    assert whole.uncounted == ""


def test_blocks_are_folded_each_for_itself():
    whole = reader()
    for each in (
        start(),
        block(type="thinking", thinking=""),
        delta(type="thinking_delta", thinking="Hm"),
        delta(type="signature_delta", signature="s"),
        block(1),
        delta(1, text="Hel"),
        delta(1, text="lo"),
        block(2, type="tool_use", name="f", input={}),
        delta(2, type="input_json_delta", partial_json='{"x":'),
        delta(2, type="input_json_delta", partial_json="1}"),
        END,
        STOP,
    ):
        whole.fold(each)
    thinking, text, tool = whole.answer["content"]
    assert (thinking["thinking"], thinking["signature"], text["text"], tool["input"]) == ("Hm", "s", "Hello", {"x": 1})
    assert (whole.answer["stop_reason"], whole.answer["usage"]["output_tokens"]) == ("end_turn", 7)
    assert whole.is_complete


@pytest.mark.parametrize(("arguments", "given"), [("", {}), ('{"city":"Par', {}), ('{"x":1}', {"x": 1})])
def test_the_input_of_a_tool_that_was_cut_is_empty(arguments, given):
    cut = reader()
    for each in (start(), block(type="tool_use", name="f"), END, STOP):
        cut.fold(each)
        if b"content_block_start" in each and arguments:
            cut.fold(delta(type="input_json_delta", partial_json=arguments))
    assert cut.answer["content"][0]["input"] == given


def test_a_tool_begins_with_an_input():
    assert read(reader().pass_on(block(type="tool_use", name="f")))["content_block"]["input"] == {}


@pytest.mark.parametrize("events", [[start()], [start(), STOP], [start(), END]])
def test_without_a_reason_and_a_stop_it_is_not_complete(events):
    cut = reader()
    for each in events:
        cut.fold(each)
    assert not cut.is_complete


def test_a_fault_is_told_in_anthropics_words():
    event = reader().error_event(UpstreamTimeout())
    assert event.startswith(b"event: error\n")
    told = read_error(event)
    assert (told["type"], told["error"]["type"], told["error"]["code"]) == (
        "error",
        "timeout_error",
        "upstream_timeout",
    )


def read_error(event):
    return orjson.loads(event.split(b"data: ")[1])
