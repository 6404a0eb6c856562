"""The ledger beside what the llama-server itself counted: equal to the token, but for the last few of cut answers."""

import json
import random
import socket
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import httpx
import pytest
from django.db.models import Sum

from proxy.gateway import gateway
from proxy.models import UsageRecord
from tests.effort import effort
from tests.proxy.test_endings import busy_slots
from tests.servers import PATIENCE, LiveGateway, wait_until

pytestmark = pytest.mark.once

WORDS = ["sea", "sun", "moon", "tree", "bird", "stone", "river", "cloud"]
STORY = "Write a very long story about the "
TOKEN = {  # how the event of a token is known
    "chat/completions": b'"content":"',
    "completions": b'"text":"',
    "responses": b'"delta":"',
    "messages": b'"text_delta"',
}
MIXED_CALLS = effort(500)
MOST_UNSEEN = 40  # of 400 tokens: made between the last event seen and our leaving. On idle cores they are 4 at most


class Counted(NamedTuple):
    prompt: int  # computed and cached
    completion: int

    def since(self, before: "Counted") -> "Counted":
        return Counted(self.prompt - before.prompt, self.completion - before.completion)


def counted_by(llama: str) -> Counted:
    """What a llama-server has counted, once it is idle."""
    wait_until(lambda: not busy_slots(llama), "it is idle")
    lines = httpx.get(f"{llama}/metrics", timeout=PATIENCE).text.splitlines()
    counts = {line.split()[0]: int(float(line.split()[1])) for line in lines if line.startswith("llamacpp:")}
    prompt = counts["llamacpp:prompt_tokens_total"] + counts["llamacpp:prompt_tokens_cached_total"]
    return Counted(prompt, counts["llamacpp:tokens_predicted_total"])


def in_the_ledger(caller) -> Counted:
    rows = UsageRecord.objects.filter(user=caller.user)
    total = rows.aggregate(prompt=Sum("prompt_tokens"), completion=Sum("completion_tokens"))
    return Counted(total["prompt"] or 0, total["completion"] or 0)


def some_call(choose: random.Random) -> tuple[str, dict[str, Any]]:
    """A call of any kind that has a stream."""
    said = " ".join(choose.choices(WORDS, k=choose.randrange(1, 9)))
    messages = [{"role": "user", "content": said}]
    common = {"temperature": choose.choice([0, 1]), "stream": choose.random() < 0.5}
    length = choose.randrange(1, 12)
    return choose.choice(
        [
            ("chat/completions", {"messages": messages, "max_tokens": length, **common}),
            ("chat/completions", {"messages": messages, "max_tokens": length, "n": 2, **common}),
            ("completions", {"prompt": said, "max_tokens": length, **common}),
            ("completions", {"prompt": [said, "The " + said], "max_tokens": length, **common}),
            ("responses", {"input": said, "max_output_tokens": length, **common}),
            ("messages", {"messages": messages, "max_tokens": length, **common}),
        ]
    )


def some_long_call(choose: random.Random, path: str) -> dict[str, Any]:
    said = STORY + " and the ".join(choose.sample(WORDS, 3))
    body: dict[str, Any] = {"temperature": 0, "stream": True}
    if path == "responses":
        return {**body, "input": said, "max_output_tokens": 400}
    if path == "completions":
        return {**body, "prompt": said, "max_tokens": 400, "grammar": "root ::= [a-z ]{900}"}  # else it may end early
    return {**body, "messages": [{"role": "user", "content": said}], "max_tokens": 400}


def cut(live: LiveGateway, token: str, path: str, body: dict[str, Any], events: int) -> None:
    """Make a call, and leave after so many events with text."""
    content = json.dumps(body).encode()
    head = f"POST /v1/{path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n"
    with socket.create_connection(("127.0.0.1", live.port), timeout=PATIENCE) as wire:
        wire.sendall(f"{head}Content-Length: {len(content)}\r\n\r\n".encode() + content)
        came = b""
        while came.count(TOKEN[path]) < events:
            part = wire.recv(4096)
            assert part, came
            came += part


@pytest.fixture
def before(live, llama) -> Counted:
    return counted_by(llama)


def recorded(caller, calls: int) -> None:
    wait_until(lambda: UsageRecord.objects.filter(user=caller.user).count() == calls, "all rows are written")


