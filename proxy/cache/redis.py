"""Answers in Redis, for all workers together, by scripts (lua/).

The connection is not the one that admits calls, so that a large answer keeps nobody else waiting.

Redis has 50 ms to answer. If it does not, the call goes on as if nothing were kept, and until Redis is found to answer
again no call asks it: a slow or dead one costs each worker that wait once, and no call an error.
"""

import asyncio
import logging
import secrets
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from itertools import chain, count, repeat
from pathlib import Path
from typing import Any

from accounts.errors import StoreUnavailable
from proxy.endings import cancelled
from proxy.stores.connection import Connection, Refused, StoreDown, connect
from proxy.stores.scripts import Script

from . import AnswerStore, Kept, Size, Turn
from .memory import ENTRY_BYTES, LARGEST
from .wire import kept_of, written

logger = logging.getLogger(__name__)

DEADLINE = 0.05  # seconds that Redis has to answer a call that can do without
PATIENCE = 0.4  # the same for calls that wait anyway
BEAT = 1.0  # seconds between two renewals of turns, and between two tries to reach a Redis that did not answer
TURN = 4000  # milliseconds until a turn lapses that is not renewed: its worker has died
FAILED = 1000  # milliseconds in which calls go their own ways, after a turn came to nothing
WAITS = (0.02, 0.03, 0.05, 0.07, 0.1)  # seconds between two looks at what another worker computes; then the last
AT_ONCE = 500  # answers that are forgotten in one step

UNKNOWN = b""  # the epoch of a turn that began while Redis did not answer: nothing is kept then
KEPT, OWN, ANOTHERS, FREE = range(4)

LUA = Path(__file__).parent / "lua"
LOOK, KEEP, LEAVE, RENEW, EMPTY = SCRIPTS = tuple(
    Script.read(LUA, name) for name in ("look", "keep", "leave", "renew", "empty")
)


