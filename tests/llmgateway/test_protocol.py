"""Requests that offer to upgrade: served as HTTP/1.1, whole, however their bytes are cut into packets."""

import asyncio
import json
import shutil
import socket
import subprocess
from contextlib import contextmanager
from itertools import pairwise
from unittest.mock import MagicMock

import pytest
import uvicorn
from hypothesis import example, given
from hypothesis import strategies as st
from uvicorn.server import ServerState

from llmgateway.protocol import GatewayProtocol
from tests.servers import Worker, leave_out

pytestmark = pytest.mark.once

OFFER = "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAEAAEAAAAIAAAABAAMAAABk\r\n"
WEBSOCKET = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n" + (
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
)


def whole(body):
    return b"Content-Length: %d\r\n\r\n" % len(body) + body


def chunked(body):
    parts = [part for part in (body[:5], body[5:]) if part]
    chunks = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts)
    return b"Transfer-Encoding: chunked\r\n\r\n" + chunks + b"0\r\n\r\n"


# -- over a socket, from the gateway to a real llama-server ----------------------------------------------------------


class Connection:
    """A connection to the gateway, on which texts are posted to /v1/tokenize: its answer shows which body came."""

    def __init__(self, opened, someone):
        self.opened = opened
        self.reader = opened.makefile("rb")
        self.head = "POST /v1/tokenize HTTP/1.1\r\nHost: x\r\n"
        self.head += "".join(f"{name}: {value}\r\n" for name, value in someone.headers.items())

    def request(self, text, framing=whole, offer=OFFER):
        return (self.head + offer).encode() + framing(json.dumps({"content": text}).encode())

    def send(self, *packets):
        for packet in packets:
            self.opened.sendall(packet)

    def status_and_body(self):
        status = int(self.reader.readline().split()[1])
        headers = {}
        while (line := self.reader.readline().strip()) != b"":
            name, _, value = line.partition(b": ")
            headers[name.lower()] = value
        return status, self.reader.read(int(headers.get(b"content-length", 0)))

    def tokens(self):
        status, body = self.status_and_body()
        assert status == 200, body
        return len(json.loads(body)["tokens"])


@contextmanager
def connected(server, someone):
    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as opened:
        opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        each = Connection(opened, someone)
        with each.reader:
            yield each


@pytest.fixture
def connection(live, bob):
    with connected(live, bob) as each:
        yield each


@pytest.mark.parametrize("framing", [whole, chunked])
def test_a_body_in_the_packet_of_its_head_is_read(connection, framing):
    connection.send(connection.request("one two three", framing))
    assert connection.tokens() == 3


@pytest.mark.parametrize("framing", [whole, chunked])
def test_a_body_in_a_later_packet_is_read(connection, framing):
    head, end, body = connection.request("one two three", framing).partition(b"\r\n\r\n")
    connection.send(b"GET /health/live HTTP/1.1\r\nHost: x\r\n\r\n" + head + end)
    assert connection.status_and_body()[0] == 200  # so the head behind it has been parsed
    connection.send(body)
    assert connection.tokens() == 3


def test_a_connection_goes_on_after_an_offer(connection):
    for words in (3, 1, 5):
        connection.send(connection.request(" word" * words))
        assert connection.tokens() == words
    connection.send(connection.request(" word" * 2, offer=""))
    assert connection.tokens() == 2


def test_pipelined_offers_are_answered_in_order(connection):
    connection.send(b"".join(connection.request(" word" * words) for words in (4, 1, 3)))
    assert [connection.tokens() for _ in range(3)] == [4, 1, 3]


def test_a_head_that_comes_byte_by_byte_is_read(connection):
    request = connection.request("one two three")
    connection.send(*(request[place : place + 1] for place in range(len(request))))
    assert connection.tokens() == 3


def test_a_body_that_was_announced_is_asked_for(connection):
    head, end, body = connection.request("one two three", offer=OFFER + "Expect: 100-continue\r\n").partition(
        b"\r\n\r\n"
    )
    connection.send(head + end)
    assert connection.status_and_body()[0] == 100
    connection.send(body)
    assert connection.tokens() == 3


@pytest.mark.parametrize(
    ("request_line", "offer", "status"),
    [
        ("GET /health/live", WEBSOCKET, 403),  # the gateway has none
        ("GET /health/live", OFFER, 200),
        ("CONNECT /health/live", OFFER, 405),
        ("CONNECT example.org:443", OFFER, 400),
        ("GET /\x01", OFFER, 400),
    ],
)
def test_other_requests_are_answered_as_before(connection, request_line, offer, status):
    connection.send(f"{request_line} HTTP/1.1\r\nHost: x\r\n{offer}\r\n".encode())
    assert connection.status_and_body()[0] == status


