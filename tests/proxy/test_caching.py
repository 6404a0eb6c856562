"""Answers from the cache, on the real llama-server: told again in every way, and only to whom they belong."""

import itertools
import json
from dataclasses import replace
from typing import Any

import anthropic
import httpx
import openai
import pytest
from django.conf import settings
from prometheus_client import REGISTRY

from proxy.cache.memory import MemoryAnswers
from proxy.gateway import gateway
from proxy.models import UsageRecord
from tests import fake_llama
from tests.cast import new_tier, person
from tests.servers import PATIENCE, wait_until

pytestmark = pytest.mark.once

TOLD = "llamacpp:prompt_tokens_total", "llamacpp:tokens_predicted_total"
QUESTION = [{"role": "user", "content": "Name three colours."}]
CALLS: dict[str, dict[str, Any]] = {
    "chat/completions": {"messages": QUESTION, "max_tokens": 12, "temperature": 0},
    "completions": {"prompt": "The sky is", "max_tokens": 12, "temperature": 0},
    "responses": {"input": "Name three colours.", "max_output_tokens": 12, "temperature": 0},
    "messages": {"messages": QUESTION, "max_tokens": 12, "temperature": 0},
}


@pytest.fixture(autouse=True)
def cache(live, monkeypatch):
    """An empty one, that is on."""
    monkeypatch.setattr(settings, "CACHE_TTL", 3600)
    monkeypatch.setattr(gateway().cache, "store", MemoryAnswers(64 * 1024 * 1024))
    return gateway().cache


@pytest.fixture
def computed(llama):
    """How many tokens the llama-server has read and made so far."""

    def count() -> list[float]:
        lines = httpx.get(f"{llama}/metrics", timeout=PATIENCE).text.splitlines()
        return [float(line.split()[1]) for line in lines if line.startswith(TOLD)]

    return count


def result_of(response: httpx.Response) -> str:
    assert response.status_code == 200, response.text
    return response.headers["x-cache"]


def events_of(response: httpx.Response) -> list[dict[str, Any]]:
    lines = [line for line in response.text.splitlines() if line.startswith("data: ")]
    return [json.loads(line[6:]) for line in lines if line != "data: [DONE]"]


def text_of(path: str, response: httpx.Response) -> str:
    """What was answered, whichever way."""
    if "event-stream" in response.headers["content-type"]:
        return "".join(piece_of(path, event) for event in events_of(response))
    answer = response.json()
    match path:
        case "chat/completions":
            return answer["choices"][0]["message"]["content"]
        case "completions":
            return answer["choices"][0]["text"]
        case "responses":
            return answer["output"][0]["content"][0]["text"]
    return answer["content"][0]["text"]


def piece_of(path: str, event: dict[str, Any]) -> str:
    if path in ("responses", "messages"):
        delta = event.get("delta", "")
        return delta.get("text", "") if isinstance(delta, dict) else delta
    choice = event["choices"][0]
    return choice["text"] if path == "completions" else choice["delta"].get("content") or ""


