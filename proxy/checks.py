"""Dangerous settings of the proxy, said aloud by `manage.py check` and at every start."""

from collections.abc import Iterator, Sequence
from typing import Any

from django.conf import settings
from django.core.checks import CheckMessage, Error, Tags, Warning, register
from django.db import DatabaseError, InterfaceError

from accounts.models import Quota, Tier

from .cache.policy import SCOPES
from .destinations import Destinations, problem_with
from .encryption import box
from .stores.guarded import POLICIES


@register
def check_workers(**_: Any) -> list[CheckMessage]:
    if settings.WORKERS <= 1 or settings.REDIS_URL:
        return []
    return [
        Error(
            f"Limits are counted in each process, so {settings.WORKERS} workers multiply them by {settings.WORKERS}.",
            hint="Set REDIS_URL, or run one worker: leave out --workers and WEB_CONCURRENCY.",
            id="proxy.E001",
        )
    ]


def check_metrics() -> list[CheckMessage]:
    """Not registered, but asked at each start: `llmgateway serve` makes that directory, which no command knows of."""
    if settings.WORKERS <= 1 or settings.PROMETHEUS_MULTIPROC_DIR:
        return []
    return [
        Warning(
            f"/metrics tells what one of {settings.WORKERS} workers counted, another one at each scrape.",
            hint="Run `llmgateway serve`, or set PROMETHEUS_MULTIPROC_DIR to an empty directory before Python starts.",
            id="proxy.W004",
        )
    ]


@register
def check_store(**_: Any) -> list[CheckMessage]:
    found: list[CheckMessage] = []
    if settings.REDIS_URL and not settings.REDIS_URL.startswith(("redis://", "rediss://", "unix://")):
        found.append(
            Error(
                "REDIS_URL is no URL of a Redis server.",
                hint="Write redis://host:6379/0, rediss://... for TLS, or unix:///path.",
                id="proxy.E004",
            )
        )
    if settings.STORE_DOWN_POLICY not in POLICIES:
        found.append(
            Error(
                f"STORE_DOWN_POLICY is '{settings.STORE_DOWN_POLICY}'.",
                hint=f"Set it to one of {', '.join(POLICIES)}.",
                id="proxy.E005",
            )
        )
    return found


@register
def check_cache(**_: Any) -> list[CheckMessage]:
    found: list[CheckMessage] = []
    if settings.CACHE_SCOPE not in SCOPES:
        hint = f"Set it to one of {', '.join(SCOPES)}: who may meet whose answers."
        found.append(Error(f"CACHE_SCOPE is '{settings.CACHE_SCOPE}'.", hint=hint, id="proxy.E006"))
    if settings.CACHE_HIT_TOKENS < 0:
        hint = "Set it to 0, or to what an answer from the cache is to cost."
        found.append(Error(f"CACHE_HIT_TOKENS is {settings.CACHE_HIT_TOKENS}.", hint=hint, id="proxy.E007"))
    return found


@register(Tags.database)
def check_shares(databases: Sequence[str] | None = None, **_: Any) -> list[CheckMessage]:
    """Without Redis each worker gives its share of a limit, and a limit smaller than their number has none for some."""
    if not databases or not settings.REDIS_URL or settings.STORE_DOWN_POLICY != "local":
        return []
    few = {"gt": 0, "lt": settings.WORKERS}
    try:
        return [
            Warning(
                f"{limit} is fewer than the {settings.WORKERS} workers: without Redis some would refuse all its calls.",
                hint="Raise the limit, run fewer workers, or set STORE_DOWN_POLICY to deny or allow.",
                id="proxy.W003",
            )
            for limit in small_limits(few)
        ]
    except (DatabaseError, InterfaceError):  # not migrated yet, or gone: others say so
        return []


def small_limits(few: dict[str, int]) -> Iterator[str]:
    """The limits of tiers and users that lie within these bounds."""
    for quota in Quota.objects.select_related("tier", "user").filter(
        **{f"limit__{bound}": value for bound, value in few.items()}
    ):
        owner = f"tier {quota.tier}" if quota.tier else f"user {quota.user}"
        yield f"{quota} of {owner}"
    for tier in Tier.objects.filter(**{f"max_concurrent_requests__{bound}": value for bound, value in few.items()}):
        yield f"{tier.max_concurrent_requests} calls at the same time of tier {tier}"


@register
def check_llama_servers(**_: Any) -> list[CheckMessage]:
    return [
        Error(f"LLAMA_SERVERS: {problem}", hint="Separate several by commas.", id="proxy.E002")
        for problem in map(problem_with, settings.LLAMA_SERVERS)
        if problem
    ]


@register
def check_destinations(**_: Any) -> list[CheckMessage]:
    try:
        Destinations(settings.UPSTREAM_ALLOW)
    except ValueError as exc:
        hint = "Write networks and names of hosts: 10.0.0.0/8,gpu1,*.example.org"
        return [Error(f"UPSTREAM_ALLOW holds something that is neither: {exc}", hint=hint, id="proxy.E008")]
    return []


@register
def check_encryption(**_: Any) -> list[CheckMessage]:
    try:
        box(settings.FIELD_ENCRYPTION_KEYS)
    except ValueError as exc:
        hint = "Make one: openssl rand -base64 32 | tr '+/' '-_'"
        return [Error(f"FIELD_ENCRYPTION_KEYS holds something that is no key: {exc}", hint=hint, id="proxy.E009")]
    return []


@register
def check_lanes(**_: Any) -> list[CheckMessage]:
    if settings.LANES == "both":
        return []
    if settings.LANES not in ("relay", "default"):
        return [Error(f"LANES is '{settings.LANES}'.", hint="Set it to both, relay or default.", id="proxy.E003")]
    if settings.REDIS_URL:
        return []
    return [
        Warning(
            f"LANES={settings.LANES} parts what is counted from who shows it: the admin and /auth/me will see no use.",
            hint="Set REDIS_URL, or run both lanes in one process.",
            id="proxy.W002",
        )
    ]
