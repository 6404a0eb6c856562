"""Limits in Redis: exact among any number of workers, by scripts that run in one piece, on its clock.

The scripts are in lua/; meters.lua stands before each. All keys of an account have one hash tag, and each key has a
time to live. Redis is asked once to admit a call, and once to settle it.
"""

import asyncio
import secrets
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import orjson

from proxy.windows import Count

from . import Claim, Grant, Lost, Meter, Store, Verdict
from .connection import Connection, Refused, StoreDown, connect
from .scripts import Script
from .wire import SECOND, Keys, keys_of, lost_of, member_of, plans_of, readings_of, stale_of, unknown_of

LEASE = 14  # seconds until a lease lapses that is not renewed: within 15 its place is free
ALIVE = 15  # seconds until a worker that says nothing counts as gone

ADMITTED, REFUSED, UNKNOWN = range(3)


LUA = Path(__file__).parent / "lua"
ADMIT, SETTLE, CANCEL, LEARN, READ, RENEW, NOTE, ADD, BEAT = SCRIPTS = tuple(
    Script.read(LUA, "meters", name)
    for name in ("admit", "settle", "cancel", "learn", "read", "renew", "note", "add", "beat")
)


class Pulse(NamedTuple):
    """What a heartbeat tells: the name of Redis's memory, and the workers that are alive, in order."""

    epoch: str
    workers: tuple[str, ...]


