"""Dangerous settings of the proxy, said aloud by `manage.py check` and at every start."""

from typing import Any
from urllib.parse import urlsplit

from django.conf import settings
from django.core.checks import CheckMessage, Error, Warning, register


@register
def check_workers(**_: Any) -> list[CheckMessage]:
    if settings.WORKERS <= 1:
        return []
    return [
        Error(
            f"Limits are counted in each process, so {settings.WORKERS} workers multiply them by {settings.WORKERS}.",
            hint="Run one worker: leave out --workers and WEB_CONCURRENCY.",
            id="proxy.E001",
        )
    ]


@register
def check_redis(**_: Any) -> list[CheckMessage]:
    if not settings.REDIS_URL:
        return []
    return [
        Warning(
            "REDIS_URL is set, but this version counts limits in the process's memory.",
            hint="Leave REDIS_URL out. Limits start from zero when the process does.",
            id="proxy.W001",
        )
    ]


@register
def check_llama_servers(**_: Any) -> list[CheckMessage]:
    urls = [(url, urlsplit(url)) for url in settings.LLAMA_SERVERS]
    return [
        Error(
            f"LLAMA_SERVERS holds '{url}', which is no base URL.",
            hint="Write scheme, host and port, without path or password: http://127.0.0.1:8080",
            id="proxy.E002",
        )
        for url, parts in urls
        if parts.scheme not in ("http", "https")
        or not parts.netloc
        or parts.path not in ("", "/")
        or "@" in parts.netloc
    ]


@register
def check_lanes(**_: Any) -> list[CheckMessage]:
    if settings.LANES == "both":
        return []
    if settings.LANES not in ("relay", "default"):
        return [Error(f"LANES is '{settings.LANES}'.", hint="Set it to both, relay or default.", id="proxy.E003")]
    return [
        Warning(
            f"LANES={settings.LANES} parts what is counted from who shows it: the admin and /auth/me will see no use.",
            hint="Run both lanes in one process until limits are counted in Redis.",
            id="proxy.W002",
        )
    ]
