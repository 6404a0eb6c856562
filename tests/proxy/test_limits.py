"""Quotas and concurrency, as callers meet them."""

import asyncio
from collections import Counter

import httpx
import pytest

from accounts.models import Quota, Tier
from proxy.gateway import gateway
from tests import fake_llama as llama
from tests.cast import Person, new_tier, person
from tests.conftest import CHAT
from tests.servers import PATIENCE, wait_until


def at_once(url: str, headers: dict[str, str], calls: int) -> list[httpx.Response]:
    """So many calls of one person at the same time."""

    async def all_of_them() -> list[httpx.Response]:
        limits = httpx.Limits(max_connections=calls)
        async with httpx.AsyncClient(base_url=url, timeout=PATIENCE, limits=limits) as client:
            body = {**CHAT, "max_tokens": 1}
            return await asyncio.gather(
                *(client.post("/v1/chat/completions", headers=headers, json=body) for _ in range(calls))
            )

    return asyncio.run(all_of_them())


def statuses(responses: list[httpx.Response]) -> dict[int, int]:
    return dict(Counter(response.status_code for response in responses))


@pytest.fixture
def clock(live):
    """Stops the store's clock, and moves it ahead by so many seconds."""
    store = gateway().store
    real, now = store.clock, store.clock()
    ahead = [0.0]
    store.clock = lambda: now + ahead[0]

    def move(seconds: float) -> None:
        ahead[0] += seconds

    yield move
    store.clock = real


def test_of_50_calls_at_once_a_free_user_gets_10(live, alice, bob, chat, clock):
    responses = at_once(live.url, alice.headers, 50)
    assert statuses(responses) == {200: 10, 429: 40}
    assert chat(bob).status_code == 200  # others are untouched
    waits = [int(response.headers["retry-after"]) for response in responses if response.status_code == 429]
    clock(max(waits))
    assert chat(alice).status_code == 200


def test_a_second_before_its_retry_after_a_call_is_still_refused(live, chat, clock):
    grace = person("grace", new_tier(requests_a_minute=1))
    chat(grace)
    wait = int(chat(grace).headers["retry-after"])
    clock(wait - 1.5)
    assert chat(grace).status_code == 429
    clock(1.5)
    assert chat(grace).status_code == 200


def test_a_refusal_says_what_and_when(live, chat, clock):
    grace = person("grace", new_tier(requests_a_minute=1))
    assert chat(grace).headers["x-ratelimit-remaining-requests"] == "0"
    refused = chat(grace)
    error = refused.json()["error"]
    assert (refused.status_code, error["code"]) == (429, "rate_limit_exceeded")
    assert "1 requests per minute" in error["message"]
    assert 59 <= int(refused.headers["retry-after"]) <= 61
    assert refused.headers["x-ratelimit-limit-requests"] == "1"
    assert refused.headers["x-ratelimit-remaining-requests"] == "0"
    assert refused.headers["x-ratelimit-reset-requests"].endswith("s")


def test_a_refused_call_costs_nothing(live, chat, clock):
    grace = person("grace", new_tier(requests_a_minute=2))
    assert [chat(grace).status_code for _ in range(6)] == [200, 200, 429, 429, 429, 429]
    clock(61)
    assert [chat(grace).status_code for _ in range(3)] == [200, 200, 429]


@pytest.mark.parametrize("window", ["day", "month"])
def test_a_day_or_month_that_is_used_up_is_said_to_be_of_no_use_to_retry(live, chat, window):
    tier = new_tier()
    tier.quotas.create(window=window, limit=1)
    heidi = person("heidi", tier)
    chat(heidi)
    refused = chat(heidi)
    assert refused.json()["error"]["code"] == "insufficient_quota"
    assert refused.headers["x-should-retry"] == "false"


def test_a_quota_of_nothing_is_no_matter_of_time(live, chat):
    ivan = person("ivan", new_tier(requests_a_minute=0))
    refused = chat(ivan)
    assert (refused.status_code, refused.json()["error"]["code"]) == (400, "request_exceeds_quota")
    assert "retry-after" not in refused.headers


def own_quota(someone, limit):
    """A quota of a user's own, known to the gateway."""
    Quota.objects.create(user=someone.user, metric="requests", window="minute", limit=limit)
    wait_until(lambda: ("user", someone.user.pk) in gateway().policies.quotas, "the quota is known")


def test_a_users_own_quota_stands_in_place_of_the_tiers(live, chat):
    grace = person("grace", new_tier(requests_a_minute=1))
    own_quota(grace, 3)
    assert [chat(grace).status_code for _ in range(4)] == [200, 200, 200, 429]


def test_a_users_own_quota_can_lift_the_limit(live, chat):
    grace = person("grace", new_tier(requests_a_minute=1))
    own_quota(grace, None)
    assert [chat(grace).status_code for _ in range(3)] == [200, 200, 200]


def test_a_quota_of_one_model_counts_only_that(live, chat):
    tier = new_tier()
    tier.quotas.create(window="minute", limit=1, model="another")
    tier.quotas.create(window="minute", limit=2, model="smollm2-135m")
    grace = person("grace", tier)
    assert [chat(grace).status_code for _ in range(3)] == [200, 200, 429]


def test_a_quota_changed_in_the_database_holds(live, chat):
    tier = new_tier(requests_a_minute=1000)
    grace = person("grace", tier)
    assert chat(grace).headers["x-ratelimit-limit-requests"] == "1000"
    Quota.objects.filter(tier=tier).update(limit=1)
    wait_until(lambda: chat(grace).status_code == 429, "the new quota holds")


def test_running_calls_are_limited_and_given_back(live, fake, http, chat):
    judy = person("judy", new_tier(max_concurrent_requests=1))
    fakes = []
    fakes.append(fake(llama.sends_and_hangs(fakes, llama.STREAM_HEAD, llama.token("Hi"))))
    body = {**CHAT, "stream": True}
    with http.stream("POST", "/v1/chat/completions", headers=judy.headers, json=body) as running:
        parts = running.iter_raw()  # kept: httpx hangs up where it is dropped
        next(parts)
        refused = chat(judy)
        assert (refused.status_code, refused.headers["retry-after"]) == (429, "1")
    wait_until(lambda: running_calls(judy) == 0, "the lease is back")


def running_calls(someone: Person) -> int:
    return len(gateway().store.accounts[f"user:{someone.user.pk}"].running)


def test_one_call_after_the_other_never_meets_a_limit_of_one(live, chat):
    judy = person("judy", new_tier(max_concurrent_requests=1))
    kinds = [{"stream": True}, {"stream": False}] * 10
    assert {chat(judy, max_tokens=1, **kind).status_code for kind in kinds} == {200}


def test_migrate_makes_the_three_tiers(live):
    made = Tier.objects.filter(name__in=["free", "premium", "enterprise"])
    limits = {tier.name: [(q.metric, q.window, q.limit) for q in tier.quotas.all()] for tier in made}
    assert limits == {
        "free": [("requests", "minute", 10)],
        "premium": [("requests", "minute", 100)],
        "enterprise": [("requests", "minute", 1000)],
    }
    assert {tier.name: tier.weight for tier in made} == {"free": 1, "premium": 4, "enterprise": 16}
