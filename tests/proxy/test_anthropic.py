"""The official Anthropic SDK against the gateway, on the real llama-server."""

import asyncio

import anthropic
import pytest
from anthropic import Anthropic, AsyncAnthropic

from tests import fake_llama as llama
from tests.cast import new_tier, person

pytestmark = pytest.mark.once

HELLO = {
    "model": "smollm2-135m",
    "messages": [{"role": "user", "content": "Say hello."}],
    "max_tokens": 8,
    "extra_body": {"temperature": 0},
}


@pytest.fixture
def client(live, bob):
    with Anthropic(base_url=live.url, api_key=bob.key()[1], max_retries=0) as client:
        yield client


def test_it_answers(client):
    message = client.messages.create(**HELLO)
    assert message.content[0].text
    assert (message.role, message.stop_reason) == ("assistant", "max_tokens")
    assert (message.usage.input_tokens, message.usage.output_tokens) == (33, 8)


def test_it_streams(client):
    whole = client.messages.create(**HELLO).content[0].text
    with client.messages.stream(**HELLO) as stream:
        assert "".join(stream.text_stream) == whole
        final = stream.get_final_message()
    assert (final.content[0].text, final.stop_reason) == (whole, "max_tokens")
    assert (final.usage.input_tokens, final.usage.output_tokens) == (33, 8)


def test_it_streams_raw_events(client):
    with client.messages.create(**HELLO, stream=True) as events:
        kinds = [event.type for event in events]
    assert (kinds[0], kinds[-1]) == ("message_start", "message_stop")
    assert kinds.count("content_block_delta") == 8


def test_it_counts_tokens(client):
    assert client.messages.count_tokens(model=HELLO["model"], messages=HELLO["messages"]).input_tokens == 33


def test_it_works_asynchronously(live, bob):
    token = bob.token

    async def ask() -> str:
        async with AsyncAnthropic(base_url=live.url, auth_token=token) as client:
            return (await client.messages.create(**HELLO)).content[0].text

    assert asyncio.run(ask())


def test_a_stop_sequence_and_tools_are_taken(client):
    tool = {"name": "get_weather", "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}}}
    message = client.messages.create(**HELLO, tools=[tool], stop_sequences=["never said"])
    assert message.content


@pytest.mark.parametrize("stream", [False, True])
def test_a_tool_that_is_used(client, fake, stream):
    """The model of these tests uses no tools, so a stand-in does."""
    fake(llama.sends(llama.STREAM_HEAD, *llama.ANTHROPIC_TOOL_USE))
    if stream:
        with client.messages.stream(**HELLO) as events:
            message = events.get_final_message()
    else:
        message = client.messages.create(**HELLO)
    tool = message.content[1]
    assert (tool.type, tool.name, tool.input) == ("tool_use", "get_weather", {"city": "Paris"})
    assert message.content[0].text == "Well."
    assert message.stop_reason == "tool_use"


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({"model": "gpt-99"}, anthropic.NotFoundError),
        ({"messages": []}, anthropic.BadRequestError),
        ({"extra_headers": {"x-api-key": "no", "Authorization": "Bearer no"}}, anthropic.AuthenticationError),
    ],
)
def test_errors_are_the_sdks_own(client, fields, error):
    with pytest.raises(error) as caught:
        client.messages.create(**{**HELLO, **fields})
    assert caught.value.body["error"]["message"]


def test_a_rate_limit_is_the_sdks_own(live):
    grace = person("grace", new_tier(requests_a_minute=0))
    with Anthropic(base_url=live.url, api_key=grace.token, max_retries=0) as client, pytest.raises(anthropic.APIError):
        client.messages.create(**HELLO)


def test_a_fault_in_a_stream_is_raised(client, fake):
    fake(llama.sends_and_cuts(llama.STREAM_HEAD, *llama.ANTHROPIC_TOOL_USE[:4]))
    with client.messages.create(**HELLO, stream=True) as events, pytest.raises(anthropic.APIStatusError) as caught:
        list(events)
    assert caught.value.body["error"]["code"] == "upstream_error"