@pytest.mark.parametrize("command", ["serve --port {}", "runserver {} --noreload"])
def test_all_that_serves_the_gateway_takes_an_offer(live, llama, bob, command):
    server = Worker(llama)
    server.command = command.format(server.port).split()
    with server, connected(server, bob) as each:
        each.send(each.request("one two three"))
        assert each.tokens() == 3


JAVA = """
import java.net.URI;
import java.net.http.*;

class Post {
    public static void main(String[] told) throws Exception {
        HttpClient client = HttpClient.newHttpClient();
        for (int n = 0; n < 2; n++) {
            HttpRequest request = HttpRequest.newBuilder(URI.create(told[0]))
                .header("Authorization", told[1])
                .POST(HttpRequest.BodyPublishers.ofString("{\\"content\\": \\"one two three\\"}"))
                .build();
            HttpResponse<String> answer = client.send(request, HttpResponse.BodyHandlers.ofString());
            System.out.println(answer.statusCode() + " " + answer.body());
        }
    }
}
"""


def test_the_client_of_the_jdk_is_served(live, bob, tmp_path):
    if shutil.which("javac") is None:
        leave_out("There is no JDK (on Debian: apt-get install openjdk-17-jdk-headless).")
    (tmp_path / "Post.java").write_text(JAVA)
    command = ["java", str(tmp_path / "Post.java"), f"{live.url}/v1/tokenize", bob.headers["Authorization"]]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    answers = [line.partition(" ") for line in done.stdout.splitlines()]
    assert [(status, len(json.loads(body)["tokens"])) for status, _, body in answers] == [("200", 3)] * 2, done.stderr


# -- packet by packet ------------------------------------------------------------------------------------------------


async def served(packets):
    """The requests that an application gets, where its server reads these packets: headers and body of each."""
    seen = []

    async def application(scope, receive, send):
        body, is_more = b"", True
        while is_more:
            message = await receive()
            assert message["type"] == "http.request", "the body was cut"
            body, is_more = body + message["body"], message["more_body"]
        seen.append((scope["headers"], body))
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body"})

    config = uvicorn.Config(application, log_config=None, proxy_headers=False, lifespan="off")
    config.load()
    state = ServerState()
    protocol = GatewayProtocol(config, state, {})
    transport = MagicMock()
    transport.is_closing.return_value = False
    transport.get_extra_info.return_value = None
    protocol.connection_made(transport)
    for packet in packets:
        protocol.data_received(packet)
        await asyncio.sleep(0)
    while state.tasks:
        await asyncio.gather(*state.tasks)
    protocol.connection_lost(None)
    return seen


def cut(text, places):
    bounds = [0, *sorted(place % (len(text) + 1) for place in places), len(text)]
    return [text[begin:end] for begin, end in pairwise(bounds)]


LOOKALIKES = ("Upgrade: h2c", "x\tConnection: Upgrade", "websocket", "close, Upgrade")
bodies = st.one_of(st.binary(max_size=40), st.just(b"\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n"))
offers = st.sampled_from(
    ["", OFFER, OFFER.lower(), "Upgrade: h2c\r\n", "Upgrade: TLS/1.0, websocket\r\nConnection:upgrade\r\n"]
)
requests = st.tuples(offers, st.sampled_from(LOOKALIKES), st.sampled_from([whole, chunked]), bodies)


@given(st.lists(requests, min_size=1, max_size=4), st.lists(st.integers(0, 10_000), max_size=12))
@example([(OFFER, "x", chunked, b"abc"), (OFFER, "x", whole, b"def")], range(10_000))
def test_requests_are_whole_wherever_their_bytes_are_cut(asked, places):
    text = b"".join(
        f"POST / HTTP/1.1\r\nHost: x\r\n{offer}X-Note: {note}\r\n".encode() + framing(body)
        for offer, note, framing, body in asked
    )
    seen = asyncio.run(served(cut(text, places)))
    assert [body for _, body in seen] == [body for *_, body in asked]
    notes = [value.decode() for headers, _ in seen for name, value in headers if name == b"x-note"]
    assert notes == [note for _, note, *_ in asked]
    assert not [headers for headers, _ in seen if {b"connection", b"upgrade"} <= dict(headers).keys()]


def test_what_else_the_connection_is_told_is_kept():
    offer = "Connection: close, Upgrade\r\nConnection: HTTP2-Settings, x-hop\r\nUpgrade: h2c\r\nX-Hop: 1\r\n"
    request = f"POST / HTTP/1.1\r\nHost: x\r\n{offer}".encode() + whole(b"abc")
    ((headers, body),) = asyncio.run(served([request]))
    told = [(b"host", b"x"), (b"connection", b"close"), (b"connection", b"x-hop"), (b"x-hop", b"1")]
    assert (headers, body) == ([*told, (b"content-length", b"3")], b"abc")
