"""Mistakes in the address that the site is told to have, said aloud by `manage.py check` and at every start."""

from typing import Any

from django.conf import settings
from django.core.checks import CheckMessage, Error, Tags, Warning, register

from .env import site_of

EXAMPLE = "https://llm.example.org"


@register
def check_public_url(**_: Any) -> list[CheckMessage]:
    if not settings.PUBLIC_URL:
        return []
    try:
        site_of(settings.PUBLIC_URL)
    except ValueError as exc:
        hint = f"Write {EXAMPLE}: the scheme, the host, and a port where it is not the usual one."
        return [Error(f"PUBLIC_URL is not a valid site URL: {exc}.", hint=hint, id="llmgateway.E001")]
    return []


@register
def check_hsts(**_: Any) -> list[CheckMessage]:
    if settings.HSTS_SECONDS >= 0:
        return []
    hint = "Set it to 0 for none, or to the seconds that browsers are to ask by HTTPS only."
    return [Error(f"HSTS_SECONDS is {settings.HSTS_SECONDS}.", hint=hint, id="llmgateway.E002")]


@register(Tags.security, deploy=True)
def check_tls(**_: Any) -> list[CheckMessage]:
    """Django's own checks name settings that PUBLIC_URL alone makes."""
    if settings.IS_HTTPS or (settings.PUBLIC_URL and settings.PUBLIC_SITE is None):
        return []
    told = "begins with http://" if settings.PUBLIC_URL else "is not set"
    return [
        Warning(
            f"PUBLIC_URL {told}, so passwords, keys and cookies may travel in clear.",
            hint=f"Serve the site behind TLS, and set PUBLIC_URL={EXAMPLE}, the address in people's browsers.",
            id="llmgateway.W001",
        )
    ]
