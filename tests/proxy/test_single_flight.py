"""Identical calls that are under way at the same time share one call of a llama-server, and what becomes of it."""

import json
import secrets
from collections import Counter

import httpx
import pytest
from django.conf import settings

from proxy.cache.memory import MemoryAnswers
from proxy.cache.redis import RedisAnswers
from proxy.gateway import gateway
from proxy.models import RefusalCount, UsageRecord
from tests import fake_llama
from tests.cast import new_tier, person
from tests.conftest import CHAT
from tests.proxy.test_endings import send
from tests.servers import OwnRedis, wait_until

pytestmark = pytest.mark.once

HEAD = fake_llama.STREAM_HEAD
HEL, LO = fake_llama.token("Hel", 1), fake_llama.token("lo", 2)
ENDED = [fake_llama.FINISH, fake_llama.USAGE, fake_llama.DONE]
HELLO = [HEAD, HEL, LO, *ENDED]


@pytest.fixture(scope="module")
def redis():
    with OwnRedis() as server:
        yield server


@pytest.fixture(autouse=True, params=["memory", "redis"])
def cache(request, live, redis, monkeypatch):
    """An empty one, that is on, and has no flight left when the test has ended, nor a turn or a task."""
    store = MemoryAnswers(64 * 1024 * 1024)
    if request.param == "redis":
        store = RedisAnswers(redis.url, 64 * 1024 * 1024, lambda _: None, secrets.token_hex(4))
    monkeypatch.setattr(settings, "CACHE_TTL", 3600)
    monkeypatch.setattr(gateway().cache, "store", store)
    live.run(store.start())
    tasks = live.tasks()
    yield gateway().cache
    wait_until(lambda: not gateway().cache._flights, "no flight is left over")
    wait_until(lambda: not sum(each.in_flight for each in gateway().pool.members), "all places are free")
    wait_until(lambda: live.tasks() <= tasks, "no task is left over")
    assert not getattr(store, "_turns", None)
    live.run(store.stop())


def aboard() -> int:
    return sum(flight.aboard for flight in gateway().cache._flights.values())


def text_of(response: httpx.Response) -> str:
    if "event-stream" not in response.headers["content-type"]:
        return response.json()["choices"][0]["message"]["content"]
    events = [line[6:] for line in response.text.splitlines() if line.startswith("data: ") and line != "data: [DONE]"]
    chunks = [chunk for chunk in map(json.loads, events) if chunk.get("choices")]
    return "".join(chunk["choices"][0]["delta"].get("content") or "" for chunk in chunks)


def ids_of(response: httpx.Response) -> set[str]:
    if "event-stream" not in response.headers["content-type"]:
        return {response.json()["id"]}
    return {json.loads(line[6:])["id"] for line in response.text.splitlines() if line.startswith('data: {"')}


def row_of(response: httpx.Response) -> UsageRecord:
    found = UsageRecord.objects.filter(request_id=response.headers["x-request-id"])
    wait_until(found.exists, "it is in the ledger")
    return found.get()


def tokens_of(row: UsageRecord) -> tuple[int, int]:
    return row.prompt_tokens, row.completion_tokens


@pytest.mark.parametrize("stream", [False, True])
def test_of_many_at_once_one_is_computed(fake, gate, chat, bob, together, stream):
    server = fake(fake_llama.sends_late(gate, *HELLO))
    with together(*[lambda: chat(bob, stream=stream)] * 8) as calls:
        wait_until(lambda: aboard() == 8, "all are aboard")
        gate.set()
        answers = [call.result() for call in calls]
    assert len(server.seen) == 1
    assert Counter(each.headers["x-cache"] for each in answers) == {"miss": 1, "joined": 7}
    assert {text_of(each) for each in answers} == {"Hello"}
    assert len(set.union(*map(ids_of, answers))) == 8
    assert Counter(tokens_of(row_of(each)) for each in answers) == {(5, 2): 1, (0, 0): 7}


@pytest.mark.parametrize("leads", [False, True], ids=["whole leads", "stream leads"])
def test_a_stream_and_a_whole_answer_share_a_call(fake, gate, chat, bob, together, leads):
    server = fake(fake_llama.sends_late(gate, *HELLO))
    with together(lambda: chat(bob, stream=leads), lambda: chat(bob, stream=not leads)) as calls:
        wait_until(lambda: aboard() == 2, "both are aboard")
        gate.set()
        assert [text_of(call.result()) for call in calls] == ["Hello", "Hello"]
    assert len(server.seen) == 1