# -- hits ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("second", [False, True], ids=["then whole", "then stream"])
@pytest.mark.parametrize("first", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("path", CALLS)
def test_the_same_call_again_asks_no_llama_server(post, bob, computed, path, first, second):
    one = post(path, bob, **CALLS[path], stream=first)
    before = computed()
    two = post(path, bob, **CALLS[path], stream=second)
    assert (result_of(one), result_of(two)) == ("miss", "hit")
    assert text_of(path, one) == text_of(path, two) != ""
    assert computed() == before
    assert ("age" in one.headers, int(two.headers["age"]) < 5) == (False, True)


@pytest.mark.parametrize("path", CALLS)
def test_a_hit_says_all_that_the_first_answer_said(post, bob, path):
    one, two = (post(path, bob, **CALLS[path]).json() for _ in range(2))
    assert one.pop("id") != two.pop("id")
    for answer in (one, two):
        for name in ("created", "created_at", "completed_at", "timings"):
            answer.pop(name, None)
        for item in answer.get("output", ()):
            del item["id"]
    assert one == two


def test_vectors_come_from_the_cache_too(served_by, embedder, post, bob):
    served_by(embedder)
    one, two = (post("embeddings", bob, input=["a", "b"]) for _ in range(2))
    assert (result_of(one), result_of(two)) == ("miss", "hit")
    assert one.json() == two.json()


def test_rankings_come_from_the_cache_too(served_by, ranker, post, bob):
    served_by(ranker)
    one, two = (post("rerank", bob, query="a", documents=["b", {"text": "c"}]) for _ in range(2))
    assert (result_of(one), result_of(two)) == ("miss", "hit")
    assert one.json() == two.json()


def test_the_openai_sdk_reads_a_hit_in_every_way(live, bob):
    client = openai.OpenAI(base_url=f"{live.url}/v1", api_key=bob.token, max_retries=0)
    asked: dict[str, Any] = {"model": "smollm2-135m", **CALLS["chat/completions"]}
    asked["extra_body"] = {"grammar": 'root ::= "red, green"'}
    assert client.chat.completions.create(**asked).choices[0].message.content == "red, green"
    chunks = list(client.chat.completions.create(**asked, stream=True, stream_options={"include_usage": True}))
    assert "".join(each.choices[0].delta.content or "" for each in chunks if each.choices) == "red, green"
    assert chunks[-1].usage.total_tokens > 5
    with client.chat.completions.stream(**asked) as stream:
        assert stream.get_final_completion().choices[0].message.content == "red, green"


def test_the_openai_sdk_reads_a_response_that_was_kept(live, bob):
    client = openai.OpenAI(base_url=f"{live.url}/v1", api_key=bob.token, max_retries=0)
    form = {"type": "json_schema", "name": "n", "strict": True, "schema": {"enum": ["red"]}}
    asked: dict[str, Any] = {"model": "smollm2-135m", "input": "Name one.", "temperature": 0, "text": {"format": form}}
    response = client.responses.create(**asked)
    with client.responses.stream(**asked) as stream:
        assert stream.get_final_response().output_text == response.output_text != ""


def test_the_anthropic_sdk_reads_a_hit_in_every_way(live, bob):
    client = anthropic.Anthropic(base_url=live.url, api_key=bob.token, max_retries=0)
    asked: dict[str, Any] = {"model": "smollm2-135m", "messages": QUESTION, "max_tokens": 12}
    asked["extra_body"] = {"temperature": 0}
    whole = client.messages.create(**asked).content[0].text
    with client.messages.stream(**asked) as stream:
        assert stream.get_final_message().content[0].text == whole != ""


# -- what is not answered from it ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "fields", [{"temperature": None}, {"temperature": 0.5}, {"n": 2}, {"temperature": 1, "seed": 7}], ids=str
)
def test_a_call_that_may_have_another_answer_bypasses_the_cache(chat, bob, fields):
    assert [result_of(chat(bob, **fields)) for _ in range(2)] == ["bypass"] * 2


def test_a_seed_is_enough_where_a_setting_says_so(chat, bob, monkeypatch):
    monkeypatch.setattr(settings, "CACHE_SEEDED", True)
    assert [result_of(chat(bob, temperature=1, seed=7)) for _ in range(2)] == ["miss", "hit"]


def test_answers_of_other_endpoints_bypass_it(http, post, bob):
    assert result_of(post("tokenize", bob, content="Hi")) == "bypass"
    assert result_of(http.get("/v1/models", headers=bob.headers)) == "bypass"


@pytest.mark.parametrize("header", ["no-store", "no-cache"])
def test_a_caller_may_want_a_new_answer(http, chat, bob, header):
    def ask():
        body = {**CALLS["chat/completions"], "messages": [{"role": "user", "content": f"Say {header}."}]}
        return http.post("/v1/chat/completions", headers={**bob.headers, "Cache-Control": header}, json=body)

    assert [result_of(ask()) for _ in range(2)] == ["bypass"] * 2
    later = chat(bob, **{**CALLS["chat/completions"], "messages": [{"role": "user", "content": f"Say {header}."}]})
    assert result_of(later) == {"no-store": "miss", "no-cache": "hit"}[header]


def test_a_tier_may_go_without(chat):
    tier = new_tier(uses_cache=False)
    someone = person("grace", tier)
    assert [result_of(chat(someone)) for _ in range(2)] == ["bypass"] * 2
    tier.uses_cache = True
    tier.save()
    wait_until(lambda: result_of(chat(someone)) == "miss", "the change holds")
    assert result_of(chat(someone)) == "hit"


def test_an_answer_lapses(chat, bob, monkeypatch):
    monkeypatch.setattr(settings, "CACHE_TTL", 0.05)
    assert result_of(chat(bob)) == "miss"
    wait_until(lambda: result_of(chat(bob)) == "miss", "it has lapsed")


def test_where_it_is_off_nothing_is_kept(chat, bob, monkeypatch):
    monkeypatch.setattr(settings, "CACHE_TTL", 0)
    assert [result_of(chat(bob)) for _ in range(2)] == ["bypass"] * 2


