"""The ledger, added up by day, so that a month is read from a few rows. A day is added up anew until all of it is in.

A row comes into the ledger when its call has ended, which may be an hour after it was admitted, or longer where the
database was gone. So yesterday is added up anew now and then; what is older stays as it is, also once its rows are
pruned. Today is not added up: it is read from the ledger itself.
"""

import asyncio
import logging
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, date, datetime, time, timedelta

from django.db import IntegrityError, transaction
from django.db.models import Count, Max, Min, Q, QuerySet, Sum
from django.utils import timezone

from accounts.snapshot import fresh_connection

from .endings import cancelled
from .models import DailyUsage, UsageRecord

logger = logging.getLogger(__name__)

EVERY = timedelta(hours=1)  # that yesterday is added up anew
LOOK_EVERY = 300.0  # seconds between two looks at what is due
SUMS = ("prompt_tokens", "cached_tokens", "completion_tokens", "total_ms")
KINDS = ("user_id", "tier", "model")
FAILED = Q(status__gte=500)


def begin_of(day: date) -> datetime:
    return datetime.combine(day, time(), UTC)


def first_open_day() -> date | None:
    """The first day that is not added up: from there on the ledger is to be read. None: all of it."""
    last: date | None = DailyUsage.objects.aggregate(last=Max("day"))["last"]
    return last + timedelta(days=1) if last else None


def days_due(now: datetime) -> list[date]:
    """The whole days that are to be added up, or anew."""
    today = now.date()
    newest = DailyUsage.objects.order_by("-day").values_list("day", "rolled_up_at").first()
    if newest is None:
        oldest: datetime | None = UsageRecord.objects.aggregate(at=Min("admitted_at"))["at"]
        begin = oldest.date() if oldest else today
    else:
        day, at = newest
        is_due = now - at >= EVERY or today > day + timedelta(days=1)
        begin = day if is_due and at < whole_from(day) else day + timedelta(days=1)
    return [begin + timedelta(days=n) for n in range((today - begin).days)]


def whole_from(day: date) -> datetime:
    """When all of a day is in: nothing comes later."""
    return begin_of(day) + timedelta(days=2)


def rows_of(day: date) -> QuerySet[UsageRecord]:
    begin = begin_of(day)
    return UsageRecord.objects.filter(admitted_at__gte=begin, admitted_at__lt=begin + timedelta(days=1)).order_by()


def roll_up(day: date) -> int:
    """Add up one day, in place of what it was. Gives the number of sums. A second worker at it changes nothing.

    What was added up when all was in stays for good: its rows may be about to be pruned.
    """
    if DailyUsage.objects.filter(day=day, rolled_up_at__gte=whole_from(day)).exists():
        return 0
    asked = {name: Sum(name) for name in SUMS}
    sums = rows_of(day).values(*KINDS).annotate(calls=Count("pk"), failed=Count("pk", filter=FAILED), **asked)
    with suppress(IntegrityError), transaction.atomic():
        rows = [DailyUsage(day=day, rolled_up_at=timezone.now(), **each) for each in sums]
        if rows:
            DailyUsage.objects.filter(day=day).delete()
            DailyUsage.objects.bulk_create(rows)
        return len(rows)
    return 0


def roll_up_due() -> Sequence[date]:
    """Add up what is due. Gives the days."""
    due = days_due(timezone.now())
    for day in due:
        roll_up(day)
    return due


def work() -> None:
    """One turn, on a thread."""
    with fresh_connection():
        roll_up_due()


class RollUp:
    """Adds up what is due, while the gateway runs."""

    def __init__(self) -> None:
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = asyncio.create_task(self._run(), name="roll-up")

    async def stop(self) -> None:
        if self._task is not None:
            await cancelled(self._task)

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(LOOK_EVERY)
            try:
                await asyncio.to_thread(work)
            except Exception as exc:  # whatever a database can raise: it is tried again
                logger.warning("The ledger could not be added up. %s", exc)