def test_who_comes_later_hears_all_of_it_and_the_rest_as_it_comes(live, fake, gate, bob):
    server = fake(fake_llama.sends_then_cuts(gate, HEAD + HEL, LO, *ENDED))
    first = send(live, bob.token, {**CHAT, "stream": True})
    wait_until(lambda: b"Hel" in first.recv(4096), "the first hears it")
    second = send(live, bob.token, {**CHAT, "stream": True})
    wait_until(lambda: b"Hel" in second.recv(4096), "the second does, before its end")
    assert not gate.is_set()
    gate.set()
    for each in (first, second):
        wait_until(lambda wire=each: b"[DONE]" in wire.recv(4096), "it hears the end")
        each.close()
    assert len(server.seen) == 1


@pytest.mark.parametrize("stream", [False, True])
def test_when_the_leaders_client_leaves_the_others_are_answered(live, fake, gate, chat, together, stream):
    server = fake(fake_llama.sends_late(gate, *HELLO))
    bob = person("bob")
    leader = send(live, bob.token, {**CHAT, "stream": stream})
    wait_until(lambda: server.seen, "the leader's call is under way")
    with together(lambda: chat(bob, stream=stream)) as (call,):
        wait_until(lambda: aboard() == 2, "both are aboard")
        leader.close()
        wait_until(lambda: aboard() == 1, "the leader has left")
        gate.set()
        assert text_of(call.result()) == "Hello"
    rows = UsageRecord.objects.filter(user=bob.user)
    wait_until(lambda: rows.count() == 2, "both are in the ledger")
    told = {row.cache: (row.status, row.error, tokens_of(row)) for row in rows}
    assert told == {"miss": (499, "client_left", (5, 2)), "joined": (200, "", (0, 0))}
    assert chat(bob).headers["x-cache"] == "hit"
    assert len(server.seen) == 1


def test_when_all_have_left_the_llama_server_is_left_too(live, fake, bob):
    fakes = []
    fakes.append(fake(fake_llama.sends_and_hangs(fakes, HEAD, HEL)))
    calls = [send(live, bob.token, {**CHAT, "stream": True}) for _ in range(3)]
    for each in calls:
        wait_until(lambda wire=each: b"Hel" in wire.recv(4096), "it hears the start")
    calls[0].close()
    calls[1].close()
    wait_until(lambda: aboard() == 1, "one is left")
    assert not fakes[0].gone.is_set()
    calls[2].close()
    wait_until(fakes[0].gone.is_set, "the llama-server was left")


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("callers", [1, 3])
def test_calls_that_leave_before_anything_came_leave_nothing_behind(live, fake, chat, callers, stream):
    fakes = []
    hangs = fake_llama.sends_and_hangs(fakes, HEAD)
    fakes.append(fake(fake_llama.plays(hangs, fake_llama.sends_and_cuts(*HELLO))))
    someone = person("grace", new_tier(max_concurrent_requests=callers))
    calls = [send(live, someone.token, {**CHAT, "stream": stream}) for _ in range(callers)]
    wait_until(lambda: fakes[0].seen and aboard() == callers, "they wait")
    for each in calls:
        each.close()
    wait_until(fakes[0].gone.is_set, "the llama-server was left")
    rows = UsageRecord.objects.filter(user=someone.user, status=499)
    wait_until(lambda: rows.count() == callers, "each is in the ledger")
    assert text_of(chat(someone)) == "Hello"
    assert len(fakes[0].seen) == 2


def cut_then_hello(gate):
    """A llama-server that breaks the first call off, once the gate is open, and answers the next."""
    return fake_llama.plays(fake_llama.sends_late(gate, HEAD, HEL), fake_llama.sends_and_cuts(*HELLO))


