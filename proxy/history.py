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
from .stores import Meter

logger = logging.getLogger(__name__)

PATIENCE = 5.0  # seconds that a call waits for the ledger


class Span(NamedTuple):
    """A stretch of the ledger: from the begin of a day or month to a moment, or to its end where that is None."""

    begin: int
    end: float | None


class History:
    """Reads sums of the ledger for the event loop that asks."""

    def __init__(self) -> None:
        self._reader = ThreadPoolExecutor(1, thread_name_prefix="history")

    def stop(self) -> None:
        self._reader.shutdown(wait=False, cancel_futures=True)

    async def used(
        self, user_id: int, meters: Sequence[Meter], now: float, end: float | None = None
    ) -> dict[Meter, int]:
        """What was used of each meter's day or month up to `end`. Raises StoreUnavailable without a ledger."""
        try:
            async with asyncio.timeout(PATIENCE):
                return await asyncio.wrap_future(self._reader.submit(read, user_id, meters, now, end))
        except Exception as exc:
            logger.error("The ledger cannot be read. %s", exc)
            raise StoreUnavailable("What this account has used cannot be looked up. Try again shortly.") from exc


def read(user_id: int, meters: Sequence[Meter], now: float, end: float | None) -> dict[Meter, int]:
    """The same, on the reader's thread."""
    with fresh_connection():
        return used(user_id, meters, now, end)


def used(user_id: int, meters: Sequence[Meter], now: float, end: float | None = None) -> dict[Meter, int]:
    spans = {meter: Span(meter.window.bucket(now), end) for meter in meters}
    rows = sums(user_id, set(spans.values()))
    return {meter: total(meter, span, rows) for meter, span in spans.items()}


def sums(user_id: int, spans: Iterable[Span]) -> list[Any]:
    """Requests and tokens of each span, a row for each model: one query, over the longest span."""
    within = {span: Q(admitted_at__gte=moment(span.begin)) for span in spans}
    for span in within:
        if span.end is not None:
            within[span] &= Q(admitted_at__lt=moment(span.end))
    asked: dict[str, Any] = {label("requests", span): Count("pk", filter=each) for span, each in within.items()}
    asked |= {
        label("tokens", span): Sum(F("prompt_tokens") + F("completion_tokens"), filter=each, default=0)
        for span, each in within.items()
    }
    longest = within[min(within)]
    rows = UsageRecord.objects.filter(longest, user_id=user_id).order_by().values("model").annotate(**asked)
    return list(rows)


def total(meter: Meter, span: Span, rows: Iterable[Mapping[str, Any]]) -> int:
    return sum(row[label(meter.metric, span)] for row in rows if meter.model in ("", row["model"]))


def label(metric: str, span: Span) -> str:
    return f"{metric}_{span.begin}"


def moment(at: float) -> datetime:
    return datetime.fromtimestamp(at, UTC)
