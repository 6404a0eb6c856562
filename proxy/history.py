"""What the ledger says was used since a day or month began, for stores that have lost it, or never knew.

Whole days come from their sums (rollup.py), the rest from the rows. One thread reads, for all that wait at that moment;
the event loop goes on meanwhile.
"""

import asyncio
import logging
import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime
from itertools import chain, pairwise
from time import monotonic
from typing import Any, NamedTuple

from django.db.models import Count, F, Q, QuerySet, Sum, Value

from accounts.errors import StoreUnavailable
from accounts.snapshot import fresh_connection

from .models import DailyUsage, UsageRecord
from .rollup import LOOK_EVERY, begin_of, exact_until
from .stores import AccountId, Meter
from .windows import DAY_SECONDS

logger = logging.getLogger(__name__)

AT_ONCE = 200  # accounts that one query is about
SPANS_AT_ONCE = 20  # and stretches of time
COLUMNS_AT_ONCE = 200  # sums of metrics and models
SLOW = 5.0  # seconds of one reading that operators are told of
NOT_KNOWN = "What this account has used cannot be looked up. Try again shortly."


class Span(NamedTuple):
    """A stretch of the ledger, in Unix times: from the begin of a day or month, or later, to before `end`."""

    begin: float
    end: float = math.inf


class Question(NamedTuple):
    """What somebody waits for: an account's use of some meters, in their day or month of `now`, up to `end`."""

    account: AccountId
    meters: tuple[Meter, ...]
    now: float
    end: float | None = None

    @property
    def spans(self) -> dict[Meter, Span]:
        since = self.account.reset_at or 0
        end = math.inf if self.end is None else self.end
        return {meter: Span(max(meter.window.bucket(self.now), since), end) for meter in self.meters}


Uses = dict[Meter, int]


class History:
    """Reads sums of the ledger for the event loop that asks, for all who wait at that moment at once."""

    def __init__(self) -> None:
        self._reader = ThreadPoolExecutor(1, thread_name_prefix="history")
        self._waiting: dict[Question, asyncio.Future[Uses]] = {}
        self._being_read: dict[Question, asyncio.Future[Uses]] = {}
        self._task: asyncio.Task[None] | None = None
        self._month = self._exact_until = date.min  # a month, and the day up to which its sums are exact
        self._looked_at = -math.inf  # of monotonic(): when all days of the month were looked at

    def stop(self) -> None:
        """Read no more; whoever waits gets StoreUnavailable."""
        if self._task is not None:
            self._task.cancel()
        self._reader.shutdown(wait=False, cancel_futures=True)
        refuse(self._being_read | self._waiting)

    async def used(self, account: AccountId, meters: Sequence[Meter], now: float, end: float | None = None) -> Uses:
        """What was used of each meter's day or month up to `end`. Raises StoreUnavailable without a ledger.

        That takes as long as the database takes: whoever is in a hurry leaves, and the answer is still worth having.
        """
        question = Question(account, tuple(meters), now, end)
        if question not in self._waiting:
            self._waiting[question] = asyncio.get_running_loop().create_future()
        future = self._waiting[question]
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._read(), name="history")
        return await asyncio.shield(future)

    async def _read(self) -> None:
        """Answer all who wait, one batch after the other."""
        while self._waiting:
            batch = self._being_read = self._next_batch()
            began = monotonic()
            try:
                answers = await asyncio.wrap_future(self._reader.submit(self._answers, list(batch)))
            except Exception as exc:  # whatever a database can raise
                logger.error("The ledger cannot be read. %s", exc)
                refuse(batch)
                continue
            if monotonic() - began > SLOW:
                logger.warning("What %d accounts used took %.1f s to read.", len(batch), monotonic() - began)
            for question, future in batch.items():
                future.set_result(answers[question])

    def _answers(self, questions: Sequence[Question]) -> dict[Question, Uses]:
        """Answer one batch, on the reader's thread."""
        with fresh_connection():
            begin = min(span.begin for question in questions for span in question.spans.values())
            month = moment(begin).date().replace(day=1)
            if month != self._month or monotonic() - self._looked_at > LOOK_EVERY:
                self._month = self._exact_until = month
                self._looked_at = monotonic()
            self._exact_until = exact_until(self._exact_until, datetime.now(UTC).date())
            return used(questions, self._exact_until)

    def _next_batch(self) -> dict[Question, "asyncio.Future[Uses]"]:
        """Questions without an end come first, together; one up to a moment is alone, since each has its own."""
        first = next((each for each in self._waiting if each.end is None), next(iter(self._waiting)))
        alike = [question for question in self._waiting if question.end is None] if first.end is None else [first]
        batch: list[Question] = []
        spans: set[Span] = set()
        for question in alike[:AT_ONCE]:
            spans.update(question.spans.values())
            if batch and len(spans) > SPANS_AT_ONCE:  # accounts that were reset have spans of their own
                break
            batch.append(question)
        return {question: self._waiting.pop(question) for question in batch}


