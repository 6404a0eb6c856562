"""What was used, for people. Whole days come from the roll-up, the rest from the ledger."""

from collections.abc import Sequence
from datetime import date
from typing import TYPE_CHECKING, Any, NamedTuple

from django.db.models import Count, F, Q, Sum

from accounts.models import User
from accounts.usage import ModelUse, QuotaUse, RecentCall, UsageReader

from .models import DailyUsage, UsageRecord
from .rollup import FAILED, SUMS, begin_of, first_open_day

if TYPE_CHECKING:
    from .gateway import Gateway

Key = tuple[Any, ...]
NAMES = ("calls", "failed", *SUMS)
SUMMED: dict[str, Any] = {  # of rows of the ledger
    "calls": Count("pk"),
    "failed": Count("pk", filter=FAILED),
    **{name: Sum(name) for name in SUMS},
}


class Total(NamedTuple):
    """Calls and tokens, and the milliseconds of all calls together."""

    calls: int = 0
    failed: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    total_ms: int = 0

    def __add__(self, other: "Total") -> "Total":  # type: ignore[override]  # sums, not sequences
        return Total(*(mine + more for mine, more in zip(self, other, strict=True)))

    @property
    def tokens(self) -> int:
        return self.prompt_tokens + self.completion_tokens

    @property
    def seconds(self) -> float:
        """Of one call, on average."""
        return self.total_ms / self.calls / 1000 if self.calls else 0.0


def totals(since: date, *by: str, only: Q | None = None) -> dict[Key, Total]:
    """What was used since the begin of a day, by these fields that roll-up and ledger both have. `day` is one, too."""
    only = only or Q()
    days = {name: Sum(name) for name in NAMES}
    open_day = max(filter(None, (first_open_day(), since)))  # asked once: a day may be added up in this moment
    whole = DailyUsage.objects.filter(only, day__gte=since, day__lt=open_day).order_by()
    found = add_up(whole.values(*by).annotate(**days), by)
    rows = UsageRecord.objects.filter(only, admitted_at__gte=begin_of(open_day)).order_by()
    if "day" in by:
        rows = rows.annotate(day=F("admitted_at__date"))
    for key, more in add_up(rows.values(*by).annotate(**SUMMED), by).items():
        found[key] = found.get(key, Total()) + more
    return found


def add_up(rows: Any, by: Sequence[str]) -> dict[Key, Total]:
    return {tuple(row[name] for name in by): Total(*(row[name] or 0 for name in NAMES)) for row in rows}


def most_used(found: dict[Key, Total]) -> list[tuple[Key, Total]]:
    return sorted(found.items(), key=lambda each: (-each[1].tokens, -each[1].calls, each[0]))


class Reports(UsageReader):
    """What accounts wants to know of use."""

    def __init__(self, gateway: "Gateway") -> None:
        self.gateway = gateway

    def remaining(self, user: User) -> Sequence[QuotaUse]:
        return self.remaining_of([user])[0]

    def remaining_of(self, users: Sequence[User]) -> Sequence[Sequence[QuotaUse]]:
        return self.gateway.remaining(users)

    def recent(self, user: User, count: int) -> Sequence[RecentCall]:
        return [
            RecentCall(
                row.request_id,
                row.admitted_at,
                row.endpoint,
                row.model,
                row.status,
                row.error,
                row.prompt_tokens + row.completion_tokens,
                row.total_ms,
            )
            for row in UsageRecord.objects.filter(user_id=user.pk).order_by("-admitted_at")[:count]
        ]

    def models(self, user: User) -> Sequence[str]:
        return self.gateway.models_for(user)

    def totals(self, user: User, since: date) -> Sequence[ModelUse]:
        found = totals(since, "model", only=Q(user_id=user.pk))
        return [
            ModelUse(str(model), total.calls, total.failed, total.prompt_tokens, total.completion_tokens)
            for (model,), total in most_used(found)
        ]
