"""The two lanes, seen from outside."""

import asyncio
import gc
import logging
import re
import socket
import threading
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from llmgateway import asgi
from tests.servers import wait_until

pytestmark = pytest.mark.once


def get(application, path):
    async def call() -> tuple[int, str]:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(application), base_url="http://localhost") as client:
            response = await client.get(path)
            return response.status_code, response.json()["error"]["code"]

    return asyncio.run(call())


@pytest.mark.parametrize(("which", "path"), [("relay", "/auth/me"), ("relay", "/admin/"), ("default", "/v1/models")])
def test_a_lane_that_does_not_run_here_is_not_served(which, path):
    assert get(asgi.lanes(which), path) == (404, "unknown_url")


@pytest.mark.parametrize(("which", "path"), [("relay", "/metrics"), ("default", "/health/live")])
def test_health_and_metrics_are_every_processs_own(live, which, path):
    """The lanes are asked inside the running gateway, whose pool and snapshot they share."""

    async def call() -> int:
        transport = httpx.ASGITransport(asgi.lanes(which))
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            return (await client.get(path)).status_code

    assert live.run(call()) == 200


def test_a_websocket_is_closed():
    sent = []

    async def send(message):
        sent.append(message)

    asyncio.run(asgi.application({"type": "websocket", "path": "/"}, None, send))
    assert sent == [{"type": "websocket.close"}]


def test_each_answer_has_an_id_of_its_own_and_never_the_clients(http):
    ids = {http.get("/health", headers={"x-request-id": "mine"}).headers["x-request-id"] for _ in range(3)}
    ids |= {http.get("/auth/me", headers={"x-request-id": "mine"}).headers["x-request-id"] for _ in range(3)}
    assert len(ids) == 6
    assert all(each.startswith("req_") for each in ids)


@pytest.mark.parametrize(
    ("path", "told"),
    [
        ("/v1/models", "GET models 200 user={name} tier=enterprise"),
        ("/v1/nope?secret", "GET unknown 404 user=- tier=none"),
        ("/auth/me", "GET me 200 user=- tier=none"),
    ],
)
def test_each_request_is_one_line_of_the_log_with_its_id(http, bob, caplog, path, told):
    with caplog.at_level(logging.INFO, "llmgateway.access"):
        response = http.get(path, headers=bob.headers)
        own = lambda: [line for line in caplog.messages if line.startswith(response.headers["x-request-id"])]  # noqa: E731
        wait_until(own, "it was logged")
    (line,) = own()
    assert line.startswith(f"{response.headers['x-request-id']} 127.0.0.1 {told.format(name=bob.user.username)} ")
    assert re.fullmatch(r"\d+ms", line.rsplit(" ", 1)[1])


def test_the_default_lane_takes_two_threads_beside_the_relay(http):
    with ThreadPoolExecutor(8) as callers:
        assert set(callers.map(lambda _: http.get("/admin/login/").status_code, range(40))) == {200}
    gc.collect()  # lanes that other tests have made and left end their threads when they are collected
    wait_until(lambda: 0 < page_threads() <= asgi.THREADS_BESIDE_RELAY, "there are two threads at the most")


def page_threads() -> int:
    return sum(thread.name.startswith("pages") for thread in threading.enumerate())


def test_clients_that_are_slow_to_ask_keep_nobody_waiting(live, http):
    head = b"POST /auth/token HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\nhalf"
    slow = [socket.create_connection(("127.0.0.1", live.port)) for _ in range(5)]
    for wire in slow:
        wire.sendall(head)
    assert http.get("/metrics").status_code == 200
    for wire in slow:
        wire.close()


def test_the_admin_brings_its_own_static_files(http):
    response = http.get("/static/admin/css/base.css")
    assert (response.status_code, response.headers["content-type"]) == (200, 'text/css; charset="utf-8"')


def test_the_admin_has_pages_of_its_own_for_what_is_not_found(http):
    assert "text/html" in http.get("/admin/nope/", follow_redirects=True).headers["content-type"]


def test_the_root_leads_to_the_account(http):
    assert http.get("/").headers["location"] == "/account/"


def test_a_client_that_leaves_before_its_body_is_whole_is_forgotten(live, bob):
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {bob.token}\r\nContent-Length: 100\r\n"
    )
    before = live.task_ids()
    with socket.create_connection(("127.0.0.1", live.port)) as wire:
        wire.sendall(
            f"{head}\r\nhalf".encode()
        )  # of a caller who is known: a stranger is refused before it can be seen
        wait_until(lambda: live.task_ids() - before, "the request has begun")
        begun = live.task_ids() - before
    wait_until(lambda: not live.task_ids() & begun, "the request is forgotten")