BROKEN = {
    "an error event": [fake_llama.token("Hel"), fake_llama.ERROR],
    "a cut": [fake_llama.token("Hel")],
    "another reason to end": [
        fake_llama.token("Hel"),
        fake_llama.event(choices=[{"finish_reason": "content_filter", "index": 0, "delta": {}}]),
        fake_llama.USAGE,
        fake_llama.DONE,
    ],
}
ENDED = [fake_llama.token("Hi"), fake_llama.FINISH, fake_llama.USAGE, fake_llama.DONE]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("parts", BROKEN.values(), ids=BROKEN)
def test_an_answer_that_is_not_complete_is_not_kept(fake, chat, bob, parts, stream):
    head = fake_llama.STREAM_HEAD
    broken, good = fake_llama.sends_and_cuts(head, *parts), fake_llama.sends_and_cuts(head, *ENDED)
    fake(fake_llama.plays(broken, good))
    chat(bob, stream=stream)
    again = chat(bob, stream=stream)
    assert result_of(again) == "miss"
    assert text_of("chat/completions", again) == "Hi"


def test_a_refusal_of_the_llama_server_is_not_kept(fake, chat, bob):
    fake(fake_llama.sends_and_cuts(fake_llama.whole("400 Bad", {"error": {"code": 400, "message": "No."}})))
    assert [chat(bob).status_code for _ in range(2)] == [400, 400]


# -- whose answers meet --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scope", ["user", "tier", "all"])
def test_nobody_outside_of_the_scope_gets_a_foreign_answer(chat, monkeypatch, scope):
    monkeypatch.setattr(settings, "CACHE_SCOPE", scope)
    one, other = new_tier(), new_tier()
    people = [person("a", one), person("b", one), person("c", other)]
    assert [result_of(chat(each)) for each in people] == {
        "user": ["miss", "miss", "miss"],
        "tier": ["miss", "hit", "miss"],
        "all": ["miss", "hit", "hit"],
    }[scope]


def test_every_key_of_a_user_meets_its_answers(chat, bob):
    assert [result_of(chat(who)) for who in (bob, bob.key()[1], bob.key()[1])] == ["miss", "hit", "hit"]


