"""A stream that is silent is kept alive; one that talks is left alone."""

import asyncio
import json
import socket
import threading

import pytest

from llmgateway.heartbeat import Heartbeat
from proxy.gateway import gateway
from tests import fake_llama as llama
from tests.servers import PATIENCE, wait_until, wait_until_async

pytestmark = pytest.mark.once

EVENT = b"data: x\n\n"


def nobody() -> None:
    raise AssertionError("Nobody has stalled.")


class Hurried(asyncio.SelectorEventLoop):
    """A loop whose clock goes on only while it has nothing else to do, to when the next timer is due."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.select, self._selector.select = self._selector.select, self.hurry

    def time(self) -> float:
        return self.now

    def hurry(self, timeout: float | None) -> list:
        self.now += timeout or 0.0
        return self.select(0)


def scene(play, interval=0.05):
    """What was sent while `play` ran with a heartbeat, on a clock of its own."""
    sent: list[bytes] = []

    async def send(message) -> None:
        sent.append(message["body"])

    async def run() -> None:
        with Heartbeat(send, interval, nobody) as alive:
            await play(alive, sent)

    with asyncio.Runner(loop_factory=Hurried) as runner:
        runner.run(run())
    return sent


def test_silence_is_broken_by_comments():
    sent = scene(lambda alive, sent: asyncio.sleep(0.52))
    assert 5 <= len(sent) <= 10
    assert set(sent) == {b":\n\n"}


def test_a_stream_that_talks_gets_none():
    async def talk(alive, sent):
        for _ in range(20):
            await alive.send(EVENT)
            await asyncio.sleep(0.14)

    assert scene(talk, interval=0.15) == [EVENT] * 20


def test_nothing_comes_between_a_part_that_is_under_way():
    blocked = asyncio.Event()
    sent = []

    async def send(message) -> None:
        sent.append(message["body"])
        await blocked.wait()

    async def run() -> None:
        with Heartbeat(send, 0.02, nobody) as alive:
            sending = asyncio.create_task(alive.send(EVENT))
            await asyncio.sleep(0.1)  # five intervals, in which nothing may come
            blocked.set()
            await sending

    asyncio.run(run())
    assert sent == [EVENT]


def test_comments_do_not_pile_up_before_a_client_that_does_not_read():
    sent = []

    async def send(message) -> None:
        sent.append(message["body"])
        await asyncio.Event().wait()

    async def run() -> int:
        with Heartbeat(send, 0.01, nobody):
            await wait_until_async(lambda: sent, "the first comment is sent")
            await asyncio.sleep(0.2)  # twenty intervals, in which no other may come
        await asyncio.sleep(0)
        return len(asyncio.all_tasks())

    assert asyncio.run(run()) == 1
    assert sent == [b":\n\n"]


def test_a_client_that_takes_nothing_is_given_up(monkeypatch):
    monkeypatch.setattr("llmgateway.heartbeat.STALLED", 0.05)

    async def run() -> None:
        given_up = asyncio.Event()
        with Heartbeat(lambda message: asyncio.Event().wait(), 0.02, given_up.set) as alive:
            sending = asyncio.create_task(alive.send(EVENT))
            async with asyncio.timeout(PATIENCE):
                await given_up.wait()
            sending.cancel()

    asyncio.run(run())


def test_it_ends_with_its_block():
    async def run() -> int:
        with Heartbeat(lambda message: asyncio.sleep(0), 0.01, nobody):
            await asyncio.sleep(0.02)
        return len(asyncio.all_tasks())

    assert asyncio.run(run()) <= 2  # this one, and one that is just being cancelled


# -- and in a whole request ------------------------------------------------------------------------------------------


def test_a_client_that_stops_reading_gives_its_place_back(fake, soon, bob, live, monkeypatch):
    monkeypatch.setattr("llmgateway.heartbeat.STALLED", 0.2)
    fakes = []
    fakes.append(fake(llama.sends_and_hangs(fakes, llama.STREAM_HEAD, *[llama.token("x" * 1000)] * 20_000)))
    body = json.dumps({"messages": [{"role": "user", "content": "Hi"}], "stream": True}).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {bob.token}\r\n"
    with socket.create_connection(("127.0.0.1", live.port), timeout=PATIENCE) as wire:
        wire.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        wait_until(lambda: fakes[0].seen, "the call runs")
        wait_until(lambda: gateway().pool.members[0].in_flight == 0, "the place is free, though the client stays")


@pytest.fixture
def soon(live, settings):
    settings.HEARTBEAT_AFTER = 0.1


def is_comments(part):
    """One or more comments: what was sent apart may be read together."""
    return bool(part) and not part.replace(":\n\n", "")


def begin(http, caller, **fields):
    body = {"messages": [{"role": "user", "content": "Hi"}], "stream": True, **fields}
    return http.stream("POST", "/v1/chat/completions", headers=caller.headers, json=body)


def test_a_stream_whose_first_event_is_late_begins_with_comments(fake, soon, bob, http, gate):
    fake(llama.sends_late(gate, llama.STREAM_HEAD, llama.token("Hi"), llama.FINISH, llama.USAGE, llama.DONE))
    with begin(http, bob) as response:
        assert response.status_code == 200
        assert response.headers["x-ratelimit-limit-requests"] == "1000"
        text = response.iter_text()
        assert is_comments(next(text))
        assert is_comments(next(text))
        gate.set()
        rest = "".join(text)
    assert rest.lstrip(":\n").startswith('data: {"choices"')
    assert rest.endswith("data: [DONE]\n\n")


@pytest.mark.parametrize("parts", [[], [llama.STREAM_HEAD], [llama.whole("500 Oh", {})]])
def test_a_fault_after_comments_is_an_error_event(fake, soon, bob, http, gate, parts):
    fake(llama.sends_late(gate, *parts))
    with begin(http, bob) as response:
        text = response.iter_text()
        assert is_comments(next(text))
        gate.set()
        assert '"code":"upstream_error"' in "".join(text)


def test_a_call_that_was_begun_with_comments_may_still_go_to_another(fake, soon, bob, http, gate):
    fake(llama.sends_late(gate))
    other = fake(llama.sends(llama.STREAM_HEAD, llama.token("Well"), llama.FINISH, llama.USAGE, llama.DONE))
    with begin(http, bob) as response:
        text = response.iter_text()
        assert is_comments(next(text))
        gate.set()
        assert '"content":"Well"' in "".join(text)
    assert len(other.seen) == 1


def test_silence_in_the_middle_gets_comments_too(fake, soon, bob, http, gate):
    parts = [llama.token("lo"), llama.FINISH, llama.USAGE, llama.DONE]
    fake(llama.sends_then_cuts(gate, llama.STREAM_HEAD + llama.token("Hel"), *parts))
    with begin(http, bob) as response:
        text = response.iter_text()
        assert "Hel" in next(part for part in text if not is_comments(part))  # the first token may be late itself
        assert is_comments(next(text))
        gate.set()
        assert "".join(text).endswith("data: [DONE]\n\n")


def test_a_caller_without_stream_gets_nothing_until_the_end(fake, soon, bob, chat, gate):
    threading.Timer(0.3, gate.set).start()
    fake(llama.sends_late(gate, llama.STREAM_HEAD, llama.token("Hi"), llama.FINISH, llama.USAGE, llama.DONE))
    assert chat(bob).json()["choices"][0]["message"]["content"] == "Hi"


def test_a_client_that_leaves_during_comments_leaves_the_llama_server(fake, soon, bob, http):
    fakes = []
    fakes.append(fake(llama.sends_and_hangs(fakes)))
    with begin(http, bob) as response:
        assert is_comments(next(response.iter_text()))
    wait_until(fakes[0].gone.is_set, "the llama-server was left")
