"""Bodies become calls, and calls become other bodies."""

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.calls import Call, limited
from proxy.errors import InvalidJson, InvalidRequest, InvalidValue
from proxy.schemas import CHAT

HI = [{"role": "user", "content": "Hi"}]


def parse(**fields):
    return Call.parse(orjson.dumps({"messages": HI, **fields}), CHAT)


def sent(call, model="m", cap=None):
    return orjson.loads(limited(call.body(model), CHAT, call.ask(cap).length))


def test_it_reads_what_the_gateway_acts_on():
    call = parse(model="m", stream=True, stream_options={"include_usage": True}, max_tokens=5)
    assert (call.model, call.stream, call.include_usage, call.max_tokens) == ("m", True, True, 5)


def test_what_is_not_said_is_blank():
    call = parse(model=None, stream=None, max_tokens=None)
    assert (call.model, call.stream, call.include_usage, call.max_tokens) == ("", False, False, None)


def test_it_always_asks_upstream_for_a_stream_with_usage():
    body = sent(parse(stream=False))
    assert (body["stream"], body["stream_options"]) == (True, {"include_usage": True})


def test_the_resolved_model_is_sent():
    assert sent(parse(model="alias"), model="real")["model"] == "real"


@pytest.mark.parametrize(
    ("asked", "cap", "sent_limit"),
    [({}, None, None), ({}, 9, 9), ({"max_tokens": 5}, None, 5), ({"max_tokens": 50}, 9, 9), ({"max_tokens": 5}, 9, 5)],
)
def test_the_tier_caps_what_is_asked(asked, cap, sent_limit):
    assert sent(parse(**asked), cap=cap).get("max_tokens") == sent_limit


def test_the_newer_name_of_the_limit_wins_and_goes_out_under_the_older():
    body = sent(parse(max_tokens=5, max_completion_tokens=7))
    assert body["max_tokens"] == 7
    assert "max_completion_tokens" not in body


@pytest.mark.parametrize("name", ["verbose", "id_slot", "cache_prompt", "timings_per_token", "store", "metadata"])
def test_fields_that_are_not_named_do_not_pass_and_are_told(name):
    call = parse(**{name: "theirs"})
    assert sent(call).get(name) in (None, True)
    assert call.dropped == (name,)


@pytest.mark.parametrize("name", ["a\r\nx: y", "ü", "a b", "x" * 65, ""])
def test_a_dropped_field_whose_name_no_header_may_hold_is_not_told(name):
    assert parse(**{name: 1, "user": 1}).dropped_names == "user"


def test_a_key_given_twice_goes_out_once():
    call = Call.parse(b'{"messages":[{"role":"user","content":"Hi"}],"temperature":1,"temperature":0}', CHAT)
    assert call.body("m").count(b"temperature") == 1


def test_images_pass_as_data_only():
    part = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
    messages = [{"role": "user", "content": [part]}]
    assert sent(parse(messages=messages))["messages"] == messages
    part["image_url"]["url"] = "https://example.org/a.png"
    with pytest.raises(InvalidValue, match="data: URLs"):
        parse(messages=messages)


WORDS = st.sampled_from(["", "a", "\u00fc", "auto", "role", "content", "type", "function"])
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | WORDS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS, inner, max_size=3),
    max_leaves=5,
)


@given(fields=st.dictionaries(st.sampled_from(sorted(CHAT.fields)), JSON))
def test_any_object_is_a_call_or_a_refusal(fields):
    try:
        call = Call.parse(orjson.dumps(fields), CHAT)
    except InvalidRequest as refusal:
        assert refusal.status == 400
    else:
        assert set(sent(call)) <= set(CHAT.fields) | set(CHAT.fixed)


@given(body=st.binary(max_size=40))
def test_any_bytes_are_a_call_or_a_refusal(body):
    with pytest.raises((InvalidJson, InvalidRequest)):
        Call.parse(body, CHAT)
