"""An upstream that fails calls which others answer: no call is lost, and it is out of turn until it is well."""

import json
import re

import pytest
from django.conf import settings

from proxy.circuit import REFUSALS, State
from proxy.floods import FIRST
from proxy.gateway import gateway
from proxy.metrics import UPSTREAM_ERRORS, UPSTREAM_REQUESTS
from proxy.models import UsageRecord
from tests import fake_llama as llama
from tests.cast import new_tier, person
from tests.conftest import CHAT
from tests.fake_llama import FakeLlama
from tests.proxy.test_endings import send
from tests.servers import free_port, wait_until

pytestmark = pytest.mark.once

WELL = [llama.STREAM_HEAD, llama.token("Well"), llama.FINISH, llama.USAGE, llama.DONE]
NONSENSE = [llama.STREAM_HEAD, llama.chunk(b'data: {"choices":[{"fini\n\n'), b"0\r\n\r\n"]
PAGE = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 14\r\n\r\n<html>\nHi.\n\n\n "
KEY = llama.whole("401 Unauthorized", {"error": {"code": 401, "message": "Invalid API Key"}})
BROKEN = llama.whole("500 Internal Server Error", {"error": {"code": 500, "message": "Compute error."}})
REFUSED = llama.whole("400 Bad Request", {"error": {"code": 400, "message": "model is not loaded"}})
FAILURES = {
    "nonsense": NONSENSE,
    "a page": [PAGE],
    "500": [BROKEN],
    "401": [KEY],
    "404": [llama.whole("404 Not Found", {"error": {"code": 404, "message": "File Not Found"}})],
    "an error event": [llama.STREAM_HEAD, llama.ERROR],
}


def sends(*parts: bytes):
    return llama.sends_and_cuts(*parts)


def member_of(server):
    return next(each for each in gateway().pool.members if each.url == server.url)


def comes_back(live, server) -> None:
    """Look at it as the gateway does, until it is on trial."""
    own = member_of(server)

    def is_on_trial() -> bool:
        live.run(gateway().pool.look_at(own))
        return own.circuit.state is State.HALF_OPEN

    wait_until(is_on_trial, "it is on trial")


def count(metric, server, **labels) -> float:
    return metric.labels(upstream=member_of(server).name, **labels)._value.get()


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("kind", FAILURES)
def test_no_call_is_lost_and_it_is_out_of_turn_and_back(live, fake, bob, chat, kind, stream):
    bad, good = fake(sends(*FAILURES[kind])), fake(sends(*WELL))
    own = member_of(bad)
    for _ in range(12):
        response = chat(bob, stream=stream)
        assert response.status_code == 200
        assert "Well" in response.text
    assert own.circuit.is_open
    assert not own.is_up
    assert len(bad.seen) < 6
    assert len(good.seen) == 12
    comes_back(live, bad)
    assert own.capacity == 1
    tried = len(bad.seen)
    assert chat(bob, stream=stream).status_code == 200
    assert len(bad.seen) == tried + 1
    assert own.circuit.is_open
    bad.script = sends(*WELL)
    wait_until(lambda: back(live, bad, lambda: chat(bob, stream=stream)), "it is back")
    assert own.circuit.state is State.CLOSED


def back(live, server, call) -> bool:
    live.run(gateway().pool.look_at(member_of(server)))
    assert call().status_code == 200
    return member_of(server).circuit.state is State.CLOSED


@pytest.mark.parametrize("answer", [[BROKEN], NONSENSE, [KEY]], ids=["500", "nonsense", "401"])
def test_what_all_of_them_answer_alike_is_the_calls_own_fault(fake, bob, chat, answer):
    servers = [fake(sends(*answer)) for _ in range(2)]
    assert {chat(bob).status_code for _ in range(8)} == {502}
    assert [member_of(each).circuit.state for each in servers] == [State.CLOSED] * 2
    assert [len(each.seen) for each in servers] == [8, 8]


def test_a_call_that_two_of_them_fail_is_not_sent_to_a_third(fake, bob, chat):
    servers = [fake(sends(BROKEN)) for _ in range(3)]
    assert chat(bob).status_code == 502
    assert sum(len(each.seen) for each in servers) == 2


def test_where_most_of_them_fail_alike_the_well_one_is_found(fake, bob, chat):
    bad, good = [fake(sends(BROKEN)) for _ in range(2)], fake(sends(*WELL))
    answers = [chat(bob).status_code for _ in range(20)]
    assert answers.count(502) <= 2
    assert answers[-10:] == [200] * 10
    assert any(not member_of(each).is_up for each in bad)
    assert member_of(good).circuit.state is State.CLOSED


def test_the_last_one_that_serves_is_never_out_of_turn(live, fake, bob, chat):
    bad, good = fake(sends(BROKEN)), fake(sends(*WELL))
    for _ in range(6):
        chat(bob)
    assert not member_of(bad).is_up
    live.run(nobody_at(good))
    assert member_of(bad).is_up
    assert [chat(bob).status_code for _ in range(6)] == [502] * 6
    assert member_of(bad).circuit.state is State.CLOSED


