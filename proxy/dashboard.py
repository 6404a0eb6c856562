"""The first page of the admin: what goes on now, and what went on in the last hour, day or month.

Who may not view calls sees no use, and who may not view upstreams sees none of them.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any, NamedTuple

import orjson
from django.db.models import Sum
from django.http import HttpRequest, HttpResponse
from django.template.response import TemplateResponse
from django.utils import timezone

from accounts.errors import StoreUnavailable

from .activity import SPANS, Activity, activity
from .gateway import UpstreamState, gateway
from .models import RefusalCount, Upstream, UsageRecord
from .reports import totals

SEES_CALLS = "proxy.view_usagerecord"
SEES_UPSTREAMS = "proxy.view_upstream"
NOW = timedelta(minutes=1)
REFRESH = 5  # seconds between two looks of the page at what goes on now
GREEN, AMBER, RED = "#14b8a6", "#f59e0b", "#ef4444"
PALETTE = ("#14b8a6", "#6366f1", "#f59e0b", "#ec4899", "#84cc16", "#0ea5e9", "#a855f7", "#78716c")


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
        context |= {
            "calls_a_minute": recent.count(),
            "refused": refused or 0,
            "refused_since": since,
            "tokens_today": sum(total.tokens for total in today.values()),
            "tokens_by_tier": [(tier, total.tokens) for (tier,), total in sorted(today.items())],
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
    series = (("answered", seen.answered, GREEN), ("failed", seen.failed, RED), ("refused", seen.refused, AMBER))
    return chart(seen.labels, [bars(*each) for each in series])


def tokens_chart(seen: Activity) -> str:
    colours = (PALETTE[n % len(PALETTE)] for n in range(len(seen.tokens)))
    return chart(seen.labels, [bars(*each) for each in zip(seen.tokens, seen.tokens.values(), colours, strict=True)])


def bars(label: str, values: Sequence[int], colour: str) -> dict[str, Any]:
    return {"label": label, "data": values, "backgroundColor": colour}


def chart(labels: Sequence[str], datasets: Sequence[Any]) -> str:
    return orjson.dumps({"labels": labels, "datasets": datasets}).decode()
