"""Migrations that this code has and its database has not."""

import asyncio
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

from django.db import ProgrammingError, connection
from django.db.migrations.executor import MigrationExecutor

from .snapshot import fresh_connection

logger = logging.getLogger(__name__)

EVERY = 2.0  # seconds between two looks, until none is pending
PATIENCE = 2.0  # seconds that a start waits for the first look


def pending_migrations() -> list[str]:
    """Names of migrations that are to be applied, in their order. Raises django.db.Error.

    Those that the database has and this code does not know, of a newer version, are none.
    """
    with fresh_connection():
        executor = MigrationExecutor(connection)
        plan = executor.migration_plan(executor.loader.graph.leaf_nodes())
        return [f"{migration.app_label}.{migration.name}" for migration, _ in plan]


class MigrationState:
    """Looks on a thread, at the start and then until no migration is pending. From then on it costs nothing."""

    def __init__(self, look: Callable[[], list[str]] = pending_migrations) -> None:
        self._look = look
        self._pending: list[str] | None = None  # None: not known yet
        self._is_unknown = False  # and that was said
        self._task: asyncio.Task[None] | None = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="migrations")

    @property
    def problem(self) -> str | None:
        """Why calls cannot be served yet, and what helps; None once the database is migrated."""
        if self._pending is None:
            return "Could not read the migration state from the database."
        if not self._pending:
            return None
        first, *others = self._pending
        more = f" and {len(others)} more migrations are" if others else " is"
        return f"The database is not migrated: {first}{more} pending. Run `manage.py migrate`."

    async def start(self) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(PATIENCE):
                await self._turn()
        if self.problem:
            self._task = asyncio.create_task(self._run(), name="migrations")

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task
        self._thread.shutdown(wait=False, cancel_futures=True)

    async def _run(self) -> None:
        while self.problem:
            await asyncio.sleep(EVERY)
            await self._turn()

    async def _turn(self) -> None:
        before = self._pending
        try:
            self._pending = await asyncio.wrap_future(self._thread.submit(self._look))
        except ProgrammingError as exc:
            logger.warning("Which migrations were applied may not be read, so the database is taken as it is. %s", exc)
            self._pending = []
        except Exception as exc:  # it must outlive whatever a database can raise
            if not self._is_unknown:
                logger.error("Could not read the migration state from the database. %s", exc)
            self._is_unknown = True
            return
        if self._pending and before is None:
            logger.error("%s Until then this process is not ready.", self.problem)
        elif before and not self._pending:
            logger.info("The database is migrated.")
