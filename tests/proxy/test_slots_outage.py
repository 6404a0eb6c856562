"""Redis is killed while more calls wait than the workers' shares of the slots: none is lost, and none breaks."""

import asyncio
import time
from contextlib import ExitStack

import httpx
import pytest

from proxy.models import UsageRecord
from tests import fake_llama as llama
from tests.cast import new_tier, person
from tests.conftest import CHAT
from tests.fake_llama import FakeLlama
from tests.servers import OwnRedis, Worker, is_listening, wait_until, wait_until_async

pytestmark = pytest.mark.once

SLOTS, CALLS = 4, 60
SECONDS = 0.3  # of one answer
ANSWER = [llama.token("Hel", 1), llama.token("lo", 2), llama.FINISH, llama.USAGE, llama.DONE]


async def answer_slowly(_, writer):
    """Play a llama-server that works for a moment."""
    writer.write(llama.STREAM_HEAD)
    await asyncio.sleep(SECONDS)
    writer.writelines(ANSWER)
    await writer.drain()


async def call(client, worker, headers, *, stream):
    began = time.monotonic()
    response = await client.post(
        f"{worker.url}/v1/chat/completions", headers=headers, json={**CHAT, "stream": stream}, timeout=120
    )
    return response, time.monotonic() - began


async def outage(redis, workers, headers, server):
    """Calls at both workers, of which most wait; Redis goes, and comes back when all that waited may go on alone."""
    async with httpx.AsyncClient(limits=httpx.Limits(max_connections=CALLS)) as client:
        calls = [
            asyncio.create_task(call(client, workers[number % 2], headers, stream=number % 4 < 2))
            for number in range(CALLS)
        ]
        await wait_until_async(lambda: len(server.seen) >= 2 * SLOTS, "slots are handed on", within=60)
        redis.kill()
        gone_with = len(server.seen)
        await wait_until_async(lambda: len(server.seen) >= gone_with + 3 * SLOTS, "shares are given", within=60)
        await asyncio.to_thread(redis.start)
        return await asyncio.gather(*calls)


def test_redis_killed_while_many_wait_costs_no_call(live):
    grace = person("grace", new_tier())
    server = FakeLlama(answer_slowly, slots=SLOTS)
    with OwnRedis() as redis, ExitStack() as stack:
        stack.callback(server.close)
        workers = [stack.enter_context(Worker(server.url, REDIS_URL=redis.url)) for _ in range(2)]
        answers = asyncio.run(outage(redis, workers, grace.headers, server))
        assert {response.status_code for response, _ in answers} == {200}
        assert [response.text for response, _ in answers if '"error"' in response.text] == []
        assert all("lo" in response.text for response, _ in answers)
        rows = UsageRecord.objects.filter(user=grace.user)
        wait_until(lambda: rows.count() == CALLS, "each call has its row", within=20)
        assert set(rows.values_list("status", "error", "is_free", "prompt_tokens", "completion_tokens")) == {
            (200, "", False, 5, 2)
        }
        assert len(server.seen) == CALLS
        assert is_listening(redis.port)
        for worker in workers:
            wait_until(lambda: busy_slots(worker) == 0, "no slot is kept")  # noqa: B023


def busy_slots(worker):
    lines = httpx.get(f"{worker.url}/metrics").text.splitlines()
    return max(float(line.split()[-1]) for line in lines if line.startswith('api_upstream_slots{state="busy"'))
