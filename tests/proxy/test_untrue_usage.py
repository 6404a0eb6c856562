"""Usage as a llama-server should never say it: it costs no row, no reservation, and no place of the caller."""

import copy
import json

import httpx
import pytest

from proxy.models import UsageRecord
from tests import fake_llama as llama
from tests.cast import new_tier, person
from tests.conftest import CHAT, MODEL
from tests.fake_llama import FakeLlama
from tests.servers import OwnRedis, Worker, wait_until

BAD = [-1, -(10**12), "5", None, True, 2.0, 1e300, 2**31, 10**30, [], {}, ...]  # ...: it is missing
CALLS = 4  # one more than the tier lets run
MESSAGES = {"messages": CHAT["messages"], "max_tokens": 8}
BODIES = {
    "chat/completions": MESSAGES,
    "completions": {"prompt": "Hi", "max_tokens": 8},
    "responses": {"input": "Hi", "max_output_tokens": 8},
    "messages": MESSAGES,
    "embeddings": {"input": "Hi"},
    "rerank": {"query": "Hi", "documents": ["a", "b"]},
}
TIMINGS = {"cache_n": 3, "prompt_n": 2, "predicted_n": 2}
STREAMED = [path for path in BODIES if path not in ("embeddings", "rerank")]


@pytest.fixture(scope="module")
def upstream():
    server = FakeLlama(llama.sends())
    yield server
    server.close()


@pytest.fixture(scope="module", params=["memory", "redis"])
def worker(live, upstream, request):
    if request.param == "memory":
        with Worker(upstream.url, REDIS_URL="") as alone:
            yield alone
        return
    with OwnRedis() as redis, Worker(upstream.url, REDIS_URL=redis.url) as shared:
        yield shared


def with_numbers(value, bad):
    """The same JSON with each of its numbers said as `bad`."""
    if isinstance(value, dict):
        made = {name: with_numbers(each, bad) for name, each in value.items()}
        return {name: each for name, each in made.items() if each is not ...}
    return bad if type(value) is int else value


def chat_events(bad, *, timings):
    """A stream with choices: progress, two tokens, the end and its usage, every count of which is `bad`."""
    counts = {"timings": with_numbers(TIMINGS, bad) if timings else TIMINGS}
    progress = with_numbers({"total": 5, "cache": 3, "processed": 5}, bad)
    usage = {"completion_tokens": 2, "prompt_tokens": 5, "prompt_tokens_details": {"cached_tokens": 3}}

    def choice(text, reason=None):
        return {"finish_reason": reason, "index": 0, "delta": {"content": text}, "text": text}

    yield llama.event(choices=[choice("")], prompt_progress=progress)
    for text in ("Hel", "lo"):
        yield llama.event(choices=[choice(text)], **copy.deepcopy(counts))
    yield llama.event(choices=[choice("", "stop")])
    yield llama.event(choices=[], usage=with_numbers(usage, bad), **counts)
    yield llama.DONE


def response_events(bad, *, timings):
    counts = {"timings": with_numbers(TIMINGS, bad) if timings else TIMINGS}
    item = {"id": "msg_1", "type": "message", "role": "assistant", "status": "completed"}
    item["content"] = [{"type": "output_text", "text": "Hello", "annotations": []}]
    usage = {"input_tokens": 5, "output_tokens": 2, "input_tokens_details": {"cached_tokens": 3}}
    response = {"id": "resp_1", "object": "response", "status": "completed", "model": MODEL, "output": [item]}
    yield llama.named("response.created", response={**response, "status": "in_progress", "output": []})
    yield llama.named("response.output_item.added", item={**item, "status": "in_progress", "content": []})
    for text in ("Hel", "lo"):
        yield llama.named("response.output_text.delta", item_id="msg_1", delta=text, **copy.deepcopy(counts))
    yield llama.named("response.completed", response={**response, "usage": with_numbers(usage, bad)}, **counts)
    yield b"0\r\n\r\n"


def message_events(bad, **_):
    message = {**llama.MESSAGE, "stop_reason": None, "usage": with_numbers(llama.ANTHROPIC_USAGE, bad)}
    yield llama.named("message_start", message=message)
    yield llama.named("content_block_start", index=0, content_block={"type": "text", "text": ""})
    for text in ("Hel", "lo"):
        yield llama.block_delta(0, "text_delta", text=text)
    yield llama.named("content_block_stop", index=0)
    yield llama.named("message_delta", delta={"stop_reason": "end_turn"}, usage=with_numbers({"output_tokens": 2}, bad))
    yield llama.named("message_stop")
    yield b"0\r\n\r\n"


EVENTS = {"responses": response_events, "messages": message_events}


def script_of(path, bad, *, timings):
    usage = with_numbers({"prompt_tokens": 5, "total_tokens": 5}, bad)
    if path == "embeddings":
        vector = {"object": "embedding", "index": 0, "embedding": [0.5]}
        return llama.sends(llama.whole("200 OK", {"object": "list", "data": [vector], "model": MODEL, "usage": usage}))
    if path == "rerank":
        results = [{"index": 0, "relevance_score": 0.5}, {"index": 1, "relevance_score": 0.25}]
        return llama.sends(
            llama.whole("200 OK", {"object": "list", "results": results, "model": MODEL, "usage": usage})
        )
    return llama.sends(llama.STREAM_HEAD, *EVENTS.get(path, chat_events)(bad, timings=timings))


