"""What is answered from the cache, and whose answers meet."""

import json
import math
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from proxy import fields as kinds
from proxy.cache.policy import Wish, is_deterministic, key_of, space_of, wish_of
from proxy.calls import Call, limited
from proxy.endpoints import ENDPOINTS

pytestmark = pytest.mark.once
BY_NAME = {each.name: each for each in ENDPOINTS}
CACHED = [each for each in ENDPOINTS if each.replay]
UNTOLD = {"stream", "stream_options", "model"}  # they change how an answer is told; the model is the gateway's to name

ASKED: dict[str, dict[str, Any]] = {  # the least that each asks
    "chat-completions": {"messages": [{"role": "user", "content": "Hello"}]},
    "completions": {"prompt": "Hello"},
    "responses": {"input": "Hello"},
    "messages": {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 9},
    "embeddings": {"input": "Hello"},
    "rerank": {"query": "Hello", "documents": ["Hi", "Ho"]},
}


def call_of(name, **fields):
    return Call.parse(json.dumps({**ASKED[name], **fields}).encode(), BY_NAME[name].schema)


def key(endpoint, fields, *, space="user:1", identity="i", model="m", length=0):
    call = Call.parse(json.dumps(fields).encode(), endpoint.schema)
    told = length or call.ask(None).length
    return key_of(space, endpoint.name, identity, limited(call.body(model), endpoint.schema, told))


# -- which calls ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "fields", "is_so"),
    [
        ("chat-completions", {}, False),
        ("chat-completions", {"temperature": 0}, True),
        ("chat-completions", {"temperature": 0.0}, True),
        ("chat-completions", {"temperature": 0.1}, False),
        ("chat-completions", {"temperature": None}, False),
        ("chat-completions", {"temperature": 0, "n": 2}, False),
        ("chat-completions", {"temperature": 0, "xtc_probability": 0.5}, False),
        ("chat-completions", {"temperature": 0, "xtc_probability": 0}, True),
        ("chat-completions", {"seed": 5}, False),
        ("chat-completions", {"temperature": 0, "tools": [{"type": "function", "function": {"name": "f"}}]}, True),
        ("chat-completions", {"temperature": 0, "response_format": {"type": "json_object"}}, True),
        ("completions", {"temperature": 0}, True),
        ("completions", {"temperature": 0, "prompt": ["a", "b"]}, False),
        ("responses", {"temperature": 0}, True),
        ("responses", {}, False),
        ("messages", {"temperature": 0}, True),
        ("embeddings", {}, True),
        ("embeddings", {"input": ["a", "b"]}, True),
        ("rerank", {}, True),
    ],
)
def test_which_calls_always_have_the_same_answer(name, fields, is_so):
    assert is_deterministic(BY_NAME[name], call_of(name, **fields), seeded=False) is is_so


@pytest.mark.parametrize(
    ("fields", "is_so"),
    [
        ({"seed": 5}, True),
        ({"seed": 0}, True),
        ({"seed": -1}, False),
        ({"seed": 2**32 - 1}, False),
        ({"seed": 5, "n": 2}, False),
        ({}, False),
    ],
)
def test_a_seed_is_enough_where_a_setting_says_so(fields, is_so):
    call = call_of("chat-completions", **{"temperature": 1, **fields})
    assert is_deterministic(BY_NAME["chat-completions"], call, seeded=True) is is_so


@pytest.mark.parametrize("name", ["tokenize", "detokenize", "count-tokens"])
def test_what_costs_next_to_nothing_is_not_kept(name):
    assert BY_NAME[name].replay is None


@pytest.mark.parametrize(
    ("header", "wish"),
    [
        ("", Wish()),
        ("no-cache", Wish(reads=False)),
        ("No-Cache, max-age=0", Wish(reads=False)),
        ("no-store", Wish(reads=False, keeps=False)),
        ("max-age=60", Wish()),
    ],
)
def test_what_a_caller_may_wish(header, wish):
    assert wish_of(header) == wish


# -- whose answers meet --------------------------------------------------------------------------------------------

