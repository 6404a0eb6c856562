"""Token quotas, as callers meet them: reserved before a call, settled after it, by a real llama-server's counts."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from accounts.models import Quota
from proxy.gateway import gateway
from proxy.models import UsageRecord
from tests import fake_llama as llama_script
from tests.cast import new_tier, person
from tests.servers import wait_until

WORDS = "The quick brown fox jumps over the lazy dog. " * 20  # 900 bytes, 201 tokens


def with_tokens(limit, window="minute", **fields):
    tier = new_tier(**fields)
    tier.quotas.create(metric="tokens", window=window, limit=limit)
    return person("grace", tier)


def left(response):
    return int(response.headers["x-ratelimit-remaining-tokens"])


def used(someone):
    return [use.used for use in gateway().remaining([someone.user])[0]]


def test_what_a_call_used_is_what_it_costs(live, chat):
    grace = with_tokens(1000)
    answer = chat(grace, max_tokens=3)
    assert used(grace) == [answer.json()["usage"]["total_tokens"]]


def test_until_it_has_ended_it_costs_what_it_may_use(live, chat):
    grace = with_tokens(1000)
    answer = chat(grace, max_tokens=3)
    assert 1000 - left(answer) >= answer.json()["usage"]["total_tokens"]


def test_an_answer_is_shortened_to_what_a_quota_can_hold(live, chat):
    grace = with_tokens(250)
    answer = chat(grace, max_tokens=5000)
    allowed = int(answer.headers["x-max-tokens"])
    assert 1 <= allowed < 250
    assert answer.json()["usage"]["completion_tokens"] <= allowed
    assert used(grace)[0] <= 250


def test_without_a_limit_of_its_own_an_answer_has_512_tokens(live, chat):
    answer = chat(with_tokens(100_000), max_tokens=None, stop="e")
    assert answer.headers["x-max-tokens"] == "512"


def test_who_has_no_token_quota_is_not_shortened(live, chat, bob):
    assert "x-max-tokens" not in chat(bob, max_tokens=4).headers


def test_a_tiers_longest_answer_is_told(live, chat):
    answer = chat(person("grace", new_tier(max_output_tokens=2)), max_tokens=50)
    assert answer.headers["x-max-tokens"] == "2"
    assert answer.json()["usage"]["completion_tokens"] <= 2


def test_when_the_quota_is_used_up_it_is_said_when_to_come_back(live, chat):
    grace = with_tokens(120)
    chat(grace, max_tokens=80)
    refused = chat(grace, max_tokens=80)
    assert (refused.status_code, refused.json()["error"]["code"]) == (429, "rate_limit_exceeded")
    assert "120 tokens per minute" in refused.json()["error"]["message"]
    assert 1 <= int(refused.headers["retry-after"]) <= 61


def test_a_prompt_larger_than_the_quota_can_never_be_served(live, chat):
    refused = chat(with_tokens(20), messages=[{"role": "user", "content": WORDS}])
    assert (refused.status_code, refused.json()["error"]["code"]) == (400, "request_exceeds_quota")
    assert "retry-after" not in refused.headers


def test_a_prompt_whose_bytes_are_too_many_is_counted(live, chat):
    """900 bytes do not fit into 300 tokens, but the 230 that they are do."""
    answer = chat(with_tokens(300), messages=[{"role": "user", "content": WORDS}], max_tokens=5)
    assert answer.status_code == 200, answer.text
    assert 300 - left(answer) == answer.json()["usage"]["prompt_tokens"] + 5


def test_of_several_at_once_each_is_counted(live, http):
    grace = with_tokens(900)
    body = {"messages": [{"role": "user", "content": WORDS}], "max_tokens": 5}
    with ThreadPoolExecutor() as pool:
        calls = [pool.submit(http.post, "/v1/chat/completions", headers=grace.headers, json=body) for _ in range(3)]
    assert [call.result().status_code for call in calls] == [200] * 3


def test_an_answer_is_not_shortened_for_the_sake_of_a_bound(live, chat):
    answer = chat(with_tokens(1100), messages=[{"role": "user", "content": WORDS}], max_tokens=100)
    assert "x-max-tokens" not in answer.headers


def test_a_prompt_that_cannot_be_counted_is_told_to_come_back(live, chat, fake):
    fake(llama_script.sends(llama_script.whole("500 Internal Server Error", {})))
    refused = chat(with_tokens(300), messages=[{"role": "user", "content": WORDS}])
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "upstream_unavailable")


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("completions", {"prompt": WORDS, "max_tokens": 5}),
        ("completions", {"prompt": [WORDS, [1, 2, 3]], "max_tokens": 5}),
        ("responses", {"input": WORDS, "max_output_tokens": 16}),
        ("messages", {"messages": [{"role": "user", "content": WORDS}], "max_tokens": 5}),
    ],
)
def test_so_is_that_of_every_endpoint(live, post, path, body):
    answer = post(path, with_tokens(300), **body)
    assert answer.status_code == 200, answer.text


def test_texts_to_be_embedded_are_counted_too(live, embedder, served_by, post):
    served_by(embedder)
    answer = post("embeddings", with_tokens(300), input=[WORDS])
    assert answer.status_code == 200, answer.text
    assert left(answer) <= 300 - answer.json()["usage"]["prompt_tokens"]


def test_what_runs_no_model_costs_no_tokens(live, post, http):
    grace = with_tokens(10)
    assert post("tokenize", grace, content=WORDS).status_code == 200
    assert http.get("/v1/models", headers=grace.headers).status_code == 200
    assert used(grace) == [0]


def test_a_client_that_leaves_pays_for_what_was_made(live, http, chat):
    grace = with_tokens(5000)
    body = {"messages": [{"role": "user", "content": "Count to 100."}], "max_tokens": 400, "stream": True}
    with http.stream("POST", "/v1/chat/completions", headers=grace.headers, json=body) as running:
        next(running.iter_raw())
    wait_until(lambda: UsageRecord.objects.filter(user=grace.user).exists(), "the row is written")
    row = UsageRecord.objects.get(user=grace.user)
    assert used(grace) == [row.prompt_tokens + row.completion_tokens]
    assert row.completion_tokens < 400


def test_a_call_that_fails_gives_all_its_tokens_back(live, chat):
    grace = with_tokens(10_000)
    refused = chat(grace, messages=[{"role": "user", "content": "x " * 3000}])
    assert refused.json()["error"]["code"] == "context_length_exceeded"
    assert used(grace) == [0]


def test_month_and_minute_are_charged_alike(live, chat):
    grace = with_tokens(1000)
    Quota.objects.create(user=grace.user, metric="tokens", window="month", limit=100_000)
    total = chat(grace, max_tokens=3).json()["usage"]["total_tokens"]
    assert used(grace) == [total, total]


def test_limits_are_told_in_the_drafts_headers_too(live, chat):
    grace = with_tokens(1000)
    Quota.objects.create(tier=grace.user.tier, metric="requests", window="day", limit=50)
    answer = chat(grace)
    assert (
        answer.headers["ratelimit-policy"]
        == '"tokens-minute";q=1000;w=60;qu="tokens", "requests-day";q=50;w=86400;qu="requests"'
    )
    assert answer.headers["ratelimit"].startswith(f'"tokens-minute";r={left(answer)};t=6')
    assert '"requests-day";r=49;t=' in answer.headers["ratelimit"]


def test_a_stream_tells_its_limits_in_its_headers(live, http):
    grace = with_tokens(1000)
    body = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 3, "stream": True}
    answer = http.post("/v1/chat/completions", headers=grace.headers, json=body)
    assert left(answer) < 1000
