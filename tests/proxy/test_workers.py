"""Several workers on one Redis and one database: what an admin typed holds for all of them together."""

import asyncio
import itertools
from collections import Counter
from contextlib import ExitStack, closing, contextmanager

import httpx
import pytest
from django.db import connection
from django.db.models import F, Sum
from django.test import Client
from django.urls import reverse

from accounts.models import Quota, User
from proxy.models import UsageRecord
from tests import fake_llama as llama_script
from tests.cast import bearer, new_tier, person
from tests.conftest import CHAT
from tests.fake_llama import FakeLlama
from tests.servers import PATIENCE, OwnRedis, Worker, wait_until


@pytest.fixture(scope="module")
def redis():
    with OwnRedis() as server:
        yield server


@pytest.fixture(scope="module")
def workers(live, llama, redis):
    """Two, in front of a real llama-server."""
    with ExitStack() as stack:
        yield [stack.enter_context(Worker(llama, REDIS_URL=redis.url)) for _ in range(2)]


def call(worker, someone, **fields):
    return httpx.post(
        f"{worker.url}/v1/chat/completions", headers=someone.headers, json={**CHAT, **fields}, timeout=PATIENCE
    )


def at_once(workers, someone, calls, **fields):
    """So many calls at the same time, to each worker in turn."""
    body, headers = {**CHAT, "max_tokens": 1, **fields}, someone.headers

    async def all_of_them():
        async with httpx.AsyncClient(timeout=PATIENCE, limits=httpx.Limits(max_connections=calls)) as client:
            places = itertools.islice(itertools.cycle(workers), calls)
            sent = [client.post(f"{each.url}/v1/chat/completions", headers=headers, json=body) for each in places]
            return await asyncio.gather(*sent)

    return asyncio.run(all_of_them())


def left(response, metric="requests"):
    return int(response.headers[f"x-ratelimit-remaining-{metric}"])


def test_a_reset_of_quotas_holds_for_all_workers_together(workers):
    grace = person("grace", new_tier(requests_a_minute=6))
    assert Counter(each.status_code for each in at_once(workers, grace, 8)) == {200: 6, 429: 2}
    User.objects.filter(pk=grace.user.pk).reset_quotas()
    for worker in workers:
        wait_until(lambda: call(worker, grace, max_tokens=1).status_code == 200, "the reset holds")  # noqa: B023
    assert Counter(each.status_code for each in at_once(workers, grace, 8)) == {200: 4, 429: 4}


def test_of_50_calls_at_once_a_free_user_gets_10_from_all_workers_together(workers):
    responses = at_once(workers, person("alice", "free"), 50)
    assert Counter(response.status_code for response in responses) == {200: 10, 429: 40}


def test_what_one_worker_settles_another_knows(workers):
    tier = new_tier()
    tier.quotas.create(metric="tokens", window="minute", limit=1000)
    grace = person("grace", tier)
    total = call(workers[0], grace).json()["usage"]["total_tokens"]
    assert left(models(workers[1], grace), "tokens") == 1000 - total


def test_one_call_after_the_other_never_meets_a_limit_of_one(workers):
    judy = person("judy", new_tier(max_concurrent_requests=1))
    assert {call(worker, judy, max_tokens=1).status_code for worker in workers * 5} == {200}


def test_reads_at_any_worker_count_together(live, llama, redis):
    with ExitStack() as stack:
        settings = {"REDIS_URL": redis.url, "READS_PER_MINUTE": "4"}
        both = [stack.enter_context(Worker(llama, **settings)) for _ in range(2)]
        grace = person("grace")
        assert [models(worker, grace).status_code for worker in both * 3] == [200] * 4 + [429] * 2
        assert call(both[0], grace, max_tokens=1).status_code == 200


def test_me_shows_what_was_used_at_any_worker(workers):
    grace = person("grace", new_tier(requests_a_minute=10))
    call(workers[0], grace)

    def told():
        quotas = httpx.get(f"{workers[1].url}/auth/me", headers=grace.headers, timeout=PATIENCE).json()["quotas"]
        return [(quota["used"], quota["remaining"]) for quota in quotas]

    wait_until(lambda: told() == [(1, 9)], "the other tells it")


