"""What becomes of a connection to a llama-server, with real sockets: never sent, broken off, too slow."""

import asyncio
import errno
import os
import socket
import struct
from contextlib import contextmanager

import aiohttp
import pytest

from proxy.destinations import Destinations
from proxy.errors import BrokenOff, NeverSent, OutOfFiles, UpstreamError, UpstreamTimeout
from proxy.upstream import UpstreamClient
from tests.servers import PATIENCE, free_port

pytestmark = pytest.mark.once

LIMITS = {"connect_timeout": PATIENCE, "idle_timeout": PATIENCE}
HASTY = {**LIMITS, "idle_timeout": 0.4}  # seconds
OK = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nX-Secret: 1\r\n\r\n"


def reset(wire: socket.socket) -> None:
    """Close with RST instead of FIN."""
    wire.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    wire.close()


@contextmanager
def listener(backlog: int = 8):
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen(backlog)
        server.setblocking(False)
        yield server


def attempt(play, *, body: bytes = b"{}", limits=LIMITS):
    """Post to a server that plays this on its side of the connection, and read the answer to its end."""

    async def run() -> list[bytes]:
        client = UpstreamClient(**limits)
        with listener() as server:
            task = asyncio.create_task(serve(server, play))
            try:
                answer = await client.post(f"http://127.0.0.1:{server.getsockname()[1]}/v1", "key", body)
                try:
                    return [part async for part in answer.parts()]
                finally:
                    await answer.aclose()
            finally:
                task.cancel()
                await client.aclose()

    return asyncio.run(run())


async def serve(server: socket.socket, play) -> None:
    loop = asyncio.get_running_loop()
    wire, _ = await loop.sock_accept(server)
    with wire:
        wire.setblocking(False)
        await play(loop, wire)
        await asyncio.Event().wait()  # until the attempt has ended


def says(*parts: bytes, end=None):
    """Read the request, send these parts, and end."""

    async def play(loop, wire):
        await loop.sock_recv(wire, 65536)
        for part in parts:
            await loop.sock_sendall(wire, part)
        if end:
            end(wire)

    return play


def test_an_answer_comes_in_parts_without_the_headers_of_the_llama_server():
    assert attempt(says(OK, b"2\r\nhi\r\n", b"0\r\n\r\n")) == [b"hi"]


def test_nobody_listens():
    async def run() -> None:
        client = UpstreamClient(**LIMITS)
        try:
            await client.post(f"http://127.0.0.1:{free_port()}/v1", "", b"{}")
        finally:
            await client.aclose()

    with pytest.raises(NeverSent):
        asyncio.run(run())


def test_nobody_takes_the_connection():
    """The queue of a listener that accepts nothing is full, so that connecting hangs."""

    async def run() -> None:
        client = UpstreamClient(**{**LIMITS, "connect_timeout": 0.2})
        with listener(0) as server, socket.socket() as first:
            first.connect(server.getsockname())
            fillers = [socket.socket() for _ in range(4)]
            for each in fillers:
                each.setblocking(False)
                each.connect_ex(server.getsockname())
            try:
                await client.post(f"http://127.0.0.1:{server.getsockname()[1]}/v1", "", b"{}")
            finally:
                for each in fillers:
                    each.close()
                await client.aclose()

    with pytest.raises(NeverSent):
        asyncio.run(run())


def test_a_name_that_is_none_was_never_sent():
    async def run() -> None:
        client = UpstreamClient(**LIMITS)
        try:
            await client.post("http://nowhere.invalid:1/v1", "", b"{}")
        finally:
            await client.aclose()

    with pytest.raises((NeverSent, UpstreamTimeout)):
        asyncio.run(run())


@pytest.mark.parametrize("end", [socket.socket.close, reset], ids=["FIN", "RST"])
@pytest.mark.parametrize(
    "parts",
    [[], [b"HTTP/1.1 20"], [b"HTTP/1.1 200 OK\r\nX-A:"], [OK], [OK, b"2\r\nhi\r\n"], [OK, b"8\r\nhi"]],
    ids=["nothing", "half a status", "half a header", "headers", "a part", "half a part"],
)
def test_a_connection_that_ends_too_early_is_broken_off(parts, end):
    with pytest.raises(BrokenOff):
        attempt(says(*parts, end=end))