def test_mixed_calls_of_which_a_tenth_is_cut(live, llama, bob, http, before):
    choose = random.Random(11)
    token, cuts_of_each = bob.token, MIXED_CALLS // 10 // len(TOKEN)
    begun_cuts = MIXED_CALLS - cuts_of_each * len(TOKEN)
    plans = [(number, *some_call(choose)) for number in range(begun_cuts)]
    plans += [
        (number, path, some_long_call(choose, path)) for number, path in enumerate([*TOKEN] * cuts_of_each, begun_cuts)
    ]
    choose.shuffle(plans)

    def call(plan: tuple[int, str, dict[str, Any]]) -> None:
        number, path, body = plan
        if number >= begun_cuts:
            cut(live, token, path, body, events=2 + number % 7)
            return
        response = http.post(f"/v1/{path}", headers={"Authorization": f"Bearer {token}"}, json=body)
        assert response.status_code == 200, response.text

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(call, plans))
    theirs = counted_by(llama).since(before)
    recorded(bob, MIXED_CALLS)
    ours = in_the_ledger(bob)
    cuts = UsageRecord.objects.filter(user=bob.user, is_estimated=True)
    assert set(cuts.values_list("error", "status")) == {("client_left", 200)}
    assert cuts.count() == MIXED_CALLS - begun_cuts
    assert ours.prompt == theirs.prompt
    assert 0 <= theirs.completion - ours.completion <= MOST_UNSEEN * cuts.count()


@pytest.mark.parametrize("path", TOKEN)
def test_calls_that_ended_agree_to_the_token(live, llama, bob, post, before, path):
    choose = random.Random(path)
    plans = [plan for plan in (some_call(choose) for _ in range(60)) if plan[0] == path][:8]
    for _, body in plans:
        assert post(path, bob, **body).status_code == 200
    recorded(bob, len(plans))
    assert len(plans) >= 4
    assert in_the_ledger(bob) == counted_by(llama).since(before)


@pytest.mark.parametrize("events", [1, 2, 5, 20])
@pytest.mark.parametrize("path", TOKEN)
def test_a_call_that_was_cut_is_known_to_a_few_tokens(live, llama, bob, before, path, events):
    cut(live, bob.token, path, some_long_call(random.Random(events), path), events)
    recorded(bob, 1)
    ours, theirs = in_the_ledger(bob), counted_by(llama).since(before)
    assert ours.prompt == theirs.prompt
    assert events - 1 <= ours.completion
    assert 0 <= theirs.completion - ours.completion <= MOST_UNSEEN


@pytest.mark.parametrize("path", ["chat/completions", "messages"])
def test_a_cut_answer_in_characters_of_several_tokens_is_known_as_well(live, llama, bob, before, path):
    body = {
        "messages": [{"role": "user", "content": "\U0001f31f" * 30}],
        "temperature": 0,
        "stream": True,
    }  # it goes on so
    cut(live, bob.token, path, {**body, "max_tokens": 400}, events=8)
    recorded(bob, 1)
    ours, theirs = in_the_ledger(bob), counted_by(llama).since(before)
    assert ours.prompt == theirs.prompt
    assert ours.completion > 16
    assert 0 <= theirs.completion - ours.completion <= MOST_UNSEEN


def test_a_prompt_that_was_cut_is_known_as_far_as_it_was_computed(live, llama, bob, before):
    """The client leaves while the prompt is being computed: what was done of it is billed, and nothing more."""
    said = "".join(random.Random(3).choices("abcdefghijklmnopqrstuvwxyz ", k=2000))
    content = json.dumps({"messages": [{"role": "user", "content": said}], "stream": True}).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {bob.token}\r\n"
    with socket.create_connection(("127.0.0.1", live.port), timeout=PATIENCE) as wire:
        wire.sendall(f"{head}Content-Length: {len(content)}\r\n\r\n".encode() + content)
        wait_until(lambda: busy_slots(llama), "it is computed")
    recorded(bob, 1)
    row = UsageRecord.objects.get(user=bob.user)
    assert (row.status, row.error, row.completion_tokens, row.is_estimated) == (499, "client_left", 0, True)
    assert gateway().pool.members[0].in_flight == 0