# -- changes in the admin ------------------------------------------------------------------------------------------


@pytest.fixture
def admin(live):
    client = Client()
    client.force_login(person("root", is_staff=True, is_superuser=True).user)
    return client


def change_limit(admin, tier, limit):
    """Edit a tier's first quota, as the admin's page does."""
    quota = tier.quotas.get()
    empty = ("max_concurrent_requests", "max_output_tokens", "max_queue_seconds", "allowed_models", "quotas-0-model")
    form = {"name": tier.name, "weight": 1, "quotas-TOTAL_FORMS": 1, "quotas-INITIAL_FORMS": 1} | dict.fromkeys(
        empty, ""
    )
    row = {"id": quota.pk, "tier": tier.pk, "metric": quota.metric, "window": quota.window, "limit": limit}
    form |= {f"quotas-0-{name}": value for name, value in row.items()}
    response = admin.post(reverse("admin:accounts_tier_change", args=[tier.pk]), form)
    assert response.status_code == 302, response.context["errors"]


def test_a_limit_changed_in_the_admin_holds_at_every_worker(workers, admin):
    tier = new_tier(requests_a_minute=1000)
    grace = person("grace", tier)
    assert all(call(worker, grace).status_code == 200 for worker in workers)
    change_limit(admin, tier, 2)
    wait_until(lambda: all(call(worker, grace).status_code == 429 for worker in workers), "it holds")


def test_a_token_quota_typed_in_the_admin_holds(workers, admin):
    tier = new_tier(requests_a_minute=1000)
    grace = person("grace", tier)
    Quota.objects.filter(tier=tier).update(metric="tokens")
    change_limit(admin, tier, 77)
    wait_until(lambda: call(workers[0], grace).headers.get("x-ratelimit-limit-tokens") == "77", "it holds")


def test_a_suspension_holds_at_every_worker(workers, admin):
    grace = person("grace")
    key = bearer(grace.key()[1])

    def statuses():
        return {httpx.get(f"{worker.url}/v1/models", headers=key, timeout=PATIENCE).status_code for worker in workers}

    assert statuses() == {200}
    admin.post(
        reverse("admin:accounts_user_changelist"),
        {"action": "suspend", "_selected_action": [grace.user.pk], "confirmed": "yes"},
    )
    wait_until(lambda: statuses() == {403}, "it holds")


@pytest.mark.skipif(connection.vendor != "postgresql", reason="SQLite has no connections that could be ended.")
def test_a_change_holds_after_postgresql_was_restarted(workers):
    tier = new_tier(requests_a_minute=1000)
    grace = person("grace", tier)
    assert all(call(worker, grace).status_code == 200 for worker in workers)
    with connection.cursor() as cursor:  # what a restart does to its clients
        cursor.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
        assert cursor.fetchall()
    Quota.objects.filter(tier=tier).update(limit=1)
    wait_until(lambda: all(call(worker, grace).status_code == 429 for worker in workers), "it holds")


# -- without Redis -------------------------------------------------------------------------------------------------


def metric(worker, name):
    lines = httpx.get(f"{worker.url}/metrics", timeout=PATIENCE).text.splitlines()
    return [line.split()[1] for line in lines if line.split()[0] == name]


def ready(worker):
    return httpx.get(f"{worker.url}/health/ready", timeout=PATIENCE).status_code


