"""Requests that no client should send: valid bodies of every endpoint, bent at any place. Strategies of hypothesis."""

from typing import Any, NamedTuple

import orjson
from hypothesis import strategies as st

HI = [{"role": "user", "content": "Hi"}]
PICTURE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}
SCHEMA = {"type": "json_schema", "json_schema": {"name": "s", "schema": {"type": "object", "properties": {}}}}
ROUTES = {  # bodies with as many of their fields as can stand together, each short to answer
    "chat/completions": {
        "messages": [{"role": "system", "content": "x"}, {"role": "user", "content": [{"type": "text", "text": "Hi"}]}],
        "max_tokens": 2, "temperature": 0, "n": 1, "stop": ["x"], "logprobs": True, "top_logprobs": 1, "seed": 1,
        "stream": True, "stream_options": {"include_usage": True}, "tools": [TOOL], "tool_choice": "auto",
        "logit_bias": {"5": 1}, "chat_template_kwargs": {"x": 1}, "top_k": 5, "reasoning_format": "auto",
    },
    "completions": {"prompt": ["Hi", "Ho"], "max_tokens": 2, "n": 1, "stream": True, "logprobs": 1, "stop": "x"},
    "responses": {
        "input": [{"role": "user", "content": [{"type": "input_text", "text": "Hi"}]}], "instructions": "x",
        "max_output_tokens": 2, "stream": True, "text": {"format": {"type": "text"}}, "reasoning": {"effort": "low"},
        "tools": [{"type": "function", "name": "f", "parameters": {}}],
        "tool_choice": {"type": "function", "name": "f"},
    },
    "messages": {
        "messages": [{"role": "user", "content": [{"type": "text", "text": "Hi"}]}],
        "system": [{"type": "text", "text": "x"}], "max_tokens": 2, "stream": True,
        "stop_sequences": ["x"], "tools": [{"name": "f", "input_schema": {}}],
        "tool_choice": {"type": "auto"}, "thinking": {"type": "enabled", "budget_tokens": 5}, "top_p": 0.5,
    },
    "messages/count_tokens": {"messages": HI, "system": "x"},
    "embeddings": {"input": ["Hi"], "encoding_format": "float"},
    "rerank": {"query": "x", "documents": ["a", {"text": "b"}], "top_n": 1},
    "tokenize": {"content": "Hi", "with_pieces": True, "add_special": True},
    "detokenize": {"tokens": [1, 2]},
}  # fmt: skip
FORBIDDEN = {  # what reaches into a llama-server, where it is passed on
    "verbose": True, "cache_prompt": False, "id_slot": 0, "n_predict": -1, "timings_per_token": True, "n_keep": -1,
    "return_progress": True, "lora": [{"id": 0, "scale": 1}], "samplers": ["x"], "ignore_eos": True,
    "max_completion_tokens": 1, "background": True, "store": True, "stream": "yes",
    "messages": HI, "prompt": "x",
}  # fmt: skip
HEADERS = {
    "X-Conversation-Id": "x", "Cookie": "a=b", "Accept-Encoding": "br", "Content-Type": "text/plain",
    "X-Forwarded-For": "10.0.0.1", "Expect": "x", "Range": "bytes=0-1", "Origin": "http://x",
}  # fmt: skip
QUERIES = ["", "?autoload=true", "?model=x", "?fail_on_no_slot=1", "?conv_id=x", "?a=%00"]
TAILS = [""] * 40 + ["/", "/..", "/../../slots", "%2e%2e/props", "//", "/control", "%C3%A9"]

WORDS = st.sampled_from(
    ["", "x", "auto", "role", "\u0000", "\ud83d\ude00", "data:", "http://10.0.0.1/x", "a\r\nb: c", "../x"]
)
NUMBERS = st.sampled_from([-1, 0, 1, 2, 0.5, -1.5, 2**31, 2**63, 10**30, 1e300])
PLAIN = st.none() | st.booleans() | NUMBERS | WORDS
ODD = st.recursive(
    PLAIN, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS, inner, max_size=3), max_leaves=4
)


class Fuzzed(NamedTuple):
    method: str
    path: str
    headers: dict[str, str]
    body: bytes


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The way to every value inside of a body."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(place for key, each in inner for place in places(each, (*path, key)))]


def bent(value: Any, path: tuple[Any, ...], how: str, odd: Any) -> Any:
    """A copy of a body with the value at a place replaced, dropped, or wrapped in a list."""
    if not path:
        return [value] if how == "wrap" else odd
    copy = value.copy()
    if how == "drop" and len(path) == 1:
        del copy[path[0]]
    else:
        copy[path[0]] = bent(copy[path[0]], path[1:], how, odd)
    return copy


@st.composite
def bodies(draw: Any, route: str) -> bytes:
    body: Any = ROUTES[route]
    for _ in range(draw(st.integers(0, 3))):
        place = draw(st.sampled_from(places(body)))
        body = bent(body, place, draw(st.sampled_from(["replace", "drop", "wrap"])) if place else "wrap", draw(ODD))
    if isinstance(body, dict):
        extra = draw(st.lists(st.sampled_from(sorted(FORBIDDEN)), max_size=2))
        body = body | {name: FORBIDDEN[name] for name in extra}
    try:
        text = orjson.dumps(body)
    except TypeError:  # an integer beyond 64 bits
        text = repr(body).encode()
    cut = draw(st.sampled_from([0, 0, 0, 0, 0, 0, 1, 7]))
    return text[: len(text) - cut] if cut else text


@st.composite
def requests(draw: Any) -> Fuzzed:
    route = draw(st.sampled_from(sorted(ROUTES)))
    names = draw(st.lists(st.sampled_from(sorted(HEADERS)), max_size=2))
    path = f"/v1/{route}{draw(st.sampled_from(TAILS))}{draw(st.sampled_from(QUERIES))}"
    method = draw(st.sampled_from(["POST"] * 40 + ["GET", "PUT", "DELETE", "OPTIONS", "HEAD"]))
    return Fuzzed(method, path, {name: HEADERS[name] for name in names}, draw(bodies(route)))
