"""However a call ends, it is settled once, and what it held is given back: slot, lease, tasks and connections."""

import json
import random
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import httpx
import pytest

from proxy.gateway import gateway
from proxy.models import UsageRecord
from proxy.records import Record
from tests import fake_llama
from tests.conftest import CHAT
from tests.effort import effort
from tests.servers import PATIENCE, LiveGateway, wait_until

ENDLESS = "root ::= x x x x x x\nx ::= [a-z ]{1500}"  # a grammar of an answer that ends by its max_tokens, not before
LONG = {**CHAT, "max_tokens": 1500, "grammar": ENDLESS}


def busy_slots(llama: str) -> int:
    return sum(slot["is_processing"] for slot in httpx.get(f"{llama}/slots", timeout=PATIENCE).json())


def predicted(llama: str) -> int:
    """The tokens that a llama-server has made, as it counts them when a slot is free again."""
    lines = httpx.get(f"{llama}/metrics", timeout=PATIENCE).text.splitlines()
    return next(int(float(line.split()[1])) for line in lines if line.startswith("llamacpp:tokens_predicted_total "))


def connections() -> int:
    """Connections of the gateway to its llama-servers, in use and idle ones."""
    connector = gateway().client._transport.client.connector
    return len(connector._acquired) + sum(len(idle) for idle in connector._conns.values())


def send(live: LiveGateway, token: str, body: dict) -> socket.socket:
    """Send a call on a socket of its own, to be left at will."""
    wire = socket.create_connection(("127.0.0.1", live.port), timeout=PATIENCE)
    content = json.dumps(body).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nConnection: close\r\nAuthorization: Bearer {token}\r\n"
    wire.sendall(f"{head}Content-Length: {len(content)}\r\n\r\n".encode() + content)
    return wire


@pytest.fixture
def impatience(live):
    """Has the gateway wait so many seconds for an answer's next byte."""

    @contextmanager
    def wait(seconds: float):
        client = gateway().client
        patience = client.idle_timeout, client._extensions
        client.idle_timeout, client._extensions = seconds, {"timeout": {"connect": seconds, "read": seconds}}
        yield
        client.idle_timeout, client._extensions = patience

    return wait


@pytest.fixture
def quiet(live, llama):
    """Nothing runs, before and after: tasks, leases and slots are back to where they were."""
    wait_until(lambda: not busy_slots(llama), "no slot is busy")
    tasks = live.tasks()
    yield
    wait_until(lambda: live.tasks() <= tasks, "no task is left over")
    wait_until(lambda: not busy_slots(llama), "no slot is busy")
    assert [each.in_flight for each in gateway().pool.members] == [0]


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_leaves_frees_the_slot_at_once(live, quiet, bob, llama, stream):
    before = predicted(llama)
    with send(live, bob.token, {**LONG, "stream": stream}):
        wait_until(lambda: busy_slots(llama) == 1, "the call runs")
    wait_until(lambda: not busy_slots(llama), "the slot is free")
    assert predicted(llama) - before < LONG["max_tokens"] / 2


def test_a_client_that_leaves_in_the_middle_of_a_stream_frees_the_slot(live, quiet, bob, llama):
    before = predicted(llama)
    with send(live, bob.token, {**LONG, "stream": True}) as wire:
        wait_until(lambda: b"content" in wire.recv(4096), "an event came")
    wait_until(lambda: not busy_slots(llama), "the slot is free")
    assert predicted(llama) - before < LONG["max_tokens"] / 2


# -- every ending, settled once --------------------------------------------------------------------------------------

TWO = fake_llama.token("Hel", 1) + fake_llama.token("lo", 2)
ENDED = fake_llama.FINISH + fake_llama.USAGE + fake_llama.DONE
HEAD = fake_llama.STREAM_HEAD
HALF = fake_llama.chunk(b'data: {"choices":[{"finish_reason":null,"ind')
FLOOD = fake_llama.token("x" * 1000, 2) * 20_000

