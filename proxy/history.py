"""What the ledger says was used since a day or month began, for stores that have lost it, or never knew.

One thread reads it, for all that wait at that moment; the event loop goes on meanwhile.
"""

import asyncio
import logging
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any, NamedTuple

from django.db.models import Count, F, Q, Sum

from accounts.errors import StoreUnavailable
from accounts.snapshot import fresh_connection

from .models import UsageRecord
from .stores import AccountId, Meter

logger = logging.getLogger(__name__)

PATIENCE = 5.0  # seconds that a call waits for the ledger
AT_ONCE = 200  # accounts that one query is about
SPANS_AT_ONCE = 20  # and stretches of time
NOT_KNOWN = "What this account has used cannot be looked up. Try again shortly."


class Span(NamedTuple):
    """A stretch of the ledger: from the begin of a day or month, or later, to a moment, or to its end where None."""

    begin: float
    end: float | None


class Question(NamedTuple):
    """What somebody waits for: an account's use of some meters, in their day or month of `now`, up to `end`."""

    account: AccountId
    meters: tuple[Meter, ...]
    now: float
    end: float | None = None

    @property
    def spans(self) -> dict[Meter, Span]:
        since = self.account.reset_at or 0
        return {meter: Span(max(meter.window.bucket(self.now), since), self.end) for meter in self.meters}


Uses = dict[Meter, int]


class History:
    """Reads sums of the ledger for the event loop that asks, for all who wait at that moment at once."""

    def __init__(self) -> None:
        self._reader = ThreadPoolExecutor(1, thread_name_prefix="history")
        self._waiting: dict[Question, asyncio.Future[Uses]] = {}
        self._task: asyncio.Task[None] | None = None

    def stop(self) -> None:
        self._reader.shutdown(wait=False, cancel_futures=True)

    async def used(self, account: AccountId, meters: Sequence[Meter], now: float, end: float | None = None) -> Uses:
        """What was used of each meter's day or month up to `end`. Raises StoreUnavailable without a ledger."""
        question = Question(account, tuple(meters), now, end)
        if question not in self._waiting:
            self._waiting[question] = asyncio.get_running_loop().create_future()
        future = self._waiting[question]
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._read(), name="history")
        try:
            async with asyncio.timeout(PATIENCE):
                return await asyncio.shield(future)
        except TimeoutError as exc:
            raise StoreUnavailable(NOT_KNOWN) from exc

    async def _read(self) -> None:
        """Answer all who wait, one batch after the other."""
        while self._waiting:
            batch = self._next_batch()
            try:
                answers = await asyncio.wrap_future(self._reader.submit(read, list(batch)))
            except Exception as exc:  # whatever a database can raise
                logger.error("The ledger cannot be read. %s", exc)
                for future in batch.values():
                    future.set_exception(StoreUnavailable(NOT_KNOWN))
                    future.exception()  # seen, also where whoever waited has left
                continue
            for question, future in batch.items():
                future.set_result(answers[question])

    def _next_batch(self) -> dict[Question, "asyncio.Future[Uses]"]:
        """Those who ask for all there is, together; whoever asks up to a moment, alone, since each has its own."""
        first = next(iter(self._waiting))
        alike = [question for question in self._waiting if question.end is None] if first.end is None else [first]
        batch: list[Question] = []
        spans: set[Span] = set()
        for question in alike[:AT_ONCE]:
            spans.update(question.spans.values())
            if batch and len(spans) > SPANS_AT_ONCE:  # accounts that were reset have spans of their own
                break
            batch.append(question)
        return {question: self._waiting.pop(question) for question in batch}


def read(questions: Sequence[Question]) -> dict[Question, Uses]:
    """One batch, on the reader's thread."""
    with fresh_connection():
        return used(questions)


def used(questions: Sequence[Question]) -> dict[Question, Uses]:
    """The answers to all questions, by one query."""
    spans = {span for question in questions for span in question.spans.values()}
    rows: dict[int, list[Any]] = {}
    for row in sums({question.account.user_id for question in questions}, spans):
        rows.setdefault(row["user_id"], []).append(row)
    return {
        question: {
            meter: total(meter, span, rows.get(question.account.user_id, ())) for meter, span in question.spans.items()
        }
        for question in questions
    }


def sums(user_ids: Iterable[int], spans: Iterable[Span]) -> list[Any]:
    """Requests and tokens of each span, a row for each user and model, over the longest of them."""
    within = {span: Q(admitted_at__gte=moment(span.begin)) for span in spans}
    for span in within:
        if span.end is not None:
            within[span] &= Q(admitted_at__lt=moment(span.end))
    asked: dict[str, Any] = {
        label("requests", span): Count("pk", filter=each & Q(is_free=False)) for span, each in within.items()
    }
    asked |= {
        label("tokens", span): Sum(F("prompt_tokens") + F("completion_tokens"), filter=each, default=0)
        for span, each in within.items()
    }
    since = moment(min(span.begin for span in within))
    rows = UsageRecord.objects.filter(user_id__in=list(user_ids), admitted_at__gte=since).order_by()
    return list(rows.values("user_id", "model").annotate(**asked))


def total(meter: Meter, span: Span, rows: Iterable[Mapping[str, Any]]) -> int:
    return sum(row[label(meter.metric, span)] for row in rows if meter.model in ("", row["model"]))


def label(metric: str, span: Span) -> str:
    end = "" if span.end is None else f"_{round(span.end * 1e6)}"
    return f"{metric}_{round(span.begin * 1e6)}{end}"


def moment(at: float) -> datetime:
    return datetime.fromtimestamp(at, UTC)
