"""A llama-server that hangs, and a gateway that stood still or may open no more files: who is blamed, what is lost."""

import asyncio
import os
import resource
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from subprocess import DEVNULL

import httpx
import pytest
from django.conf import settings

from proxy.circuit import State
from proxy.gateway import gateway
from proxy.pool import Pool
from proxy.upstream import UpstreamClient
from tests import fake_llama
from tests.cast import member, person
from tests.conftest import CHAT
from tests.fake_llama import FakeLlama
from tests.servers import ROOT, Worker, answers, free_port, wait_until

pytestmark = pytest.mark.once

WELL = [fake_llama.STREAM_HEAD, fake_llama.token("Well"), fake_llama.FINISH, fake_llama.USAGE, fake_llama.DONE]


class OwnLlama:
    """A real llama-server that a test may stop and continue."""

    def __init__(self, slots: int = 2) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        command = [sys.executable, str(ROOT / "examples" / "llama_server.py"), "--port", str(self.port)]
        self.process = subprocess.Popen([*command, "--slots", str(slots)], stdout=DEVNULL, stderr=DEVNULL)

    def __enter__(self) -> "OwnLlama":
        wait_until(lambda: answers(f"{self.url}/health"), "llama-server is up", within=60)
        return self

    def __exit__(self, *exc: object) -> None:
        self.process.kill()
        self.process.wait()

    def stop(self) -> None:
        self.process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        self.process.send_signal(signal.SIGCONT)


@pytest.fixture
def watched(live, monkeypatch):
    """Puts llama-servers behind the gateway, which looks at them as it does at any."""

    def serve(*urls: str) -> list:
        monkeypatch.setattr(settings, "LLAMA_SERVERS", urls)
        wait_until(lambda: [each.url for each in gateway().pool.members] == list(urls), "they serve")
        wait_until(lambda: all(each.is_up for each in gateway().pool.members), "all are up", within=30)
        return list(gateway().pool.members)

    before = settings.LLAMA_SERVERS
    yield serve
    monkeypatch.setattr(settings, "LLAMA_SERVERS", before)
    wait_until(lambda: [each.url for each in gateway().pool.members] == list(before), "the usual one serves")
    wait_until(lambda: gateway().pool.is_up, "it is up", within=30)


def test_one_that_hangs_is_out_and_its_calls_go_elsewhere(live, watched, bob, chat, together):
    good = FakeLlama(fake_llama.sends_and_cuts(*WELL), slots=1)
    with OwnLlama() as hanging:
        own, _ = watched(hanging.url, good.url)
        hanging.stop()
        stopped_at = time.monotonic()
        try:
            with together(*[lambda number=number: chat(bob, stream=number % 2 == 0) for number in range(6)]) as calls:
                wait_until(lambda: own.in_flight == 2, "calls hang there")
                wait_until(lambda: not own.is_up, "it is out", within=60)
                out_after = time.monotonic() - stopped_at
                responses = [call.result() for call in calls]
            assert [each.status_code for each in responses] == [200] * 6
            assert all("Well" in each.text for each in responses)
            assert own.health == "down: it did not answer, and sent nothing, for 5 s"
            wait_until(lambda: not own.in_flight, "its places are free")
            assert out_after < 10
        finally:
            hanging.go_on()
        wait_until(lambda: own.is_up, "it is back", within=30)
    good.close()


def test_a_stream_that_was_begun_waits_for_one_that_hangs(live, watched, bob, http):
    good = FakeLlama(fake_llama.sends_and_cuts(*WELL))
    with OwnLlama() as hanging:
        own, _ = watched(hanging.url, good.url)
        body = {**CHAT, "stream": True, "max_tokens": 400, "grammar": "root ::= [a-z ]{900}"}
        with http.stream("POST", "/v1/chat/completions", headers=bob.headers, json=body, timeout=90) as response:
            text = response.iter_text()
            assert "data:" in next(text)
            assert own.in_flight == 1
            hanging.stop()
            wait_until(lambda: not own.is_up, "it is out", within=60)
            hanging.go_on()
            assert "".join(text).rstrip().endswith("[DONE]")
    good.close()