# what the llama-server sends, whether it then keeps silent or ends, what the client reads before it leaves (None: all),
# and the row: of a stream, of a whole answer. A row is status, error, and tokens: prompt, cached, completion.
KNOWN = (5, 3, 2)
UNKNOWN = (0, 0, 0)
ENDINGS = {
    "normal": ([HEAD, TWO, ENDED], "ends", None, (200, "", *KNOWN), (200, "", *KNOWN)),
    "refused": ([fake_llama.whole("400 Bad", {})], "ends", None, (400, "invalid_request_error", *UNKNOWN), None),
    "an error event": (
        [HEAD, TWO, fake_llama.ERROR],
        "ends",
        None,
        (200, "upstream_error", *KNOWN),
        (502, "upstream_error", *KNOWN),
    ),
    "cut": ([HEAD, TWO], "ends", None, (200, "upstream_error", *KNOWN), (502, "upstream_error", *KNOWN)),
    "cut in an event": (
        [HEAD, TWO, HALF],
        "ends",
        None,
        (200, "upstream_error", *KNOWN),
        (502, "upstream_error", *KNOWN),
    ),
    "cut before an event": ([HEAD], "ends", None, (502, "upstream_error", *UNKNOWN), None),
    "a hang": ([HEAD, TWO], "hangs", None, (200, "upstream_timeout", *KNOWN), (504, "upstream_timeout", *KNOWN)),
    "a hang before headers": ([], "hangs", None, (504, "upstream_timeout", *UNKNOWN), None),
    "the client leaves before headers": ([], "hangs", b"", (499, "client_left", *UNKNOWN), None),
    "the client leaves before the first event": ([HEAD], "hangs", b"", (499, "client_left", *UNKNOWN), None),
    "the client leaves in an event": (
        [HEAD, TWO, HALF],
        "hangs",
        b"lo",
        (200, "client_left", *KNOWN),
        (499, "client_left", *KNOWN),
    ),
    "the client leaves while a send blocks": (
        [HEAD, FLOOD],
        "hangs",
        b"200 OK",
        (200, "client_left", *KNOWN),
        (499, "client_left", *KNOWN),
    ),
}


def read_until(wire: socket.socket, mark: bytes) -> None:
    came = b""
    while mark not in came:
        part = wire.recv(4096)
        assert part, came
        came += part


def rows_of(caller) -> list[UsageRecord]:
    wait_until(lambda: gateway().ledger.waiting == 0, "all rows are written")
    return list(UsageRecord.objects.filter(user=caller.user))


@pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])
@pytest.mark.parametrize("ending", ENDINGS)
def test_a_call_is_settled_once(live, quiet, fake, bob, impatience, begun, ending, stream):
    sent, then, reads, of_stream, of_whole = ENDINGS[ending]
    fakes = []
    play = fake_llama.sends_and_hangs(fakes, *sent) if then == "hangs" else fake_llama.sends_and_cuts(*sent)
    fakes.append(fake(play))
    sockets = len(live.server.server_state.connections)
    with (
        impatience(1 if ending.startswith("a hang") else PATIENCE),
        send(live, bob.token, {**CHAT, "stream": stream}) as wire,
    ):
        if reads is None:
            while wire.recv(65536):
                pass
        else:
            wait_until(lambda: fakes[0].seen, "the call has arrived")
            if len(sent) > 1:
                assert begun.wait(PATIENCE), "the gateway has seen an event"
            read_until(wire, reads if stream else b"")
            wait_until(lambda: not stream or reads != b"200 OK" or is_blocked(live), "the gateway blocks in a send")
    wait_until(lambda: gateway().pool.members[0].in_flight == 0, "the place is free")
    wait_until(lambda: connections() == 0, "no connection to a llama-server is left")
    wait_until(lambda: len(live.server.server_state.connections) <= sockets, "nor one of a client")
    wait_until(lambda: UsageRecord.objects.filter(user=bob.user).exists(), "the row is written")
    (row,) = rows_of(bob)
    tokens = row.prompt_tokens, row.cached_tokens, row.completion_tokens
    expected = of_stream if stream or of_whole is None else of_whole
    assert (row.status, row.error, *tokens) == expected
    assert row.is_estimated is (ending not in ("normal", "refused"))
    assert (row.streamed, row.endpoint, row.tier) == (stream, "chat-completions", "enterprise")


@pytest.fixture
def begun(monkeypatch) -> threading.Event:
    """Is set when the gateway has the first event of an answer."""
    seen, first_token = threading.Event(), Record.first_token
    monkeypatch.setattr(Record, "first_token", lambda record: (first_token(record), seen.set()))
    return seen


def is_blocked(live: LiveGateway) -> bool:
    """The gateway has stopped writing to a client that does not read."""
    return any(connection.flow.write_paused for connection in live.server.server_state.connections)


def test_hundreds_of_calls_with_random_departures_leave_nothing_behind(live, quiet, bob, llama):
    choose = random.Random(7)
    plans = [(choose.random() < 0.5, choose.choice([None, 0, 1, 300])) for _ in range(effort(500))]

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
    wait_until(lambda: connections() <= 1, "idle connections are closed")  # one is the pool's look


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
