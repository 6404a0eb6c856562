"""However a call ends, what it held is given back: the llama-server's slot, the lease, tasks and connections."""

import json
import random
import socket
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from proxy.gateway import gateway
from tests import fake_llama
from tests.conftest import CHAT
from tests.servers import LiveGateway, wait_until

LONG = {**CHAT, "max_tokens": 1500, "messages": [{"role": "user", "content": "Write a very long story."}]}


def busy_slots(llama: str) -> int:
    return sum(slot["is_processing"] for slot in httpx.get(f"{llama}/slots").json())


def connections() -> int:
    """Connections of the gateway to its llama-servers, in use and idle ones."""
    connector = gateway().client._transport.client.connector
    return len(connector._acquired) + sum(len(idle) for idle in connector._conns.values())


def send(live: LiveGateway, token: str, body: dict) -> socket.socket:
    """Send a call on a socket of its own, to be left at will."""
    wire = socket.create_connection(("127.0.0.1", live.port), timeout=10)
    content = json.dumps(body).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n"
    wire.sendall(f"{head}Content-Length: {len(content)}\r\n\r\n".encode() + content)
    return wire


@pytest.fixture
def quiet(live, llama):
    """Nothing runs, before and after: tasks, leases and slots are back to where they were."""
    wait_until(lambda: not busy_slots(llama), "no slot is busy")
    tasks = live.tasks()
    yield
    wait_until(lambda: live.tasks() <= tasks, "no task is left over")
    wait_until(lambda: not busy_slots(llama), "no slot is busy", within=1)
    assert [upstream.in_flight for upstream in gateway().pool.upstreams] == [0]


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_leaves_frees_the_slot_within_a_second(live, quiet, bob, llama, stream):
    wire = send(live, bob.token, {**LONG, "stream": stream})
    wait_until(lambda: busy_slots(llama) == 1, "the call runs")
    wire.close()
    wait_until(lambda: not busy_slots(llama), "the slot is free", within=1)


def test_a_client_that_leaves_in_the_middle_of_a_stream_frees_the_slot(live, quiet, bob, llama):
    wire = send(live, bob.token, {**LONG, "stream": True})
    wait_until(lambda: b"content" in wire.recv(4096), "an event came")
    wire.close()
    wait_until(lambda: not busy_slots(llama), "the slot is free", within=1)


def test_a_client_that_leaves_before_an_answer_began_leaves_the_llama_server_too(live, fake, bob):
    fakes = []
    fakes.append(fake(fake_llama.sends_and_hangs(fakes)))
    wire = send(live, bob.token, CHAT)
    wait_until(lambda: fakes[0].seen, "the call has arrived")
    wire.close()
    assert fakes[0].gone.wait(1)


def test_a_client_that_stops_reading_and_leaves_leaves_the_llama_server_too(live, fake, bob):
    fakes = []
    flood = [fake_llama.token("x" * 1000)] * 20_000
    fakes.append(fake(fake_llama.sends_and_hangs(fakes, fake_llama.STREAM_HEAD, *flood)))
    wire = send(live, bob.token, {**CHAT, "stream": True})
    wire.recv(10)
    wire.close()
    wait_until(lambda: gateway().pool.upstreams[0].in_flight == 0, "the lease is back", within=2)


def test_500_calls_with_random_departures_leave_nothing_behind(live, quiet, bob, llama):
    choose = random.Random(7)
    plans = [(choose.random() < 0.5, choose.choice([None, 0, 1, 300])) for _ in range(500)]

    token = bob.token

    def call(plan: tuple[bool, int | None]) -> bool:
        stream, leaves_after = plan
        with send(live, token, {**CHAT, "max_tokens": 4, "stream": stream}) as wire:
            if leaves_after is not None:
                return len(wire.recv(leaves_after) if leaves_after else b"") <= leaves_after
            answer = b""
            while b"[DONE]" not in answer and b'"usage"' not in answer:
                part = wire.recv(65536)
                assert part, answer
                answer += part
            return b" 200 " in answer[:20]

    with ThreadPoolExecutor(16) as threads:
        assert all(threads.map(call, plans))
    wait_until(lambda: not busy_slots(llama), "no slot is busy")
    wait_until(lambda: connections() <= 1, "idle connections are closed", within=6)  # one is the pool's look


def test_a_known_callers_call_uses_no_thread(live, bob, http, monkeypatch):
    headers = bob.headers
    body = {**CHAT, "max_tokens": 2}
    http.post("/v1/chat/completions", headers=headers, json=body)  # known from now on

    def forbidden(*_: object) -> None:
        raise AssertionError("A request called sync_to_async.")

    monkeypatch.setattr("asgiref.sync.SyncToAsync.__call__", forbidden)
    monkeypatch.setattr(live.loop, "threads_forbidden", True)
    calls = [{**body, "stream": True}, body, {"messages": "bad"}]
    assert [http.post("/v1/chat/completions", headers=headers, json=c).status_code for c in calls] == [200, 200, 400]
    assert http.get("/v1/models", headers=headers).status_code == 200
    assert [http.get(path).status_code for path in ("/health", "/v1/nope")] == [200, 404]


def test_the_watch_for_threads_sees_one(live, monkeypatch):
    monkeypatch.setattr(live.loop, "threads_forbidden", True)

    async def leave() -> None:
        await live.loop.run_in_executor(None, print)

    with pytest.raises(AssertionError, match="left the event loop"):
        live.run(leave())