def refuse(waiting: Mapping[Question, "asyncio.Future[Uses]"]) -> None:
    for future in waiting.values():
        if not future.done():
            future.set_exception(StoreUnavailable(NOT_KNOWN))
            future.exception()  # seen, also where whoever waited has left


# -- reading -------------------------------------------------------------------------------------------------------


def used(questions: Sequence[Question], whole_days_until: date = date.min) -> dict[Question, Uses]:
    """Answer all questions. Days before `whole_days_until` are read from their sums, the rest row by row.

    Time is cut where a day, a month or an account begins. Each piece is one query without a condition on time but its
    own two ends, and without grouping by model: a million rows take 0.2 s so, and a second otherwise.
    """
    limit = 0.0 if whole_days_until == date.min else begin_of(whole_days_until).timestamp()
    parts = {span: parts_of(span, limit) for question in questions for span in question.spans.values()}
    found: dict[tuple[Any, ...], int] = defaultdict(int)
    for read_piece, kind in ((read_days, 0), (read_rows, 1)):
        for piece in pieces_of(chain.from_iterable(each[kind] for each in parts.values())):
            asking = [
                (question.account.user_id, meter, span)
                for question in questions
                for meter, span in question.spans.items()
                if any(part.begin <= piece.begin and piece.end <= part.end for part in parts[span][kind])
            ]
            sums = read_piece(piece, {user for user, _, _ in asking}, {(m.metric, m.model) for _, m, _ in asking})
            for key in set(asking):
                user, meter, _ = key
                found[key] += sums.get((user, meter.metric, meter.model), 0)
    return {
        question: {meter: found[question.account.user_id, meter, span] for meter, span in question.spans.items()}
        for question in questions
    }


def parts_of(span: Span, limit: float) -> tuple[list[Span], list[Span]]:
    """Split a span into its whole days up to a limit, and what is before and after them."""
    if span.begin >= span.end:
        return [], []
    begin = math.ceil(span.begin / DAY_SECONDS) * DAY_SECONDS
    end = min(span.end, limit) // DAY_SECONDS * DAY_SECONDS
    if begin >= end:
        return [], [span]
    around = Span(span.begin, begin), Span(end, span.end)
    return [Span(begin, end)], [each for each in around if each.begin < each.end]


def pieces_of(parts: Iterable[Span]) -> Iterator[Span]:
    """Cut overlapping parts into pieces that do not overlap, each whole in a part or outside of it."""
    known = set(parts)
    for begin, end in pairwise(sorted({edge for part in known for edge in part})):
        if any(part.begin <= begin and end <= part.end for part in known):
            yield Span(begin, end)


Sums = dict[tuple[int, str, str], int]  # by user, metric and model; that is empty for all


def read_rows(piece: Span, users: set[int], asked: set[tuple[str, str]]) -> Sums:
    rows = UsageRecord.objects.filter(user_id__in=sorted(users), admitted_at__gte=moment(piece.begin))
    if piece.end < math.inf:
        rows = rows.filter(admitted_at__lt=moment(piece.end))
    return summed(
        rows,
        asked,
        requests=lambda of: Count(Value(1), filter=of & Q(is_free=False)),
        tokens=lambda of: Sum(F("prompt_tokens") + F("completion_tokens"), filter=of, default=0),
    )


def read_days(piece: Span, users: set[int], asked: set[tuple[str, str]]) -> Sums:
    days = moment(piece.begin).date(), moment(piece.end).date()
    rows = DailyUsage.objects.filter(user_id__in=sorted(users), day__gte=days[0], day__lt=days[1])
    return summed(
        rows,
        asked,
        requests=lambda of: Sum(F("calls") - F("free_calls"), filter=of, default=0),
        tokens=lambda of: Sum(F("prompt_tokens") + F("completion_tokens"), filter=of, default=0),
    )


def summed(rows: QuerySet[Any], asked: set[tuple[str, str]], **sums: Any) -> Sums:
    """Sum each metric that is asked for, of one model or all, for each user."""
    found: Sums = {}
    columns = sorted(asked)
    for at in range(0, len(columns), COLUMNS_AT_ONCE):
        some = {f"sum_{n}": column for n, column in enumerate(columns[at : at + COLUMNS_AT_ONCE])}
        made = {name: sums[metric](Q(model=model) if model else Q()) for name, (metric, model) in some.items()}
        for row in rows.order_by().values("user_id").annotate(**made):
            found |= {(row["user_id"], *column): int(row[name]) for name, column in some.items()}
    return found


def moment(at: float) -> datetime:
    return datetime.fromtimestamp(at, UTC)
