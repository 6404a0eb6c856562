"""Slots counted in Redis, for all workers together, by scripts that run in one piece (lua/).

A worker hears of a slot by the reply to its question or, if it had to wait, from its inbox, which a second connection
listens to. It says once a second that it is alive and which slots it has: those of a dead one are free after LEASE.
"""

import asyncio
import secrets
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import orjson

from proxy.stores.connection import Connection, Refused, StoreDown, connect
from proxy.stores.scripts import Script

from . import Granted, Ticket, nobody

LEASE = 5000  # milliseconds until a slot is free whose worker says nothing
ALIVE = 4000  # milliseconds until a worker that says nothing counts as gone
HOLD = 2500  # milliseconds until a Redis that has lost its memory gives slots: workers tell it of their leases first
LISTEN = 0.25  # seconds of one look into the inbox: less than a connection's TIMEOUT

LUA = Path(__file__).parent / "lua"
ASK, LEAVE, RELEASE, BEAT, BUSY = SCRIPTS = tuple(
    Script.read(LUA, "slots", name) for name in ("ask", "leave", "release", "beat", "busy")
)


class RedisSlots:
    """Whatever keeps Redis from answering is StoreDown."""

    def __init__(self, url: str, worker: str, prefix: str = "llmgateway") -> None:
        self.url = url
        self.worker = worker
        self.granted: Granted = nobody
        self._prefix = f"{prefix}:{{slots}}:"
        self._epoch = ""
        self._connection: Connection | None = None
        self._inbox: Connection | None = None

    @property
    def is_open(self) -> bool:
        """Whether both connections are there."""
        return all(each is not None and each.is_open for each in (self._connection, self._inbox))

    async def start(self) -> None:
        """Connect, and make the scripts known."""
        self.stop()
        connection, self._inbox = await asyncio.gather(connect(self.url), connect(self.url))
        self._connection = connection
        try:
            await asyncio.gather(*(connection.send(b"SCRIPT", b"LOAD", script.text) for script in SCRIPTS))
        except Refused as exc:
            raise StoreDown(str(exc)) from exc

    def stop(self) -> None:
        for each in (self._connection, self._inbox):
            if each is not None:
                each.close()

    # -- calls ---------------------------------------------------------------------------------------------------

    async def ask(self, ticket: Ticket) -> int:
        rank: Any = b"" if ticket.rank is None else ticket.rank
        told = (self.worker, ticket.name, ticket.model, rank, orjson.dumps(ticket.places))
        url, rank, ahead = await self._run(ASK, *told)
        ticket.rank = int(rank)
        if url:
            self.granted(ticket.name, url.decode())
        return int(ahead or 0)

    def leave(self, ticket: Ticket) -> None:
        """It may have been granted a slot in this moment, by a reply that nobody reads any more."""
        self._tell(LEAVE, ticket.model, ticket.name)
        for url in ticket.places:
            self._tell(RELEASE, url, ticket.name)

    def release(self, name: str, url: str) -> None:
        self._tell(RELEASE, url, name)

    async def busy(self, urls: Sequence[str]) -> Mapping[str, int]:
        return dict(zip(urls, await self._run(BUSY, *urls), strict=True))

    async def waiting(self) -> int:
        if self._connection is None:
            raise StoreDown("Redis is not connected.")
        try:
            return int(await self._connection.send(b"HLEN", f"{self._prefix}asks"))
        except Refused as exc:
            raise StoreDown(str(exc)) from exc

    # -- workers -------------------------------------------------------------------------------------------------

    async def beat(self, held: Iterable[tuple[str, str]]) -> bool:
        """Say that this worker is alive, and which slots it has. Gives whether Redis has kept what it knew."""
        known = self._epoch
        told = (ALIVE, known, secrets.token_hex(8), HOLD, orjson.dumps(list(held)))
        self._epoch = (await self._run(BEAT, self.worker, *told)).decode()
        return known in ("", self._epoch)

    async def listen(self) -> None:
        """Hear of slots, until Redis is gone."""
        key = f"{self._prefix}inbox:{self.worker}"
        while self._inbox is not None:
            try:
                found = await self._inbox.send(b"BLPOP", key, LISTEN)
            except Refused as exc:
                raise StoreDown(str(exc)) from exc
            if found:
                name, url = orjson.loads(found[1])
                self.granted(name, url)

    # -- the wire ------------------------------------------------------------------------------------------------

    async def _run(self, script: Script, *args: Any) -> Any:
        try:
            return await self._send(script, *args)
        except Refused as exc:
            self.stop()  # it may have lost its scripts: a new start tells it of them
            raise StoreDown(str(exc)) from exc

    def _tell(self, script: Script, *args: Any) -> None:
        """Run a script of whose reply nothing hangs: what it would have done is done by time."""
        if self._connection is not None and self._connection.is_open:
            self._send(script, *args).add_done_callback(seen)

    def _send(self, script: Script, *args: Any) -> "asyncio.Future[Any]":
        if self._connection is None:
            raise StoreDown("Redis is not connected.")
        return self._connection.send(b"EVALSHA", script.sha, 1, self._prefix, LEASE, *args)


def seen(reply: "asyncio.Future[Any]") -> None:
    if not reply.cancelled():
        reply.exception()
