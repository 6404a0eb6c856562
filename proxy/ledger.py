"""The ledger: rows that wait for the database, and the thread that writes them in batches, outside of any request.

A row is written at most FLUSH_EVERY after its call has ended, so that is what a killed process loses; a stopped one
writes all. While the database is gone rows wait in memory, and where there is no more room for them new calls are
refused. Writing twice is harmless: a request has one id, and an id one row.
"""

import asyncio
import json
import logging
import time
from collections import Counter, deque
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime
from itertools import islice
from typing import Any, NamedTuple

from django.db import DataError, IntegrityError, connection, transaction

from accounts.errors import StoreUnavailable
from accounts.snapshot import fresh_connection

from .metrics import LEDGER_ROWS
from .models import TAKEN_FOR_LOST, RefusalCount, UsageRecord

logger = logging.getLogger(__name__)

FLUSH_EVERY = 0.5  # seconds between two batches
BATCH = 500  # rows in one transaction at most
RETRY_AFTER = 1.0  # seconds until a batch that failed is written again
LAST_TRY = 10.0  # seconds that a stop goes on trying to write what is left

NEVER_TAKEN = (
    DataError,
    IntegrityError,
    ValueError,
    TypeError,
    AttributeError,
    OverflowError,
)  # however often it is tried

Row = dict[str, Any]  # the columns of a UsageRecord; what is left out is NULL

COLUMNS = [str(field.column) for field in UsageRecord._meta.concrete_fields if not field.primary_key]
PLAIN_COLUMNS = [column for column in COLUMNS if column != "admitted_at"]
INSERT = (
    f"INSERT INTO {UsageRecord._meta.db_table} ({', '.join([*PLAIN_COLUMNS, 'admitted_at'])})"  # noqa: S608  # ours
    f" VALUES ({', '.join(['%s'] * len(COLUMNS))})"
    f" ON CONFLICT (request_id) DO UPDATE SET {', '.join(f'{column} = excluded.{column}' for column in COLUMNS)}"
    f" WHERE {UsageRecord._meta.db_table}.error = '{TAKEN_FOR_LOST}'"
)


class Refusals(NamedTuple):
    """What is added up: one user's refusals for one reason in one minute (its first second, as Unix time)."""

    minute: int
    user_id: int
    reason: str


class Ledger:
    """Rows and refusals come in on the event loop; one task has them written on one thread."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.is_down = False  # the last batch failed
        self._rows: deque[Row] = deque()
        self._refusals: Counter[Refusals] = Counter()
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="ledger")
        self._stopping = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    @property
    def waiting(self) -> int:
        return len(self._rows)

    def check_room(self) -> None:
        """Raise StoreUnavailable where another row could not be kept."""
        if len(self._rows) + len(self._refusals) >= self.capacity:
            raise StoreUnavailable("Calls cannot be recorded at the moment. Try again shortly.")

    def add(self, row: Row) -> None:
        self._rows.append(row)

    def add_refusal(self, user_id: int, reason: str) -> None:
        now = int(time.time())
        self._refusals[Refusals(now - now % 60, user_id, reason)] += 1

    # -- writing -------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        self._task = asyncio.create_task(self._run(), name="ledger")

    async def stop(self) -> None:
        """Write what is left; what cannot be written goes to the log, where it can be found again."""
        self._stopping.set()
        if self._task is not None:
            await self._task  # a batch that is being written is let end
        give_up_at = time.monotonic() + LAST_TRY
        while (self._rows or self._refusals) and time.monotonic() < give_up_at:
            if not await self._flush():
                await asyncio.sleep(RETRY_AFTER)
        for row in self._rows:
            logger.error("Not written to the ledger: %s", json.dumps(row, default=str))
        for refusals, count in self._refusals.items():
            logger.error("Not written to the ledger: %d times %s", count, refusals)
        self._writer.shutdown(wait=False, cancel_futures=True)

    async def _run(self) -> None:
        while not self._stopping.is_set():
            wrote = await self._flush()
            if len(self._rows) >= BATCH and wrote:
                continue
            with suppress(TimeoutError):
                async with asyncio.timeout(FLUSH_EVERY if wrote else RETRY_AFTER):
                    await self._stopping.wait()

    async def _flush(self) -> bool:
        """Write one batch. False where the database did not take it, and it waits on."""
        rows = list(islice(self._rows, BATCH))
        refusals, self._refusals = self._refusals, Counter()
        if not rows and not refusals:
            return True
        try:
            written = await asyncio.wrap_future(self._writer.submit(write, rows, refusals))
        except Exception as exc:  # the writer must outlive whatever a database can raise
            self._refusals.update(refusals)
            if not self.is_down:
                logger.error("The ledger cannot be written; its rows wait in memory. %s", exc)
            self.is_down = True
            return False
        if self.is_down:
            logger.warning("The ledger is written again; %d rows waited.", len(self._rows))
        self.is_down = False
        for _ in rows:
            self._rows.popleft()
        LEDGER_ROWS.labels("written").inc(written)
        LEDGER_ROWS.labels("rejected").inc(len(rows) - written)
        return True


def write(rows: list[Row], refusals: Mapping[Refusals, int]) -> int:
    """One batch, on the writer's thread. Gives how many rows are in the ledger now: all that a database would take.

    Raises what the database does where it is gone, busy or not migrated: then all of it is to be written later.
    """
    with fresh_connection():
        try:
            with transaction.atomic():
                insert(rows)
                add_up(refusals)
            return len(rows)
        except NEVER_TAKEN:
            written = sum(write_alone(row) for row in rows)
            add_up(refusals)  # last: what comes before may be done again, and this may not
            return written


def write_alone(row: Row) -> bool:
    """Write one row of a batch that was not taken, so that a bad one keeps no others out."""
    try:
        insert([row])
    except NEVER_TAKEN:
        logger.exception("The ledger cannot take a row: %s", json.dumps(row, default=str))
        return False
    return True


def insert(rows: Iterable[Row]) -> None:
    """Insert rows that are not there yet, or in place of one that was taken for lost.

    One statement for all: through the ORM a row costs five times as much.
    """
    adapt = connection.ops.adapt_datetimefield_value
    values = [[*map(row.get, PLAIN_COLUMNS), adapt(row["admitted_at"])] for row in rows]
    with connection.cursor() as cursor:
        cursor.executemany(INSERT, values)


def add_up(refusals: Mapping[Refusals, int]) -> None:
    for (minute, user_id, reason), count in refusals.items():
        RefusalCount.objects.add(datetime.fromtimestamp(minute, UTC), user_id, reason, count)