def test_when_the_leaders_upstream_dies_the_others_try_once_more_together(fake, gate, chat, bob, together):
    server = fake(cut_then_hello(gate))
    with together(*[lambda: chat(bob)] * 5) as calls:
        wait_until(lambda: aboard() == 5, "all are aboard")
        gate.set()
        answers = [call.result() for call in calls]
    assert Counter(each.status_code for each in answers) == {502: 1, 200: 4}
    assert {text_of(each) for each in answers if each.status_code == 200} == {"Hello"}
    assert len(server.seen) == 2
    assert Counter(tokens_of(row_of(each)) for each in answers) == {(5, 1): 1, (5, 2): 1, (0, 0): 3}
    led = [each for each in answers if each.status_code == 200 and each.headers["x-cache"] == "miss"]
    assert len(led) == 1


def test_when_it_dies_again_they_are_told(fake, chat, bob, gate, together):
    server = fake(fake_llama.sends_late(gate, HEAD, HEL))
    with together(*[lambda: chat(bob)] * 4) as calls:
        wait_until(lambda: aboard() == 4, "all are aboard")
        gate.set()
        assert [call.result().status_code for call in calls] == [502] * 4
    assert len(server.seen) == 2


def test_who_has_heard_a_part_is_told_of_the_fault_in_the_stream(live, fake, gate, bob, chat, together):
    fake(fake_llama.plays(fake_llama.sends_then_cuts(gate, HEAD + HEL), fake_llama.sends_and_cuts(*HELLO)))
    with together(*[lambda: chat(bob, stream=True)] * 2) as calls:
        wait_until(lambda: aboard() == 2, "both are aboard")
        gate.set()
        answers = [call.result() for call in calls]
    assert all('"error"' in each.text and "[DONE]" not in each.text for each in answers)
    assert {text_of(each) for each in answers} == {"Hel"}


PROGRESS = fake_llama.event(choices=[{"finish_reason": None, "index": 0, "delta": {}}], prompt_progress={
    "total": 5, "cache": 3, "processed": 5, "time_ms": 1
})  # fmt: skip


@pytest.mark.parametrize(
    ("stream", "before_the_cut", "asked", "text"),
    [
        (False, HEL, 2, "Hello"),
        (True, PROGRESS, 2, "Hello"),
        (True, HEL, 1, "Hel"),
    ],
    ids=["a whole answer", "a stream that has not begun", "a stream that has"],
)
def test_another_llama_server_takes_over_where_nothing_was_told(fake, chat, bob, stream, before_the_cut, asked, text):
    first = fake(fake_llama.sends_and_cuts(HEAD, before_the_cut))
    second = fake(fake_llama.sends_and_cuts(*HELLO))
    answer = chat(bob, stream=stream)
    assert answer.headers["x-cache"] == "miss"
    assert text_of(answer) == text
    assert len(first.seen) + len(second.seen) == asked
    assert ('"error"' in answer.text) == (asked == 1)


def test_who_boards_between_two_tries_is_told_the_second_only(fake, gate, chat, bob, together):
    fake(fake_llama.sends_and_cuts(fake_llama.STREAM_HEAD, fake_llama.token("AAA", 1)))
    texts = [fake_llama.token(text, number) for number, text in enumerate(("one ", "two ", "three"), 1)]
    ending = (fake_llama.FINISH, fake_llama.USAGE, fake_llama.DONE)
    second = fake(fake_llama.sends_late(gate, fake_llama.STREAM_HEAD, *texts, *ending))

    def follow():
        wait_until(lambda: second.seen, "it goes on to the second")
        return chat(bob, stream=True)

    with together(lambda: chat(bob), follow) as calls:
        wait_until(lambda: aboard() == 2, "both are aboard")
        gate.set()
        assert [text_of(call.result()) for call in calls] == ["one two three"] * 2


def test_a_stream_that_was_heard_is_not_begun_anew_by_one_that_says_it_loads(fake, gate, chat, bob, together):
    loading = fake_llama.chunk(b'data: {"error":{"code":503,"message":"Loading model","type":"unavailable_error"}}\n\n')
    fake(fake_llama.sends_then_cuts(gate, HEAD + HEL, loading))
    second = fake(fake_llama.sends_and_cuts(*HELLO))
    with together(lambda: chat(bob, stream=True)) as (call,):
        wait_until(lambda: any(flight._events for flight in gateway().cache._flights.values()), "it has begun")
        gate.set()
        answer = call.result()
    assert text_of(answer) == "Hel"
    assert '"error"' in answer.text
    assert second.seen == []


