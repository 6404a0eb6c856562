"""The admin's side bar: what there is, in the order in which people ask for it, and who sees it. Its colour, too."""

from collections.abc import Callable
from typing import Any

from django.http import HttpRequest
from django.urls import reverse_lazy

TEAL = {  # of Tailwind's palette
    "50": "oklch(98.4% .014 180.72)",
    "100": "oklch(95.3% .051 180.801)",
    "200": "oklch(91% .096 180.426)",
    "300": "oklch(85.5% .138 181.071)",
    "400": "oklch(77.7% .152 181.912)",
    "500": "oklch(70.4% .14 182.503)",
    "600": "oklch(60% .118 184.704)",
    "700": "oklch(51.1% .096 186.391)",
    "800": "oklch(43.7% .078 188.216)",
    "900": "oklch(38.6% .063 188.416)",
    "950": "oklch(27.7% .046 192.524)",
}


def seen_with(permission: str) -> Callable[[HttpRequest], bool]:
    return lambda request: request.user.has_perm(permission)


def page(title: str, icon: str, app: str, model: str) -> dict[str, Any]:
    """The list of a model, for those who may view it."""
    link = reverse_lazy(f"admin:{app}_{model}_changelist")
    return {"title": title, "icon": icon, "link": link, "permission": seen_with(f"{app}.view_{model}")}


NAVIGATION: list[dict[str, Any]] = [
    {"items": [{"title": "Dashboard", "icon": "dashboard", "link": reverse_lazy("admin:index")}]},
    {
        "title": "Who may call",
        "items": [
            page("Users", "group", "accounts", "user"),
            page("Tiers", "layers", "accounts", "tier"),
            page("API keys", "key", "accounts", "apikey"),
        ],
    },
    {
        "title": "Who answers",
        "items": [
            page("Upstreams", "dns", "proxy", "upstream"),
            page("Model aliases", "alt_route", "proxy", "modelalias"),
            page("Answer cache", "bolt", "proxy", "cachepage"),
        ],
    },
    {
        "title": "What was used",
        "items": [
            page("Calls", "receipt_long", "proxy", "usagerecord"),
            page("Daily usage", "calendar_month", "proxy", "dailyusage"),
            page("Refusals", "block", "proxy", "refusalcount"),
        ],
    },
    {
        "title": "Who signed in",
        "items": [
            page("Sign-ins", "login", "axes", "accesslog"),
            page("Failed sign-ins", "lock", "axes", "accessattempt"),
        ],
    },
]
