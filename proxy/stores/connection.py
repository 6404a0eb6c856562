"""One connection to Redis, on which many commands are under way at once. The one module that knows how it is reached.

redis-py's own asyncio client takes a connection, a timeout and task switches for each command, and more CPU for a PING
than an admission costs here (docs/limits.md). Here commands of one turn of the loop go out in one piece, and replies
are handed to whoever waits, in order. What is not worth doing again, how a URL reads and how replies are parsed, is
redis-py's and hiredis's.
"""

import asyncio
import ssl
from collections import deque
from typing import Any, NamedTuple, cast

import hiredis
from redis.asyncio.connection import SSLConnection, parse_url

TIMEOUT = 0.4  # seconds that Redis has to connect, and to answer
GRACE = 0.02  # seconds more, in which a reply is read that came while this process did other things

Refused = hiredis.ReplyError  # what Redis says no with


class StoreDown(Exception):
    """Redis does not answer, or says that it cannot."""


class Sent(NamedTuple):
    reply: "asyncio.Future[Any]"
    at: float


class Connection(asyncio.Protocol):
    """Made by `connect`. It is of no more use once `is_open` is false."""

    def __init__(self) -> None:
        self.is_open = False
        self._loop = asyncio.get_running_loop()
        self._parser = hiredis.Reader()
        self._waiting: deque[Sent] = deque()
        self._unwritten: list[bytes] = []
        self._watch: asyncio.TimerHandle | None = None

    def send(self, *words: Any) -> "asyncio.Future[Any]":
        """Send a command. Its reply comes as the future's result; what Redis refuses, as Refused.

        Raises StoreDown, now or from the future.
        """
        if not self.is_open:
            raise StoreDown("Redis is not connected.")
        if not self._unwritten:
            self._loop.call_soon(self._write)
        self._unwritten.append(hiredis.pack_command(words))
        sent = Sent(self._loop.create_future(), self._loop.time())
        self._waiting.append(sent)
        if self._watch is None:
            self._watch = self._loop.call_later(TIMEOUT, self._look, None)
        return sent.reply

    def close(self, reason: str = "closed") -> None:
        """End it; whoever waits gets StoreDown."""
        if self.is_open:
            self.is_open = False
            self._transport.abort()
        if self._watch is not None:
            self._watch.cancel()
        while self._waiting:
            reply = self._waiting.popleft().reply
            if not reply.done():
                reply.set_exception(StoreDown(reason))
                reply.exception()  # seen, also where whoever waited has left

    def _write(self) -> None:
        if self.is_open:
            self._transport.write(b"".join(self._unwritten))
        self._unwritten = []

    def _look(self, late: Sent | None) -> None:
        """One timer for all: where the oldest command is found to be `late` twice, Redis is gone."""
        oldest = self._waiting[0] if self._waiting else None
        if oldest is None:
            self._watch = None
        elif self._loop.time() < oldest.at + TIMEOUT:
            self._watch = self._loop.call_at(oldest.at + TIMEOUT, self._look, None)
        elif oldest is not late or self._loop.time() < oldest.at + TIMEOUT + GRACE:
            self._watch = self._loop.call_later(GRACE, self._look, oldest)
        else:
            self.close(f"no answer in {TIMEOUT} s")

    # -- asyncio.Protocol ----------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is none by its class
        self.is_open = True

    def data_received(self, data: bytes) -> None:
        self._parser.feed(data)
        while (reply := self._parser.gets()) is not False:
            waiting = self._waiting.popleft().reply
            if waiting.done():
                continue
            if isinstance(reply, Exception):
                waiting.set_exception(reply)
            else:
                waiting.set_result(reply)

    def connection_lost(self, exc: Exception | None) -> None:
        self.close(str(exc) if exc else "Redis closed the connection")
        self.is_open = False


async def connect(url: str) -> Connection:
    """A connection that has signed in and has chosen its database. Raises StoreDown."""
    options = dict[str, Any](parse_url(url))
    loop = asyncio.get_running_loop()
    connection: Connection | None = None
    try:
        async with asyncio.timeout(TIMEOUT):
            if "path" in options:
                _, connection = await loop.create_unix_connection(Connection, options["path"])
            else:
                address = options.get("host", "localhost"), options.get("port", 6379)
                _, connection = await loop.create_connection(Connection, *address, ssl=encryption(options))
            await asyncio.gather(*(connection.send(*words) for words in greeting(options)))
            return connection
    except (OSError, TimeoutError, StoreDown, Refused) as exc:
        if connection is not None:
            connection.close()
        raise StoreDown(f"{type(exc).__name__}: {exc}") from exc


def greeting(options: dict[str, Any]) -> list[tuple[Any, ...]]:
    """The commands that a connection begins with."""
    commands: list[tuple[Any, ...]] = []
    if options.get("password"):
        commands.append(("AUTH", *filter(None, [options.get("username")]), options["password"]))
    if options.get("db"):
        commands.append(("SELECT", options["db"]))
    return [*commands, ("CLIENT", "SETNAME", "llmgateway")]


def encryption(options: dict[str, Any]) -> ssl.SSLContext | None:
    if options.get("connection_class") is not SSLConnection:
        return None
    context = ssl.create_default_context(cafile=options.get("ssl_ca_certs"))
    if options.get("ssl_cert_reqs") == "none":
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context