@pytest.mark.parametrize("stream", [False, True])
def test_who_follows_is_charged_for_an_answer_and_not_for_a_fault(fake, gate, chat, bob, together, monkeypatch, stream):
    monkeypatch.setattr(settings, "CACHE_HIT_TOKENS", 7)
    wrong = fake_llama.whole("400 Bad", {"error": {"code": 400, "message": "No such grammar."}})
    fake(fake_llama.plays(fake_llama.sends_late(gate, wrong), fake_llama.sends_late(gate, *HELLO)))
    for tokens in ([(0, 0)] * 2, [(5, 2), (7, 0)]):
        gate.clear()
        with together(*[lambda: chat(bob, stream=stream)] * 2) as calls:
            wait_until(lambda: aboard() == 2, "both are aboard")
            gate.set()
            assert sorted(tokens_of(row_of(call.result())) for call in calls) == tokens


def test_a_mistake_of_the_call_is_told_to_all_and_asked_once(fake, gate, chat, bob, together):
    wrong = fake_llama.whole("400 Bad", {"error": {"code": 400, "message": "No such grammar."}})
    server = fake(fake_llama.sends_late(gate, wrong))
    with together(*[lambda: chat(bob)] * 3) as calls:
        wait_until(lambda: aboard() == 3, "all are aboard")
        gate.set()
        assert [call.result().status_code for call in calls] == [400] * 3
    assert len(server.seen) == 1


def test_who_followed_for_nothing_and_has_no_room_to_lead_is_refused_in_the_end(
    fake, gate, chat, together, monkeypatch
):
    monkeypatch.setattr(settings, "CACHE_SCOPE", "all")
    fake(cut_then_hello(gate))
    tier = new_tier(requests_a_minute=5)
    tier.quotas.create(metric="tokens", window="hour", limit=60)
    tier.quotas.create(metric="tokens", window="day", limit=10)
    poor = person("grace", tier)
    with together(lambda: chat(person("bob"))) as (leader,):
        wait_until(lambda: aboard() == 1, "one leads")
        with together(lambda: chat(poor)) as (follower,):
            wait_until(lambda: aboard() == 2, "one follows")
            gate.set()
            refused = follower.result()
        assert leader.result().status_code == 502
    assert refused.json()["error"]["code"] == "request_exceeds_quota"
    wait_until(RefusalCount.objects.filter(user=poor.user).exists, "the refusal is counted")
    assert not UsageRecord.objects.filter(user=poor.user).exists()
    assert refused.headers["x-ratelimit-remaining-requests"] == "5"


def test_a_refused_call_leaves_no_flight_behind(chat, cache):
    poor = person("grace", new_tier(requests_a_minute=0))
    assert chat(poor).status_code == 400
    assert cache._flights == {}


def test_an_answer_that_a_quota_shortened_is_nobody_elses(fake, gate, chat, together):
    fake(fake_llama.plays(fake_llama.sends_late(gate, *HELLO), fake_llama.sends_and_cuts(*HELLO)))
    tier = new_tier()
    tier.quotas.create(metric="tokens", window="hour", limit=2000)
    someone = person("grace", tier)
    with together(lambda: chat(someone, max_tokens=1000)) as (held,):
        wait_until(lambda: aboard() == 1, "much is reserved")
        other = {"messages": [{"role": "user", "content": "Another."}], "max_tokens": 1000}
        shortened = chat(someone, **other)
        gate.set()
        held.result()
    assert shortened.headers["x-cache"] == "bypass"
    assert 500 < int(shortened.headers["x-max-tokens"]) < 1000
    assert [chat(someone, **other).headers["x-cache"] for _ in range(2)] == ["miss", "hit"]


def test_a_place_is_not_counted_twice_when_many_share_it(fake, gate, chat, together):
    fake(fake_llama.sends_late(gate, *HELLO))
    someone = person("grace", new_tier(max_concurrent_requests=3))
    with together(*[lambda: chat(someone)] * 4) as calls:
        wait_until(lambda: aboard() == 3 and any(call.done() for call in calls), "three are aboard, one was refused")
        gate.set()
        assert Counter(call.result().status_code for call in calls) == {200: 3, 429: 1}
    assert chat(someone).status_code == 200
