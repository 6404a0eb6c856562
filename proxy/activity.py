"""What went on in the last hour, day or month: series for charts, and who stands out. Read from ledger and refusals."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from typing import Any, NamedTuple

from django.db.models import Case, CharField, Count, QuerySet, Sum, Value, When
from django.db.models.functions import Trunc

from accounts.models import User

from .models import RefusalCount, UsageRecord
from .outcomes import COMPLETED, OTHERS
from .reports import SUMMED, Key, Total, add_up, totals
from .rollup import begin_of

SHOWN = 5  # users in a list
SLOWEST_OF = 3  # calls that a user must have made to be among the slowest


class Span(NamedTuple):
    """A stretch of time up to now, in steps of a chart."""

    name: str
    kind: str  # of step, as Trunc calls it
    step: timedelta
    length: int  # in steps
    shown: str  # of a step, as strftime has it

    def steps(self, now: datetime) -> list[datetime]:
        """The first moment of each step, the last being the one of now."""
        last = now.astimezone(UTC).replace(second=0, microsecond=0)
        if self.kind != "minute":
            last = last.replace(minute=0)
        if self.kind == "day":
            last = last.replace(hour=0)
        return [last - n * self.step for n in reversed(range(self.length))]


SPANS = {
    span.name: span
    for span in (
        Span("hour", "minute", timedelta(minutes=1), 60, "%H:%M"),
        Span("day", "hour", timedelta(hours=1), 24, "%H:%M"),
        Span("month", "day", timedelta(days=1), 30, "%d %b"),
    )
}


class UserUse(NamedTuple):
    """What one user did. There is no name where the user is deleted."""

    user_id: int | None
    name: str
    total: Total


class Refused(NamedTuple):
    """How often one limit refused calls, and whose it refused most often."""

    reason: str
    times: int
    users: int
    user_id: int | None
    name: str


@dataclass
class Activity:
    """One span. Series have a number for each step.

    `calls` are by outcome, `tokens` by tier; `limited` are the calls that limits refused, which are in no ledger.
    """

    labels: list[str]
    calls: dict[str, list[int]] = field(default_factory=dict)
    limited: list[int] = field(default_factory=list)
    tokens: dict[str, list[int]] = field(default_factory=dict)
    biggest: list[UserUse] = field(default_factory=list)
    slowest: list[UserUse] = field(default_factory=list)
    refusals: list[Refused] = field(default_factory=list)

    @property
    def is_empty(self) -> bool:
        return not any(map(any, (*self.calls.values(), self.limited)))


def activity(span: Span, now: datetime) -> Activity:
    """What went on, by eleven queries at most, however many rows there are."""
    steps = span.steps(now)
    by_step: dict[datetime, Total] = defaultdict(Total)
    by_tier: dict[str, dict[datetime, int]] = defaultdict(dict)
    for (step, tier), total in used_in(span, steps[0]).items():
        by_step[step] += total
        by_tier[tier][step] = total.tokens
    ended = outcomes_in(span, steps[0])
    limited = limited_in(span, steps[0])
    people = users_in(span, steps[0])
    biggest = sorted(people, key=lambda each: (-each.total.tokens, each.user_id or 0))[:SHOWN]
    seen = Activity(
        [step.strftime(span.shown) for step in steps],
        {
            COMPLETED.name: [max(0, by_step[step].calls - ended[step].total()) for step in steps],
            **{each.name: [ended[step][each.name] for step in steps] for each in OTHERS},
        },
        [limited.get(step, 0) for step in steps],
        {tier: [of_tier.get(step, 0) for step in steps] for tier, of_tier in sorted(by_tier.items())},
        biggest,
        slowest(people),
        refusals(steps[0]),
    )
    name_all(seen)
    return seen


def name_all(seen: Activity) -> None:
    """Put the names of those who stand out to their ids."""
    lists: tuple[list[Any], ...] = (seen.biggest, seen.slowest, seen.refusals)
    wanted = {each.user_id for those in lists for each in those} - {None}
    names = dict(User.objects.filter(pk__in=wanted).values_list("pk", "username"))
    for those in lists:
        those[:] = [each._replace(name=names.get(each.user_id, "")) for each in those]


def slowest(people: Iterable[UserUse]) -> list[UserUse]:
    """Who waited longest for a whole answer, on average."""
    often = [each for each in people if each.total.calls >= SLOWEST_OF]
    return sorted(often, key=lambda each: (-each.total.seconds, each.user_id or 0))[:SHOWN]


def used_in(span: Span, begin: datetime) -> dict[tuple[datetime, str], Total]:
    """What was used since then, by step and tier."""
    if span.kind == "day":
        found: Mapping[Key, Total] = totals(begin.date(), "day", "tier")
        return {(moment_of(day), str(tier)): total for (day, tier), total in found.items()}
    rows = of_ledger(begin).values("tier", step=Trunc("admitted_at", span.kind, tzinfo=UTC)).annotate(**SUMMED)
    return {(step, str(tier)): total for (step, tier), total in add_up(rows, ("step", "tier")).items()}


def outcomes_in(span: Span, begin: datetime) -> defaultdict[datetime, Counter[str]]:
    """How many calls had each outcome but the usual one since then, by step. Read from the ledger, also for a month."""
    kind = Case(*(When(each.rows, then=Value(each.name)) for each in OTHERS), output_field=CharField())
    rows = of_ledger(begin).exclude(COMPLETED.rows).values(kind=kind, step=Trunc("admitted_at", span.kind, tzinfo=UTC))
    found: defaultdict[datetime, Counter[str]] = defaultdict(Counter)
    for row in rows.annotate(calls=Count("*")):  # of the index alone
        found[row["step"]][row["kind"]] = row["calls"]
    return found


def users_in(span: Span, begin: datetime) -> list[UserUse]:
    """What each user has used since then, without names."""
    if span.kind == "day":
        found: Mapping[Key, Total] = totals(begin.date(), "user_id")
    else:
        found = add_up(of_ledger(begin).values("user_id").annotate(**SUMMED), ("user_id",))
    return [UserUse(user_id, "", total) for (user_id,), total in found.items()]


def of_ledger(begin: datetime) -> QuerySet[UsageRecord]:
    return UsageRecord.objects.filter(admitted_at__gte=begin).order_by()


def moment_of(day: date | str) -> datetime:
    return begin_of(day if isinstance(day, date) else date.fromisoformat(day))


def limited_in(span: Span, begin: datetime) -> dict[datetime, int]:
    """How often limits refused since then, by step."""
    rows = refusals_since(begin).values(step=Trunc("minute", span.kind, tzinfo=UTC)).annotate(times=Sum("count"))
    return {row["step"]: row["times"] for row in rows}


def refusals(begin: datetime) -> list[Refused]:
    """One line for each reason since then, the most frequent first, without names."""
    by_reason: dict[str, Counter[int | None]] = defaultdict(Counter)
    for row in refusals_since(begin).values("reason", "user_id").annotate(times=Sum("count")):
        by_reason[row["reason"]][row["user_id"]] = row["times"]
    lines = [
        Refused(reason, users.total(), len(users), users.most_common(1)[0][0], "")
        for reason, users in by_reason.items()
    ]
    return sorted(lines, key=lambda each: -each.times)


def refusals_since(begin: datetime) -> QuerySet[RefusalCount]:
    return RefusalCount.objects.filter(minute__gte=begin).order_by()