def looked_at(monkeypatch, *, sends_meanwhile: bool, stood_still: bool = False):
    """The state of one that does not answer a question in time."""
    monkeypatch.setattr("proxy.probes.TIMEOUT", 0.2)
    own = member("http://a", "m")

    async def silent(request):
        own.is_heard = sends_meanwhile
        if stood_still:
            pool.pulse._beat_at -= 60
        await asyncio.sleep(60)

    pool = Pool(UpstreamClient(1, 1, transport=httpx.MockTransport(silent)), interval=60)
    pool.members = (own,)
    asyncio.run(pool.look_at(own))
    return own.circuit.state


def test_one_that_neither_answers_nor_sends_anything_is_out_at_once(monkeypatch):
    assert looked_at(monkeypatch, sends_meanwhile=False) is State.OPEN


def test_one_that_is_too_busy_to_answer_but_sends_its_answers_is_not(monkeypatch):
    assert looked_at(monkeypatch, sends_meanwhile=True) is State.CLOSED


def test_one_that_was_asked_while_the_gateway_stood_still_is_not(monkeypatch):
    assert looked_at(monkeypatch, sends_meanwhile=False, stood_still=True) is State.CLOSED


# -- a gateway that is at fault itself -----------------------------------------------------------------------------


class ToldWorker(Worker):
    """A gateway in a process of its own, whose log is kept."""

    def start(self) -> None:
        self.log = tempfile.NamedTemporaryFile()  # noqa: SIM115  # closed at exit
        options = ["--port", str(self.port), "--no-access-log", "--no-proxy-headers"]
        command = [sys.executable, "-m", "uvicorn", "llmgateway.asgi:application", *options]
        self.process = subprocess.Popen(command, cwd=ROOT, env=self.environment, stderr=self.log)

    def __exit__(self, *exc: object) -> None:
        super().__exit__(*exc)
        self.log.close()

    @property
    def told(self) -> list[str]:
        return Path(self.log.name).read_text().splitlines()

    def call(self, headers: dict, **fields: object) -> httpx.Response:
        return httpx.post(f"{self.url}/v1/chat/completions", headers=headers, json={**CHAT, **fields}, timeout=60)


@contextmanager
def callers(worker: ToldWorker, headers: dict, most: int = 6):
    """Callers that make one call after the other until the end of the block. Gives what became of each call."""
    outcomes: list[int] = []
    over = threading.Event()

    def calls(number: int) -> None:
        while not over.is_set():
            outcomes.append(worker.call(headers, stream=number % 2 == 0).status_code)

    with ThreadPoolExecutor(most) as threads:
        running = [threads.submit(calls, number) for number in range(most)]
        try:
            yield outcomes
        finally:
            over.set()
        for each in running:
            each.result()


def test_a_gateway_that_stood_still_blames_nobody(live):
    """The questions that it had asked were answered, and their deadlines ran out, meanwhile."""
    paul = person("paul")
    slow = FakeLlama(fake_llama.sends_and_cuts(*WELL))
    slow.answers_after = 0.3
    with ToldWorker(slow.url, UPSTREAM_POLL_INTERVAL="0.3", UPSTREAM_CONNECT_TIMEOUT="1") as worker:
        headers = paul.headers
        with callers(worker, headers) as outcomes:
            wait_until(lambda: len(outcomes) > 20, "calls are answered", within=60)
            worker.process.send_signal(signal.SIGSTOP)
            time.sleep(7)  # longer than its deadlines: the standstill itself is what is tested
            worker.process.send_signal(signal.SIGCONT)
            answered = len(outcomes)
            wait_until(lambda: len(outcomes) > answered + 20, "calls are answered again", within=60)
        assert set(outcomes) == {200}
        assert not [line for line in worker.told if "is down" in line]
    slow.close()