TEXTS = st.text(max_size=6)
WORDS = st.text("abcdef", min_size=1, max_size=6)
SCHEMA = st.fixed_dictionaries({"type": st.just("object"), "title": WORDS})
OF_KIND = {
    id(kinds.TEXT): TEXTS,
    id(kinds.FLAG): st.booleans(),
    id(kinds.OBJECT): SCHEMA,
    id(kinds.BIASES): st.dictionaries(WORDS, st.integers(-5, 5), min_size=1, max_size=2),
    id(kinds.STOP): WORDS | st.lists(WORDS, max_size=3),
    id(kinds.STOPS): st.lists(WORDS, max_size=3),
    id(kinds.INPUT): TEXTS
    | st.lists(st.integers(0, 9), min_size=1, max_size=3)
    | st.lists(WORDS, min_size=1, max_size=3),
    id(kinds.DOCUMENTS): st.lists(TEXTS, min_size=1, max_size=3),
    id(kinds.TOOL_CHOICE): st.sampled_from(["none", "auto", "required"]),
}
MESSAGES = st.lists(
    st.fixed_dictionaries({"role": st.sampled_from(["user", "assistant"]), "content": TEXTS}), min_size=1, max_size=3
)
TOOLS = st.lists(
    st.builds(
        lambda name, schema: {"type": "function", "function": {"name": name, "parameters": schema}}, WORDS, SCHEMA
    ),
    min_size=1,
    max_size=2,
)
NAMED_TOOLS = st.lists(st.fixed_dictionaries({"name": WORDS, "input_schema": SCHEMA}), min_size=1, max_size=2)
RESPONSE_TOOLS = st.lists(
    st.fixed_dictionaries({"type": st.just("function"), "name": WORDS, "parameters": SCHEMA}), min_size=1, max_size=2
)
FORMAT = st.builds(lambda schema: {"type": "json_schema", "json_schema": {"schema": schema}}, SCHEMA)
OWN = {  # where the kind says too little
    ("chat-completions", "messages"): MESSAGES,
    ("messages", "messages"): MESSAGES,
    ("chat-completions", "tools"): TOOLS,
    ("messages", "tools"): NAMED_TOOLS,
    ("responses", "tools"): RESPONSE_TOOLS,
    ("messages", "tool_choice"): st.sampled_from([{"type": each} for each in ("auto", "any")]),
    ("messages", "system"): TEXTS,
    ("messages", "thinking"): st.builds(lambda n: {"type": "enabled", "budget_tokens": n}, st.integers(1024, 1030)),
    ("responses", "input"): TEXTS | MESSAGES,
    ("responses", "text"): st.builds(lambda s: {"format": {"type": "json_schema", "name": "n", "schema": s}}, SCHEMA),
    ("responses", "reasoning"): st.builds(lambda effort: {"effort": effort}, st.sampled_from(["low", "high"])),
    ("chat-completions", "response_format"): FORMAT,
    ("chat-completions", "reasoning_effort"): st.sampled_from(["low", "medium", "high"]),
    ("chat-completions", "reasoning_format"): st.sampled_from(["none", "auto", "deepseek"]),
    ("embeddings", "encoding_format"): st.sampled_from(["float", "base64"]),
    ("chat-completions", "n"): st.integers(1, 8),
    ("completions", "n"): st.integers(1, 4),
}
NEEDED = {"top_logprobs": {"logprobs": True}, "tool_choice": {}}


def of_kind(kind):
    """Values of a kind; small ones of numbers."""
    least, most = kind.shape.get("minimum"), kind.shape.get("maximum")
    if least is None:
        return OF_KIND[id(kind)]
    whole = st.integers(math.ceil(max(least, -5)), min(most, 9))
    if kind.shape["type"] == "integer":
        return whole
    return st.floats(max(least, -2), min(most, 2)) | whole


CASES = [(each, name) for each in CACHED for name in sorted(each.schema.fields.keys() - UNTOLD)]


def spelled(name, value):
    """A value, but for what means the same as saying nothing."""
    value = [value] if name == "stop" and isinstance(value, str) else value
    harmless: dict[str, Any] = {"n": 1, "logprobs": False, "logit_bias": {}, "response_format": {"type": "text"}}
    return None if value == harmless.get(name, [] if name in ("stop", "stop_sequences", "tools") else None) else value


@pytest.mark.parametrize(("endpoint", "name"), CASES, ids=[f"{each.name}-{name}" for each, name in CASES])
@settings(max_examples=40)
@given(data=st.data())
def test_every_field_that_may_change_the_answer_parts_two_requests(endpoint, name, data):
    values = OWN.get((endpoint.name, name))
    if values is None:
        values = of_kind(endpoint.schema.fields[name])
    one, other = data.draw(values), data.draw(values | st.none())
    assume(spelled(name, one) != spelled(name, other))
    asked = {**ASKED[endpoint.name], **NEEDED.get(name, {})}
    if name in endpoint.schema.limits:
        asked.pop("max_tokens", None)
    assume(other is not None or name not in ASKED[endpoint.name])
    assert key(endpoint, {**asked, name: one}) != key(endpoint, {**asked, **({} if other is None else {name: other})})


@pytest.mark.parametrize("endpoint", CACHED, ids=lambda each: each.name)
@given(order=st.randoms(use_true_random=False), stream=st.booleans(), user=WORDS)
def test_order_and_what_does_not_change_the_answer_do_not(endpoint, order, stream, user):
    fields = {**ASKED[endpoint.name], "temperature": 0, "top_p": 0.5, "seed": 3}
    others = list({**fields, "user": user, "metadata": {"a": user}, "stream": stream, "min_p": None}.items())
    order.shuffle(others)
    assert key(endpoint, fields) == key(endpoint, dict(others))


@pytest.mark.parametrize(
    "differs", [{"space": "user:2"}, {"space": "all"}, {"identity": "j"}, {"model": "n"}, {"length": 7}], ids=str
)
@pytest.mark.parametrize("endpoint", [each for each in CACHED if each.schema.limit], ids=lambda each: each.name)
def test_who_what_and_how_much_part_two_requests(endpoint, differs):
    asked = ASKED[endpoint.name]
    assert key(endpoint, asked) != key(endpoint, asked, **differs)


def test_endpoints_that_take_the_same_body_do_not_meet():
    assert key(BY_NAME["chat-completions"], ASKED["messages"]) != key(BY_NAME["messages"], ASKED["messages"])


@pytest.mark.parametrize(
    ("scope", "meets"), [("user", {(1, 1)}), ("tier", {(1, 1), (2, 1)}), ("all", {(1, 1), (2, 1), (3, 2)})]
)
def test_scopes(scope, meets):
    spaces = {who: space_of(scope, *who) for who in [(1, 1), (2, 1), (3, 2)]}
    assert {who for who, space in spaces.items() if space == spaces[1, 1]} == meets
