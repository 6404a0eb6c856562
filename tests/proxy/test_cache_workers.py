"""Several workers on one Redis: an answer is computed once for all of them, through faults as well."""

import asyncio
import itertools
import re
import signal
from collections import Counter
from contextlib import ExitStack, contextmanager

import httpx
import pytest

from proxy.models import UsageRecord
from tests import fake_llama
from tests.cast import person
from tests.conftest import CHAT
from tests.fake_llama import FakeLlama
from tests.servers import PATIENCE, OwnRedis, Worker, wait_until

pytestmark = pytest.mark.once

WORKERS, CALLS = 3, 90
HEAD = fake_llama.STREAM_HEAD
HELLO = [
    HEAD,
    fake_llama.token("Hel", 1),
    fake_llama.token("lo", 2),
    fake_llama.FINISH,
    fake_llama.USAGE,
    fake_llama.DONE,
]


@pytest.fixture
def redis():
    with OwnRedis() as server:
        yield server


@pytest.fixture
def site(live, redis):
    """Makes workers before a llama-server that plays a script."""
    with ExitStack() as stack:

        def make(script, count=WORKERS):
            llama = FakeLlama(script)
            stack.callback(llama.close)
            return llama, [
                stack.enter_context(Worker(llama.url, REDIS_URL=redis.url, CACHE_TTL="3600")) for _ in range(count)
            ]

        yield make


def url(worker):
    return f"{worker.url}/v1/chat/completions"


def call(worker, someone, **fields):
    return httpx.post(url(worker), headers=someone.headers, json={**CHAT, **fields}, timeout=PATIENCE)


def at_once(workers, someone, calls):
    """So many identical calls at the same time, to each worker in turn, every other one for a stream."""
    headers = someone.headers

    async def all_of_them():
        async with httpx.AsyncClient(timeout=PATIENCE, limits=httpx.Limits(max_connections=calls)) as client:
            places = itertools.islice(itertools.cycle(workers), calls)
            kinds = itertools.cycle([False] * len(workers) + [True] * len(workers))
            sent = [
                client.post(url(each), headers=headers, json={**CHAT, "stream": stream})
                for each, stream in zip(places, kinds, strict=False)
            ]
            return await asyncio.gather(*sent)

    return asyncio.run(all_of_them())


def text_of(response):
    if "event-stream" in response.headers["content-type"]:
        return "Hello" if "[DONE]" in response.text and '"error"' not in response.text else response.text
    return response.json()["choices"][0]["message"]["content"]


def waits(worker):
    """Whether a call at this worker has joined another."""
    told = httpx.get(f"{worker.url}/metrics", timeout=PATIENCE).text
    return 'api_cache_requests_total{result="joined"} 1.0' in told


def leads(worker, someone):
    with pytest.raises(httpx.HTTPError):
        call(worker, someone)


@contextmanager
def one_leads_one_waits(together, server, workers, someone, lead=call, **fields):
    """A call at the first worker that is computed, and the same at the second, which waits for it."""
    with together(lambda: lead(workers[0], someone)) as (leader,):
        wait_until(lambda: len(server.seen) == 1, "one computes it")
        with together(lambda: call(workers[1], someone, **fields)) as (follower,):
            wait_until(lambda: waits(workers[1]), "the other waits")
            yield leader, follower


def under_way(workers):
    """How many calls the workers have admitted."""
    told = "\n".join(httpx.get(f"{worker.url}/metrics", timeout=PATIENCE).text for worker in workers)
    return sum(map(float, re.findall(r"^api_cache_requests_total\{.*\} (\S+)$", told, re.MULTILINE)))


def test_identical_calls_at_three_workers_are_computed_once(site, gate, together):
    server, workers = site(fake_llama.sends_late(gate, *HELLO))
    bob = person("bob")
    with together(lambda: at_once(workers, bob, CALLS)) as (calls,):
        wait_until(lambda: under_way(workers) == CALLS, "all wait for the answer")
        gate.set()
        answers = calls.result()
    assert Counter(each.status_code for each in answers) == {200: CALLS}
    assert {text_of(each) for each in answers} == {"Hello"}
    assert len(server.seen) == 1
    assert Counter(each.headers["x-cache"] for each in answers) == {"miss": 1, "joined": CALLS - 1}


def test_what_one_worker_computed_another_knows(site):
    server, workers = site(fake_llama.sends_and_cuts(*HELLO), 2)
    bob = person("bob")
    assert [call(each, bob).headers["x-cache"] for each in workers] == ["miss", "hit"]
    assert len(server.seen) == 1


def test_when_redis_dies_between_the_leaders_start_and_end_all_are_answered(site, redis, gate, together):
    server, workers = site(fake_llama.sends_late(gate, *HELLO), 2)
    bob = person("bob")
    with one_leads_one_waits(together, server, workers, bob) as calls:
        redis.kill()
        wait_until(lambda: len(server.seen) == 2, "the other goes its own way")
        gate.set()
        answers = [each.result() for each in calls]
    assert [text_of(each) for each in answers] == ["Hello"] * 2
    later = call(workers[0], bob)
    assert (later.status_code, later.headers["x-cache"]) == (200, "miss")
    redis.start()
    wait_until(lambda: call(workers[0], bob).headers["x-cache"] == "hit", "it is used again")


def test_when_the_upstream_dies_the_other_worker_tries_at_once(site, gate, together):
    cut, good = fake_llama.sends_late(gate, HEAD, fake_llama.token("Hel", 1)), fake_llama.sends_and_cuts(*HELLO)
    server, workers = site(fake_llama.plays(cut, good), 2)
    with one_leads_one_waits(together, server, workers, person("bob")) as (leader, follower):
        gate.set()
        wait_until(lambda: len(server.seen) == 2, "the other tries")
        assert leader.result().status_code == 502
        assert (follower.result().headers["x-cache"], text_of(follower.result())) == ("miss", "Hello")


def test_when_the_leading_worker_is_killed_another_computes_it(site, gate, together):
    server, workers = site(fake_llama.sends_late(gate, *HELLO), 2)
    bob = person("bob")
    with one_leads_one_waits(together, server, workers, bob, leads, stream=True) as (_, follower):
        workers[0].process.send_signal(signal.SIGKILL)
        wait_until(lambda: len(server.seen) == 2, "the other computes it")
        gate.set()
        assert text_of(follower.result()) == "Hello"
    rows = UsageRecord.objects.filter(user=bob.user, cache="miss", status=200)
    wait_until(rows.exists, "it is charged for that")
    assert (rows.get().prompt_tokens, rows.get().completion_tokens) == (5, 2)
