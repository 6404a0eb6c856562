"""The official OpenAI SDK against the gateway: what users point at it."""

import asyncio

import openai
import pytest
from openai import AsyncOpenAI, OpenAI

from tests.cast import new_tier, person

HELLO = {
    "model": "smollm2-135m",
    "messages": [{"role": "user", "content": "Say hello."}],
    "max_tokens": 8,
    "temperature": 0,
}


@pytest.fixture
def client(live, bob):
    with OpenAI(base_url=f"{live.url}/v1", api_key=bob.key()[1], max_retries=0) as client:
        yield client


def test_it_completes(client):
    answer = client.chat.completions.create(**HELLO)
    assert answer.choices[0].message.content
    assert answer.usage.completion_tokens <= 8


def test_it_streams(client):
    whole = client.chat.completions.create(**HELLO).choices[0].message.content
    with client.chat.completions.create(**HELLO, stream=True, stream_options={"include_usage": True}) as stream:
        chunks = list(stream)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == whole
    assert chunks[-1].usage.completion_tokens <= 8


def test_it_shows_raw_responses(client):
    raw = client.chat.completions.with_raw_response.create(**HELLO)
    assert raw.headers["x-ratelimit-limit-requests"] == "1000"
    assert raw.parse().choices[0].message.content


def test_it_lists_models(client):
    assert [model.id for model in client.models.list()] == ["smollm2-135m"]


def test_it_works_asynchronously(live, bob):
    token = bob.token

    async def both() -> tuple[str | None, str]:
        async with AsyncOpenAI(base_url=f"{live.url}/v1", api_key=token) as client:
            whole = await client.chat.completions.create(**HELLO)
            stream = await client.chat.completions.create(**HELLO, stream=True)
            text = "".join([chunk.choices[0].delta.content or "" async for chunk in stream])
            return whole.choices[0].message.content, text

    whole, streamed = asyncio.run(both())
    assert whole == streamed


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({"model": "gpt-99"}, openai.NotFoundError),
        ({"messages": []}, openai.BadRequestError),
        ({"extra_headers": {"Authorization": "Bearer no"}}, openai.AuthenticationError),
    ],
)
def test_errors_are_the_sdks_own(client, fields, error):
    with pytest.raises(error) as caught:
        client.chat.completions.create(**{**HELLO, **fields})
    assert caught.value.code
    assert caught.value.request_id.startswith("req_")


def test_a_rate_limit_is_the_sdks_own(live):
    grace = person("grace", new_tier(requests_a_minute=1))
    with OpenAI(base_url=f"{live.url}/v1", api_key=grace.token, max_retries=0) as client:
        client.chat.completions.create(**HELLO)
        with pytest.raises(openai.RateLimitError) as caught:
            client.chat.completions.create(**HELLO)
    assert int(caught.value.response.headers["retry-after"]) > 0
