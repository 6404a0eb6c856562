"""What the caller of responses gets of a llama-server's events."""

import orjson
import pytest

from proxy.calls import Call
from proxy.errors import UpstreamTimeout
from proxy.events import event_of, read
from proxy.readers import Asked
from proxy.readers.responses import ResponseReader
from proxy.schemas import RESPONSE
from proxy.usage import NOTHING_KNOWN, Usage

TIMINGS = {"cache_n": 4, "prompt_n": 1, "predicted_n": 2}
USAGE = {"input_tokens": 5, "output_tokens": 3, "total_tokens": 8, "input_tokens_details": {"cached_tokens": 4}}


def reader(*, shows_timings=False, length=None, **fields):
    body = {"input": "Hi", "stream": True, **fields}
    return ResponseReader(Asked(Call.parse(orjson.dumps(body), RESPONSE), "m", length, shows_timings))


def named(kind, **fields):
    return event_of({"type": f"response.{kind}", **fields}, f"response.{kind}")


CREATED = named("created", response={"id": "resp_1", "status": "in_progress"})
PROGRESS = named(
    "in_progress", response={"id": "resp_1"}, timings=TIMINGS, prompt_progress={"processed": 6, "cache": 4}
)
ITEM = named("output_item.added", item={"id": "msg_1", "type": "message", "content": []})
PART = named("content_part.added", item_id="msg_1", part={"type": "output_text", "text": ""})
DELTA = named("output_text.delta", item_id="msg_1", delta="Hi", timings=TIMINGS)
COMPLETED = named("completed", response={"id": "resp_1", "status": "completed", "output": ["x"], "usage": USAGE})


def test_events_are_numbered():
    told = reader()
    assert [read(told.pass_on(each))["sequence_number"] for each in (CREATED, ITEM, PART, DELTA)] == [0, 1, 2, 3]


def test_progress_is_told_once():
    told = reader()
    assert b"in_progress" in told.pass_on(PROGRESS)
    assert told.pass_on(PROGRESS) == b""


def test_an_event_says_where_it_belongs():
    told = reader()
    told.pass_on(named("output_item.added", item={"id": "reasoning"}))
    item, part, delta = (read(told.pass_on(each)) for each in (ITEM, PART, DELTA))
    assert [each["output_index"] for each in (item, part, delta)] == [1, 1, 1]
    assert (part["content_index"], delta["content_index"], delta["logprobs"]) == (0, 0, [])
    assert "content_index" not in item
    assert part["part"]["annotations"] == []


def test_a_response_has_all_its_fields():
    told = read(reader(instructions="Be kind.", length=9).pass_on(CREATED))["response"]
    assert (told["model"], told["instructions"], told["max_output_tokens"]) == ("m", "Be kind.", 9)
    assert (told["output"], told["error"], told["tools"], told["tool_choice"]) == ([], None, [], "auto")


def test_what_tells_of_others_is_hidden():
    assert b"timings" not in reader().pass_on(DELTA)
    assert read(reader().pass_on(COMPLETED))["response"]["usage"]["input_tokens_details"] == {"cached_tokens": 0}


def test_it_is_shown_where_a_setting_says_so():
    shown = reader(shows_timings=True)
    assert b"timings" in shown.pass_on(DELTA)
    assert read(shown.pass_on(COMPLETED))["response"]["usage"]["input_tokens_details"] == {"cached_tokens": 4}


@pytest.mark.parametrize("take", ["pass_on", "fold"])
@pytest.mark.parametrize(
    ("events", "known"),
    [
        ([CREATED], NOTHING_KNOWN),
        ([CREATED, PROGRESS], Usage(6, 4, 0, is_estimated=True)),
        ([CREATED, PROGRESS, DELTA], Usage(5, 4, 2, is_estimated=True)),
        ([CREATED, DELTA, COMPLETED], Usage(5, 4, 3)),
    ],
)
def test_the_tokens_are_known_however_far_it_came(take, events, known):
    cut = reader()
    for each in events:
        getattr(cut, take)(each)
    assert cut.usage == known


def test_the_whole_answer_is_the_last_response():
    whole = reader()
    whole.fold(CREATED)
    assert not whole.is_complete
    whole.fold(COMPLETED)
    assert whole.is_complete
    assert (whole.answer["status"], whole.answer["output"]) == ("completed", ["x"])


@pytest.mark.parametrize(("length", "status"), [(None, "completed"), (4, "completed"), (3, "incomplete")])
def test_an_answer_as_long_as_it_may_be_is_not_complete(length, status):
    told = read(reader(length=length).pass_on(COMPLETED))
    assert (told["type"], told["response"]["status"]) == (f"response.{status}", status)
    assert told["response"]["incomplete_details"] == ({"reason": "max_output_tokens"} if length == 3 else None)


def test_a_fault_is_told_as_an_error_event_with_the_envelope():
    event = reader().error_event(UpstreamTimeout())
    told = orjson.loads(event.split(b"data: ")[1])
    assert event.startswith(b"event: error\n")
    assert (told["type"], told["code"], told["error"]["code"]) == ("error", "upstream_timeout", "upstream_timeout")