def test_no_two_different_requests_meet(post, bob):
    """Of many that are alike: whatever a field changes, the answer is not that of another."""
    changes: list[dict[str, Any]] = [
        {},
        {"max_tokens": 13},
        {"stop": ["Red"]},
        {"messages": [*QUESTION, {"role": "assistant", "content": "Red"}]},
        {"messages": [{"role": "system", "content": "Be brief."}, *QUESTION]},
        {"messages": [{"role": "system", "content": QUESTION[0]["content"]}]},
        {"grammar": 'root ::= "red"'},
        {"response_format": {"type": "json_object"}},
        {"logprobs": True},
        {"seed": 1},
        {"top_k": 1},
        {"logit_bias": {"5": -100}},
        {"tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}]},
    ]
    asked = [{**CALLS["chat/completions"], **change} for change in changes]
    assert [result_of(post("chat/completions", bob, **each)) for each in asked] == ["miss"] * len(asked)
    assert [result_of(post("chat/completions", bob, **each)) for each in asked] == ["hit"] * len(asked)


def serve_as(identity):
    """What the gateway's only upstream tells of what it is."""
    own = gateway().pool.members[0]
    own.told = replace(own.told, identity=identity)


def test_another_model_behind_the_same_name_is_a_miss(served_by, llama, chat, bob):
    served_by(llama)
    results = []
    for identity in ("one", "other", "one"):
        serve_as(identity)
        results.append(result_of(chat(bob)))
    assert results == ["miss", "miss", "hit"]


def test_what_serves_unknown_is_not_trusted(served_by, llama, chat, bob):
    served_by(llama)
    serve_as(None)
    assert [result_of(chat(bob)) for _ in range(2)] == ["bypass"] * 2


def test_an_answer_that_another_model_gave_meanwhile_is_not_kept(fake, gate, chat, bob, together):
    server = fake(fake_llama.sends_late(gate, fake_llama.STREAM_HEAD, *ENDED))
    with together(lambda: chat(bob)) as (call,):
        wait_until(lambda: server.seen, "it is asked")
        serve_as("another")
        gate.set()
        assert result_of(call.result()) == "miss"
    serve_as(server.url)
    assert result_of(chat(bob)) == "miss"


def test_another_tier_with_shorter_answers_gets_them(chat, monkeypatch):
    monkeypatch.setattr(settings, "CACHE_SCOPE", "all")
    long, short = person("a", new_tier()), person("b", new_tier(max_output_tokens=3))
    assert [result_of(chat(each, max_tokens=8)) for each in (long, short)] == ["miss", "miss"]
    assert chat(short, max_tokens=8).json()["usage"]["completion_tokens"] == 3


def test_a_model_that_a_tier_may_not_use_is_not_answered_from_what_others_asked(chat, monkeypatch):
    monkeypatch.setattr(settings, "CACHE_SCOPE", "all")
    assert result_of(chat(person("a"))) == "miss"
    assert chat(person("b", new_tier(allowed_models=["other"]))).status_code == 403


# -- what it costs -------------------------------------------------------------------------------------------------


def row_of(response: httpx.Response) -> UsageRecord:
    found = UsageRecord.objects.filter(request_id=response.headers["x-request-id"])
    wait_until(found.exists, "it is in the ledger")
    return found.get()


def test_a_hit_is_charged_one_request_and_no_tokens(chat):
    tier = new_tier(requests_a_minute=10)
    tier.quotas.create(metric="tokens", window="minute", limit=1000)
    someone = person("grace", tier)
    one, two = (chat(someone) for _ in range(2))
    left = [[int(each.headers[f"x-ratelimit-remaining-{of}"]) for of in ("requests", "tokens")] for each in (one, two)]
    assert result_of(two) == "hit"
    assert [left[0][0], left[1][0]] == [9, 8]
    assert left[1][1] == 1000 - one.json()["usage"]["total_tokens"]


def test_a_hit_may_be_charged_tokens(chat, monkeypatch):
    monkeypatch.setattr(settings, "CACHE_HIT_TOKENS", 7)
    tier = new_tier()
    tier.quotas.create(metric="tokens", window="day", limit=1000)
    someone = person("grace", tier)
    one, two, three = (chat(someone) for _ in range(3))
    used = one.json()["usage"]["total_tokens"]
    assert int(three.headers["x-ratelimit-remaining-tokens"]) == 1000 - used - 14
    assert [row_of(each).prompt_tokens for each in (two, three)] == [7, 7]


def test_a_refused_caller_reads_nothing_for_free(chat):
    someone = person("grace", new_tier(requests_a_minute=1))
    assert result_of(chat(someone)) == "miss"
    refused = chat(someone)
    assert (refused.status_code, refused.headers["x-cache"]) == (429, "bypass")
    assert "choices" not in refused.text


def test_a_hit_needs_only_the_room_of_a_hit(chat):
    tier = new_tier()
    tier.quotas.create(metric="tokens", window="hour", limit=60)
    someone = person("grace", tier)
    assert [result_of(chat(someone)) for _ in range(4)] == ["miss", "hit", "hit", "hit"]
    assert chat(someone, messages=QUESTION).status_code == 429


@pytest.mark.parametrize("stream", [False, True])
def test_the_ledger_says_how_a_call_was_answered(chat, bob, stream):
    one, two = (chat(bob, stream=stream) for _ in range(2))
    rows = [row_of(each) for each in (one, two)]
    assert [(row.cache, row.status, row.error) for row in rows] == [("miss", 200, ""), ("hit", 200, "")]
    assert [bool(row.upstream) for row in rows] == [True, False]
    assert rows[0].completion_tokens > 0
    assert (rows[1].prompt_tokens, rows[1].completion_tokens, rows[1].is_estimated) == (0, 0, False)


def test_the_metrics_say_how_calls_were_answered(chat, bob):
    def counts():
        results = ("hit", "miss", "bypass")
        return [REGISTRY.get_sample_value("api_cache_requests_total", {"result": each}) or 0 for each in results]

    before = counts()
    for fields in ({}, {}, {"temperature": 1}):
        chat(bob, **fields)
    assert [after - of for after, of in zip(counts(), before, strict=True)] == [1, 1, 1]


def test_every_answer_to_a_known_caller_says_how_it_came_and_no_other(http, chat, bob):
    assert chat(bob, messages=[]).headers["x-cache"] == "bypass"
    assert "x-cache" not in http.post("/v1/chat/completions", json={}).headers


def test_the_dropped_fields_are_told_of_a_hit_as_well(chat, bob):
    told = [chat(bob, user=name).headers["x-dropped-params"] for name in itertools.islice("ab", 2)]
    assert told == ["user", "user"]