@pytest.mark.parametrize(
    "parts",
    [[], [b"HTTP/1.1 20"], [OK], [OK, b"2\r\nhi\r\n"]],
    ids=["nothing", "half a status", "headers", "a part"],
)
def test_silence_is_a_timeout(parts):
    with pytest.raises(UpstreamTimeout):
        attempt(says(*parts), limits=HASTY)


def test_a_llama_server_that_reads_nothing_is_a_timeout():
    async def play(loop, wire):
        wire.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1024)

    with pytest.raises(UpstreamTimeout):
        attempt(play, body=b"x" * 30_000_000, limits=HASTY)


@pytest.mark.parametrize("answer", [b"SSH-2.0-OpenSSH\r\n", b"\x00\x01\x02\r\n\r\n"])
def test_what_is_no_http_is_an_error_of_the_upstream(answer):
    with pytest.raises(UpstreamError):
        attempt(says(answer, end=socket.socket.close))


def test_a_redirect_is_not_followed():
    moved = b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n"
    with pytest.raises(UpstreamError):
        attempt(says(moved))


def test_the_request_is_built_from_nothing(monkeypatch):
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    seen = []

    async def play(loop, wire):
        seen.append(await loop.sock_recv(wire, 65536))
        await loop.sock_sendall(wire, OK + b"0\r\n\r\n")

    attempt(play)
    head = seen[0].decode().lower()
    names = [line.split(":")[0] for line in head.split("\r\n\r\n")[0].split("\r\n")[1:]]
    expected = [
        "accept",
        "accept-encoding",
        "authorization",
        "connection",
        "content-length",
        "content-type",
        "host",
        "user-agent",
    ]
    assert sorted(set(names) | {"accept"}) == expected


# -- words for operators -------------------------------------------------------------------------------------------


def failure_at(url: str, **fields):
    """The error of a call to this URL."""

    async def run() -> None:
        client = UpstreamClient(**LIMITS, **fields)
        try:
            await client.post(url, "", b"{}")
        finally:
            await client.aclose()

    with pytest.raises(Exception) as raised:
        asyncio.run(run())
    return raised.value


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        (f"http://127.0.0.1:{free_port()}", "refused the connection"),
        (
            "http://169.254.169.254",
            "may not be reached: 169.254.169.254 is at 169.254.169.254, a link-local or metadata",
        ),
    ],
)
def test_a_connection_that_fails_is_told_in_words(url, reason):
    assert failure_at(url).reason.startswith(reason)


def test_a_name_that_does_not_resolve_is_told_in_words(monkeypatch):
    async def resolve(*_, **__):
        raise OSError(None, "DNS lookup failed")

    monkeypatch.setattr(aiohttp.ThreadedResolver, "resolve", resolve)
    assert failure_at("http://gpu1.invalid").reason == "has a name that does not resolve"


@pytest.mark.parametrize(
    ("play", "reason"),
    [
        (says(end=socket.socket.close), "closed the connection without an answer"),
        (says(OK, b"2\r\nhi\r\n", end=socket.socket.close), "broke its answer off"),
        (says(b"SSH-2.0-OpenSSH\r\n\r\n"), "sent something that is no HTTP"),
        (says(), "did not answer in time"),
        (says(b"HTTP/1.1 500 Oh\r\nContent-Length: 0\r\n\r\n"), "answered 500"),
        (
            says(b"HTTP/1.1 401 No\r\nContent-Length: 0\r\n\r\n"),
            "does not accept the gateway's key, and answered 401",
        ),
    ],
)
def test_an_answer_that_fails_is_told_in_words(play, reason):
    with pytest.raises((UpstreamError, UpstreamTimeout)) as raised:
        attempt(play)
    assert raised.value.reason == reason


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE])
def test_a_process_without_files_is_not_the_llama_servers_fault(monkeypatch, number):
    class Full(Destinations):
        def check(self, *_):
            raise OSError(number, os.strerror(number))

    exc = failure_at(f"http://127.0.0.1:{free_port()}", destinations=Full())
    assert isinstance(exc, OutOfFiles)
    assert (exc.status, exc.code) == (503, "overloaded")


def test_a_resolver_without_files_is_seen_through(monkeypatch):
    async def resolve(*_, **__):
        raise OSError(None, "System error")

    monkeypatch.setattr(aiohttp.ThreadedResolver, "resolve", resolve)
    monkeypatch.setattr("proxy.upstream.is_reached", lambda: True)
    assert isinstance(failure_at("http://gpu1.invalid"), OutOfFiles)