def test_a_connection_that_was_being_made_meanwhile_is_made_again(live, together):
    paul = person("paul")
    server, accepts = FakeLlama(fake_llama.sends_and_cuts(*WELL)), threading.Event()
    port = server.server.sockets[0].getsockname()[1]
    timing = {"UPSTREAM_POLL_INTERVAL": "60", "UPSTREAM_CONNECT_TIMEOUT": "4"}
    with ToldWorker(server.url, **timing) as worker, full_backlog(server, accepts):
        headers = paul.headers
        with together(lambda: worker.call(headers)) as (call,):
            wait_until(lambda: is_connecting(worker, port), "the gateway connects")
            worker.process.send_signal(signal.SIGSTOP)
            accepts.set()
            time.sleep(8)  # longer than the time that it has to connect: the standstill itself is what is tested
            worker.process.send_signal(signal.SIGCONT)
            assert call.result().status_code == 200
        assert not [line for line in worker.told if "is down" in line]
    server.close()


@contextmanager
def full_backlog(server: FakeLlama, accepts: threading.Event):
    """The server takes no connection before the event is set: those that are being made stay so."""
    with socket.socket(fileno=os.dup(server.server.sockets[0].fileno())) as listener:
        listener.listen(0)
    server.loop.call_soon_threadsafe(accepts.wait)
    fillers = [socket.socket() for _ in range(4)]
    for each in fillers:
        each.setblocking(False)
        each.connect_ex(("127.0.0.1", int(server.url.rsplit(":", 1)[1])))
    threading.Thread(target=lambda: (accepts.wait(), [each.close() for each in fillers])).start()
    try:
        yield
    finally:
        accepts.set()


def is_connecting(worker: ToldWorker, port: int) -> bool:
    """The worker has a connection to this port that nobody has taken yet: SYN_SENT."""
    held = set()
    for each in os.listdir(f"/proc/{worker.process.pid}/fd"):
        with suppress(OSError):
            held.add(os.readlink(f"/proc/{worker.process.pid}/fd/{each}").removeprefix("socket:[").removesuffix("]"))
    with open("/proc/net/tcp") as table:
        rows = [line.split() for line in table.readlines()[1:]]
    return any(row[2].endswith(f":{port:04X}") and row[3] == "02" and row[9] in held for row in rows)


def files_of(worker: ToldWorker) -> int:
    return len(os.listdir(f"/proc/{worker.process.pid}/fd"))


def limit_files(worker: ToldWorker, most: int) -> None:
    _, hard = resource.prlimit(worker.process.pid, resource.RLIMIT_NOFILE)
    resource.prlimit(worker.process.pid, resource.RLIMIT_NOFILE, (most, hard))


def test_a_gateway_without_files_says_so_and_blames_nobody(live, bob):
    good = FakeLlama(fake_llama.sends_and_cuts(*WELL))
    with ToldWorker(good.url, UPSTREAM_POLL_INTERVAL="0.3") as worker, httpx.Client(timeout=30) as client:
        url, headers = f"{worker.url}/v1/chat/completions", bob.headers
        assert client.post(url, headers=headers, json=CHAT).status_code == 200
        before, _ = resource.prlimit(worker.process.pid, resource.RLIMIT_NOFILE)
        limit_files(worker, files_of(worker) - 1)  # the client's own connection stays

        def refused() -> bool:
            response = client.post(url, headers=headers, json=CHAT)
            return response.status_code == 503 and response.json()["error"]["code"] == "overloaded"

        wait_until(refused, "a call is refused")
        for _ in range(20):
            response = client.post(url, headers=headers, json=CHAT)
            assert (response.status_code, response.headers["retry-after"]) == (503, "1")
            assert "limit of open files" in response.json()["error"]["message"]
        said = wait_for_line(worker, "LimitNOFILE")
        assert "may (" in said
        assert client.get(f"{worker.url}/health").status_code == 200
        limit_files(worker, before)
        wait_until(lambda: client.post(url, headers=headers, json=CHAT).status_code == 200, "calls are answered")
        told = worker.told
        assert len([line for line in told if "LimitNOFILE" in line]) <= 4
        assert not [line for line in told if "is down" in line]
    good.close()


def wait_for_line(worker: ToldWorker, text: str) -> str:
    wait_until(lambda: any(text in line for line in worker.told), f"the log says {text}")
    return next(line for line in worker.told if text in line)
