"""The one spelling of a request."""

import pytest

from proxy.calls import Call, limited
from proxy.endpoints import ENDPOINTS

pytestmark = pytest.mark.once
SCHEMAS = {each.name: each.schema for each in ENDPOINTS}
HELLO = '"messages": [{"role": "user", "content": "Hello"}]'
TOOL = '{"type": "function", "function": {"name": "f", "parameters": %s}}'


def sent(text, name="chat-completions"):
    """What goes to a llama-server for a body."""
    schema = SCHEMAS[name]
    call = Call.parse(f"{{{text}}}".encode(), schema)
    return limited(call.body("m"), schema, call.ask(None).length)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (f'{HELLO}, "temperature": 0', f'"temperature": 0.0, {HELLO}'),
        (f'{HELLO}, "top_p": 1', f'{HELLO}, "top_p": 1.0'),
        (f'{HELLO}, "max_tokens": 5', f'{HELLO}, "max_completion_tokens": 5'),
        (f'{HELLO}, "seed": 1e18', f'{HELLO}, "seed": 1.0e18'),
        (f'{HELLO}, "max_tokens": 5', f'{HELLO}, "max_completion_tokens": 5, "n_predict": 9'),
        (HELLO, f'{HELLO}, "n": 1, "logprobs": false, "tools": [], "stop": null, "logit_bias": {{}}'),
        (HELLO, f'{HELLO}, "stop": [], "response_format": {{"type": "text"}}'),
        (f'{HELLO}, "stop": "x"', f'{HELLO}, "stop": ["x"]'),
        (HELLO, f'{HELLO}, "stream": true, "stream_options": {{"include_usage": true}}'),
        (HELLO, f'{HELLO}, "user": "alice", "metadata": {{"a": "b"}}, "store": true'),
        (HELLO, f'{HELLO}, "model": "gpt-4o"'),
        (HELLO, '"messages": [{"content": "Hello", "role": "user"}]'),
        (HELLO, HELLO.replace("Hello", "\\u0048ello").replace(": ", ":   ")),
    ],
)
def test_two_spellings_of_a_request_are_sent_as_one(one, other):
    assert sent(one) == sent(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ('{"type": "object", "a": 1, "b": 2}', '{"type": "object", "b": 2, "a": 1}'),
        ('{"minimum": 1}', '{"minimum": 1.5}'),
    ],
)
def test_what_is_inside_of_a_tool_is_left_as_it_is(one, other):
    assert sent(f'{HELLO}, "tools": [{TOOL % one}]') != sent(f'{HELLO}, "tools": [{TOOL % other}]')
