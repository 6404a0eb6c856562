"""The ledger, added up by day, so that a month is read from a few rows. A day is added up anew until all of it is in.

A row comes into the ledger when its call has ended, which may be an hour after it was admitted, or longer where the
database was gone. So yesterday is added up anew now and then; what is older stays as it is, also once its rows are
pruned. Today is not added up: it is read from the ledger itself. Sums of an earlier version do not tell free calls
apart: those of this month are added up anew.
"""

import asyncio
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, date, datetime, time, timedelta

from django.db import IntegrityError, connection, transaction
from django.db.models import Aggregate, Count, Max, Min, Q, QuerySet, Sum
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
FREE = Q(is_free=True)
LOCK = 0x11A3A  # the first number of PostgreSQL's advisory locks on days


def begin_of(day: date) -> datetime:
    return datetime.combine(day, time(), UTC)


def first_open_day() -> date | None:
    """The first day that is not added up: from there on the ledger is to be read. None: all of it."""
    last: date | None = DailyUsage.objects.aggregate(last=Max("day"))["last"]
    return last + timedelta(days=1) if last else None


def exact_until(since: date, today: date) -> date:
    """Return the day up to which sums hold all that was used from `since` on, free calls told apart.

    Days are added up in order, each in one step. So one without sums had no calls if a later one has sums.
    """
    day = exact = since
    while day < today:
        for at, free in DailyUsage.objects.filter(day=day).order_by().values_list("rolled_up_at", "free_calls")[:1]:
            if free is None or at < whole_from(day):
                return exact
            exact = day + timedelta(days=1)
        day += timedelta(days=1)
    return exact


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
    of_month = DailyUsage.objects.filter(day__gte=today.replace(day=1), day__lt=begin)
    incomplete = of_month.filter(free_calls=None).order_by("day").values_list("day", flat=True).distinct()
    return [*incomplete, *(begin + timedelta(days=n) for n in range((today - begin).days))]


def whole_from(day: date) -> datetime:
    """When all of a day is in: nothing comes later."""
    return begin_of(day) + timedelta(days=2)


def rows_of(day: date) -> QuerySet[UsageRecord]:
    begin = begin_of(day)
    return UsageRecord.objects.filter(admitted_at__gte=begin, admitted_at__lt=begin + timedelta(days=1)).order_by()


def roll_up(day: date) -> int:
    """Add up one day, in place of what it was. Gives the number of sums. A second worker at it changes nothing.

    What was added up when all was in stays for good: its rows may be about to be pruned. So do sums of more calls than
    there are rows.
    """
    with one_at_a_time(day):
        whole = DailyUsage.objects.filter(day=day, rolled_up_at__gte=whole_from(day)).exclude(free_calls=None)
        if whole.exists():
            return 0
        at = timezone.now()  # before the rows are read: those that come later are not in the sums
        asked: dict[str, Aggregate] = {name: Sum(name) for name in SUMS}
        asked |= {"calls": Count("pk"), "failed": Count("pk", filter=FAILED), "free_calls": Count("pk", filter=FREE)}
        rows = [DailyUsage(day=day, rolled_up_at=at, **each) for each in rows_of(day).values(*KINDS).annotate(**asked)]
        with suppress(IntegrityError), transaction.atomic():  # not around the reading, which would keep others waiting
            before = DailyUsage.objects.filter(day=day)
            known = before.aggregate(calls=Sum("calls"), at=Max("rolled_up_at"))
            if rows and sum(row.calls for row in rows) >= (known["calls"] or 0) and at >= (known["at"] or at):
                before.delete()
                DailyUsage.objects.bulk_create(rows)
                return len(rows)
    return 0


@contextmanager
def one_at_a_time(day: date) -> Iterator[None]:
    """Keep other workers from adding up the same day. SQLite has one worker, as a rule, and needs no lock."""
    if connection.vendor != "postgresql":
        yield
        return
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_xact_lock(%s, %s)", [LOCK, day.toordinal()])
        yield


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
        """Look at once: days that came in while no gateway ran, or before it added up days, are due at its start."""
        while True:
            try:
                await asyncio.to_thread(work)
            except Exception as exc:  # whatever a database can raise: it is tried again
                logger.warning("The ledger could not be added up. %s", exc)
            await asyncio.sleep(LOOK_EVERY)
