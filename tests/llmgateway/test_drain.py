"""SIGTERM loses no call: what runs ends, what waits is told to go elsewhere, and the process ends with 0."""

import json
import signal
import socket
import threading
from contextlib import ExitStack

import httpx
import pytest

from proxy.models import UsageRecord
from tests import fake_llama
from tests.cast import person
from tests.conftest import CHAT
from tests.fake_llama import FakeLlama
from tests.servers import PATIENCE, Worker, wait_until

pytestmark = pytest.mark.once
REST = [fake_llama.FINISH, fake_llama.USAGE, fake_llama.DONE]


@pytest.fixture
def begun(live):
    """A worker before one slot, that streams a call and has another one in its queue, until `go` is set."""
    go = threading.Event()
    first = fake_llama.STREAM_HEAD + fake_llama.token("Hi")
    server = FakeLlama(fake_llama.sends_then_cuts(go, first, *REST), slots=1)
    with ExitStack() as stack:
        stack.callback(server.close)
        stack.callback(go.set)

        def begin(**environment):
            worker = stack.enter_context(Worker(server.url, **environment))
            return worker, go, server

        yield begin


def call(worker, headers, **fields):
    return httpx.post(f"{worker.url}/v1/chat/completions", headers=headers, json={**CHAT, **fields}, timeout=PATIENCE)


def waits(worker):
    return 'api_queue_depth{model="smollm2-135m"} 1.0' in httpx.get(f"{worker.url}/metrics", timeout=PATIENCE).text


def status(worker, path):
    try:
        return httpx.get(f"{worker.url}{path}", timeout=PATIENCE).status_code
    except httpx.HTTPError:
        return None


def test_a_stream_ends_and_what_waits_is_told_to_go_elsewhere(begun, together):
    worker, go, server = begun()
    alice, bob = person("alice"), person("bob")
    mine, others = alice.headers, bob.headers
    with together(lambda: call(worker, mine, stream=True)) as (streamed,):
        wait_until(lambda: server.seen, "the stream has begun")
        with together(lambda: call(worker, others)) as (queued,):
            wait_until(lambda: waits(worker), "the other one waits")
            worker.process.send_signal(signal.SIGTERM)
            refused = queued.result()
        go.set()
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "overloaded")
    assert refused.headers["retry-after"] == "1"
    assert refused.headers["connection"] == "close"
    assert streamed.result().text.endswith("data: [DONE]\n\n")
    assert worker.process.wait(PATIENCE) == 0
    rows = {row.user_id: row for row in UsageRecord.objects.filter(user__in=[alice.user, bob.user])}
    assert (rows[alice.user.pk].status, rows[alice.user.pk].completion_tokens) == (200, 2)
    assert (rows[bob.user.pk].error, rows[bob.user.pk].is_free) == ("overloaded", True)


def test_before_that_it_is_not_ready_and_serves_for_as_long_as_it_was_told_to(begun):
    worker, go, _ = begun(DRAIN_NOTICE="30")
    go.set()
    headers = person("carol").headers
    worker.process.send_signal(signal.SIGTERM)
    wait_until(lambda: status(worker, "/health/ready") == 503, "it is not ready")
    assert status(worker, "/health") == 200
    answer = call(worker, headers)
    assert answer.status_code == 200
    assert "connection" not in answer.headers


@pytest.mark.parametrize("stream", [True, False])
def test_what_does_not_end_in_time_is_cut_and_told_so(begun, together, stream):
    worker, _, server = begun(DRAIN_TIMEOUT="2")  # seconds in which the first token must have come
    dave = person("dave")
    headers = dave.headers
    with together(lambda: call(worker, headers, stream=stream)) as (running,):
        wait_until(lambda: server.seen, "it has begun")
        worker.process.send_signal(signal.SIGTERM)
        response = running.result()
    told = json.loads(response.text.split("\n\n")[-2][6:]) if stream else response.json()
    assert told["error"]["code"] == "overloaded"
    assert response.status_code == (200 if stream else 503)
    assert worker.process.wait(PATIENCE) == 0
    row = UsageRecord.objects.get(user=dave.user)
    assert (row.error, row.is_free, row.completion_tokens) == ("overloaded", False, 1)


def test_a_body_that_comes_late_does_not_hold_up_the_end(begun):
    worker, _, _ = begun(DRAIN_TIMEOUT="0.5")
    body = json.dumps({**CHAT, "stream": True}).encode()
    head = "".join(f"{name}: {value}\r\n" for name, value in person("erin").headers.items())
    with socket.create_connection(("127.0.0.1", worker.port)) as client:
        request = f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\n{head}Content-Length: {len(body)}\r\n\r\n"
        client.sendall(request.encode() + body[:10])
        wait_until(
            lambda: "api_requests_total" in httpx.get(f"{worker.url}/metrics", timeout=PATIENCE).text,
            "the head has come",
        )
        worker.process.send_signal(signal.SIGTERM)
        wait_until(lambda: status(worker, "/health/live") is None, "it does not listen any more")
        wait_until(lambda: client.send(body[10:]) and True, "the rest is sent")
        assert worker.process.wait(PATIENCE) == 0
