"""The gateway's answer beside the llama-server's own at temperature 0: equal but for id, created and timings."""

import json
from collections import Counter
from typing import Any

import httpx
import pytest

from tests.servers import PATIENCE

pytestmark = pytest.mark.once

SCHEMA = {"type": "object", "properties": {"age": {"type": "integer"}}, "required": ["age"]}
TOOL = {"type": "function", "function": {"name": "get_weather", "parameters": SCHEMA}}
FOREIGN = "na\u00efve \U0001f600\U0001f1e9 \u65e5\u672c\u8a9e"
CASES: dict[str, dict[str, Any]] = {
    "plain": {"content": "Name three colours.", "max_tokens": 24},
    "tools": {"content": "What is the weather?", "tools": [TOOL], "tool_choice": "auto", "max_tokens": 24},
    "json_schema": {
        "content": "Ava is 25.",
        "response_format": {"type": "json_schema", "json_schema": {"name": "person", "schema": SCHEMA}},
        "max_tokens": 40,
    },
    "logprobs": {"content": "Name three colours.", "logprobs": True, "top_logprobs": 2, "max_tokens": 8},
    "stop": {"content": "Count.", "grammar": 'root ::= "one two three"', "stop": ["three", "!"], "max_tokens": 40},
    "n=2": {"content": "Name three colours.", "n": 2, "max_tokens": 8},
    "unicode across tokens": {"content": "Go.", "grammar": f'root ::= "{FOREIGN}"', "max_tokens": 40},
    "long prompt": {"content": "The fox is brown. " * 90 + "What colour is the fox?", "max_tokens": 8},
    "empty answer": {"content": "Say nothing.", "grammar": 'root ::= ""', "max_tokens": 8},
    "context fills up": {"content": "word " * 1990, "max_tokens": 100},
    "context overflow": {"content": "word " * 4000, "max_tokens": 8},
}  # fmt: skip
STREAM = {"stream": True, "stream_options": {"include_usage": True}}
HIDDEN = ("id", "created", "timings")


def without_hidden(answer: dict[str, Any]) -> dict[str, Any]:
    """What must be equal: all but the fields that tell calls, or tenants, apart."""
    left = {name: value for name, value in answer.items() if name not in HIDDEN}
    if usage := left.get("usage"):
        left["usage"] = {name: value for name, value in usage.items() if name != "prompt_tokens_details"}
    return left


def chunks_of(response: httpx.Response) -> list[dict[str, Any]]:
    events = [event.removeprefix("data: ") for event in response.text.split("\n\n") if event]
    assert events[-1] == "[DONE]"
    return [without_hidden(json.loads(event)) for event in events[:-1]]


def by_choice(chunks: list[dict[str, Any]]) -> dict[int, list[dict[str, Any]]]:
    """The chunks of each choice in their order: those of several choices come in any."""
    choices: dict[int, list[dict[str, Any]]] = {}
    for chunk in chunks:
        for choice in chunk["choices"]:
            choices.setdefault(choice["index"], []).append(chunk)
    return choices


def used(chunks: list[dict[str, Any]]) -> Counter[str]:
    """Completion tokens of all choices; the prompt of several choices is one."""
    usages = [chunk["usage"] for chunk in chunks if "usage" in chunk]
    return Counter(completion=sum(u["completion_tokens"] for u in usages), prompt=usages[0]["prompt_tokens"])


@pytest.fixture(scope="module", params=CASES)
def case(request) -> str:
    return request.param


@pytest.fixture(scope="module")
def asked(case) -> dict[str, Any]:
    fields = dict(CASES[case])
    return {"messages": [{"role": "user", "content": fields.pop("content")}], "temperature": 0, **fields}


@pytest.fixture(scope="module")
def whole(llama, asked) -> httpx.Response:
    """What the llama-server itself answers, the second time, so that it is as warm as it is for us."""
    httpx.post(f"{llama}/v1/chat/completions", json=asked, timeout=5 * PATIENCE)
    return httpx.post(f"{llama}/v1/chat/completions", json=asked, timeout=5 * PATIENCE)


@pytest.fixture(scope="module")
def streamed(llama, asked, whole) -> httpx.Response:
    return httpx.post(f"{llama}/v1/chat/completions", json={**asked, **STREAM}, timeout=5 * PATIENCE)


def test_a_whole_answer_is_the_llama_servers_own(bob, post, whole, asked):
    ours = post("chat/completions", bob, **asked)
    assert ours.status_code == whole.status_code
    if whole.status_code == 200:
        expected = without_hidden(whole.json())
        expected["usage"] |= ours_of_several(expected)
        assert without_hidden(ours.json()) == expected
    else:
        assert ours.json()["error"]["message"] == whole.json()["error"]["message"]
        assert ours.json()["error"]["code"] == "context_length_exceeded"


def ours_of_several(answer: dict[str, Any]) -> dict[str, int]:
    """The usage as it should be: a llama-server counts the first choice only."""
    usage = answer["usage"]
    completion = usage["completion_tokens"] * len(answer["choices"])
    return {"completion_tokens": completion, "total_tokens": usage["prompt_tokens"] + completion}


def test_a_stream_is_the_llama_servers_own(bob, post, streamed, asked):
    ours = post("chat/completions", bob, **asked, **STREAM)
    assert ours.status_code == streamed.status_code
    if streamed.status_code == 200:
        assert by_choice(chunks_of(ours)) == by_choice(chunks_of(streamed))
        assert used(chunks_of(ours)) == used(chunks_of(streamed))
        assert sum("usage" in chunk for chunk in chunks_of(ours)) == 1


def test_the_case_is_what_it_says(case, whole):
    """A case whose answer is empty, or does not end as it should, would compare nothing."""
    answer = whole.json()
    if case == "context overflow":
        assert answer["error"]["type"] == "exceed_context_size_error"
        return
    choice = answer["choices"][0]
    assert bool(choice["message"]["content"]) is (case != "empty answer")
    if case == "stop":
        assert (choice["finish_reason"], choice["message"]["content"]) == ("stop", "one two ")
    if case == "context fills up":
        assert (choice["finish_reason"], answer["usage"]["total_tokens"]) == ("length", 2048)
    if case == "unicode across tokens":
        assert choice["message"]["content"] == FOREIGN
