"""A llama-server that hangs, and a gateway that stood still or may open no more files: who is blamed, what is lost."""

import asyncio
import os
import re
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress

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
        self.process = subprocess.Popen([*command, "--slots", str(slots)], stdout=-3, stderr=-3)

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
        own, other = watched(hanging.url, good.url)
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
        self.log = open(f"/tmp/llmgateway-test-{self.port}.log", "w+b")  # noqa: SIM115  # closed at exit
        options = ["--port", str(self.port), "--no-access-log", "--no-proxy-headers"]
        command = [sys.executable, "-m", "uvicorn", "llmgateway.asgi:application", *options]
        self.process = subprocess.Popen(command, cwd=ROOT, env=self.environment, stderr=self.log)

    def __exit__(self, *exc: object) -> None:
        super().__exit__(*exc)
        self.log.close()
        os.unlink(self.log.name)

    @property
    def told(self) -> list[str]:
        self.log.seek(0)
        return self.log.read().decode().splitlines()

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
    """Its deadlines run out meanwhile: of questions and of connections that are being made."""
    paul = person("paul")
    slow = FakeLlama(fake_llama.sends_and_cuts(*WELL))
    slow.answers_after = 0.3
    settings = {"UPSTREAM_POLL_INTERVAL": "0.3", "UPSTREAM_CONNECT_TIMEOUT": "1", "LOG_LEVEL": "INFO"}
    with ToldWorker(slow.url, **settings) as worker:
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
