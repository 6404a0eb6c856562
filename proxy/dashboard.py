"""The first page of the admin: what goes on now, and what went on in the last hour, day or month.

Who may not view calls sees no use, and who may not view upstreams sees none of them.
"""

from collections.abc import Collection, Sequence
from datetime import datetime, timedelta
from typing import Any, NamedTuple
from zlib import crc32

import orjson
from django.db.models import Sum
from django.http import HttpRequest, HttpResponse
from django.template.response import TemplateResponse
from django.utils import timezone

from accounts.errors import StoreUnavailable
from accounts.models import Tier

from .activity import SPANS, Activity, activity
from .gateway import UpstreamState, gateway
from .models import RefusalCount, Upstream, UsageRecord
from .outcomes import OUTCOMES
from .reports import most_used, totals

SEES_CALLS = "proxy.view_usagerecord"
SEES_UPSTREAMS = "proxy.view_upstream"
NOW = timedelta(minutes=1)
TIERS_TOLD = 4  # of those that used most today
REFRESH = 5  # seconds between two looks of the page at what goes on now
LIMITED = "limited"  # calls that limits refused; they are not in the ledger
STATUS_COLOURS = {  # of outcomes, from the bottom of a bar to its top
    "well": "#14b8a6",
    "left": "#94a3b8",
    "refused": "#b45309",
    LIMITED: "#facc15",
    "cut": "#fb923c",
    "failed": "#dc2626",
}
TIER_COLOURS = (  # readable on white and on black, and none of a status
    "#6366f1", "#84cc16", "#d946ef", "#0ea5e9", "#f472b6", "#2563eb",
    "#4d7c0f", "#a78bfa", "#9333ea", "#60a5fa", "#a21caf", "#0369a1",
)  # fmt: skip
OTHER_TIERS = "#737373"


class Serving(NamedTuple):
    """An upstream, as a line of the page."""

    name: str
    state: UpstreamState

    @property
    def percent(self) -> int:
        return min(100, 100 * (self.state.busy or 0) // self.state.slots) if self.state.slots else 0


def fill(request: HttpRequest, context: dict[str, Any]) -> dict[str, Any]:
    """What the template of the page is told, as unfold's DASHBOARD_CALLBACK."""
    now = timezone.now()
    context |= live_context(request, now) | {"refresh": REFRESH, "spans": list(SPANS)}
    if request.user.has_perm(SEES_CALLS):
        span = SPANS.get(request.GET.get("span", ""), SPANS["hour"])
        seen = activity(span, now)
        context |= {"span": span.name, "activity": seen, "calls_chart": calls_chart(seen)}
        context |= {"tokens_chart": tokens_chart(seen), "chart_options": orjson.dumps(OPTIONS).decode()}
    return context


def live(request: HttpRequest) -> HttpResponse:
    """The part of the page that it fetches anew every few seconds."""
    context = live_context(request, timezone.now())
    return TemplateResponse(request, "admin/proxy/live.html", context, headers={"Cache-Control": "no-store"})


def live_context(request: HttpRequest, now: datetime) -> dict[str, Any]:
    context: dict[str, Any] = {"now": now}
    if request.user.has_perm(SEES_CALLS):
        recent = UsageRecord.objects.filter(admitted_at__gte=now - NOW)
        since = now.replace(second=0, microsecond=0) - NOW  # they are counted by the minute
        refused = RefusalCount.objects.filter(minute__gte=since).aggregate(times=Sum("count"))["times"]
        today = totals(now.date(), "tier")
        by_tier = most_used(today)[:TIERS_TOLD]
        context |= {
            "calls_a_minute": recent.count(),
            "refused": refused or 0,
            "refused_since": since,
            "tokens_today": sum(total.tokens for total in today.values()),
            "tokens_by_tier": [(tier, total.tokens) for (tier,), total in by_tier],
            "other_tiers": len(today) - len(by_tier),
        }
    if request.user.has_perm(SEES_UPSTREAMS):
        context |= serving_context()
    return context


def serving_context() -> dict[str, Any]:
    """The queue, and the upstreams with their slots, as this process sees them."""
    if gateway().loop is None:
        return {"serving": None}
    serving = [Serving(name, state) for name, state in gateway().upstream_states()]
    try:
        waiting = gateway().call(gateway().queue.slots.waiting)
    except (StoreUnavailable, TimeoutError):
        waiting = None
    return {
        "serving": serving,
        "waiting": waiting,
        "running": sum(each.state.busy or 0 for each in serving),
        "slots": sum(each.state.slots for each in serving if each.state.is_up),
        "is_down": [each for each in serving if not each.state.is_up],
        "has_rows": Upstream.objects.exists(),
    }


# -- charts, as chart.js takes them --------------------------------------------------------------------------------

OPTIONS = {
    "animation": False,
    "responsive": True,
    "maintainAspectRatio": False,
    "plugins": {"legend": {"display": True, "align": "end", "labels": {"boxWidth": 10, "color": "#9ca3af"}}},
    "scales": {
        "x": {"stacked": True, "grid": {"display": False}, "ticks": {"color": "#9ca3af", "maxTicksLimit": 10}},
        "y": {"stacked": True, "beginAtZero": True, "ticks": {"color": "#9ca3af", "precision": 0}},
    },
}


def calls_chart(seen: Activity) -> str:
    series = {name: (each.label, seen.calls[name]) for name, each in OUTCOMES.items()}
    series[LIMITED] = "Rate-limited", seen.limited
    return chart(seen.labels, [bars(*series[name], colour) for name, colour in STATUS_COLOURS.items()])


def tokens_chart(seen: Activity) -> str:
    """The tiers that used most, each in its own colour, and the others as one."""
    by_use = sorted(seen.tokens, key=lambda tier: (-sum(seen.tokens[tier]), tier))
    shown, others = by_use[: len(TIER_COLOURS)], by_use[len(TIER_COLOURS) :]
    datasets = [bars(tier, seen.tokens[tier], colour) for tier, colour in tier_colours(shown).items()]
    if others:
        together = [sum(step) for step in zip(*(seen.tokens[tier] for tier in others), strict=True)]
        datasets.append(bars(f"{len(others)} other tiers", together, OTHER_TIERS))
    return chart(seen.labels, datasets)


def tier_colours(names: Collection[str]) -> dict[str, str]:
    """A colour for each tier, by its id, so that it stays the same whatever other tiers there are.

    Where two would have the same, the later one has the next that is free. Tiers that are deleted come last.
    """
    ids = dict(Tier.objects.values_list("name", "pk"))
    known = sorted((name for name in names if name in ids), key=lambda name: ids[name])
    colours: dict[str, str] = {}
    for name in (*known, *sorted(name for name in names if name not in ids)):
        place = ids[name] - 1 if name in ids else crc32(name.encode())
        in_turn = (TIER_COLOURS[(place + n) % len(TIER_COLOURS)] for n in range(len(TIER_COLOURS)))
        colours[name] = next(each for each in in_turn if each not in colours.values())
    return colours


def bars(label: str, values: Sequence[int], colour: str) -> dict[str, Any]:
    return {"label": label, "data": values, "backgroundColor": colour}


def chart(labels: Sequence[str], datasets: Sequence[Any]) -> str:
    return orjson.dumps({"labels": labels, "datasets": datasets}).decode()