async def nobody_at(server) -> None:
    gateway().pool.refused(member_of(server), "refused the connection")


def test_one_that_refuses_every_call_as_wrong_is_compared(fake, bob, chat):
    bad, good = fake(sends(REFUSED)), fake(sends(*WELL))
    assert [chat(bob).status_code for _ in range(REFUSALS)] == [400] * REFUSALS
    assert [chat(bob).status_code for _ in range(6)] == [200] * 6
    assert member_of(bad).circuit.is_ejected
    assert "refuses calls that others answer" in member_of(bad).health
    assert len(good.seen) == 6


def test_callers_who_make_mistakes_put_nobody_out_of_turn(fake, bob, chat):
    servers = [fake(sends(REFUSED)) for _ in range(2)]
    assert {chat(bob).status_code for _ in range(3 * REFUSALS)} == {400}
    assert [member_of(each).circuit.state for each in servers] == [State.CLOSED] * 2


def test_streams_that_break_with_an_error_event_count(fake, bob, chat):
    bad = fake(sends(llama.STREAM_HEAD, llama.token("Hi"), llama.ERROR))
    fake(sends(*WELL))
    answers = [chat(bob, stream=True).text for _ in range(20)]  # not all go there: a broken one frees its slot later
    assert sum('"error"' in each for each in answers) == 3
    assert member_of(bad).circuit.is_ejected


def test_health_and_log_say_it_in_words(fake, bob, chat, caplog):
    bad, _ = fake(sends(BROKEN)), fake(sends(*WELL))
    ids = [chat(bob).headers["x-request-id"] for _ in range(3)]
    own = member_of(bad)
    assert own.health == "out of turn: it answered 500"
    lines = [record.getMessage() for record in caplog.records if record.name == "proxy.pool"]
    said = "it answered 500: 'Compute error.'. It goes on to another one."
    assert lines[:3] == [f"Upstream {own.name} failed call {each}: {said}" for each in ids]
    assert lines[3] == f"Upstream {own.name} is out of turn for a moment: it answered 500."


def test_a_flood_of_failures_is_few_lines(fake, bob, chat, caplog):
    alone = fake(sends(*NONSENSE))
    for _ in range(3 * FIRST):
        assert chat(bob).status_code == 502
    lines = [record.getMessage() for record in caplog.records if record.name == "proxy.pool"]
    assert len(lines) == FIRST
    pattern = (
        rf"Upstream {re.escape(member_of(alone).name)} failed call req_\w+: it sent something that is no answer. Its "
    )
    assert all(re.match(pattern, line) for line in lines)


def test_every_try_is_counted_by_its_outcome(fake, bob, chat):
    bad, good = fake(sends(BROKEN)), fake(sends(*WELL))
    assert chat(bob).status_code == 200
    assert count(UPSTREAM_REQUESTS, bad, outcome="failed") == 1
    assert count(UPSTREAM_ERRORS, bad, kind="upstream_error") == 1
    assert count(UPSTREAM_REQUESTS, good, outcome="answered") == 1
    bad.script = good.script = sends(REFUSED)
    assert chat(bob).status_code == 400
    assert sum(count(UPSTREAM_REQUESTS, each, outcome="refused") for each in (bad, good)) == 1


# -- what a call that was tried twice is charged --------------------------------------------------------------------

HALF = [llama.STREAM_HEAD, llama.token("Hel", 1), llama.token("lo", 2), llama.ERROR]


def row_of(caller) -> UsageRecord:
    wait_until(lambda: UsageRecord.objects.filter(user=caller.user).exists(), "the row is written")
    return UsageRecord.objects.get(user=caller.user)


def test_a_call_that_another_answers_is_charged_once(fake, alice, chat):
    fake(sends(*HALF))
    good = fake(sends(*WELL))
    response = chat(alice)
    assert response.json()["usage"]["total_tokens"] == 7
    assert response.headers["x-ratelimit-remaining-requests"] == "9"
    row = row_of(alice)
    assert (row.status, row.prompt_tokens, row.completion_tokens, row.is_estimated) == (200, 5, 2, False)
    assert row.upstream == member_of(good).name


@pytest.mark.parametrize("second", [[BROKEN], NONSENSE, [KEY]], ids=["500", "nonsense", "401"])
def test_tokens_of_the_first_try_are_kept_where_the_second_has_none(fake, bob, chat, second):
    fake(sends(*HALF))
    fake(sends(*second))
    assert chat(bob).status_code == 502
    row = row_of(bob)
    assert (row.prompt_tokens, row.completion_tokens, row.is_estimated) == (5, 2, True)