@pytest.mark.parametrize(
    ("policy", "statuses", "is_ready"),
    [("local", [200] * 3 + [429], 200), ("deny", [503] * 4, 503), ("allow", [200] * 4, 200)],
)
def test_without_redis_it_goes_by_its_policy_and_comes_back(live, llama, policy, statuses, is_ready):
    grace = person("grace", new_tier(requests_a_minute=5))
    with OwnRedis() as own, Worker(llama, REDIS_URL=own.url, STORE_DOWN_POLICY=policy) as worker:
        assert metric(worker, "api_store_up") == ["1.0"]
        assert [call(worker, grace, max_tokens=1).status_code for _ in range(2)] == [200, 200]
        own.kill()
        wait_until(lambda: metric(worker, "api_store_up") == ["0.0"], "it is noticed")
        responses = [call(worker, grace, max_tokens=1) for _ in range(4)]
        assert [response.status_code for response in responses] == statuses
        assert ready(worker) == is_ready
        if policy == "deny":
            assert responses[0].json()["error"]["code"] == "store_unavailable"
            assert responses[0].headers["retry-after"] == "1"
            assert metric(worker, f'api_rejections_total{{reason="store",tier="{grace.user.tier.name}"}}') == ["4.0"]
        own.start()
        wait_until(lambda: metric(worker, "api_store_up") == ["1.0"], "it is back")
        assert left(models(worker, grace)) == max(0, 5 - 2 - statuses.count(200))
        assert ready(worker) == 200


# -- a worker that dies --------------------------------------------------------------------------------------------


@contextmanager
def hanging_calls(worker, someone, calls):
    """So many streams that have begun and do not end."""
    with httpx.Client(timeout=PATIENCE) as client, ExitStack() as stack:
        for _ in range(calls):
            body = {**CHAT, "stream": True, "max_tokens": 50}
            stream = client.stream("POST", f"{worker.url}/v1/chat/completions", headers=someone.headers, json=body)
            response = stack.enter_context(stream)
            assert response.status_code == 200
        yield


def test_calls_of_a_killed_worker_are_settled_by_the_next_admission(live, redis):
    tier = new_tier(max_concurrent_requests=10)
    for metric, window in itertools.product(("requests", "tokens"), ("day", "month")):
        tier.quotas.create(metric=metric, window=window, limit=1_000_000)
    grace = person("grace", tier)
    fakes = []
    hangs = llama_script.sends_and_hangs(fakes, llama_script.STREAM_HEAD, llama_script.token("Hi"))
    answers = llama_script.sends(llama_script.whole("200 OK", {"tokens": []}))
    fakes.append(server := FakeLlama(llama_script.plays(*[hangs] * 10, answers)))
    with (
        closing(server),
        Worker(server.url, REDIS_URL=redis.url) as other,
        Worker(server.url, REDIS_URL=redis.url) as dying,
    ):
        with pytest.raises(httpx.RemoteProtocolError), hanging_calls(dying, grace, 10):
            assert tokenize(other, grace).status_code == 429
            dying.process.kill()
            wait_until(lambda: tokenize(other, grace).status_code == 200, "concurrency is back")
            raise httpx.RemoteProtocolError("The streams are cut.")
        rows = UsageRecord.objects.filter(user=grace.user)
        wait_until(lambda: tokenize(other, grace) and rows.filter(error="lost").count() == 10, "all are found")
        wait_until(lambda: used_by(other, grace) == in_ledger(grace), "days and months equal the ledger")
        assert rows.exclude(endpoint="tokenize").count() == 10
        assert in_ledger(grace)["tokens"] != {0}


def in_ledger(someone):
    rows = UsageRecord.objects.filter(user=someone.user)
    tokens = rows.aggregate(sum=Sum(F("prompt_tokens") + F("completion_tokens")))["sum"]
    return {metric: {used} for metric, used in (("requests", rows.count()), ("tokens", tokens))}


def used_by(worker, someone):
    """What a worker says was used, of each metric, in whichever window."""
    quotas = httpx.get(f"{worker.url}/auth/me", headers=someone.headers, timeout=PATIENCE).json()["quotas"]
    return {metric: {each["used"] for each in quotas if each["metric"] == metric} for metric in ("requests", "tokens")}


def tokenize(worker, someone):
    """Make a call that is charged and needs no slot."""
    return httpx.post(f"{worker.url}/v1/tokenize", headers=someone.headers, json={"content": "Hi"}, timeout=PATIENCE)


def models(worker, someone):
    return httpx.get(f"{worker.url}/v1/models", headers=someone.headers, timeout=PATIENCE)