class RedisStore(Store):
    """A Store in Redis. Whatever keeps it from answering is StoreDown. Its clock is Redis's, as far as it is known.

    One that `joins` is a worker among others. With a `clock` it goes by that, for tests.
    """

    def __init__(
        self,
        url: str,
        prefix: str = "llmgateway",
        clock: Callable[[], float] | None = None,
        *,
        joins: bool = True,
    ) -> None:
        self.url = url
        self.prefix = prefix
        self.worker = f"{time.time_ns():x}-{secrets.token_hex(4)}"
        self.joins = joins
        self.skew = 0.0  # seconds that Redis's clock is ahead of this machine's
        self._clock = clock
        self._connection: Connection | None = None

    def clock(self) -> float:
        return self._clock() if self._clock else time.time() + self.skew

    @property
    def is_open(self) -> bool:
        return self._connection is not None and self._connection.is_open

    async def start(self) -> None:
        """Connect, and make the scripts known. Raises StoreDown."""
        self._connection = await connect(self.url)
        try:
            await asyncio.gather(*(self._connection.send(b"SCRIPT", b"LOAD", script.text) for script in SCRIPTS))
        except Refused as exc:
            raise StoreDown(str(exc)) from exc

    async def stop(self) -> None:
        if self._connection is not None:
            self._connection.close()

    # -- calls ---------------------------------------------------------------------------------------------------

    async def admit(self, claim: Claim) -> Verdict:
        keys, plans = self._keys(claim.account, claim.meters), self._plans(claim.meters)
        most_at_once = -1 if claim.max_concurrent is None else claim.max_concurrent
        told = (claim.lease, LEASE, most_at_once, claim.least, claim.most, plans)
        reply = await self._run(ADMIT, (keys.leases, *keys.meters), *told)
        status, now, tokens, lease, refusing, seconds, lost, told_readings = reply
        readings = readings_of(claim.meters, told_readings)
        gone = tuple(map(lost_of, lost))
        if status == UNKNOWN:
            return Verdict(None, readings, unknown=unknown_of(claim.meters, told_readings), lost=gone)
        stale = stale_of(claim.meters, told_readings, now)
        if status == REFUSED:
            meter = claim.meters[refusing - 1] if refusing else None
            return Verdict(None, readings, meter, None if seconds < 0 else seconds, stale=stale, lost=gone)
        return Verdict(Grant(claim, now / SECOND, tokens, lease.decode()), readings, stale=stale, lost=gone)

    async def settle(self, grant: Grant, tokens: int, requests: int = 1) -> None:
        account, meters = grant.claim.account, grant.claim.meters
        keys = self._keys(account, meters)
        changes = tokens - grant.tokens, requests - 1
        told = (grant.lease, round(grant.admitted_at * SECOND), *changes, self._plans(meters))
        await self._run(SETTLE, (keys.leases, *keys.meters), *told)

    async def cancel(self, claim: Claim) -> None:
        """Undo an admission whose reply never came, if it took place."""
        keys = self._keys(claim.account, claim.meters)
        await self._run(CANCEL, (keys.leases, *keys.meters), claim.lease, self._plans(claim.meters))

    async def learn(self, account: str, uses: Mapping[Meter, int], read_at: float, since: float | None = None) -> None:
        meters = tuple(uses)
        told = ("" if since is None else round(since * SECOND), round(read_at * SECOND), self._plans(meters))
        await self._run(LEARN, self._keys(account, meters).meters, *told, *uses.values())

    async def note(self, account: str, lost: Sequence[Lost]) -> None:
        await self._run(NOTE, (self._keys(account, ()).leases,), *(member_of(*each) for each in lost))

    async def read(self, account: str, meters: Sequence[Meter]) -> Verdict:
        asked = tuple(meters)
        _, told = await self._run(READ, self._keys(account, asked).meters, self._plans(asked))
        return Verdict(None, readings_of(asked, told), unknown=unknown_of(asked, told))

    # -- workers -------------------------------------------------------------------------------------------------

    async def beat(self) -> Pulse:
        """Say that this worker is alive, if it is one, and hear who is."""
        tag = f"{self.prefix}:{{workers}}"
        said = (self.worker if self.joins else "", ALIVE, secrets.token_hex(8))
        began = time.time()
        now, epoch, workers = await self._run(BEAT, (f"{tag}:alive", f"{tag}:epoch"), *said)
        self.skew = now / SECOND - (began + time.time()) / 2
        return Pulse(epoch.decode(), tuple(each.decode() for each in workers))

    async def leave(self) -> None:
        """Count as gone from now on."""
        await self._command("ZREM", f"{self.prefix}:{{workers}}:alive", self.worker)

    async def renew(self, leases: Mapping[str, Iterable[str]]) -> None:
        """Keep these leases, of each account, from lapsing."""
        running = {self._keys(account, ()).leases: tuple(held) for account, held in leases.items()}
        await asyncio.gather(*(self._run(RENEW, (key,), LEASE, *held) for key, held in running.items() if held))

    async def add(self, account: str, counts: Mapping[Meter, Count], leases: Sequence[str], mark: str) -> None:
        """Add what was counted and admitted elsewhere. A second time with the same mark does nothing.

        Days and months are not added but forgotten: the ledger has them.
        """
        meters = tuple(counts)
        keys = self._keys(account, meters)
        buckets = orjson.dumps([[n for bucket in count.buckets for n in bucket] for count in counts.values()])
        done = f"{self.prefix}:{{{account}}}:added:{mark}"
        await self._run(ADD, (keys.leases, done, *keys.meters), LEASE, self._plans(meters), buckets, *leases)

    # -- the wire ------------------------------------------------------------------------------------------------

    async def _run(self, script: Script, keys: Sequence[str], *args: Any) -> Any:
        """Run a script at the time that is now."""
        now = round(self._clock() * SECOND) if self._clock else b""
        rest = (len(keys), *keys, now, *args)
        try:
            return await self._send(b"EVALSHA", script.sha, *rest)
        except Refused as exc:
            if not str(exc).startswith("NOSCRIPT"):
                raise StoreDown(str(exc)) from exc
        return await self._command(b"EVAL", script.text, *rest)

    async def _command(self, *words: Any) -> Any:
        try:
            return await self._send(*words)
        except Refused as exc:  # it loads, is full, is a replica, ...
            raise StoreDown(str(exc)) from exc

    def _send(self, *words: Any) -> "asyncio.Future[Any]":
        if self._connection is None:
            raise StoreDown("Redis is not connected.")
        return self._connection.send(*words)

    def _keys(self, account: str, meters: tuple[Meter, ...]) -> Keys:
        return keys_of(self.prefix, account, meters)

    def _plans(self, meters: tuple[Meter, ...]) -> bytes:
        return plans_of(meters, int(self.clock() // 3600))