def grace_of_three():
    """Somebody who may have three calls running, and whose use is counted by every meter."""
    tier = new_tier(max_concurrent_requests=CALLS - 1)
    for metric in ("requests", "tokens"):
        for window in ("hour", "month"):
            tier.quotas.create(metric=metric, window=window, limit=10**9)
    return person("grace", tier)


def call(worker, someone, path, *, stream):
    body = {**BODIES[path], **({"stream": stream} if path in STREAMED else {})}
    return httpx.post(f"{worker.url}/v1/{path}", headers=someone.headers, json=body, timeout=30)


def rows_of(someone, count):
    rows = UsageRecord.objects.filter(user=someone.user)
    wait_until(lambda: rows.count() == count, f"{count} rows are written")
    return list(rows)


def check_meters(worker, someone, rows):
    quotas = httpx.get(f"{worker.url}/auth/me", headers=someone.headers).json()["quotas"]
    used = {metric: {each["used"] for each in quotas if each["metric"] == metric} for metric in ("requests", "tokens")}
    tokens = sum(row.prompt_tokens + row.completion_tokens for row in rows)
    assert used == {"requests": {len(rows)}, "tokens": {tokens}}


@pytest.mark.parametrize(("path", "stream"), [(path, False) for path in BODIES] + [(path, True) for path in STREAMED])
def test_an_answer_with_untrue_usage_is_told_and_counted(worker, upstream, path, stream):
    """Eight times as many answers as calls may run, one after the other, of one caller."""
    grace = grace_of_three()
    cases = [(bad, timings) for bad in BAD for timings in (True, False)]
    for bad, timings in cases:
        upstream.script = script_of(path, bad, timings=timings)
        response = call(worker, grace, path, stream=stream)
        assert response.status_code == 200, (bad, response.text)
        assert '"error":{' not in response.text, (bad, response.text)
        assert path not in STREAMED or "lo" in response.text
    rows = rows_of(grace, len(cases))
    check_meters(worker, grace, rows)
    assert {(row.status, row.error, row.is_estimated) for row in rows} == {(200, "", True)}
    assert all(row.completion_tokens >= 2 for row in rows) == (path in STREAMED)


def test_what_is_no_json_is_no_answer_and_has_a_row(worker, upstream):
    """Python writes NaN, JSON has none."""
    grace = grace_of_three()
    upstream.script = llama.sends(llama.STREAM_HEAD, llama.event(choices=[], usage={"prompt_tokens": float("nan")}))
    assert [call(worker, grace, "chat/completions", stream=True).status_code for _ in range(CALLS)] == [502] * CALLS
    rows = rows_of(grace, CALLS)
    check_meters(worker, grace, rows)


def test_several_huge_counts_are_no_more_than_a_row_holds(worker, upstream):
    grace = grace_of_three()
    most = 2**31 - 1
    choices = [{"finish_reason": "stop", "index": index, "delta": {"content": "Hi"}} for index in range(2)]
    usage = {"completion_tokens": most, "prompt_tokens": most}
    events = [llama.event(choices=[each], usage=usage) for each in choices]
    upstream.script = llama.sends(llama.STREAM_HEAD, *events, llama.DONE)
    body = {**MESSAGES, "n": 2}
    response = httpx.post(f"{worker.url}/v1/chat/completions", headers=grace.headers, json=body, timeout=30)
    assert response.status_code == 200, response.text
    (row,) = rows_of(grace, 1)
    assert (row.prompt_tokens, row.completion_tokens) == (most, most)


@pytest.mark.parametrize("bad", [-(10**7), "7", None, 2.5, 2**31, True])
def test_a_prompt_whose_count_is_untrue_is_not_counted(worker, upstream, bad):
    """The bound of the prompt is too much for the quota, so that its tokens are asked for: they stay unknown."""
    tier = new_tier()
    tier.quotas.create(metric="tokens", window="minute", limit=600)
    grace = person("grace", tier)
    upstream.script = llama.sends(llama.whole("200 OK", {"input_tokens": bad}))
    body = {"messages": [{"role": "user", "content": "long " * 200}], "max_tokens": 8}
    response = httpx.post(f"{worker.url}/v1/chat/completions", headers=grace.headers, json=body, timeout=30)
    assert response.status_code == 503
    quotas = httpx.get(f"{worker.url}/auth/me", headers=grace.headers).json()["quotas"]
    assert [(each["used"], each["remaining"]) for each in quotas] == [(0, 600)]


def test_a_message_that_lost_its_start_is_told_whatever_the_count(worker, upstream):
    """A llama-server loses the start of a message, and is asked for the prompt's tokens: it says -1."""
    grace = grace_of_three()
    events = list(message_events(0))[1:]
    lost = llama.sends(llama.STREAM_HEAD, *events)
    counted = llama.sends(llama.whole("200 OK", {"input_tokens": -1}))
    upstream.script = llama.plays(*[lost, counted] * CALLS)
    for _ in range(CALLS):
        response = call(worker, grace, "messages", stream=True)
        assert response.status_code == 200
        assert '"error"' not in response.text
        start = json.loads(response.text.split("data: ")[1].split("\n")[0])
        assert start["message"]["usage"]["input_tokens"] == 0
    rows = rows_of(grace, CALLS)
    assert all(row.is_estimated for row in rows)
    check_meters(worker, grace, rows)
