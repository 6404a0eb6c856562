"""What is told to the metrics once a second: where several processes answer as one, nobody can be asked at a scrape."""

import asyncio
import logging
from typing import TYPE_CHECKING

from accounts.errors import StoreUnavailable

from .endings import cancelled
from .metrics import LEDGER_WAITING, SNAPSHOT_AGE, UPSTREAM_SLOTS

if TYPE_CHECKING:
    from .gateway import Gateway

logger = logging.getLogger(__name__)

EVERY = 1.0  # seconds


class Gauges:
    def __init__(self, gateway: "Gateway") -> None:
        self.gateway = gateway
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = asyncio.create_task(self._run(), name="gauges")

    async def stop(self) -> None:
        if self._task is not None:
            await cancelled(self._task)

    async def _run(self) -> None:
        while True:
            try:
                await self.tell()
            except StoreUnavailable:
                pass  # they stay as they were last known: api_store_up tells
            except Exception:
                logger.exception("Some gauges could not be told.")
            await asyncio.sleep(EVERY)

    async def tell(self) -> None:
        SNAPSHOT_AGE.set(self.gateway.snapshot.age)
        LEDGER_WAITING.set(self.gateway.ledger.waiting)
        members = self.gateway.pool.members
        busy = await self.gateway.queue.slots.busy([member.url for member in members])
        for member in self.gateway.pool.members:
            if member.url in busy:
                UPSTREAM_SLOTS.labels(member.name, "busy").set(busy[member.url])
