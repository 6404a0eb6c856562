"""The official OpenAI SDK against the gateway: what users point at it."""

import asyncio

import openai
import pytest
from openai import AsyncOpenAI, OpenAI
from pydantic import BaseModel

from tests import fake_llama as llama
from tests.cast import new_tier, person

pytestmark = pytest.mark.once

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


def test_it_knows_a_model_by_its_id(client):
    assert client.models.retrieve("smollm2-135m").owned_by == "llama.cpp"


def test_it_completes_text(client):
    answer = client.completions.create(model="smollm2-135m", prompt="The sky is", max_tokens=4, temperature=0)
    stream = client.completions.create(
        model="smollm2-135m", prompt="The sky is", max_tokens=4, temperature=0, stream=True
    )
    assert "".join(chunk.choices[0].text for chunk in stream) == answer.choices[0].text != ""


def test_it_embeds(client, served_by, embedder):
    served_by(embedder)
    assert len(client.embeddings.create(model="smollm2-135m", input="Hello").data[0].embedding) == 576


# -- streaming helpers, structured output, tools ---------------------------------------------------------------------


class Person(BaseModel):
    age: int


def test_the_streaming_helper_gives_events_and_the_final_answer(client):
    asked = {**HELLO, "max_tokens": 40, "stop": ["!"]}  # the SDK raises where the length ends an answer
    with client.chat.completions.stream(**asked, stream_options={"include_usage": True}) as stream:
        text = "".join(event.delta for event in stream if event.type == "content.delta")
        final = stream.get_final_completion()
    assert final.choices[0].message.content == text != ""
    assert final.usage.completion_tokens > 1


def test_structured_output_is_parsed(client):
    asked = {**HELLO, "messages": [{"role": "user", "content": "Ava is 25."}], "max_tokens": 40}
    answer = client.chat.completions.parse(**asked, response_format=Person)
    assert isinstance(answer.choices[0].message.parsed, Person)


def test_tools_are_taken(client):
    tool = {"type": "function", "function": {"name": "get_weather", "parameters": {"type": "object"}}}
    assert client.chat.completions.create(**HELLO, tools=[tool], tool_choice="auto").choices[0].message.content


@pytest.mark.parametrize("stream", [False, True])
def test_a_tool_that_is_called(client, fake, stream):
    """The model of these tests calls no tools, so a stand-in does."""
    fake(llama.sends(llama.STREAM_HEAD, *llama.TOOL_CALL, llama.USAGE, llama.DONE))
    if stream:
        with client.chat.completions.stream(**HELLO) as events:
            message = events.get_final_completion().choices[0].message
    else:
        message = client.chat.completions.create(**HELLO).choices[0].message
    call = message.tool_calls[0]
    assert (call.id, call.function.name, call.function.arguments) == ("c", "get_weather", '{"city":"Paris"}')
    assert message.content is None


# -- responses -------------------------------------------------------------------------------------------------------

ASKED = {"model": "smollm2-135m", "input": "Say hello.", "max_output_tokens": 8, "temperature": 0}


def test_it_responds(client):
    response = client.responses.create(**ASKED)
    assert (response.status, response.model, response.usage.output_tokens) == ("incomplete", "smollm2-135m", 8)
    assert response.incomplete_details.reason == "max_output_tokens"
    assert response.output_text


def test_it_streams_a_response(client):
    whole = client.responses.create(**ASKED).output_text
    events = list(client.responses.create(**ASKED, stream=True))
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert (events[0].type, events[-1].type) == ("response.created", "response.incomplete")
    assert "".join(event.delta for event in events if event.type == "response.output_text.delta") == whole
    assert [event.type for event in events].count("response.in_progress") == 1


def test_the_streaming_helper_of_responses_gives_the_final_one(client):
    asked = {**ASKED, "input": "Ava is 25.", "max_output_tokens": 40, "text_format": Person}  # it comes to its end
    with client.responses.stream(**asked) as stream:
        text = "".join(event.delta for event in stream if event.type == "response.output_text.delta")
        final = stream.get_final_response()
    assert final.output_text == text != ""
    assert isinstance(final.output_parsed, Person)


def test_a_response_in_a_given_shape_is_parsed(client):
    response = client.responses.parse(**{**ASKED, "input": "Ava is 25.", "max_output_tokens": 40}, text_format=Person)
    assert isinstance(response.output_parsed, Person)


def test_a_fault_in_the_stream_of_a_response_is_raised(client, fake):
    fake(llama.sends_and_cuts(llama.STREAM_HEAD, llama.named("response.created", response={"id": "resp_1"})))
    with client.responses.create(**ASKED, stream=True) as events, pytest.raises(openai.APIError) as caught:
        list(events)
    assert caught.value.code == "upstream_error"


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
