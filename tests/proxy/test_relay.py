"""A call, on the real llama-server, and its answer."""

import json
from typing import Any

import httpx
import pytest

from tests.cast import new_tier, person
from tests.servers import PATIENCE


def events(response: httpx.Response) -> list[dict[str, Any]]:
    lines = [line[6:] for line in response.text.split("\n\n") if line]
    assert lines[-1] == "[DONE]"
    return [json.loads(line) for line in lines[:-1]]


def text_of(chunks: list[dict[str, Any]]) -> str:
    return "".join(c["choices"][0]["delta"].get("content") or "" for c in chunks if c["choices"])


def test_it_answers(bob, chat):
    answer = chat(bob).json()
    assert answer["object"] == "chat.completion"
    assert answer["choices"][0]["message"]["content"]
    assert answer["usage"]["total_tokens"] == answer["usage"]["prompt_tokens"] + answer["usage"]["completion_tokens"]


def test_it_answers_as_the_llama_server_itself_does(bob, chat, llama):
    ours = chat(bob, max_tokens=24).json()
    body = {"messages": [{"role": "user", "content": "Say hello."}], "max_tokens": 24, "temperature": 0}
    own = httpx.post(f"{llama}/v1/chat/completions", json=body, timeout=PATIENCE).json()
    assert ours["choices"] == own["choices"]
    del own["usage"]["prompt_tokens_details"]
    assert ours["usage"] == own["usage"]


def test_it_streams_what_it_answers_whole(bob, chat):
    whole = chat(bob, max_tokens=24).json()["choices"][0]["message"]["content"]
    assert text_of(events(chat(bob, max_tokens=24, stream=True))) == whole


def test_a_stream_is_one_of_events_that_no_proxy_holds_back(bob, chat):
    response = chat(bob, stream=True)
    assert response.headers["content-type"] == "text/event-stream"
    assert response.headers["x-accel-buffering"] == "no"
    assert response.headers["cache-control"] == "no-cache"


@pytest.mark.parametrize(("options", "usages"), [({}, 0), ({"include_usage": False}, 0), ({"include_usage": True}, 1)])
def test_usage_is_streamed_to_those_who_asked(bob, chat, options, usages):
    chunks = events(chat(bob, stream=True, stream_options=options))
    assert sum("usage" in chunk for chunk in chunks) == usages


@pytest.mark.parametrize("stream", [False, True])
def test_it_hides_what_tells_of_other_prompts(bob, chat, stream):
    response = chat(bob, stream=stream, stream_options={"include_usage": True})
    assert "timings" not in response.text
    assert "cached_tokens" not in response.text


def test_several_choices_are_folded_each_for_itself(bob, chat):
    answer = chat(bob, n=2, max_tokens=4).json()
    assert [choice["index"] for choice in answer["choices"]] == [0, 1]
    assert answer["usage"]["completion_tokens"] == 8


def test_logprobs_are_folded(bob, chat):
    answer = chat(bob, logprobs=True, top_logprobs=2, max_tokens=4).json()
    assert len(answer["choices"][0]["logprobs"]["content"]) == 4


def test_a_schema_is_kept_to(bob, chat):
    schema = {"type": "object", "properties": {"age": {"type": "integer"}}, "required": ["age"]}
    wanted = {"type": "json_schema", "json_schema": {"name": "person", "schema": schema}}
    answer = chat(bob, response_format=wanted, max_tokens=40).json()
    assert isinstance(json.loads(answer["choices"][0]["message"]["content"])["age"], int)


def test_a_tier_caps_the_length_of_answers(live, chat):
    dave = person("dave", new_tier(max_output_tokens=3))
    answer = chat(dave, max_tokens=500).json()
    assert answer["usage"]["completion_tokens"] == 3
    assert answer["choices"][0]["finish_reason"] == "length"


def test_a_prompt_that_is_too_long_is_the_callers_error(bob, chat):
    response = chat(bob, messages=[{"role": "user", "content": "word " * 4000}])
    assert response.status_code == 400
    assert response.json()["error"]["code"] == "context_length_exceeded"


def test_it_lists_the_models(bob, http):
    listed = http.get("/v1/models", headers=bob.headers).json()
    assert [model["id"] for model in listed["data"]] == ["smollm2-135m"]


def test_a_tier_sees_and_uses_the_models_that_it_is_allowed(live, chat, http):
    erin = person("erin", new_tier(allowed_models=["another"]))
    assert http.get("/v1/models", headers=erin.headers).json()["data"] == []
    refused = chat(erin, model="smollm2-135m")
    assert (refused.status_code, refused.json()["error"]["code"]) == (403, "model_not_allowed")