class RedisAnswers(AnswerStore):
    """An AnswerStore in Redis, of up to so many bytes. `changed` is told whether it is there, whenever that changes."""

    def __init__(self, url: str, most_bytes: int, changed: Callable[[bool], None], prefix: str = "llmgateway") -> None:
        self.url = url
        self.most_bytes = most_bytes
        self.changed = changed
        self.worker = secrets.token_hex(8)
        self._prefix = f"{prefix}:{{cache}}:"
        self._connection: Connection | None = None
        self._turns: set[Turn] = set()  # those of this worker that are to be renewed
        self._numbers = count()
        self._task: asyncio.Task[None] | None = None

    @property
    def is_up(self) -> bool:
        return self._connection is not None and self._connection.is_open

    # -- calls ---------------------------------------------------------------------------------------------------

    async def look(self, key: str) -> Kept | Turn | None:
        name = f"{self.worker}:{next(self._numbers)}"
        try:
            reply = await self._look(key, name, DEADLINE)
        except asyncio.CancelledError:  # the client has left, and Redis may give it the turn
            if self._connection is not None and self._connection.is_open:
                self._send(self._connection, LEAVE, (self._turn(key),), name, 0)
            raise
        if reply is None:
            return Turn(key, "", UNKNOWN)
        found, epoch, answer = reply
        if found == KEPT:
            return kept_of(answer)
        if found == ANOTHERS:
            return None
        turn = Turn(key, name if found == OWN else "", epoch)
        if turn.name:
            self._turns.add(turn)
        return turn

    async def begin(self, key: str) -> Turn:
        reply = await self._look(key, "", DEADLINE)
        return Turn(key, "", reply[1] if reply else UNKNOWN)

    async def wait(self, key: str) -> Kept | None:
        for pause in chain(WAITS, repeat(WAITS[-1])):
            await asyncio.sleep(pause)
            reply = await self._look(key, "", PATIENCE)
            if reply is None or reply[0] == FREE:
                return None
            if reply[0] == KEPT:
                return kept_of(reply[2])
        raise AssertionError("The waits never end.")

    async def keep(self, turn: Turn, answer: bytes, ttl: float) -> None:
        size = ENTRY_BYTES + len(answer)
        if size * LARGEST > self.most_bytes:
            await self.leave(turn, failed=True)
        elif turn.epoch != UNKNOWN:
            self._turns.discard(turn)
            value, milliseconds = written(answer, time.time()), max(1, round(ttl * 1000))
            keys = (self._key(turn.key), self._turn(turn.key), *map(self._key, ("epoch", "ends", "sizes", "total")))
            await self._ask(KEEP, keys, turn.name, turn.epoch, value, milliseconds, size, self.most_bytes)

    async def leave(self, turn: Turn, *, failed: bool) -> None:
        self._turns.discard(turn)
        if turn.name:
            await self._ask(LEAVE, (self._turn(turn.key),), turn.name, FAILED if failed else 0)

    def _look(self, key: str, name: str, within: float) -> Any:
        """Look for an answer, and take the turn if it is free, under a name."""
        return self._ask(LOOK, (self._key(key), self._turn(key), self._key("epoch")), name, TURN, within=within)

    async def _ask(self, script: Script, keys: tuple[str, ...], *args: Any, within: float = DEADLINE) -> Any:
        """What a script gives; None where Redis does not answer, or not in time."""
        connection = self._connection
        if connection is None or not connection.is_open:
            return None
        try:
            return await in_time(self._send(connection, script, keys, *args), within)
        except (StoreDown, Refused) as exc:
            self._down(connection, exc)
            return None

    def _send(self, connection: Connection, script: Script, keys: tuple[str, ...], *args: Any) -> "asyncio.Future[Any]":
        return connection.send(b"EVALSHA", script.sha, len(keys), *keys, *args)

    def _key(self, name: str) -> str:
        return self._prefix + name

    def _turn(self, key: str) -> str:
        return f"{self._prefix}{key}:turn"

    # -- there and gone ------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Reach Redis, and then keep in touch. Where it cannot be reached it starts all the same, and says so."""
        await self._beat()
        if not self.is_up:
            logger.warning("Redis cannot be reached: nothing is answered from the cache until it can.")
            self.changed(False)
        self._task = asyncio.create_task(self._run(), name="cache")

    async def stop(self) -> None:
        if self._task is not None:
            await cancelled(self._task)
        if self._connection is not None:
            self._connection.close()

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(BEAT)
            try:
                await self._beat()
            except Exception:  # it must outlive whatever is wrong with one beat
                logger.exception("A heartbeat of the cache failed.")

    async def _beat(self) -> None:
        """Renew the turns, or try to come back to Redis."""
        if not self.is_up:
            with suppress(StoreDown):
                self._connection = await ready(self.url)
                self.changed(True)
                if self._task is not None:
                    logger.warning("Redis holds the cache again.")
        elif self._turns:
            keys, names = zip(*((self._turn(turn.key), turn.name) for turn in self._turns), strict=True)
            await self._ask(RENEW, keys, TURN, *names, within=PATIENCE)

    def _down(self, connection: Connection, reason: Exception) -> None:
        """Leave a Redis that does not answer alone, until a heartbeat finds that it does."""
        if connection is not self._connection:
            return
        logger.warning("Redis does not hold the cache for now: %s", reason)
        connection.close()
        self._connection = None
        self.changed(False)

    # -- what the admin asks, from whichever process -------------------------------------------------------------

    async def empty(self) -> int:
        keys = tuple(map(self._key, ("epoch", "ends", "sizes", "total")))
        emptied = 0
        async with self._visit() as connection:
            for is_new_epoch in chain((1,), repeat(0)):
                taken, forgotten = await connection.send(b"EVAL", EMPTY.text, len(keys), *keys, AT_ONCE, is_new_epoch)
                emptied += forgotten
                if not taken:
                    break
        return emptied

    async def size(self) -> Size:
        async with self._visit() as connection:
            answers, total = await asyncio.gather(
                connection.send(b"ZCOUNT", self._key("ends"), time.time() * 1000, b"+inf"),
                connection.send(b"GET", self._key("total")),
            )
        return Size(answers, int(total or 0))

    @asynccontextmanager
    async def _visit(self) -> AsyncIterator[Connection]:
        """A connection for one question. Raises StoreUnavailable."""
        try:
            connection = await connect(self.url)
            try:
                yield connection
            finally:
                connection.close()
        except (StoreDown, Refused) as exc:
            raise StoreUnavailable("Redis, which holds the cache, does not answer. Try again shortly.") from exc


async def ready(url: str) -> Connection:
    """A connection to a Redis that has the scripts and answers in time. Raises StoreDown."""
    connection = await connect(url)
    try:
        for script in SCRIPTS:
            await connection.send(b"SCRIPT", b"LOAD", script.text)
        await in_time(connection.send(b"PING"), DEADLINE)
    except (StoreDown, Refused) as exc:
        connection.close()
        raise StoreDown(str(exc)) from exc
    return connection


async def in_time(reply: "asyncio.Future[Any]", within: float) -> Any:
    """A reply that came in so many seconds, perhaps still to be read. Raises StoreDown, or as the reply does."""
    await asyncio.wait({reply}, timeout=within)
    for _ in range(2):  # turns of a loop that was busy with other things
        if not reply.done():
            await asyncio.sleep(0)
    if not reply.done():
        raise StoreDown(f"no answer in {within} s")
    return reply.result()