@pytest.mark.parametrize("stream", [False, True])
def test_a_shared_call_goes_on_too_and_to_two_at_most(fake, bob, chat, monkeypatch, stream):
    monkeypatch.setattr(settings, "CACHE_TTL", 3600)
    bad, good = fake(sends(*NONSENSE)), fake(sends(*WELL))
    response = chat(bob, stream=stream)
    assert (response.status_code, response.headers["x-cache"]) == (200, "miss")
    assert [len(bad.seen), len(good.seen)] == [1, 1]
    bad.script = good.script = sends(*NONSENSE)
    assert chat(bob, stream=stream, messages=[{"role": "user", "content": "Another."}]).status_code == 502
    assert len(bad.seen) + len(good.seen) == 4


def test_one_that_ends_answers_without_beginning_them_is_down(fake, bob, chat):
    """Of a whole answer: to the caller of a stream, one without a token is an answer."""
    bad = fake(sends(llama.STREAM_HEAD, llama.DONE))
    fake(sends(*WELL))
    assert {chat(bob).status_code for _ in range(6)} == {200}
    assert not member_of(bad).is_up


def test_an_answer_that_runs_out_of_context_counts_as_refused(fake, bob, chat):
    full = {"error": {"code": 500, "message": "Context size has been exceeded.", "type": "server_error"}}
    event = llama.chunk(b"data: " + json.dumps(full).encode() + b"\n\n")
    own = fake(sends(llama.STREAM_HEAD, llama.token("Hi"), event, b"0\r\n\r\n"))
    assert "context_length_exceeded" in chat(bob, stream=True).text
    wait_until(lambda: count(UPSTREAM_REQUESTS, own, outcome="refused") == 1, "it is counted")
    assert count(UPSTREAM_REQUESTS, own, outcome="left") == 0


def test_one_that_waits_for_its_trial_is_not_asked_without_end(live, monkeypatch):
    asked = []
    bad, good = FakeLlama(sends(BROKEN)), FakeLlama(sends(*WELL))
    monkeypatch.setattr(settings, "LLAMA_SERVERS", (bad.url, good.url))
    pool = gateway().pool
    wait_until(lambda: len([each for each in pool.members if each.is_up]) == 2, "both serve", within=30)
    own = member_of(bad)
    for _ in range(3):
        live.run(on_loop(lambda: pool.convicted(own, "answered 500")))
    assert own.circuit.is_ejected
    wait_until(lambda: own.circuit.state is State.HALF_OPEN, "it is on trial", within=30)
    look_at = pool.look_at
    monkeypatch.setattr(pool, "look_at", lambda member: (asked.append(member), look_at(member))[1])
    wait_until(lambda: own in asked, "it is asked", within=30)
    wait_until(lambda: asked.count(own) > 1 or asked.count(member_of(good)) > 1, "one is asked again", within=30)
    assert asked.count(own) <= 2
    monkeypatch.undo()
    wait_until(lambda: len(pool.members) == 1 and pool.is_up, "the usual one serves", within=30)
    for server in (bad, good):
        server.close()


async def on_loop(function) -> None:
    function()


# -- verdicts that are none ------------------------------------------------------------------------------------------


def test_mistakes_put_nobody_out_of_turn_while_the_other_one_is_full(fake, served_by, bob, chat, together, gate):
    full, well = fake(llama.sends_late(gate, *WELL)), fake(sends(REFUSED))
    served_by(full.url, well.url, slots=1)
    mallory = person("mallory", new_tier(max_queue_seconds=1))
    with together(lambda: chat(bob)) as [long]:
        wait_until(lambda: member_of(full).in_flight == 1, "one is full")
        assert {chat(mallory).status_code for _ in range(REFUSALS + 3)} == {400}
        gate.set()
        assert long.result().status_code == 200
    assert member_of(well).circuit.state is State.CLOSED


def test_one_whose_last_call_failed_is_asked_where_the_others_are_gone(fake, served_by, bob, chat):
    bad, doubtful = fake(sends(BROKEN)), fake(sends(*WELL))
    served_by(bad.url, doubtful.url, f"http://127.0.0.1:{free_port()}")
    member_of(doubtful).circuit.is_doubted = True
    assert chat(bob).status_code == 200


def test_a_question_counts_against_one_that_fails_what_another_answers(fake, bob, post):
    bad, good = fake(sends(BROKEN)), fake(sends(llama.whole("200 OK", {"tokens": [1]})))
    assert {post("tokenize", bob, content="Hi").status_code for _ in range(8)} == {200}
    assert len(bad.seen) < 5
    assert len(good.seen) == 8


def test_tokens_of_the_first_try_are_kept_where_the_client_leaves_the_second(live, fake, bob, gate):
    fake(sends(*HALF))
    second = fake(llama.sends_late(gate, *WELL))
    with send(live, bob.token, CHAT):
        wait_until(lambda: second.seen, "it goes on to the second")
    wait_until(lambda: UsageRecord.objects.filter(user=bob.user).exists(), "it has its row")
    row = row_of(bob)
    assert (row.status, row.prompt_tokens, row.completion_tokens, row.is_estimated) == (499, 5, 2, True)
